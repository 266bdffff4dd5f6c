# SPDX-License-Identifier: BSD-3-Clause
"""Which generators of a server can go on: those that have room by turns of their jobs, so that one with a thousand of
them holds up no other; those that are to be run again when they are due, the others not before the client has granted
more. What each call costs does not depend on how many there are.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator

from palm.making import Making


class Turns:
    """Of one server. `put` whenever something has changed for a generator."""

    def __init__(self) -> None:
        self._all: dict[Making, None] = {}
        self._ready: OrderedDict[bytes, OrderedDict[Making, None]] = OrderedDict()  # by job, whose turn it is first
        self._n_ready = 0
        self._waiting: OrderedDict[Making, None] = OrderedDict()  # they have asked for room
        self._later: list[tuple[float, int, Making]] = []  # a heap; those are in it too that have been removed
        self._order = itertools.count()  # of the same moment

    def put(self, m: Making) -> None:
        """Behind the others, unless it is among them already."""
        if m.ended:
            return
        self._all[m] = None
        if m.has_room():
            self._waiting.pop(m, None)
            if m.due:
                heapq.heappush(self._later, (m.due, next(self._order), m))
            else:
                self._put_ready(m)
        elif m.asked:
            self._waiting.setdefault(m)

    def _put_ready(self, m: Making) -> None:
        of_job = self._ready.setdefault(m.assignment.job.key, OrderedDict())
        self._n_ready += m not in of_job
        of_job.setdefault(m)

    def _next_ready(self) -> Making:
        """Of the job whose turn it is, which comes behind the others then."""
        key, of_job = next(iter(self._ready.items()))
        m, _ = of_job.popitem(last=False)
        self._n_ready -= 1
        if of_job:
            self._ready.move_to_end(key)
        else:
            del self._ready[key]
        return m

    def take(self, now: float) -> Iterator[Making]:
        """Those that can go on, as many as there are; each comes in again by `put`."""
        while self._later and self._later[0][0] <= now:
            due, _, m = heapq.heappop(self._later)
            if m.due == due:
                m.due = 0.0
                self.put(m)
        for _ in range(self._n_ready):
            if not self._ready:
                return
            m = self._next_ready()
            if m.has_room():  # else its epoch is over, and it comes in again with its message
                yield m

    def remove(self, m: Making) -> None:
        self._all.pop(m, None)
        self._waiting.pop(m, None)
        of_job = self._ready.get(m.assignment.job.key)
        if of_job and m in of_job:
            del of_job[m]
            self._n_ready -= 1
            if not of_job:
                del self._ready[m.assignment.job.key]

    def all(self) -> list[Making]:
        """Those that have not come to their end."""
        return list(self._all)

    def due(self) -> float:
        """When one of them can go on; never, if none has room."""
        return 0.0 if self._ready else self._later[0][0] if self._later else math.inf

    def waiting(self) -> Making | None:
        """One that waits for room."""
        while self._waiting:
            m = next(iter(self._waiting))
            if not m.assignment.stale:
                return m
            del self._waiting[m]  # it comes in again with its message
        return None
