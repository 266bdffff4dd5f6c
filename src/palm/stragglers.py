# SPDX-License-Identifier: BSD-3-Clause
"""Which messages of ``pure=True`` functions another worker gets as well, since the one that has them takes long.

As backup tasks do (Dean and Ghemawat, MapReduce, 2004): only when nothing waits and somebody has nothing to do, and
once a message. What comes of both is known by its name, and the first outcome counts (docs/delivery.md). Pure: no I/O,
no clock.
"""

from __future__ import annotations

import collections
import math
from dataclasses import dataclass, field

from palm._core import node as core
from palm.assignment import JobHere
from palm.crew import Crew, Load, Worker

LONG_AGO = 0.05  # seconds since one has heard of a worker: what takes less is not worth a second copy
FACTOR = 2.0  # times what such a message takes, by those who have done some


@dataclass(eq=False)
class Handed:
    """What a worker has under one handle, and nobody else."""

    worker: Worker
    load: Load
    heard: float  # when it began, or was last heard of
    batches: collections.deque[tuple[int, core.Batch]] = field(default_factory=collections.deque)  # by `sent` after it


class Stragglers:
    """Of one leader."""

    def __init__(self) -> None:
        self._handed: dict[tuple[int, int], Handed] = {}  # by link and handle

    def add(self, worker: Worker, handle: int, batch: core.Batch, now: float) -> None:
        """A worker has been given this batch, which stays as it is, and is counted in its load."""
        load = worker.loads[handle]
        handed = self._handed.get((worker.link, handle))
        if handed is None or handed.load is not load:
            handed = self._handed[worker.link, handle] = Handed(worker, load, now)
        if not handed.batches:
            handed.heard = now
        handed.batches.append((load.sent, batch))

    def heard(self, link: int, handle: int, now: float) -> None:
        """A worker has reported, and its load knows it."""
        handed = self._handed.get((link, handle))
        if handed is None:
            return
        handed.heard = now
        while handed.batches and handed.batches[0][0] <= handed.load.done:
            handed.batches.popleft()
        if not handed.batches:
            del self._handed[link, handle]

    def forget(self) -> None:
        """What is of loads that workers have no longer."""
        self._handed = {k: h for k, h in self._handed.items() if h.worker.loads.get(k[1]) is h.load}

    def drop(self, job: JobHere) -> None:
        """Some of what is of this job is not wanted any more."""
        self._handed = {k: h for k, h in self._handed.items() if h.load.assignment.job is not job}

    def due(self, crew: Crew, now: float) -> float:
        """Seconds until `next` may have something; infinite: only if something else happens first."""
        if not self._handed or crew.idle() is None:
            return math.inf
        return max(0.0, min(h.heard + _patience(h.load, crew) for h in self._handed.values()) - now)

    def next(self, crew: Crew, now: float) -> tuple[Load, Worker, core.Batch] | None:
        """What of a load is given to which worker as well; None: nothing yet."""
        idle = crew.idle()
        if idle is None:
            return None
        for key, handed in self._handed.items():
            if now - handed.heard >= _patience(handed.load, crew):
                del self._handed[key]
                return handed.load, idle, _not_done(handed)
        return None


def _patience(load: Load, crew: Crew) -> float:
    """Seconds; for ever, if nobody knows how long it should take."""
    return max(LONG_AGO, FACTOR * crew.service(load.function))


def _not_done(handed: Handed) -> core.Batch:
    """As many as an envelope holds, in a batch of their own."""
    again = core.Batch()
    for end, batch in handed.batches:
        first = end - len(batch)
        for i in range(max(0, handed.load.done - first), len(batch)):
            if again.full or not again.add(batch, i):
                return again
    return again
