# SPDX-License-Identifier: BSD-3-Clause
"""Which worker of a parallel server gets how many messages next (DESIGN 5.8; R4, R5): work goes against credit.

A worker has the message that it works on, and beside it as many as it does in `AHEAD` seconds, by the time that its
last ones of the same function took: one at least, so that it need not wait for the next one, unless they are long. It
gets them in envelopes of half as many: while it works on one, and reports when that is done, another is there. So short
ones travel in batches, and long ones do not queue behind one another where somebody else could have them. Towards the
end of what waits the shares get smaller, as in guided self-scheduling (Polychronopoulos and Kuck, 1987): the last ones
are for who is free first, but for what is less work than to hand it over. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

AHEAD = 0.001  # seconds of work that wait at a worker: what it may take to hand over more
LONG = 0.01  # seconds: behind a message that takes longer than that, one waits at most, and only if many others wait
VERY_LONG = 0.1  # seconds: behind one that takes longer none does: a hand-over is nothing to it
LITTLE = 0.0001  # seconds of work: to hand over less costs more than to do it
SHORTEST = 2e-7  # seconds that a message takes at least, its way included
MOST = 4096  # messages that a worker has: in two envelopes, or as they came
RECENT = 0.25  # how much the last report counts in the time that a message takes
INFINITE = float("inf")
_COUNT = (1 << 32) - 1  # what is reported is counted in 32 bits


class Load:
    """What a worker got under one handle."""

    def __init__(self, assignment: Any, function: str, sent: int = 0, done: int = 0) -> None:
        self.assignment, self.function = assignment, function
        self.sent, self.done = sent, done  # messages
        self.busy = 0  # ns

    def outstanding(self) -> int:
        return self.sent - self.done


class Worker:
    """A process that works for this leader."""

    def __init__(
        self, index: int, link: int, endpoint: str, pid: int, services: dict[str, float] | None = None
    ) -> None:
        self.index, self.link, self.endpoint, self.pid = index, link, endpoint, pid
        self.services = {} if services is None else services  # seconds that a message takes, by function
        self.loads: dict[int, Load] = {}  # by handle
        self.waiting: dict[str, int] = {}  # messages that it has, by function; none that it has none of
        self.outstanding = 0  # messages that it has
        self.is_leaving = False  # it gets nothing more
        self._left = 0  # what it had when it last reported

    def give(self, load: Load, n: int) -> None:
        """It has got so many messages more."""
        load.sent += n
        self._count(load.function, n)

    def _count(self, function: str, n: int) -> None:
        """It has so many more, or fewer."""
        self.outstanding += n
        left = self.waiting.get(function, 0) + n
        if left:
            self.waiting[function] = left
        else:
            self.waiting.pop(function, None)

    def keep(self, is_wanted: Callable[[Load], bool]) -> None:
        """Nothing more is heard of other loads."""
        self.loads = {handle: load for handle, load in self.loads.items() if is_wanted(load)}
        self.waiting, self.outstanding = {}, 0
        for load in self.loads.values():
            self._count(load.function, load.outstanding())

    def backlog(self) -> float:
        """Seconds of work that it has; infinite if it is at something that is long, or of which nobody knows."""
        seconds = 0.0
        for function, n in self.waiting.items():
            seconds += n * self._service(function)
        return seconds

    def _service(self, function: str) -> float:
        service = self.services.get(function, INFINITE)
        return service if service < LONG else INFINITE

    def _room_behind_long(self, function: str, most: int) -> int:
        """Of what takes long. One may be ahead that it would be given anyway, since so many wait: when it has just
        begun with another one, of which nothing says that it is very long."""
        if most <= 1:
            return int(not self.outstanding)
        for f in (function, *self.waiting):
            if self.services.get(f, INFINITE) >= VERY_LONG:
                return int(not self.outstanding)
        if not self.outstanding:
            return 2
        return int(self.outstanding == self._left == 1)

    def appetite(self, function: str) -> int:
        """How many messages of this function it has, at most, when it has work enough."""
        return self._appetite(self._service(function))

    def _appetite(self, service: float) -> int:
        if service == INFINITE:
            return 1
        n = 1 + _up(AHEAD / service)
        return n if n < MOST else MOST

    def room(self, function: str, share: int, backlog: float) -> int:
        """How many messages of this function it may get now. share: an equal one of those that wait, of which it gets
        half, or what is `LITTLE`. backlog: what it has."""
        service = self._service(function)
        if service == INFINITE or backlog == INFINITE:
            return self._room_behind_long(function, share // 2)
        limit, little = self._appetite(service), int(LITTLE / service)
        most = max(share // 2, min(share, little), 1)
        if most < limit:
            limit = most
        half = limit // 2 or 1  # an envelope is reported as a whole: while one half is done, the other is ahead
        room = limit - _up(backlog / service)
        return half if room >= half else 0

    def reported(self, handle: int, done: int, busy: int) -> None:
        """It has done `done` messages under a handle in all, modulo 2^32, in `busy` ns. What cannot be is not
        believed."""
        load = self.loads.get(handle)
        more = (done - load.done) & _COUNT if load is not None else 0
        if load is None or not 0 < more <= load.outstanding() or busy < load.busy:
            return
        took = max((busy - load.busy) / 1e9 / more, SHORTEST)
        known = self.services.get(load.function)
        self.services[load.function] = took if known is None else known + (took - known) * RECENT
        load.done, load.busy = load.done + more, busy
        self._count(load.function, -more)
        self._left = self.outstanding


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
        return sum([w.outstanding for w in self._workers.values()])

    def service(self, function: str) -> float:
        """Seconds that a message of this function takes, by the quickest of those that know; infinite: none does."""
        return min([w.services.get(function, INFINITE) for w in self._workers.values()], default=INFINITE)

    def idle(self) -> Worker | None:
        """One that has nothing to do."""
        for worker in self._workers.values():
            if not (worker.is_leaving or worker.outstanding):
                return worker
        return None

    def appetite(self, function: str) -> int:
        """How many messages of this function all of them together have, at most."""
        return sum([w.appetite(function) for w in self._workers.values()])

    def next(self, function: str, waiting: int) -> tuple[Worker, int] | None:
        """Who gets how many of the messages that wait, the first of which are of this function; None: nobody has room
        for more."""
        share = waiting // (len(self._workers) or 1)
        found, room, least = None, 0, INFINITE
        for worker in self._workers.values():
            if worker.is_leaving:
                continue
            backlog = worker.backlog()
            n = worker.room(function, share, backlog)
            if n and (found is None or backlog < least or (backlog == least and n > room)):
                found, room, least = worker, n, backlog
        return None if found is None else (found, room)


def _up(x: float) -> int:
    """The least whole number that is not less."""
    n = int(x)
    return n if n == x else n + 1
