# SPDX-License-Identifier: BSD-3-Clause
"""Messages in which processes have died, by name (DELIVERY 3, R8). Whoever sees the deaths keeps the table: the
supervisor of a cluster, who gives a server's successor what it has to know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MOST = 4096  # names that are remembered
MOST_TOGETHER = 64  # deaths in several messages, likewise: each message is compared with all of them

Name = tuple[bytes, int, int, tuple[int, ...]]  # job, hop, number, path as on the wire
Numbered = tuple[int, tuple[int, ...]]  # the same, of one step of a job


class Suspect(NamedTuple):
    """What a successor is told; plain, since it goes to it in its order."""

    job: bytes
    hop: int
    number: int
    path: tuple[int, ...]
    times: int  # how often it has been tried so far
    reason: str  # of the last death
    final: bool = False  # it is not to be run again, however often it may be tried
    last: Numbered | None = None  # it is one of those from this to the last, by name, and nobody is to blame yet


class AtWork(NamedTuple):
    """What stood on the page of a process when it died."""

    job: bytes
    hop: int
    number: int
    path: tuple[int, ...]
    together: int  # so many were executed in one call, of which this is the first by name
    attempt: int
    last: Numbered  # the last of them

    @property
    def name(self) -> Name:
        return self[:4]


class Blame(NamedTuple):
    """What is known of a suspect."""

    times: int
    reason: str
    final: bool = False


class Suspects:
    """By server and name; when there are too many, the one that was blamed longest ago is forgotten."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[tuple[str, Name], Blame] = {}
        self._together: dict[tuple[str, Name, Numbered], str] = {}

    def blame(self, server: str, name: Name, reason: str, attempt: int = 1, final: bool = False) -> int:
        """A process of `server` has died in this message, at its `attempt`, as far as the process knew; returns how
        often it has been tried by now."""
        times = max(self._known.pop((server, name), Blame(0, "")).times + 1, attempt)
        self._known[server, name] = Blame(times, reason, final)
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return times

    def suspect_together(self, server: str, first: Name, last: Numbered, reason: str) -> None:
        """A process of `server` has died in one of several, which lie between two names: they are to be run one by one,
        which will show in which."""
        self._together.pop((server, first, last), None)
        self._together[server, first, last] = reason
        if len(self._together) > MOST_TOGETHER:
            del self._together[next(iter(self._together))]

    def recall(self, server: str, suspect: Suspect) -> None:
        """Somebody else has told of it (`of`)."""
        name = suspect[:4]
        if suspect.last is not None:
            self._together[server, name, suspect.last] = suspect.reason
        else:
            self._known[server, name] = Blame(suspect.times, suspect.reason, suspect.final)

    def of(self, server: str) -> list[Suspect]:
        single = [Suspect(*name, *found) for (of, name), found in self._known.items() if of == server]
        several = [(first, last, why) for (of, first, last), why in self._together.items() if of == server]
        return single + [Suspect(*first, 0, why, last=last) for first, last, why in several]

    def forget(self, server: str) -> None:
        """Another server gets the name: what killed this one need not kill that one."""
        self._known = {key: found for key, found in self._known.items() if key[0] != server}
        self._together = {key: why for key, why in self._together.items() if key[0] != server}


def of_job(suspects: Iterable[Suspect], job: bytes, hop: int) -> dict[tuple[int, tuple[int, ...]], Blame]:
    """Those of one step of a job, by number and path."""
    single = (s for s in suspects if s.job == job and s.hop == hop and s.last is None)
    return {(s.number, s.path): Blame(s.times, s.reason, s.final) for s in single}


def together_of(suspects: Iterable[Suspect], job: bytes, hop: int) -> list[tuple[Numbered, Numbered]]:
    """The first and the last name of those that are to be run one by one."""
    return [((s.number, s.path), s.last) for s in suspects if s.job == job and s.hop == hop and s.last is not None]
