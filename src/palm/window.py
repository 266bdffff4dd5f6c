# SPDX-License-Identifier: BSD-3-Clause
"""How much of a job may be under way: a budget of slots and bytes, paid at the entry and by each child (DELIVERY 5).

Only two places ever wait for room: the client before it takes an input, and a generator before it makes its next
child. Whoever receives a message that has a slot has room for it, at every hop; so a pipeline that visits a server
twice cannot stop for ever. Pure: no I/O.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from palm._core.book import OVER, Book
from palm.message import places

SLOTS = 4096  # messages; bounds the queues of client and servers (docs/decisions/batching.md)
BYTES = 1 << 29  # of payload under way; at least one message is, whatever its size
GRANT = 256  # children that are granted at a time, at most; as many as an envelope carries
UNKNOWN = 16  # children that are granted before it is known how large they are

Name = tuple[int, tuple[int, ...]]


class Window:
    """Of one job.

    Parameters
    ----------
    book : Book
        What is under way.
    slots : int
        Most messages under way, results that nobody has taken yet included.
    """

    def __init__(self, book: Book, slots: int = SLOTS) -> None:
        self._book, self._most = book, slots
        self._footprint = 0.0  # bytes of a message
        # A heap: who would make the smallest name next is served first. That is not who has the smallest name: the next
        # child of a generator comes after all that is below its former ones.
        self._asks: list[tuple[int, tuple[int, ...], Name]] = []
        self._asking: set[Name] = set()

    def weigh(self, nbytes: float) -> None:
        """A message of this size has been seen: the mean counts, but something larger at once."""
        if nbytes > self._footprint:
            self._footprint = nbytes
        else:
            self._footprint += (nbytes - self._footprint) / 64

    @property
    def slots(self) -> int:
        """Most messages under way now."""
        if self._footprint * self._most <= BYTES:
            return self._most
        return max(1, int(BYTES / self._footprint))

    def free(self, held: int) -> int:
        """Slots that are free while `held` results wait to be taken; not above 0: none."""
        return self.slots - self._book.live - held

    def ask(self, name: Name) -> None:
        """The generator that works on this message would make more children."""
        self._book.grant(*name, 0)  # it is known to be a node from now on
        if name not in self._asking:
            self._asking.add(name)
            number, path = name
            heapq.heappush(self._asks, (number, (*places(path), self._book.granted(*name)), name))

    def grants(self, held: int, ready: int) -> Iterator[tuple[Name, int]]:
        """Who may make how many more children now. They are served by name, new inputs last. ready: results, of those
        held, that wait for nothing but to be taken."""
        while self._asks:
            name = self._asks[0][2]
            more = self._share(name, held, ready)
            if not more and not self._is_over(name):
                return
            heapq.heappop(self._asks)
            self._asking.discard(name)
            if more:
                yield name, more

    def _share(self, name: Name, held: int, ready: int) -> int:
        if self._is_over(name):
            return 0
        free = self.free(held)
        if free > 0:
            return max(1, min(free // (2 * len(self._asking)), GRANT if self._footprint else UNKNOWN))
        # The reserve: whose next child is the smallest name that is not settled goes on whatever else is full, or two
        # levels of fan-out could wait for each other. Not while results wait to be taken: they would have no bound.
        number, path = name
        return int(not ready and self._book.is_next(number, (*path, self._book.granted(number, path))))

    def _is_over(self, name: Name) -> bool:
        return self._book.ranges(*name)[0] == OVER
