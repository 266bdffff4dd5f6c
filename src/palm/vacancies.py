# SPDX-License-Identifier: BSD-3-Clause
"""Which number a new worker gets, and who may start a leader where there is none: the registry decides, so that all
hear the same. Pure: no I/O, no clock.

That there is one leader is not settled here but when it joins, where the second one is refused. Here is only seen to it
that not every worker starts one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, MutableMapping
from typing import Any

Holder = dict[str, Any]  # a process: "where", "pid", "began"
CLAIM = 5.0  # seconds that a leader may take to be there, before somebody else starts one


class Vacancies:
    """Of all servers of a cluster.

    Parameters
    ----------
    lives : callable
        Whether a process does, as far as that is known here.
    numbers : mapping, optional
        Who has asked for the number of a worker that is not there yet; kept up to date.
    """

    def __init__(self, lives: Callable[[Holder], bool], numbers: MutableMapping[str, Holder] | None = None) -> None:
        self._lives = lives
        self._numbers = {} if numbers is None else numbers  # by process, until it has joined
        self._claims: dict[str, tuple[Holder, float]] = {}  # by server; until when

    def reserve(self, server: str, count: int, holder: Holder, taken: Container[str]) -> list[int]:
        """The smallest numbers that nobody has: of the names in `taken`, or on the way."""
        for name in [name for name, other in self._numbers.items() if not self._lives(other)]:
            del self._numbers[name]
        free = (n for n in itertools.count() if (name := f"{server}/{n}") not in taken and name not in self._numbers)
        numbers = list(itertools.islice(free, count))
        self._numbers.update({f"{server}/{n}": holder for n in numbers})
        return numbers

    def claim(self, server: str, holder: Holder, now: float) -> bool:
        """Whether this process is to start a leader."""
        other, until = self._claims.get(server, (None, 0.0))
        if other is not None and now < until and self._lives(other):
            return False
        self._claims[server] = holder, now + CLAIM
        return True

    def filled(self, process: str) -> None:
        """It has joined, or will not."""
        self._numbers.pop(process, None)
        self._claims.pop(process, None)
