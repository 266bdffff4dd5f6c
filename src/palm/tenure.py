# SPDX-License-Identifier: BSD-3-Clause
"""How long a leader stays that nobody watches: as long as it has workers. Pure: no I/O, no clock."""

from __future__ import annotations

LINGER = 10.0  # seconds without a worker, in which another one may come


class Tenure:
    """Of a leader that a worker under `palm.serve` has started, and that may outlive it.

    Parameters
    ----------
    now : float
        Monotonic, as all moments here.
    """

    def __init__(self, now: float) -> None:
        self._since = now  # without a worker
        self._has_left = False  # the last one, as it has said before
        self._last = "none has come"
        self.reason = ""  # why it has ended, if somebody has waited for it

    def lost(self, pid: int, has_left: bool) -> None:
        """A worker is gone; `has_left`: as it has said before."""
        self._has_left = has_left
        self._last = f"the last one (pid {pid}) has {'left' if has_left else 'died'}"

    def is_over(self, now: float, workers: int, jobs: int, waiting: bool) -> bool:
        """jobs: that are open here; waiting: messages of theirs are."""
        if workers:
            self._since = now
            return False
        if now - self._since < LINGER and (jobs or not self._has_left):
            return False
        if waiting or not self._has_left:
            self.reason = f"it has had no worker for {LINGER:g} s; {self._last}: start another one (palm.serve)"
        return True
