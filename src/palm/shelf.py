# SPDX-License-Identifier: BSD-3-Clause
"""The caches of all servers in one place: what they may take together, and which of them are in files too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palm.cache_store import Store
from palm.entries import DEFAULT_BOUND, OPERATIONS, Entries, copied
from palm.places import CacheFiles

MOST_SERVERS = 4096  # that have anything
MOST_NAME = 64  # letters
log = logging.getLogger("palm")


class Shelf:
    """The entries of all servers. Those of a server that has a file are what the file has: they are read from there
    when they are first asked for, and again after anything could not be written.

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
        self._stores: dict[str, Store] = {}
        self._files: CacheFiles = {}

    def do(self, server: str, bound: int, operation: str, values: tuple[Any, ...]) -> Any:
        """bound: bytes that this server may have; 0: as before.

        Raises
        ------
        TypeError, ValueError
            That is no operation.
        KeyError
            There is no such entry.
        OSError
            The file cannot be read or written; all is as it was.
        """
        _check(server, bound, operation, values)
        entries = self._of(server, bound)
        try:
            return getattr(entries, operation)(*values)
        finally:
            self._trim()
            self._commit(server)
            if not entries.count() and server not in self._stores:
                self._entries.pop(server, None)

    def _of(self, server: str, bound: int) -> Entries:
        entries = self._entries.get(server)
        path, usual = self._files.get(server, ("", 0))
        if entries is None or (path and server not in self._stores):
            if entries is None and len(self._entries) >= MOST_SERVERS:
                raise ValueError(f"{MOST_SERVERS} servers have a cache already")
            entries = Entries(min(bound or usual or DEFAULT_BOUND, self.bound), self._now, copied)
            if path:
                self._load(server, Path(path), entries)
            self._entries[server] = entries
        elif bound:
            entries.bound = min(bound, self.bound)
        return entries

    def _load(self, server: str, path: Path, entries: Entries) -> None:
        store = Store(path)
        try:
            for key, value, until in store.load():
                entries.restore(key, value, until)
            for key in set(store.keys()).difference(entries.keys()):  # what has ended, or is too much
                store.drop(key)
            store.commit()
        except BaseException:
            store.close()
            raise
        self._stores[server] = entries.store = store

    def _commit(self, server: str) -> None:
        """What has changed, of this server and of those that had to give way. OSError: that of this one failed."""
        failed = None
        for name, store in list(self._stores.items()):
            try:
                store.commit()
            except OSError as e:
                self.drop(name)  # what the file has is read anew
                if name == server:
                    failed = e
                else:
                    log.warning("%s", e)
        if failed is not None:
            raise failed

    def keep(self, files: CacheFiles) -> None:
        """From now on these servers have files, and no others. Who had one, and has it no more, keeps its entries;
        those of a server that gets one are what is in there, as soon as it can be read."""
        self._files = files
        for server, store in list(self._stores.items()):
            if server not in files or str(store.path) != files[server][0]:
                self._entries[server].store = None
                del self._stores[server]
                store.close()

    def open(self, server: str) -> None:
        """Reads its file, if it has one and that was not read yet; OSError."""
        if server in self._files:
            self._of(server, 0)

    def drop(self, server: str) -> None:
        """All that a server has, but for what is in its file."""
        self._entries.pop(server, None)
        if (store := self._stores.pop(server, None)) is not None:
            store.close()

    def close(self) -> None:
        """Of the files."""
        for server in list(self._stores):
            self.drop(server)

    def _trim(self) -> None:
        """The largest has to give way, whoever it was that needed room."""
        while sum(e.size for e in self._entries.values()) > self.bound:
            max(self._entries.values(), key=lambda e: e.size).evict()


def _check(server: Any, bound: Any, operation: Any, values: Any) -> None:
    if type(server) is not str or not 0 < len(server) <= MOST_NAME:
        raise TypeError(f"a server has a name of 1 to {MOST_NAME} letters")
    if type(bound) is not int or bound < 0:
        raise TypeError("a bound is a natural number of bytes")
    if type(operation) is not str or operation not in OPERATIONS:
        raise ValueError("no such operation of a cache")
    if type(values) is not tuple:
        raise TypeError("the values of an operation are a tuple")
