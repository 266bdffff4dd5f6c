# SPDX-License-Identifier: BSD-3-Clause
"""The logs of several hosts, read as one: what to ask each of them next, and what can be shown, in order of time. No
I/O, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from palm.log_files import Page
from palm.log_record import Record, Wanted, decoded


class Line(NamedTuple):
    """A record, the host on which it was made, and its time: that of the one before it there, if that is later, so that
    those of one host stay in their order."""

    host: str
    at: float
    record: Record


class Reading:
    """Of one host's log: first back to its last records, then on.

    Parameters
    ----------
    host : str
    wanted : Wanted
    last : int
        How many records of those that are there; 0: all.
    """

    def __init__(self, host: str, wanted: Wanted, last: int) -> None:
        self.host, self._wanted, self._last = host, tuple(wanted), last
        self._goes_back, self._cursor, self._follow = last > 0, "", ""
        self._found: list[bytes] = []
        self.is_over = False  # there was nothing more when it was last asked
        self.latest = -math.inf  # time of what was taken

    def question(self) -> tuple[str, tuple[Any, ...]]:
        """Function of the host's server (`palm.machine_server`), and what it gets."""
        if self._goes_back:
            return "log_back", (self._cursor, self._wanted, self._last - len(self._found))
        return "log_on", (self._cursor, self._wanted)

    def take(self, page: Page) -> list[Line]:
        """What of the answer is new; while it goes back, nothing."""
        lines = page.lines.splitlines()
        if self._goes_back:
            self._found = [*lines, *self._found]
            self._follow = self._follow or page.follow
            self._cursor, self.is_over = page.cursor, page.over or len(self._found) >= self._last
            if not self.is_over:
                return []
            lines, self._found, self._goes_back, self._cursor = self._found, [], False, self._follow
        else:
            self._cursor, self.is_over = page.cursor, page.over
        return [self._line(record) for line in lines if (record := decoded(line)) is not None]

    def _line(self, record: Record) -> Line:
        self.latest = max(self.latest, record.time)
        return Line(self.host, self.latest, record)


class Merge:
    """Lines wait here until those that are older have come."""

    def __init__(self) -> None:
        self._waiting: list[Line] = []

    def behind(self, readings: Collection[Reading], new: Iterable[Line]) -> list[Line]:
        """While what is there is read: those before which nothing can come any more."""
        self._waiting += new
        return self._until(min((r.latest for r in readings if not r.is_over), default=math.inf))

    def following(self, readings: Collection[Reading], new: Iterable[Line]) -> list[Line]:
        """While one waits for what is to come: those older than what came a turn ago, since what another host said at
        that time may have come in this one."""
        until = max((line.at for line in self._waiting), default=-math.inf)
        self._waiting += new
        return self._until(until if len(readings) > 1 else math.inf)

    def _until(self, time: float) -> list[Line]:
        ready = [line for line in self._waiting if line.at <= time]
        self._waiting = [line for line in self._waiting if line.at > time]
        return sorted(ready, key=lambda line: line.at)

    def rest(self) -> list[Line]:
        return self._until(math.inf)
