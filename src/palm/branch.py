# SPDX-License-Identifier: BSD-3-Clause
"""What waits for a branch that holds up nobody (`slow` of `palm.to`), and what has to make room (DELIVERY 5).

The queue lies with the sender, who alone can drop from it: the next server is sent no more than it has begun, and a few
beside. It tells how many it has begun (docs/wire.md, 9.5). Pure: no I/O, no clock.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass

from palm._core import node as core
from palm.assignment import Assignment, Name, Outlet

MOST = 64  # messages that wait: what a generator makes in one turn has room
BYTES = 1 << 26  # of what waits, and as many of what was sent and is not begun; at least one message, whatever its size
AHEAD = 64  # messages that were sent and are not begun, at most: as long as the next server is quick
QUICK = 0.002  # seconds until what was sent is begun: then more may be on the way

_COUNT = (1 << 32) - 1  # what is told is counted in 32 bits


@dataclass
class Queued:
    """A message, alone in a batch."""

    name: Name
    batch: core.Batch

    @property
    def nbytes(self) -> int:
        return self.batch.size()


class Branch:
    """A route that `palm.to` has named, from one step of a job.

    Parameters
    ----------
    assignment : Assignment
        What the messages stem from.
    outlet : Outlet
        Where they go.
    drops_oldest : bool
        When there is no room: True: the oldest that waits goes; False: the new one.
    """

    def __init__(self, assignment: Assignment, outlet: Outlet, drops_oldest: bool) -> None:
        self.assignment, self.outlet, self._drops_oldest = assignment, outlet, drops_oldest
        self._waiting: collections.deque[Queued] = collections.deque()
        self._nbytes = 0  # of these
        self._sent: collections.deque[int] = collections.deque()  # bytes of what was sent and is not begun
        self._sent_bytes = 0
        self._begun = 0  # messages, since there is this branch
        self._ahead = 1
        self._mark: tuple[int, float] | None = None  # when so many have begun, it took since then

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Queued) -> list[Queued]:
        """One more waits. Returns those that have no room: they are dropped."""
        if not self._drops_oldest and not self._has_room(message):
            return [message]
        out = []
        while self._waiting and not self._has_room(message):
            out.append(self._take())
        self._waiting.append(message)
        self._nbytes += message.nbytes
        return out

    def _has_room(self, message: Queued) -> bool:
        return not self._waiting or (len(self._waiting) < MOST and self._nbytes + message.nbytes <= BYTES)

    def _take(self) -> Queued:
        message = self._waiting.popleft()
        self._nbytes -= message.nbytes
        return message

    def next(self, now: float) -> Queued | None:
        """The oldest that waits, if it may be sent now, at `now` seconds."""
        if not self._waiting or not self._may_send(self._waiting[0].nbytes):
            return None
        message = self._take()
        self._sent.append(message.nbytes)
        self._sent_bytes += message.nbytes
        if self._mark is None:
            self._mark = self._begun + len(self._sent), now
        return message

    def _may_send(self, nbytes: int) -> bool:
        return not self._sent or (len(self._sent) < self._ahead and self._sent_bytes + nbytes <= BYTES)

    def begun(self, count: int, now: float) -> None:
        """The next server has begun `count` messages in all, modulo 2^32. What cannot be is not believed."""
        more = (count - self._begun) & _COUNT
        if more > len(self._sent):
            return
        for _ in range(more):
            self._sent_bytes -= self._sent.popleft()
        self._begun += more
        if self._mark is not None and self._begun >= self._mark[0]:
            quick = now - self._mark[1] < QUICK
            self._ahead = min(2 * self._ahead, AHEAD) if quick else max(self._ahead // 2, 1)
            self._mark = None
