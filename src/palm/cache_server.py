# SPDX-License-Identifier: BSD-3-Clause
"""The server that has the caches of all others (docs/decisions/cache.md). It runs no function of a user's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from palm._core import space
from palm.entries import DEFAULT_BOUND, OPERATIONS, Entries, copied
from palm.template import Server, function

MOST_SERVERS = 4096  # that have anything
MOST_NAME = 64  # letters
WITHOUT_ARENA = 1 << 30  # bytes of all caches where nobody can say how much memory there is


class Shelf:
    """The entries of all servers, and what they may take together.

    Parameters
    ----------
    bound : int
        Bytes.
    now : callable
        Seconds, monotonic.
    """

    def __init__(self, bound: int, now: Callable[[], float] = time.monotonic) -> None:
        self.bound, self._now = bound, now
        self._entries: dict[str, Entries] = {}  # of those that have anything

    def do(self, server: str, bound: int, operation: str, values: tuple[Any, ...]) -> Any:
        """bound: bytes that this server may have; 0: as before. TypeError, ValueError: that is no operation."""
        _check(server, bound, operation, values)
        entries = self._entries.get(server)
        if entries is None:
            if len(self._entries) >= MOST_SERVERS:
                raise ValueError(f"{MOST_SERVERS} servers have a cache already")
            entries = Entries(DEFAULT_BOUND, self._now, copied)
        if bound:
            entries.bound = min(bound, self.bound)
        try:
            return getattr(entries, operation)(*values)
        finally:
            self._entries[server] = entries
            self._trim()
            if not entries.count():
                del self._entries[server]

    def drop(self, server: str) -> None:
        """All that a server has."""
        self._entries.pop(server, None)

    def _trim(self) -> None:
        """The largest has to give way, whoever it was that needed room."""
        while sum(e.size for e in self._entries.values()) > self.bound:
            max(self._entries.values(), key=lambda e: e.size).evict()


class CacheServer(Server):
    """A process of its own in each cluster, supervised by whoever started that."""

    def setup(self) -> None:
        # beside what is kept, there is what others still read of what has gone
        self._shelf = Shelf(space.stats()["arena_bound"] // 2 or WITHOUT_ARENA)

    @function
    def ask(self, server: Any, bound: Any, operation: Any, values: Any) -> tuple[str, Any]:
        """(name of an exception or "", answer): who asks may ask for what is not there, or be anybody."""
        try:
            with space.arena():  # what is kept is lent as it lies, again and again: nobody writes to it
                return "", self._shelf.do(server, bound, operation, values)
        except KeyError as e:
            return "KeyError", e.args[0]
        except MemoryError as e:
            return "MemoryError", str(e)
        except (OverflowError, ValueError) as e:
            return "ValueError", str(e)
        except TypeError as e:
            return "TypeError", str(e)

    @function
    def drop(self, server: Any) -> bool:
        """Of a server that was stopped."""
        if type(server) is str:
            self._shelf.drop(server)
        return True


def _check(server: Any, bound: Any, operation: Any, values: Any) -> None:
    if type(server) is not str or not 0 < len(server) <= MOST_NAME:
        raise TypeError(f"a server has a name of 1 to {MOST_NAME} letters")
    if type(bound) is not int or bound < 0:
        raise TypeError("a bound is a natural number of bytes")
    if type(operation) is not str or operation not in OPERATIONS:
        raise ValueError("no such operation of a cache")
    if type(values) is not tuple:
        raise TypeError("the values of an operation are a tuple")
