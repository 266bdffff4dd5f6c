# SPDX-License-Identifier: BSD-3-Clause
"""Shapes as text, such as ``"rows 512"``: what they say, and whether arrays of one can be arrays of another."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import msgspec

Size = int | str | None  # so many; as many as all that have this name; any number
_NAME = re.compile(r"[^\W\d]\w*")
_RULES = (
    'a shape is dimensions with spaces between them: a number, a name, name=number, or "_" for any size; once also '
    "`...` or *name, for any number of dimensions"
)


class Shape(msgspec.Struct, frozen=True):
    """Dimensions, with or without a place where there may be any number of them.

    Attributes
    ----------
    before, after : tuple of Size
        Before that place, and after it; all are `before` if there is none.
    rest : str or None
        None: there is no such place; a name, if all that have it are to have the same sizes there; empty: any.
    """

    before: tuple[Size, ...]
    rest: str | None = None
    after: tuple[Size, ...] = ()

    @property
    def least(self) -> int:
        """The number of dimensions that are always there."""
        return len(self.before) + len(self.after)

    def names(self) -> list[str]:
        """All that occur, each once; that of a rest with its star."""
        sizes = [
            s for s in (*self.before, *self.after, *([f"*{self.rest}"] if self.rest else [])) if isinstance(s, str)
        ]
        return list(dict.fromkeys(sizes))

    def of(self, dimensions: int) -> tuple[Size, ...] | None:
        """The sizes with so many dimensions; None if it cannot have so many."""
        more = dimensions - self.least
        if more < 0 or (more and self.rest is None):
            return None
        rest = [f"*{self.rest} {i}" if self.rest else None for i in range(more)]
        return (*self.before, *rest, *self.after)


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Shape:
    """What a text says; ValueError if it is no shape.

    The words are those of jaxtyping, as far as a message alone can be held against them.
    """
    before: list[Size] = []
    after: list[Size] = []
    rest: str | None = None
    for word in text.split():
        if word == "..." or (word.startswith("*") and _NAME.fullmatch(word[1:])):
            if rest is not None:
                raise ValueError(f'"{text}" has two places for any number of dimensions; {_RULES}')
            rest = "" if word == "..." else word[1:]
        else:
            (before if rest is None else after).append(_size(word, text))
    return Shape(tuple(before), rest, tuple(after))


def _size(word: str, text: str) -> Size:
    name, equals, number = word.rpartition("=")
    if number.isascii() and number.isdigit() and (not equals or _NAME.fullmatch(name)):
        return int(number)
    if equals or not _NAME.fullmatch(word):
        raise ValueError(f'"{text}" is no shape, because of "{word}": {_RULES}')
    return None if word.startswith("_") else word


def can_meet(pairs: Sequence[tuple[Shape, Shape]]) -> bool:
    """True if there may be arrays, one for each pair, which have both its shapes. A name is one size in all first ones,
    and one in all second ones."""
    firm = [(a.before, b.before) for a, b in pairs if a.rest is None and b.rest is None]
    return _agree(firm) and all(_can_meet(a, b) for a, b in pairs if a.rest is not None or b.rest is not None)


def _can_meet(a: Shape, b: Shape) -> bool:
    """With as many dimensions as could make a difference."""
    some = ((a.of(n), b.of(n)) for n in range(max(a.least, b.least), a.least + b.least + 1))
    return any(one is not None and other is not None and _agree([(one, other)]) for one, other in some)


def _agree(pairs: Sequence[tuple[Sequence[Size], Sequence[Size]]]) -> bool:
    same: dict[tuple[int, str], int | tuple[int, str]] = {}  # a name of either side: what it is the same as

    def end_of(size: int | str, side: int) -> int | tuple[int, str]:
        end = (side, size) if isinstance(size, str) else size
        while not isinstance(end, int) and end in same:
            end = same[end]
        return end

    for ones, others in pairs:
        if len(ones) != len(others):
            return False
        for one, other in zip(ones, others, strict=True):
            if one is None or other is None:
                continue
            a, b = end_of(one, 0), end_of(other, 1)
            if a == b:
                continue
            if not isinstance(a, int):
                same[a] = b
            elif not isinstance(b, int):
                same[b] = a
            else:
                return False
    return True
