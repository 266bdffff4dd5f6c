# SPDX-License-Identifier: BSD-3-Clause
"""``palm logs``: records of a cluster that runs, which its hosts show, or of one that has ended, by its files."""

from __future__ import annotations

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
from palm.errors import NotFound
from palm.log_reader import Reader
from palm.log_reading import Line
from palm.log_record import Record, Wanted, encoded, is_of, process_of
from palm.log_views import Files, Running
from palm.own_names import REGISTRY, is_own

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
        others = [name for name in there if not is_own(name)]
        raise NotFound(
            f"there is no server {server!r} in this log; there are: {', '.join(others) or 'none'}, {REGISTRY}"
        )


def show(log: Files | Running, wanted: Wanted, last: int, follow: bool, as_json: bool) -> None:
    """Prints records until there are no more; `follow`: until the cluster ends, or the reader of our output. NotFound:
    nothing is in it of the job that is wanted."""
    reader = Reader(log, wanted, last, _tell)
    write = _json if as_json else _for_people()
    try:
        if not _write_all(reader.last(), reader, write) and not follow:
            _check_job(log, wanted.job)
        if follow:
            for lines in reader.following(_wait):
                _write_all(lines, reader, write)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_job(log: Files | Running, job: str) -> None:
    """Nothing may have been shown since it was of other servers, or levels."""
    if job and not any(Reader(log, Wanted(job=job), 1, lambda *_: None).last()):
        raise NotFound(
            f"there is no job {job!r} in this log, which has a job's id where its functions have said anything"
        )


def _tell(host: str, answers: bool) -> None:
    what = "answers again" if answers else "does not answer: what was said there is missing"
    print(f"palm: {host} {what}", file=sys.stderr, flush=True)


def _wait() -> bool:
    """False: nobody reads any more what we write."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    return not poller.poll(EVERY * 1000)


def _write_all(lines: Iterable[Line], reader: Reader, write: Callable[[Record], None]) -> bool:
    """False: there was nothing."""
    some = False
    for line in lines:
        if reader.has_several:
            line.record.host = line.host
        write(line.record)
        some = True
    sys.stdout.flush()
    return some


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
