# SPDX-License-Identifier: BSD-3-Clause
"""Which worker of a parallel server gets how many messages next (DESIGN 5.8; R4, R5): work goes against credit.

A worker has the message that it works on, and beside it as many as it does in `AHEAD` seconds, by the time that its last
ones took: one at least, as long as that is not long, so that it need not wait for the next one. So long ones never queue
behind one another, and short ones travel in batches. Towards the end of what waits the shares get
smaller, as in guided self-scheduling (Polychronopoulos and Kuck, 1987): the last ones are for who is free first. Pure:
no I/O, no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

AHEAD = 0.001  # seconds of work that wait at a worker: what it may take to hand over more
LONG = 0.01  # seconds: for a message that takes longer than that, a worker may as well wait as long as a hand-over takes
MOST = 512  # messages that a worker has: two envelopes
RECENT = 0.25  # how much the last report counts in the time that a message takes
_COUNT = (1 << 32) - 1  # what is reported is counted in 32 bits


@dataclass
class Load:
    """What a worker got under one handle."""

    assignment: Any
    sent: int = 0
    done: int = 0
    busy: int = 0  # ns

    @property
    def outstanding(self) -> int:
        return self.sent - self.done


@dataclass(eq=False)
class Worker:
    """A process that works for this leader."""

    index: int
    link: int
    endpoint: str
    pid: int
    service: float = 0.0  # seconds a message; 0: not known yet
    loads: dict[int, Load] = field(default_factory=dict)

    @property
    def outstanding(self) -> int:
        return sum(load.outstanding for load in self.loads.values())

    def reported(self, handle: int, done: int, busy: int) -> None:
        """It has done `done` messages under a handle in all, modulo 2^32, in `busy` ns. What cannot be is not
        believed."""
        load = self.loads.get(handle)
        more = (done - load.done) & _COUNT if load is not None else 0
        if load is None or not 0 < more <= load.outstanding or busy < load.busy:
            return
        took = (busy - load.busy) / 1e9 / more
        self.service += (took - self.service) * (RECENT if self.service else 1.0)
        load.done, load.busy = load.done + more, busy


class Crew:
    """The workers of one leader."""

    def __init__(self) -> None:
        self._workers: dict[int, Worker] = {}  # by link

    def __len__(self) -> int:
        return len(self._workers)

    def __contains__(self, link: int) -> bool:
        return link in self._workers

    def add(self, worker: Worker) -> None:
        self._workers.setdefault(worker.link, worker)

    def remove(self, link: int) -> Worker | None:
        return self._workers.pop(link, None)

    def of(self, link: int) -> Worker | None:
        return self._workers.get(link)

    def all(self) -> list[Worker]:
        return list(self._workers.values())

    def outstanding(self) -> int:
        return sum(w.outstanding for w in self._workers.values())

    def next(self, waiting: int) -> tuple[Worker, int] | None:
        """Who gets how many of the messages that wait; None: nobody has room for more."""
        most = min(MOST, max(1, waiting // (2 * len(self._workers) or 1)))
        best: tuple[float, Worker, int] | None = None
        for worker in self._workers.values():
            has, limit = worker.outstanding, self._limit(worker, most)
            if has <= limit // 2 and (best is None or has * worker.service < best[0]):
                best = has * worker.service, worker, limit - has
        return None if best is None else best[1:]

    def _limit(self, worker: Worker, most: int) -> int:
        if not 0 < worker.service < LONG:
            return 1
        return max(1, min(1 + math.ceil(AHEAD / worker.service), most))
