# SPDX-License-Identifier: BSD-3-Clause
"""The log of a cluster on disk: files of JSON lines, of which the oldest goes when there are too many; one writer, any
readers.

They lie in ``$XDG_STATE_HOME/palm/<host>/<cluster>/``, and outlive the cluster: what the last ones on this host have
left is kept. A file is named by the nanoseconds since 1970 at which it was begun, so names are in order; what is in it
is never changed. A reader keeps a `cursor`, ``<file>:<bytes>``, between two questions, each of which looks at a bounded
part of a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
from pathlib import Path
from typing import NamedTuple

from palm import places
from palm.log_record import Wanted

FILE_BYTES = 4 << 20
FILES = 8  # of a cluster
CLUSTERS = 10  # of this host, beside those that run
LOOK = 512 << 10  # bytes that one question looks at: some milliseconds
NAMES = "names"  # of all processes that have said anything, one a line
_CURSOR = re.compile(r"(\d{20})\.jsonl:(\d{1,15})\Z")
_ENDING = ".jsonl"


def home() -> Path:
    """The logs of all clusters of this user, on all hosts that have this directory."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "palm"


def of(cluster: str) -> Path:
    """Where the log of a cluster of this host is."""
    return home() / (re.sub(r"[^\w.-]", "-", socket.gethostname()) or "host") / cluster


def find(cluster: str) -> Path | None:
    """The log of a cluster that may be dead, on whatever host it was; the last one, if there are several."""
    found = [path for path in home().glob(f"*/{cluster}") if _files(path)]
    return max(found, key=lambda path: _files(path)[-1], default=None)


def names(path: Path) -> list[str]:
    """Of the processes that are in a log: ``"denoise/0"``."""
    try:
        return sorted({*(path / NAMES).read_text().split()})
    except OSError:
        return []


def _files(path: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(path) if name.endswith(_ENDING))
    except OSError:
        return []


# --------------------------------------------------------------------------------------------------------- writing


class Writer:
    """Of one cluster; there is no file before there is something to write. One thread.

    Parameters
    ----------
    cluster : str
    instead : Path
        A directory for them if the user's own cannot be written.
    """

    def __init__(self, cluster: str, instead: Path) -> None:
        self.path, self._instead = of(cluster), instead
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.path.parent, os.W_OK | os.X_OK):
                raise PermissionError
        except OSError:
            self.path = instead
        self._fd = -1
        self._size = 0
        self._names: set[str] = set()
        self.lost = 0  # lines that could not be written
        self.why = ""  # the last one could not

    def write(self, process: str, lines: list[bytes]) -> None:
        """Of one process, each with its newline; raises nothing."""
        block = b"".join(lines)
        try:
            if process not in self._names:
                self._note(process)
            if self._fd < 0 or self._size >= FILE_BYTES:
                self._begin()
            written = os.write(self._fd, block)
            self._size += written
            if written < len(block):
                raise OSError(f"{self.path}: there is no room")
        except OSError as e:
            self.lost, self.why = self.lost + len(lines), str(e)
            self.close()  # the next one begins a new file

    def _begin(self) -> None:
        self.close()
        self._make()
        files = _files(self.path)
        last = int(files[-1].removesuffix(_ENDING)) if files else 0
        name = f"{max(time.time_ns(), last + 1):020d}{_ENDING}"
        self._fd = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size = 0
        for old in files[: max(0, len(files) + 1 - FILES)]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path / old)

    def _make(self) -> None:
        if (self.path / "owner").exists() and self._names:
            return
        self.path.mkdir(mode=0o700, exist_ok=True)
        (self.path / "owner").touch(mode=0o600)
        (self.path / "owner").write_text(f"{os.getpid()} {places.start_time(os.getpid())}")
        if self.path != self._instead:
            _remove_old(self.path)

    def _note(self, process: str) -> None:
        self._make()
        fd = os.open(self.path / NAMES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(fd, "a") as f:
            f.write(f"{process}\n")
        self._names.add(process)

    def close(self) -> None:
        """Again: without effect."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _remove_old(mine: Path) -> None:
    """What dead clusters of this host have left, but the last."""
    dead = [path for path in mine.parent.iterdir() if path != mine and path.is_dir() and not places.owner(path)]
    dead.sort(key=lambda path: (_files(path) or [""])[-1])
    for path in dead[: max(0, len(dead) - CLUSTERS)]:
        shutil.rmtree(path, ignore_errors=True)


# --------------------------------------------------------------------------------------------------------- reading


class Page(NamedTuple):
    """What one look has found.

    Attributes
    ----------
    lines : bytes
        Those that were wanted, in order.
    cursor : str
        Where to look next in the same direction.
    over : bool
        There is nothing more there now.
    follow : str
        Of a look back: where to look on.
    """

    lines: bytes
    cursor: str
    over: bool
    follow: str = ""


def look_on(path: Path, cursor: str, wanted: Wanted) -> Page:
    """What comes behind the cursor; empty: from the begin on. ValueError: that is no cursor."""
    files = _files(path)  # before any of them is read: all but the last are complete
    name, offset = _place(cursor)
    later = [f for f in files if f >= name]
    if not later:
        return Page(b"", cursor, True)
    if later[0] != name:  # that is gone, and what was left in it
        name, offset = later[0], 0
    chunk = _read(path / name, offset, LOOK)
    end = _end_of_lines(chunk)
    found = wanted.among(chunk[:end].split(b"\n"))
    offset += end
    over = len(chunk) < LOOK
    if over and len(later) > 1:
        name, offset, over = later[1], 0, False
    return Page(_joined(found), f"{name}:{offset}", over)


def look_back(path: Path, cursor: str, wanted: Wanted, most: int) -> Page:
    """The last lines before the cursor, `most` at most; empty: before the end. ValueError: that is no cursor."""
    files = _files(path)
    if cursor:
        name, stop = _place(cursor)
    elif files:
        name, stop = files[-1], (path / files[-1]).stat().st_size
    else:
        return Page(b"", "", True)
    start = max(0, stop - LOOK)
    chunk = _read(path / name, start, stop - start)
    end = _end_of_lines(chunk)
    follow = f"{name}:{start + end}"
    begin = chunk.find(b"\n", 0, end) + 1 if start else 0  # of the first line something may be missing
    found = wanted.among(chunk[begin:end].split(b"\n"))[-most:]
    earlier = [f for f in files if f < name]
    if start + begin > 0 and begin < end:
        return Page(_joined(found), f"{name}:{start + begin}", False, follow)
    if earlier:
        return Page(_joined(found), f"{earlier[-1]}:{_size(path / earlier[-1])}", False, follow)
    return Page(_joined(found), cursor, True, follow)


def _place(cursor: str) -> tuple[str, int]:
    if not cursor:
        return "", 0
    found = _CURSOR.match(cursor)
    if not found:
        raise ValueError(f"{cursor[:60]!r} is no place in a log")
    return found[1] + _ENDING, int(found[2])


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        with open(path, "rb") as f:
            f.seek(offset)
            return f.read(size)
    except FileNotFoundError:  # meanwhile it was the oldest
        return b""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _end_of_lines(chunk: bytes) -> int:
    """The last one may be on its way into the file; one as long as all is none of ours."""
    end = chunk.rfind(b"\n") + 1
    return end if end or len(chunk) < LOOK else len(chunk)


def _joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)
