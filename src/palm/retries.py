# SPDX-License-Identifier: BSD-3-Clause
"""Messages that are to be run again on the server where they have failed (`retry_on` of `palm.function`): which, and
when.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from palm._core import node as core
from palm.assignment import Assignment, JobHere

FIRST, LONGEST = 0.05, 1.6  # seconds before the first repeat, each further one twice as long: a file server's hiccup


def pause(tried: int) -> float:
    """Seconds between the failure of execution `tried`, counted from 1, and the next one."""
    return min(FIRST * 2.0 ** min(tried - 1, 16), LONGEST)


@dataclass(frozen=True)
class Retry:
    """Record `record` of an event, whose values it keeps."""

    event: core.Event
    record: int
    assignment: Assignment


class Retries:
    """Of one server, the one that is due first at the top."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Retry]] = []
        self._order = itertools.count()  # of the same moment

    def __bool__(self) -> bool:
        return bool(self._heap)

    def add(self, due: float, retry: Retry) -> None:
        heapq.heappush(self._heap, (due, next(self._order), retry))

    def due(self) -> float:
        """When the first one is due; never, if there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def take(self, now: float) -> Retry | None:
        """One that is due, and is not among these any more."""
        return heapq.heappop(self._heap)[2] if self.due() <= now else None

    def drop_stale(self) -> None:
        """Those that nobody wants any more, with what they keep."""
        self._keep(lambda r: not r.assignment.stale)

    def drop(self, job: JobHere, number: int) -> None:
        """Those of one input."""
        self._keep(lambda r: r.assignment.job is not job or r.event.number(r.record) != number)

    def _keep(self, wanted: Callable[[Retry], bool]) -> None:
        self._heap = [entry for entry in self._heap if wanted(entry[2])]
        heapq.heapify(self._heap)
