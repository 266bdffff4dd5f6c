# SPDX-License-Identifier: BSD-3-Clause
"""How many messages go into one call of a batch function (docs/decisions/batch.md).

Pure: no I/O, no clock.
"""

from __future__ import annotations

MOST = 4096  # an envelope carries no more
AIM = 0.002  # seconds that a call may take, whatever it gains
GAIN = 1.5  # a call of twice as many that takes less than so many times as long gains
PATIENCE = 64  # calls, after which what did not gain is tried again
LONGEST = 1.0  # seconds that a call may take without delaying others by a trial of twice as many


class Pace:
    """Of one batch function, in one job.

    Parameters
    ----------
    most : int
        Messages in a call, at most.
    limit : float
        Seconds that a call may take before its process is ended; 0: any.
    """

    def __init__(self, most: int = MOST, limit: float = 0.0) -> None:
        self.size = 1  # of the next call, at most
        self._most, self._limit = most, limit
        self._seconds: dict[int, float] = {}  # that a call took of late, by its number of messages: 1, 2, 4, 8, ...
        self._patience = 0

    def tell(self, n: int, seconds: float) -> None:
        """A call of `n` messages took so long."""
        level = 1 << n.bit_length() - 1
        took = seconds * level / n
        took = self._seconds[level] = (took + self._seconds.get(level, took)) / 2
        if not self._is_worth(level, took):
            self.size, self._patience = level // 2, PATIENCE
        elif n >= self.size and self._patience > 0:
            self._patience -= 1
        elif n >= self.size and took < LONGEST and not 0 < self._limit < 4 * took:
            self.size = min(2 * n, self._most)

    def _is_worth(self, level: int, took: float) -> bool:
        """It takes little time, or less than two calls of half as many."""
        if level == 1:
            return True
        if 0 < self._limit < 2 * took:
            return False
        return took <= AIM or took <= GAIN * self._seconds.get(level // 2, 0.0)
