# SPDX-License-Identifier: BSD-3-Clause
"""How much of a job may be under way: a budget of slots and bytes, paid at the entry and by each child (DELIVERY 5).

Only two places ever wait for room: the client before it takes an input, and a generator before it makes its next
child. Whoever receives a message that has a slot has room for it, at every hop; so a pipeline that visits a server
twice cannot stop for ever. Pure: no I/O, no clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from palm._core.book import OVER
from palm.ledger import Ledger
from palm.message import places

SLOTS = 4096  # messages, at most, until they are known to be fast (docs/decisions/batching.md)
MOST = 32768  # messages, at most: bounds the queues of client and servers
SMALL = 1 << 24  # bytes under way that are nothing to be spared
FLOOR = 16  # messages, where the window adapts; more for a route of many servers, each of which works on one
AHEAD = 0.5  # seconds of work that may be under way beyond that: the pauses of whoever takes the results
LEAST = 0.002  # seconds over which a rate is measured, at least
TURN = 0.05  # seconds: so often at most, unless half a window has ended before
HALF_LIFE = 2.0  # seconds in which a rate that is not reached any more is forgotten by half
BYTES = 1 << 29  # of payload under way; at least one message is, whatever its size
ENVELOPE = 1024  # messages in an envelope, at most
IN_TURN = 8  # part of the window, if that is more: or client and servers would have it by turns
TOGETHER = 64  # part of the window that has to be free before what had to wait goes on
GRANT = 256  # children that are granted at a time, at most; as many as an envelope carries
UNKNOWN = 16  # children that are granted before it is known how large they are

Name = tuple[int, tuple[int, ...]]


class Pace:
    """How many slots the rate needs at which messages end (docs/decisions/window.md).

    What is under way is rate times latency (Little). Of the latency, the services are no more messages at a time than
    there are processes: that is the floor. All the rest is transport and queues, and gets `AHEAD`.
    """

    def __init__(self, floor: int) -> None:
        self.slots = self._floor = min(floor, SLOTS)
        self._rate = 0.0  # messages a second: the most of late
        self._since: float | None = None
        self._ended = 0

    def ended(self, n: int, now: float) -> None:
        """So many messages have come to their end, at `now` seconds. The first time: the job begins."""
        if self._since is None:
            self._since = now
        self._ended += n
        took = now - self._since
        if took >= TURN or (took >= LEAST and 2 * self._ended >= self.slots):
            self._measure(took)
            self._since, self._ended = now, 0

    def _measure(self, took: float) -> None:
        self._rate = max(self._ended / took, self._rate * 0.5 ** (took / HALF_LIFE))
        self.slots = max(self._floor, min(int(self._rate * AHEAD), MOST))


class Window:
    """Of one job.

    Parameters
    ----------
    ledger : Ledger
        What is under way. What has gone aside holds no slots: its branch has a bound of its own.
    slots : int, optional
        Most messages under way, results that nobody has taken yet included. None: adapts to the rate, up to `MOST`.
    servers : int
        That the route visits.
    """

    def __init__(self, ledger: Ledger, slots: int | None = None, servers: int = 1) -> None:
        self._ledger, self._fixed, self._pace = ledger, slots, Pace(max(FLOOR, 4 * servers))
        self._footprint = 0.0  # bytes of a message
        self._fans_out = False  # generators ask: were the window to shrink, they would go on one child at a time
        # A heap: who would make the smallest name next is served first. That is not who has the smallest name: the next
        # child of a generator comes after all that is below its former ones.
        self._asks: list[tuple[int, tuple[int, ...], Name]] = []
        self._asking: set[Name] = set()
        self._asking_aside: dict[Name, None] = {}  # in the order in which they asked
        self.waits_for: Callable[[Name], bool] = lambda name: False  # the head: for children of this one

    def weigh(self, nbytes: float) -> None:
        """A message of this size has been seen: the mean counts, but something larger at once."""
        if nbytes > self._footprint:
            self._footprint = nbytes
        else:
            self._footprint += (nbytes - self._footprint) / 64

    def ended(self, n: int, now: float) -> None:
        """So many messages have come to their end, at `now` seconds."""
        if self._fixed is None:
            self._pace.ended(n, now)

    @property
    def slots(self) -> int:
        """Most messages under way now."""
        most = self._adapted() if self._fixed is None else self._fixed
        if self._footprint * most <= BYTES:
            return most
        return max(1, int(BYTES / self._footprint))

    def _adapted(self) -> int:
        small = int(SMALL / max(self._footprint, 1.0))
        if small >= SLOTS and self._fans_out:
            return SLOTS
        if small >= SLOTS:
            return max(SLOTS, min(self._pace.slots, small))
        return max(small, min(self._pace.slots, SLOTS))

    @property
    def envelope(self) -> int:
        """Most messages to be sent together."""
        return max(ENVELOPE, self.slots // IN_TURN)

    def free(self, held: int) -> int:
        """Slots that are free while `held` results wait to be taken; not above 0: none."""
        return self.slots - self._ledger.order.live - held

    def has_room(self, free: int) -> bool:
        """Whether inputs and generators are to go on that had to wait. Where thousands are under way, one that goes
        alone gains nothing: it would come out alone, and let one follow that goes alone as well."""
        return free >= max(1, self.slots // TOGETHER)

    def ask(self, name: Name) -> None:
        """The generator that works on this message would make more children."""
        self._fans_out = True
        if self._ledger.is_aside(*name):
            self._asking_aside[name] = None
            return
        self._ledger.grant(*name, 0)  # it is known to be a node from now on
        if name not in self._asking:
            self._asking.add(name)
            number, path = name
            heapq.heappush(self._asks, (number, (*places(path), self._ledger.book.granted(*name)), name))

    def grants(self, held: int, ready: int) -> Iterator[tuple[Name, int]]:
        """Who may make how many more children now. They are served by name, new inputs last. ready: results, of those
        held, that wait for nothing but to be taken."""
        yield from self._grants_aside(ready)
        while self._asks:
            name = self._asks[0][2]
            more = self._share(name, held, ready)
            if not more and not self._is_over(name):
                return
            heapq.heappop(self._asks)
            self._asking.discard(name)
            if more:
                yield name, more

    def _grants_aside(self, ready: int) -> Iterator[tuple[Name, int]]:
        """Generators of what has gone aside have a few children under way each, whatever the window."""
        for name in list(self._asking_aside):
            under_way = self._under_way(name)
            if self._is_over(name) or (under_way < UNKNOWN and not ready):
                del self._asking_aside[name]
                if not self._is_over(name):
                    yield name, UNKNOWN - under_way

    def _under_way(self, name: Name) -> int:
        """Children of this name that were granted, and are not complete."""
        _, ranges = self._ledger.book.ranges(*name)
        return self._ledger.book.granted(*name) - sum(end - begin for begin, end in ranges)

    def _share(self, name: Name, held: int, ready: int) -> int:
        if self._is_over(name):
            return 0
        free = self.free(held)
        if self.has_room(free):
            return max(1, min(free // (2 * len(self._asking)), GRANT if self._footprint else UNKNOWN))
        # The reserve: whose next child is the smallest name that is not settled goes on whatever else is full, or two
        # levels of fan-out could wait for each other. Not while results wait to be taken: they would have no bound.
        number, path = name
        granted = self._ledger.book.granted(number, path)
        is_next = self._ledger.order.is_next(number, (*path, granted)) or self.waits_for(name)
        return int(not ready and is_next)

    def _is_over(self, name: Name) -> bool:
        return self._ledger.book.ranges(*name)[0] == OVER
