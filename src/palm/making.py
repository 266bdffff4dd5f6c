# SPDX-License-Identifier: BSD-3-Clause
"""A generator of a server: how far it is, how far it may go, and what it keeps.

Who multiplies messages keeps what it made until the client says that it is settled (DELIVERY 3), and makes no more than
the client has room for (DELIVERY 5). Pure: no I/O.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from palm._core import node as core
from palm.assignment import Assignment
from palm.message import Message
from palm.step import Step

Ranges = list[tuple[int, int]]  # half-open, sorted


def covers(ranges: Ranges, begin: int, end: int) -> bool:
    """True if [begin, end) lies in one of the ranges."""
    at = bisect.bisect_right(ranges, begin, key=lambda r: r[0]) - 1
    return at >= 0 and end <= ranges[at][1]


@dataclass
class Kept:
    """Children that went together."""

    route: list[Step] | None  # that `palm.to` named; None: the rest of the pipeline
    slow: str
    indices: list[int]
    batch: core.Batch

    def apart(self) -> list[Kept]:
        """Each child by itself: it may be dropped."""
        parts = [Kept(self.route, self.slow, [index], core.Batch()) for index in self.indices]
        for i, part in enumerate(parts):
            part.batch.add(self.batch, i)
        return parts


class ChildEnded(Exception):
    """Raised, in place of a child, by who makes children and is none of Python's generators: it can go on. `tree`: the
    error, as it is sent; None: it is the cause, and without one there is nothing to send."""

    def __init__(self, tree: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.tree = tree


@dataclass(eq=False)  # each is itself alone
class Making:
    """The execution of a function that yields."""

    generator: Generator[Any, Any, Any]
    assignment: Assignment
    number: int
    path: tuple[int, ...]
    deadline: int
    message: Message
    value: Any = None  # what the function got, for a capsule and to run it again
    made: int = 0  # children so far, those included that had been settled before
    before: int = 0  # children that former executions here have made: settled or kept
    spent: int = 0  # ns in which it has run
    due: float = 0.0  # when it may go on, monotonic
    granted: int = 0  # children that may be made
    step: int = 0  # of the last grant
    asked: bool = False
    ended: bool = False
    failure: dict[str, Any] | None = None  # what it has ended with, as it is sent: an exception would hold its frames
    unwanted: bool = False  # to be closed as soon as it does not run
    owed: int = 0  # children that a former execution may have made: so many have to be there
    settled: Ranges = field(default_factory=list)
    kept: collections.deque[Kept] = field(default_factory=collections.deque)
    vain: dict[int, dict[str, Any] | None] = field(default_factory=dict)  # children that are errors, or nothing

    @property
    def name(self) -> tuple[int, tuple[int, ...]]:
        return self.number, self.path

    def is_to_stop(self) -> bool:
        """As if it had come to its end."""
        a = self.assignment
        return a.job.stopped and not a.hop and self.made >= self.owed and not self.ended

    def has_room(self) -> bool:
        return self.made < self.granted and not self.assignment.stale

    def wants(self) -> bool:
        """It should ask for more room now, and has not: early enough not to stand still until the answer comes."""
        return not (self.asked or self.ended or self.assignment.stale) and self.granted - self.made <= self.step // 2

    def is_settled(self, index: int) -> bool:
        return bool(self.settled) and covers(self.settled, index, index + 1)

    def forget(self, index: int) -> None:
        """This child, which went by itself, was dropped."""
        for kept in self.kept:
            if kept.indices == [index]:
                self.kept.remove(kept)
                return

    def is_known(self, index: int) -> bool:
        """True of a child that a former execution has made."""
        return index < self.before or self.is_settled(index)

    @property
    def sent(self) -> int:
        """Children that there are, by whatever execution."""
        return max(self.made, self.before)

    def begin_again(self, generator: Generator[Any, Any, Any], message: Message, due: float) -> None:
        """The same message, from its begin."""
        self.generator, self.message, self.due = generator, message, due
        self.before, self.made, self.spent = self.sent, 0, 0
        self.owed = max(self.owed, self.before)

    def release(self, ranges: Ranges, granted: int) -> None:
        """The client has told what is settled, and how many children there is room for."""
        self.settled = ranges
        self.kept = collections.deque(k for k in self.kept if not all(self.is_settled(i) for i in k.indices))
        self.vain = {i: tree for i, tree in self.vain.items() if not self.is_settled(i)}
        if granted > self.granted:
            self.step, self.granted, self.asked = granted - self.granted, granted, False
