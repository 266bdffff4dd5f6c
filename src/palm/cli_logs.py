# SPDX-License-Identifier: BSD-3-Clause
"""``palm logs``: records of a cluster that runs, which its hosts show, or of one that has ended, by its files."""

from __future__ import annotations

import collections
import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from palm import log_files, places
from palm.directory import REGISTRY
from palm.errors import Disconnected, NotFound, Timeout
from palm.log_reading import Line, Merge, Reading
from palm.log_record import Record, Wanted, encoded, is_of, process_of
from palm.log_views import Files, Running

if TYPE_CHECKING:
    from palm.client import Client

EVERY = 0.2  # seconds between two looks at what has come
_COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim", "stderr": "yellow"}


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
    reader = Reader(log, wanted, last)
    write = _json if as_json else _for_people()
    try:
        _write_all(reader.last(), reader, write)
        if follow:
            for lines in reader.following():
                _write_all(lines, reader, write)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Reader:
    """Of all hosts together, in order of time. One that does not answer is left out, which is told, until it does; one
    that joins comes in."""

    def __init__(self, log: Files | Running, wanted: Wanted, last: int) -> None:
        self._log, self._wanted, self._last = log, wanted, last
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
            print(f"palm: {host} does not answer: what was said there is missing", file=sys.stderr, flush=True)
        for host in sorted(self._silent & answering):
            print(f"palm: {host} answers again", file=sys.stderr, flush=True)
        self._silent = (self._silent | silent) - answering

    def last(self) -> Iterator[Line]:
        """The last records of those that are there, 0: all."""
        kept: collections.deque[Line] = collections.deque(maxlen=self._last or None)
        while True:
            answering, lines = self._turn()
            kept += self._merge.behind(answering, lines)
            is_over = all(reading.is_over for reading in answering)
            while kept and (is_over or not self._last):
                yield kept.popleft()
            if is_over:
                return

    def following(self) -> Iterator[list[Line]]:
        """What has come, again and again."""
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
            if isinstance(self._log, Files) or not _wait():
                return


def _wait() -> bool:
    """False: nobody reads any more what we write."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    return not poller.poll(EVERY * 1000)


def _write_all(lines: Iterable[Line], reader: Reader, write: Callable[[Record], None]) -> None:
    for line in lines:
        if reader.has_several:
            line.record.host = line.host
        write(line.record)
    sys.stdout.flush()


def _json(record: Record) -> None:
    sys.stdout.buffer.write(encoded(record))


def _for_people() -> Callable[[Record], None]:
    console = Console() if sys.stdout.isatty() else None

    def write(record: Record) -> None:
        if console:
            console.print(_coloured(record), soft_wrap=True)
        else:
            sys.stdout.write(_plain(record) + "\n")

    return write


def _head(record: Record) -> tuple[str, str, str, str]:
    """Time, kind, process with its host, message."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.time)) + f".{int(record.time * 1000) % 1000:03d}"
    message = f"{record.job[:8]}{':' if record.message else ''}{'.'.join(map(str, record.message or ()))}"
    host = f"{record.host:<12} " if record.host else ""
    return at, record.stream or record.level, f"{host}{process_of(record):<12}", message


def _plain(record: Record) -> str:
    at, kind, process, message = _head(record)
    return f"{at} {kind:<8} {process} {message}{' ' if message else ''}{_readable(record.text)}"


def _coloured(record: Record) -> Text:
    at, kind, process, message = _head(record)
    colour = _COLOURS.get(kind, "")
    return Text.assemble(
        (f"{at} ", "dim"),
        (f"{kind:<8} ", colour),
        (f"{process} ", "cyan"),
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
