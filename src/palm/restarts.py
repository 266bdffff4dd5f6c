# SPDX-License-Identifier: BSD-3-Clause
"""When a server that has died is started again, and when it is given up (R11)."""

from __future__ import annotations

import msgspec

DEATHS = 8  # in a row without progress, after which a server is given up
FAILURES = 3  # in a row to get ready
LIVED = 5.0  # seconds after which it has made progress, whatever it did
FIRST, LONGEST = 0.05, 1.6  # seconds of back-off
_DOUBLED = 32  # times, at most: years


class Policy(msgspec.Struct, frozen=True):
    """What a configuration says of it (`settings.Restart`).

    Attributes
    ----------
    when : {"always", "on-failure", "never"}
    limit : int or None
        In place of `DEATHS` and `FAILURES`; 0: there is none.
    max_delay : float
        Seconds.
    """

    when: str = "always"
    limit: int | None = None
    max_delay: float = LONGEST

    def forbids(self, clean: bool) -> bool:
        """To start it again after a death; `clean`: with exit code 0."""
        return self.when == "never" or (self.when == "on-failure" and clean)


class Restarts:
    """Of one server. No clock and no process in here: each method returns how many seconds from now the server is to be
    started, or None if it is given up.

    Parameters
    ----------
    attempts : int
        The most that a function of it allows a message: one message alone does not make it give up, nor one more death
        in a batch with others.
    policy : Policy
    """

    def __init__(self, attempts: int = 1, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self._most = max(self._limit(DEATHS), attempts + 2)
        self._deaths = 0
        self._failures = 0

    def ready(self) -> None:
        self._failures = 0

    def died(self, progress: bool, clean: bool = False) -> float | None:
        """Killed, or ended by itself; `progress`: once ready, it has completed a message or lived long enough."""
        self._deaths = 0 if progress else self._deaths + 1
        if self.policy.forbids(clean) or self._deaths >= self._most:
            return None
        return self._delay()

    def ended(self) -> float | None:
        """It has ended itself, since a message took longer than it may: that says nothing of the next one."""
        return None if self.policy.forbids(clean=False) else 0.0

    def failed(self) -> float | None:
        """Its setup raised, it was not ready in time, or there could be no process."""
        self._failures += 1
        return self._delay() if self._failures < self._limit(FAILURES) else None

    def _limit(self, default: int) -> float:
        limit = default if self.policy.limit is None else self.policy.limit
        return limit or float("inf")

    def _delay(self) -> float:
        """The first time at once."""
        n = self._deaths + self._failures - 2
        return 0.0 if n < 0 else min(FIRST * 2.0 ** min(n, _DOUBLED), self.policy.max_delay)
