# SPDX-License-Identifier: BSD-3-Clause
"""Contracts: what a function takes and gives, as far as its type hints say so, and whether the next one can take it.

No I/O, and no type hints: `palm.hints` makes contracts of these, `palm.fitting` holds messages against them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from palm import shapes

PYTHON: dict[str, tuple[type, ...]] = {  # what of these a function takes; as for type checkers, and numpy's scalars too
    "bool": (bool, np.bool_),
    "int": (int, np.integer),
    "float": (float, int, np.integer, np.floating),
    "complex": (complex, float, int, np.number),
    "str": (str,),
    "bytes": (bytes,),
}
_GIVEN: dict[str, tuple[type, ...]] = {  # what is given by who gives these: a np.float64 is a float
    "bool": (bool,),
    "int": (int,),
    "float": (float, np.float64),
    "complex": (complex, np.complex128),
    "str": (str, np.str_),
    "bytes": (bytes, np.bytes_),
}


_QUOTED = re.compile(r"""(: |-> )'([^']+)'""")
_NDARRAY = re.compile(r"numpy\.ndarray\[tuple\[typing\.Any, \.\.\.\], numpy\.dtype\[([^][]+)\]\]")


class Array(msgspec.Struct, frozen=True):
    """An array. No dtypes: of any; of others, and of kinds of them, the names. shape None: of any."""

    dtypes: tuple[str, ...] = ()
    shape: str | None = None

    def __str__(self) -> str:
        of = f"array of {' or '.join(self.dtypes)}" if self.dtypes else "array"
        return of if self.shape is None else f'{of} "{self.shape}"'

    def names(self) -> list[str]:
        return [] if self.shape is None else shapes.parse(self.shape).names()


class Scalar(msgspec.Struct, frozen=True):
    """One of Python's (`PYTHON`), or numpy's: then `name` is a dtype, or a kind of them."""

    name: str
    of_numpy: bool = False

    def __str__(self) -> str:
        return f"np.{self.name}" if self.of_numpy else self.name

    def names(self) -> list[str]:
        return []


class Nothing(msgspec.Struct, frozen=True):
    """None, as a leaf; it is never sent."""

    def __str__(self) -> str:
        return "None"

    def names(self) -> list[str]:
        return []


class Tuple(msgspec.Struct, frozen=True):
    """A tuple of so many."""

    items: tuple[Hint, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(text, self.items))}{',' * (len(self.items) == 1)})"

    def names(self) -> list[str]:
        return names_in(self.items)


Alternative = Array | Scalar | Nothing | Tuple
Hint = tuple[Alternative, ...]  # one of these; empty: it says nothing, anything may come


def text(hint: Hint) -> str:
    return " or ".join(map(str, hint)) or "anything"


def abridged(signature: str) -> str:
    """The text of a signature with its hints as they are written."""
    bare = _QUOTED.sub(r"\1\2", signature)  # under `from __future__ import annotations` hints are texts
    return _NDARRAY.sub(r"NDArray[\1]", bare).replace("typing.Annotated", "Annotated")


def names_in(hints: Iterable[Hint]) -> list[str]:
    """The names of sizes, once for each array."""
    return [name for hint in hints for one in hint for name in one.names()]


class Contract(msgspec.Struct, frozen=True):
    """Of a function.

    Attributes
    ----------
    takes : dict of str to Hint
        All positional parameters.
    constants : dict of str to Hint
        Those that have one.
    gives : Hint
        What goes on to the next step; of a function that yields, each value.
    """

    takes: dict[str, Hint] = {}
    constants: dict[str, Hint] = {}
    gives: Hint = ()

    def plain(self) -> dict[str, Any]:
        """As a payload."""
        return {
            "takes": {name: _plain(hint) for name, hint in self.takes.items()},
            "constants": {name: _plain(hint) for name, hint in self.constants.items()},
            "gives": _plain(self.gives),
        }

    def message(self) -> Hint:
        """What it takes as a whole (rule 2)."""
        takes = tuple(self.takes.values())
        return takes[0] if len(takes) == 1 else (Tuple(takes),)

    def sent(self) -> Hint:
        """What it gives, without None, which is never sent."""
        return tuple(one for one in self.gives if not isinstance(one, Nothing))


def _plain(hint: Hint) -> list[Any]:
    return [_plain_one(one) for one in hint]


def _plain_one(one: Alternative) -> list[Any]:
    if isinstance(one, Array):
        return ["array", list(one.dtypes), one.shape]
    if isinstance(one, Scalar):
        return ["numpy" if one.of_numpy else "python", one.name]
    return ["tuple", [_plain(item) for item in one.items]] if isinstance(one, Tuple) else ["none"]


def read(plain: Any) -> Contract:
    """What `Contract.plain` has made, of whatever came from the registry: what is not understood says nothing."""
    if not isinstance(plain, dict):
        return Contract()
    takes, constants = ({n: _read(h) for n, h in _dict(plain.get(key)).items()} for key in ("takes", "constants"))
    return Contract(takes, constants, _read(plain.get("gives")))


def _dict(plain: Any) -> dict[str, Any]:
    return plain if isinstance(plain, dict) else {}


def _read(plain: Any) -> Hint:
    try:
        return tuple(_read_one(*one) for one in plain)
    except (TypeError, ValueError, LookupError, AttributeError):
        return ()


def _read_one(kind: str, *rest: Any) -> Alternative:
    if kind == "array":
        dtypes, shape = rest
        if shape is not None:
            shapes.parse(shape)
        if all(kind_of(name) is not None for name in dtypes):
            return Array(tuple(dtypes), shape)
    elif kind == "tuple":
        return Tuple(tuple(_read(item) for item in rest[0]))
    elif kind == "numpy" and kind_of(rest[0]) is not None:
        return Scalar(rest[0], of_numpy=True)
    elif kind == "python" and rest[0] in PYTHON:
        return Scalar(rest[0])
    elif kind == "none":
        return Nothing()
    raise ValueError(f"{kind!r} is no kind of payload here")


# ------------------------------------------------------------------------------------------------------- dtypes


def name_of(kind: type) -> str:
    """Of a class of numpy's scalars; of two that are the same dtype, the same."""
    return kind.__name__ if _is_abstract(kind) else np.dtype(kind).name


def _is_abstract(kind: type) -> bool:
    return kind not in _concrete()


def kind_of(name: str) -> type | None:
    """The class of that name; None if this numpy has none."""
    return _kinds().get(name)


@functools.cache
def _concrete() -> frozenset[type]:
    return frozenset(np.dtype(letter).type for letter in np.typecodes["All"])


@functools.cache
def _kinds() -> dict[str, type]:
    abstract = {
        kind for concrete in _concrete() for kind in concrete.__mro__ if issubclass(kind, np.generic)
    } - _concrete()
    return {np.dtype(kind).name: kind for kind in _concrete()} | {kind.__name__: kind for kind in abstract}


@functools.cache
def scalars_of(name: str) -> frozenset[type]:
    """The classes of numpy's scalars that are of a dtype, or kind of dtypes."""
    kind = _kinds()[name]
    return frozenset(t for t in _concrete() if issubclass(t, kind) or (not _is_abstract(kind) and np.dtype(t) == kind))


def dtypes_of(array: Array) -> frozenset[type]:
    return frozenset().union(*map(scalars_of, array.dtypes))


# ---------------------------------------------------------------------------------------------- from step to step


class Misfit(NamedTuple):
    """What does not fit, and what to do."""

    what: str
    do: str


def misfit(given: Hint, taken: Hint) -> Misfit | None:
    """Why some of what is given can never be taken: one of the alternatives, by all that is known of it."""
    for one in given if taken else ():
        found = [_misfit(one, other) for other in taken]
        if all(found):
            return found[0] if len(found) == 1 else Misfit(f"{one} is none of these", "convert it")
    return None


def _misfit(given: Alternative, taken: Alternative) -> Misfit | None:
    if isinstance(given, Array) and isinstance(taken, Array):
        return _misfit_of_arrays(given, taken)
    if isinstance(given, Tuple) and isinstance(taken, Tuple):
        return _misfit_of_tuples(given, taken)
    if isinstance(given, Scalar) and isinstance(taken, Scalar):
        fits = _can_be(given, taken)
    else:
        fits = type(given) is type(taken)
    return None if fits else Misfit(f"{given} is not {taken}", _conversion(given, taken))


def _conversion(given: Alternative, taken: Alternative) -> str:
    if isinstance(taken, Tuple):
        return f"return {_tuple_of(len(taken.items))}"
    if isinstance(taken, Array):
        is_number = isinstance(given, Scalar) and given.name not in ("str", "bytes")
        return "return np.asarray(x)" if is_number else "return an array"
    return f"return {taken}(x)" if isinstance(given, Scalar) and isinstance(taken, Scalar) else "return something else"


def _tuple_of(count: int) -> str:
    return f"a tuple of {count}" if count else "an empty tuple"


def _misfit_of_arrays(given: Array, taken: Array) -> Misfit | None:
    if given.dtypes and taken.dtypes:
        wanted = dtypes_of(taken)
        for name in given.dtypes:
            if not scalars_of(name) & wanted:
                return Misfit(f"{name} is not {' or '.join(taken.dtypes)}", as_type(taken))
    if given.shape is None or taken.shape is None or shapes.can_meet([_shapes(given, taken)]):
        return None
    return Misfit(f'no array "{given.shape}" is "{taken.shape}"', "reshape it")


def as_type(taken: Array) -> str:
    """What to do to get one of another dtype."""
    return f"convert it, as with x.astype(np.{_example(taken.dtypes[0])})"


def _example(name: str) -> str:
    kind = _kinds()[name]
    scalar = {"generic": "float64", "number": "float64", "inexact": "float64", "floating": "float64"}.get(name, name)
    if _is_abstract(kind) and scalar == name:
        scalar = min((np.dtype(t).name for t in scalars_of(name)), key=lambda n: (n[-2:] != "64", n))
    return {"str": "str_", "bytes": "bytes_"}.get(scalar, scalar)


def _shapes(given: Alternative, taken: Alternative) -> tuple[shapes.Shape, shapes.Shape]:
    assert isinstance(given, Array) and isinstance(taken, Array)
    return shapes.parse(given.shape or ""), shapes.parse(taken.shape or "")


def _misfit_of_tuples(given: Tuple, taken: Tuple) -> Misfit | None:
    if len(given.items) != len(taken.items):
        what = f"{_tuple_of(len(given.items))} is not {_tuple_of(len(taken.items))}"
        return Misfit(what, f"return {_tuple_of(len(taken.items))}")
    both = list(zip(given.items, taken.items, strict=True))
    for i, (one, other) in enumerate(both):
        if found := misfit(one, other):
            return Misfit(f"of item {i}, {found.what}", found.do)
    firm = [_shapes(one[0], other[0]) for one, other in both if _have_one_shape(one) and _have_one_shape(other)]
    return None if shapes.can_meet(firm) else Misfit("their sizes cannot agree", "reshape them")


def _have_one_shape(hint: Hint) -> bool:
    return len(hint) == 1 and isinstance(hint[0], Array) and hint[0].shape is not None


def _can_be(given: Scalar, taken: Scalar) -> bool:
    some = scalars_of(given.name) if given.of_numpy else frozenset(_GIVEN[given.name])
    wanted = tuple(scalars_of(taken.name)) if taken.of_numpy else PYTHON[taken.name]
    return any(issubclass(t, wanted) for t in some)
