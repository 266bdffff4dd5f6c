# SPDX-License-Identifier: BSD-3-Clause
"""What waits at a leader to be handed out: jobs by turns, and of a job the messages that have come furthest first.

What has passed more steps is nearer to its result. So what is in between steps stays little, however much waits, and
when all of it is lost, most of what was done has become results. Pure: no I/O, no clock.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass

from palm._core import node as core
from palm.assignment import Assignment


@dataclass
class Waiting:
    """An event of which the records from `first` on are to be handed out."""

    event: core.Event
    assignment: Assignment
    first: int = 0

    def __len__(self) -> int:
        return len(self.event) - self.first


class Line:
    """Those that wait."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, dict[int, collections.deque[Waiting]]] = {}  # by hop; the job whose turn it is first
        self.n_messages = 0

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, w: Waiting) -> None:
        hops = self._jobs.setdefault(w.assignment.job.key, {})
        hops.setdefault(w.assignment.hop, collections.deque()).append(w)
        self.n_messages += len(w)

    def first(self) -> Waiting:
        hops = next(iter(self._jobs.values()))
        return hops[max(hops)][0]

    def advance(self, first: int) -> Waiting | None:
        """The records of the first one that are before this one have been handed out; returns it if that was all of
        it. Another job has its turn."""
        w, (key, hops) = self.first(), next(iter(self._jobs.items()))
        self.n_messages -= first - w.first
        w.first = first
        self._jobs[key] = self._jobs.pop(key)
        if len(w):
            return None
        hops[w.assignment.hop].popleft()
        self._forget_empty(key)
        return w

    def drop(self, unwanted: Callable[[Waiting], bool]) -> list[Waiting]:
        """Returns those that nobody waits for any more, and has them no longer."""
        dropped = []
        for key, hops in list(self._jobs.items()):
            for hop, line in hops.items():
                dropped += [w for w in line if unwanted(w)]
                hops[hop] = collections.deque(w for w in line if not unwanted(w))
            self._forget_empty(key)
        self.n_messages -= sum(map(len, dropped))
        return dropped

    def _forget_empty(self, key: bytes) -> None:
        hops = self._jobs[key]
        for hop in [hop for hop, line in hops.items() if not line]:
            del hops[hop]
        if not hops:
            del self._jobs[key]
