# SPDX-License-Identifier: BSD-3-Clause
"""Sets of names of messages, as ranges: what comes in order costs a few words, however much it is.

Pure: no I/O.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

Name = tuple[int, ...]  # number of the input, then the components of the path
Family = TypeVar("Family")
Range = tuple[Name, int, int]  # names that differ in their last place: what is before it, the first, the one behind


class Spans:
    """A set of natural numbers."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, i: int) -> bool:
        at = bisect.bisect_right(self._begins, i) - 1
        return at >= 0 and i < self._ends[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Its ranges, which do not touch."""
        return zip(self._begins, self._ends, strict=True)

    def __bool__(self) -> bool:
        return bool(self._begins)

    def covers(self, begin: int, end: int) -> bool:
        at = bisect.bisect_right(self._begins, begin) - 1
        return at >= 0 and end <= self._ends[at]

    def add(self, begin: int, end: int) -> int:
        """All from `begin` to below `end`; returns how many of them were not in it."""
        if self._ends and self._ends[-1] == begin:  # in order
            self._ends[-1] = end
            return end - begin
        first = bisect.bisect_left(self._ends, begin)
        last = bisect.bisect_right(self._begins, end)
        old = list(zip(self._begins[first:last], self._ends[first:last], strict=True))
        if old:
            begin, end = min(begin, old[0][0]), max(end, old[-1][1])
        self._begins[first:last], self._ends[first:last] = [begin], [end]
        return end - begin - sum(e - b for b, e in old)

    def forget(self, below: int) -> None:
        """Lets go of ranges that end at `below` or before."""
        n = bisect.bisect_right(self._ends, below)
        del self._begins[:n], self._ends[:n]


class Names:
    """A set of names. Those whose number is below `floor` are not asked for any more: they count as known."""

    def __init__(self) -> None:
        self.floor = 0
        self.count = 0  # of all names that ever were in it
        self._spans: dict[Name, Spans] = {}  # by what is before the last place

    def __contains__(self, name: Name) -> bool:
        if name[0] < self.floor:
            return True
        spans = self._spans.get(name[:-1])
        return spans is not None and name[-1] in spans

    def __bool__(self) -> bool:
        return bool(self._spans)

    def covers(self, r: Range) -> bool:
        before, begin, end = r
        if not before and end <= self.floor or before and before[0] < self.floor:
            return True
        spans = self._spans.get(before)
        return spans is not None and spans.covers(begin, end)

    def add(self, name: Name) -> bool:
        """False: it was known."""
        return name not in self and bool(self.add_range((name[:-1], name[-1], name[-1] + 1)))

    def add_range(self, r: Range) -> int:
        """Returns how many are new."""
        before, begin, end = r
        new = self._spans.setdefault(before, Spans()).add(begin, end)
        self.count += new
        return new

    def ranges(self) -> list[Range]:
        """Of those that are not forgotten."""
        return [
            (before, begin if before else max(begin, self.floor), end)
            for before, spans in self._spans.items()
            for begin, end in spans
        ]

    def forget(self, below: int) -> None:
        """All that stems from inputs before that one."""
        if below <= self.floor:
            return
        self.floor = below
        if () in self._spans:
            self._spans[()].forget(below)
        for before in [b for b in self._spans if (b and b[0] < below) or not self._spans[b]]:
            del self._spans[before]


def first_one(families: Mapping[str, Family], route: Callable[[Family], tuple[str, ...]]) -> Family:
    """Of reductions by name, with these routes still to go, one to which nothing comes of others: the first by name,
    so that it is the same one in every run."""
    routes = {text: route(f) for text, f in families.items()}
    return families[
        min(
            text
            for text, own in routes.items()
            if not any(len(r) > len(own) and r[len(r) - len(own) :] == own for r in routes.values())
        )
    ]
