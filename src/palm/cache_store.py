# SPDX-License-Identifier: BSD-3-Clause
"""The entries of one server's cache in a file of LMDB's, so that they outlive their process (docs/decisions/cache.md).

What an operation changes is written by one transaction (`commit`): all of it is there after a kill, or nothing. It is
not waited for the disk; that is the kernel's. Invariants:

1. One process has the file: it holds the flock of a file beside it, so that LMDB need not lock (`lock=False`). What
   stands in that file says who has it, and since which boot: whether the machine has gone down meanwhile.
2. A key of LMDB's is (entry, part), two numbers. Part 0 has the entry's key, its end and its value; others have what
   was appended to it, one after the other. An entry that is set anew gets a new number.
3. Each part has a stamp, which grows: the greatest is the entry's, and says what was written last.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from palm._core.frame import pack, unpack

log = logging.getLogger("palm")
FORMAT = b"palm cache 1"
MARK = b"palm"  # of LMDB's keys the only one that is no number
SPARE = 16 << 20  # bytes of address space beyond what is there
_PART = struct.Struct(">QQ")
_HEAD = struct.Struct("<dQI")  # end (by the clock on the wall), stamp, bytes of the key
_LOOK = """
import lmdb, sys
with lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False).begin() as transaction:
    for key, value in transaction.cursor(): bytes(value)
"""


class Store:
    """One thread at a time.

    Parameters
    ----------
    path : Path
        The file; made, if there is none.
    offset : callable
        Seconds by which the clock on the wall is ahead of the one by which entries end.

    Raises
    ------
    OSError
        It cannot be had; says why.
    """

    def __init__(self, path: Path, offset: Callable[[], float] = lambda: time.time() - time.monotonic()) -> None:
        self.path, self._offset = path, offset
        self._changes: list[tuple[str, bytes, bytes]] = []  # that the next commit makes
        self._entries: dict[str, int] = {}
        self._parts: dict[int, int] = {}  # how many the entry has, if more than one
        self._stamp = 0
        self._env: Any = None
        self._lock = Lock(path)
        try:
            self._open(self._lock.went_down())
        except BaseException:
            self.close()
            raise

    def _open(self, is_doubtful: bool) -> None:
        try:
            import lmdb
        except ImportError as e:
            raise OSError(f"a cache in a file needs LMDB ({e}): pip install lmdb") from None
        self._lmdb = lmdb
        if is_doubtful and self.path.exists() and not _can_be_read(self.path):
            aside = self.path.with_name(f"{self.path.name}.damaged")
            log.warning(
                "%s has not survived the end of the machine: it is %s now, and the cache empty", self.path, aside
            )
            self.path.replace(aside)
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            self._env = lmdb.open(
                str(self.path), map_size=size + SPARE, subdir=False, lock=False, sync=False, max_dbs=0, mode=0o600
            )
            with self._env.begin() as transaction:
                mark = transaction.get(MARK)
                entries = transaction.stat()["entries"]
        except lmdb.Error as e:
            raise OSError(f"{self.path} is no file of LMDB's, or a damaged one: {_text(e)}") from None
        if mark is None and entries:
            raise OSError(f"{self.path} is a file of LMDB's, but not one that PALM has made: give another path")
        if mark not in (None, FORMAT):
            raise OSError(f"{self.path} is of another version of PALM: {mark[:40]!r}, not {FORMAT!r}")
        if mark is None:
            self._write([("put", MARK, FORMAT)])

    # -------------------------------------------------------------------------------------------------- what is there

    def load(self) -> Iterator[tuple[str, Any, float]]:
        """Key, value and end of each entry, the one written longest ago first. What cannot be read is left out."""
        try:
            entries = sorted(self._index(), key=lambda found: found[1])
        except self._lmdb.Error as e:
            raise OSError(f"{self.path} cannot be read: {_text(e)}") from None
        for entry, stamp in entries:
            self._stamp = max(self._stamp, stamp)
            try:
                key, value, until = self._entry(entry)
            except (ValueError, struct.error, self._lmdb.Error) as e:
                log.warning("%s: an entry cannot be read, and is left out: %s", self.path, e)
                continue
            self._entries[key] = entry
            yield key, value, until

    def _index(self) -> Iterator[tuple[int, int]]:
        """Each entry and its stamp."""
        with self._env.begin(buffers=True) as transaction:
            found: dict[int, int] = {}
            for key, record in transaction.cursor():
                if len(key) != _PART.size or len(record) < _HEAD.size:
                    continue
                entry, part = _PART.unpack(key)
                found[entry] = max(found.get(entry, 0), _HEAD.unpack_from(record)[1])
                if part:
                    self._parts[entry] = max(self._parts.get(entry, 1), part + 1)
        yield from found.items()

    def _entry(self, entry: int) -> tuple[str, Any, float]:
        with self._env.begin() as transaction:
            records = [transaction.get(_PART.pack(entry, part)) for part in range(self._parts.get(entry, 1))]
        if None in records:
            raise ValueError("a part of it is missing")
        first, *appended = records
        until, _, n = _HEAD.unpack_from(first)
        key = first[_HEAD.size : _HEAD.size + n].decode("utf-8", "surrogatepass")
        value = unpack(first[_HEAD.size + n :])
        if appended and type(value) is not list:
            raise ValueError("it is no list, and has more than one part")
        for record in appended:
            value.append(unpack(record[_HEAD.size :]))
        return key, value, until - self._offset() if until < math.inf else until

    # -------------------------------------------------------------------------------------- what the next commit writes

    def keys(self) -> list[str]:
        return list(self._entries)

    def put(self, key: str, value: Any, until: float) -> None:
        record = self._record(key.encode("utf-8", "surrogatepass"), value, until)
        self.drop(key)
        self._entries[key] = self._stamp  # a number that there was none of
        self._changes.append(("put", _PART.pack(self._stamp, 0), record))

    def append(self, key: str, value: Any) -> None:
        """To the list in an entry."""
        record = self._record(b"", value, math.inf)
        entry = self._entries[key]
        part = self._parts.get(entry, 1)
        self._parts[entry] = part + 1
        self._changes.append(("put", _PART.pack(entry, part), record))

    def _record(self, key: bytes, value: Any, until: float) -> bytes:
        self._stamp += 1
        end = until + self._offset() if until < math.inf else until
        return _HEAD.pack(end, self._stamp, len(key)) + key + pack(value)

    def drop(self, key: str) -> None:
        """Nothing, if there is none."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        for part in range(self._parts.pop(entry, 1)):
            self._changes.append(("delete", _PART.pack(entry, part), b""))

    def commit(self) -> None:
        """OSError: nothing of it was written, and this store is of no use any more."""
        if self._changes:
            changes, self._changes = self._changes, []
            self._write(changes)

    def _write(self, changes: list[tuple[str, bytes, bytes]]) -> None:
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    for what, key, record in changes:
                        transaction.put(key, record) if what == "put" else transaction.delete(key)
                return
            except self._lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"] + sum(len(r) for _, _, r in changes))
            except self._lmdb.Error as e:
                raise OSError(f"{self.path} cannot be written to: {_text(e)}") from None

    def close(self) -> None:
        """Again: without effect. What was not committed is not."""
        is_safe = True
        if self._env is not None:
            try:
                self._env.sync(True)
            except self._lmdb.Error:
                is_safe = False
            self._env.close()
            self._env = None
        self._lock.free(is_safe)


class Lock:
    """Of a file, for one process: an flock of another one beside it, which stays.

    Raises
    ------
    OSError
        Another process has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.lock")
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise OSError(f"{path} cannot be had: {e.strerror}") from None
        self._before = os.pread(self._fd, 4096, 0).decode(errors="replace")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            pid = self._before.partition(" ")[2] or "?"
            raise OSError(
                f"{path} is in use by another cache (process {pid}): each cache needs a file of its own"
            ) from None
        self._say(f"{_boot()} {os.getpid()}")

    def went_down(self) -> bool:
        """The machine, while the one before us had the file."""
        return self._before != "" and self._before.partition(" ")[0] != _boot()

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the disk may be full
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)

    def free(self, is_safe: bool) -> None:
        """is_safe: all is on the disk. Again: without effect."""
        if self._fd >= 0:
            if is_safe:
                self._say("")
            os.close(self._fd)
            self._fd = -1


def _can_be_read(path: Path) -> bool:
    """By a process of its own: LMDB trusts its files, and one that is damaged ends who reads it."""
    done = subprocess.run([sys.executable, "-c", _LOOK, str(path)], stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode == 0


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _text(e: Exception) -> str:
    """Without the name of a function of LMDB's."""
    return str(e).partition(": ")[2] or str(e)
