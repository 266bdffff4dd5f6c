# SPDX-License-Identifier: BSD-3-Clause
"""What a registry knows, in a file of SQLite's in its cluster's directory, for its successor.

Who uses it changes mappings in memory, and says when that is a whole (`commit`): one transaction. It is the process
that may die, not the machine, with which the cluster would end: nothing is synced. A file that cannot be written to any
more is removed, so that nobody takes it for what is known.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import UserDict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from palm._core.frame import pack, unpack

log = logging.getLogger("palm")
_PUT = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)"
_DROP = "DELETE FROM entries WHERE kind = ? AND key = ?"


class Kept(UserDict[Any, Any]):
    """A mapping whose changes the next commit writes; keys and values are payloads, and replaced, not changed."""

    def __init__(self) -> None:
        self.changed: dict[Hashable, None] = {}  # in order
        super().__init__()

    def __setitem__(self, key: Hashable, value: Any) -> None:
        self.data[key] = value
        self.changed[key] = None

    def __delitem__(self, key: Hashable) -> None:
        del self.data[key]
        self.changed[key] = None


class Store:
    """One thread at a time.

    Parameters
    ----------
    path : Path or None
        The file; None: there is none.
    kinds : tuple of str
        Names of the mappings.
    again : bool
        What is there is to be read, else removed.

    Attributes
    ----------
    is_restored : bool
        All that a predecessor has committed is there.
    """

    def __init__(self, path: Path | None, kinds: tuple[str, ...], again: bool) -> None:
        self._path, self._kept = path, {kind: Kept() for kind in kinds}
        self._db: sqlite3.Connection | None = None
        self.is_restored = False
        if path is None:
            return
        try:
            if again and path.exists():
                self._open(path)
                self._load()
                self.is_restored = True
            else:
                self._begin(path)
        except (sqlite3.Error, OSError, ValueError, KeyError) as e:
            log.warning("%s: what the registry knew cannot be read, it asks anew: %s", path, e)
            self._begin_anew(path)

    def __getitem__(self, kind: str) -> Kept:
        return self._kept[kind]

    def _open(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # no shared memory beside the file
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")

    def _begin(self, path: Path) -> None:
        self._remove()
        self._open(path)
        assert self._db is not None
        self._db.execute("CREATE TABLE entries (kind TEXT, key BLOB, value BLOB, PRIMARY KEY (kind, key))")

    def _begin_anew(self, path: Path) -> None:
        for kept in self._kept.values():
            kept.data.clear()
        try:
            self._begin(path)
        except (sqlite3.Error, OSError) as e:
            self._give_up(e)

    def _load(self) -> None:
        assert self._db is not None
        for kind, key, value in self._db.execute("SELECT kind, key, value FROM entries ORDER BY rowid"):
            self._kept[kind].data[unpack(key)] = unpack(value)

    def commit(self) -> None:
        """Never fails: what cannot be written stays in memory alone."""
        changes = [(kind, kept, key) for kind, kept in self._kept.items() for key in kept.changed]
        for kept in self._kept.values():
            kept.changed = {}
        if self._db is None or not changes:
            return
        try:
            self._db.execute("BEGIN")
            for kind, kept, key in changes:
                if key in kept.data:
                    self._db.execute(_PUT, (kind, pack(key), pack(kept.data[key])))
                else:
                    self._db.execute(_DROP, (kind, pack(key)))
            self._db.execute("COMMIT")
        except sqlite3.Error as e:
            self._give_up(e)

    def _give_up(self, e: Exception) -> None:
        log.warning("%s: what the registry knows is in its memory alone from now on: %s", self._path, e)
        self.close()
        self._remove()

    def _remove(self) -> None:
        self.close()
        if self._path is not None:
            for end in ("", "-wal", "-journal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def close(self) -> None:
        """Again: without effect."""
        if self._db is not None:
            db, self._db = self._db, None
            try:
                db.close()
            except sqlite3.Error:
                pass  # it was no file of SQLite's
