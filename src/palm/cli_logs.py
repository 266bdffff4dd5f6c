# SPDX-License-Identifier: BSD-3-Clause
"""``palm logs``: records of a cluster that runs, which its registry shows, or of one that has ended, by its files."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from palm import log_files, places
from palm.directory import REGISTRY
from palm.errors import Disconnected, NotFound, Timeout
from palm.log_files import Page
from palm.log_record import Record, Wanted, decoded, is_of, process_of

if TYPE_CHECKING:
    from palm.client import Client

EVERY = 0.2  # seconds between two looks at what has come
_COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim", "stderr": "yellow"}


class Files:
    """Of a cluster that has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return log_files.names(self.path)

    def on(self, cursor: str, wanted: Wanted) -> Page:
        return log_files.look_on(self.path, cursor, wanted)

    def back(self, cursor: str, wanted: Wanted, most: int) -> Page:
        return log_files.look_back(self.path, cursor, wanted, most)


class Running:
    """What the registry of a running cluster shows; while it is started again, one waits."""

    def __init__(self, client: Client) -> None:
        self._directory = client._directory
        told = self._directory.patiently(lambda: self._directory.ask("log_names"))
        self._names, self.path = told["names"], Path(told["path"])

    def names(self) -> list[str]:
        """Of those too that have said nothing yet."""
        found = self._directory.patiently(lambda: self._directory.ask("lookup", []))["names"]
        return sorted({*self._names, *found})

    def on(self, cursor: str, wanted: Wanted) -> Page:
        if self._directory.is_closed():
            raise Disconnected("the cluster has come to its end")
        return Page(*self._directory.patiently(lambda: self._directory.ask("log_on", cursor, tuple(wanted))))

    def back(self, cursor: str, wanted: Wanted, most: int) -> Page:
        return Page(*self._directory.patiently(lambda: self._directory.ask("log_back", cursor, tuple(wanted), most)))


def ended(cluster: str | None) -> Files | None:
    """The log of a cluster that is known by its name, and does not run here; None: it does, or there is none."""
    name = cluster or os.environ.get("PALM_CLUSTER") or ""
    if not name or "://" in name or name in places.clusters():
        return None
    path = log_files.find(places.check_name(name, "the cluster"))
    return Files(path) if path else None


def check(log: Files | Running, server: str) -> None:
    """NotFound: there is no server, or worker, of this name."""
    there = sorted({part for name in log.names() for part in (name, name.partition("/")[0])})
    if server and server != REGISTRY and not any(is_of(name, server) for name in there):
        others = [name for name in there if name.partition("/")[0] != REGISTRY]
        raise NotFound(
            f"there is no server {server!r} in this log; there are: {', '.join(others) or 'none'}, {REGISTRY}"
        )


def show(log: Files | Running, wanted: Wanted, last: int, follow: bool, as_json: bool) -> None:
    """Prints records until there are no more; `follow`: until the cluster ends, or the reader of our output."""
    write = _json if as_json else _for_people()
    try:
        cursor = _show_last(log, wanted, last, write)
        sys.stdout.flush()
        if follow:
            _follow(log, wanted, cursor, write)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_last(log: Files | Running, wanted: Wanted, last: int, write: Callable[[bytes], None]) -> str:
    """The last records, 0: all; returns where to look on."""
    if last == 0:
        cursor, over = "", False
        while not over:
            lines, cursor, over, _ = log.on(cursor, wanted)
            _write_all(lines, write)
        return cursor
    found: list[bytes] = []
    page = log.back("", wanted, last)
    follow = page.follow
    while True:
        found = [*page.lines.splitlines(), *found]
        if page.over or len(found) >= last:
            break
        page = log.back(page.cursor, wanted, last - len(found))
    for line in found:
        write(line)
    return follow


def _follow(log: Files | Running, wanted: Wanted, cursor: str, write: Callable[[bytes], None]) -> None:
    while True:
        try:
            lines, cursor, over, _ = log.on(cursor, wanted)
        except (Disconnected, Timeout):  # the cluster has come to its end: what was said last is in the files
            if not isinstance(log, Running) or not log.path.exists():
                return
            log, over, lines = Files(log.path), False, b""
        _write_all(lines, write)
        sys.stdout.flush()
        if over and (isinstance(log, Files) or not _wait()):
            return


def _wait() -> bool:
    """False: nobody reads any more what we write."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    return not poller.poll(EVERY * 1000)


def _write_all(lines: bytes, write: Callable[[bytes], None]) -> None:
    for line in lines.splitlines():
        write(line)


def _json(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")


def _for_people() -> Callable[[bytes], None]:
    console = Console() if sys.stdout.isatty() else None

    def write(line: bytes) -> None:
        record = decoded(line)
        if record is None:
            return
        if console:
            console.print(_coloured(record), soft_wrap=True)
        else:
            sys.stdout.write(_plain(record) + "\n")

    return write


def _head(record: Record) -> tuple[str, str, str, str]:
    """Time, kind, process, message."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.time)) + f".{int(record.time * 1000) % 1000:03d}"
    message = f"{record.job[:8]}{':' if record.message else ''}{'.'.join(map(str, record.message or ()))}"
    return at, record.stream or record.level, process_of(record), message


def _plain(record: Record) -> str:
    at, kind, process, message = _head(record)
    return f"{at} {kind:<8} {process:<12} {message}{' ' if message else ''}{_readable(record.text)}"


def _coloured(record: Record) -> Text:
    at, kind, process, message = _head(record)
    colour = _COLOURS.get(kind, "")
    return Text.assemble(
        (f"{at} ", "dim"),
        (f"{kind:<8} ", colour),
        (f"{process:<12} ", "cyan"),
        (f"{message} " if message else "", "dim"),
        (_readable(record.text), colour if kind != "stderr" else ""),
    )


def _readable(text: str) -> str:
    """What a server says moves no cursor and clears no screen of ours; lines after the first are set in."""
    clean = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text.rstrip("\n"))
    return clean.replace("\n", "\n    ")


@contextlib.contextmanager
def opened(
    cluster: str | None, connect: Callable[[str | None], contextlib.AbstractContextManager[Client]]
) -> Iterator[Files | Running]:
    """connect: makes a client of a running cluster."""
    files = ended(cluster)
    if files:
        yield files
        return
    with connect(cluster) as client:
        yield Running(client)
