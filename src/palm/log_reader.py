# SPDX-License-Identifier: BSD-3-Clause
"""Reads the log of a cluster, of all its hosts together."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

from palm.errors import Disconnected, Timeout
from palm.log_reading import Line, Merge, Reading
from palm.log_record import Wanted
from palm.log_views import Files, Running


class Reader:
    """In order of time. A host that does not answer is left out until it does; one that joins comes in.

    Parameters
    ----------
    log : Files or Running
    wanted : Wanted
    last : int
        How many of the records that are there; 0: all.
    tell : callable
        Called with a host, and whether it answers, when that has changed.
    """

    def __init__(self, log: Files | Running, wanted: Wanted, last: int, tell: Callable[[str, bool], None]) -> None:
        self._log, self._wanted, self._last, self._tell = log, wanted, last, tell
        self._readings: dict[str, Reading] = {}
        self._merge = Merge()
        self._silent: frozenset[str] = frozenset()

    @property
    def has_several(self) -> bool:
        """It is about more than one host."""
        return len({reading.host for reading in self._readings.values()}) > 1

    def _turn(self) -> tuple[list[Reading], list[Line]]:
        """Those that have answered, and what they have said."""
        for name, host in (hosts := self._log.hosts()).items():
            self._readings.setdefault(name, Reading(host, self._wanted, self._last))
        pages = self._log.ask({name: self._readings[name].question() for name in hosts})
        self._tell_of_silence({self._readings[name].host for name in pages})
        lines = [line for name, page in pages.items() for line in self._readings[name].take(page)]
        return [self._readings[name] for name in pages], lines

    def _tell_of_silence(self, answering: set[str]) -> None:
        silent = self._log.silent
        for host in sorted(silent - self._silent):
            self._tell(host, False)
        for host in sorted(self._silent & answering):
            self._tell(host, True)
        self._silent = (self._silent | silent) - answering

    def last(self) -> Iterator[Line]:
        """The last records of those that are there."""
        kept: collections.deque[Line] = collections.deque(maxlen=self._last or None)
        while True:
            answering, lines = self._turn()
            kept += self._merge.behind(answering, lines)
            is_over = all(reading.is_over for reading in answering)
            while kept and (is_over or not self._last):
                yield kept.popleft()
            if is_over:
                return

    def following(self, wait: Callable[[], bool]) -> Iterator[list[Line]]:
        """What has come, again and again. wait: called when there is nothing more; False: nobody wants more."""
        while True:
            try:
                answering, lines = self._turn()
            except (Disconnected, Timeout):  # the cluster has come to its end: what was said last is in the files
                if not isinstance(self._log, Running) or not self._log.path.exists():
                    yield self._merge.rest()
                    return
                self._log = Files(self._log.path)
                continue
            yield self._merge.following(answering, lines)
            if not all(reading.is_over for reading in answering):
                continue
            if isinstance(self._log, Files):
                yield self._merge.rest()
            if isinstance(self._log, Files) or not wait():
                return
