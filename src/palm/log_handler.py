# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of a record in the process that makes it: it goes into a pipe, or is counted as lost. Nobody waits.

A line is a letter and JSON: ``E`` if the reader is to show it on the terminal too, ``Q`` if not.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from palm import log_pipes
from palm.log_record import Record, abridged, encoded

if TYPE_CHECKING:
    from palm.host import Host
    from palm.process import Order

PALM = logging.getLogger("palm")  # above it are `self.log` of all servers, and our own
SHOWN = logging.WARNING  # the least level that is shown on a terminal, as Python does by itself
PATIENCE = 0.2  # seconds for the last number, at the end
_plain = logging.Formatter()  # for tracebacks


class Handler(logging.Handler):
    """Gives records to who reads the pipe `fd`, which is its own from now on.

    It is there for PALM's loggers, and, as `logging.lastResort`, for all that have no other handler; so what a user
    has configured stays as it is.

    Parameters
    ----------
    fd : int
        The end to write to; without waiting.
    order : Order
        Of this process.
    shows : bool
        Records are shown here: nobody else reads what this process prints.
    """

    def __init__(self, fd: int, order: Order, shows: bool = False) -> None:
        super().__init__()
        self._fd, self._order, self._shows = fd, order, shows
        self._host: Host | None = None
        self._thread = 0  # that runs functions
        self._rest = b""  # of a line of which the pipe has taken the begin
        self._lost = 0  # records of which the reader has to be told
        self._waits = False  # there is a thread that will tell it
        self._last_resort = logging.lastResort

    def attach(self, host: Host) -> None:
        """From now on records say on which message this thread is at work."""
        self._host, self._thread = host, threading.get_ident()

    def settle(self) -> None:
        """`setup` is over: if it has set the level of all loggers, that of PALM's is the same."""
        if logging.root.level != logging.WARNING and PALM.level == logging.INFO:
            PALM.setLevel(logging.NOTSET)

    # ------------------------------------------------------------------------------------------------ records

    def emit(self, record: logging.LogRecord) -> None:
        try:
            job, path = self._at_work(record)
            carried = {"server": self._order.name, "worker": self._order.shown_worker, "job": job, "path": path}
            record.__dict__.update(carried | record.__dict__)  # for handlers of the user's own; what has `extra` stays
            configured = bool(logging.root.handlers)  # they show it as somebody wants it to be shown
            shown = record.levelno >= SHOWN and not configured
            if shown and self._shows and self._last_resort is not None:
                self._last_resort.handle(record)
            if self._takes_one():
                self._send((b"E" if shown and not self._shows else b"Q") + self._line(record, job, path))
        except Exception:
            self.handleError(record)

    def _at_work(self, record: logging.LogRecord) -> tuple[str, tuple[int, ...]]:
        if self._host is None or record.thread != self._thread:
            return "", ()
        return self._host.message_at_work()

    def _line(self, record: logging.LogRecord, job: str, path: tuple[int, ...]) -> bytes:
        text = record.getMessage()
        if record.exc_info and not record.exc_text:
            record.exc_text = _plain.formatException(record.exc_info)
        more = [record.exc_text] if record.exc_text else []
        if record.stack_info:
            more.append(_plain.formatStack(record.stack_info))
        return encoded(
            Record(
                time=round(record.created, 6),
                level=record.levelname,
                number=record.levelno,
                server=self._order.name,
                worker=self._order.shown_worker,
                pid=record.process or os.getpid(),
                text=abridged("\n".join([text, *more])),
                job=job,
                message=list(path) or None,
                logger=record.name,
            )
        )

    # ------------------------------------------------------------------------- the pipe, with the handler's lock

    def _takes_one(self) -> bool:
        """There may be room for a line; else that is lost, and need not be made."""
        if self._fd >= 0 and self._has_caught_up():
            return True
        self._lost += 1
        return False

    def _send(self, line: bytes) -> None:
        self._rest = line
        if not self._push() and len(self._rest) == len(line):
            self._rest, self._lost = b"", 1
        if (self._rest or self._lost) and not self._waits and self._fd >= 0:
            self._waits = True
            threading.Thread(target=self._wait, name="palm-log", daemon=True).start()

    def _has_caught_up(self) -> bool:
        """The pipe has all that was made before."""
        if not self._push():
            return False
        if self._lost and self._fd >= 0:
            self._rest, self._lost = b"\x1e!%d\n" % self._lost, 0
        return self._push()

    def _push(self) -> bool:
        """True: there is nothing that has yet to go. Up to 4096 bytes go as a whole or not at all."""
        if not self._rest or self._fd < 0:
            return True
        try:
            self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            self._end()
        return not self._rest

    def _end(self) -> None:
        os.close(self._fd)
        self._fd, self._rest = -1, b""

    def _wait(self) -> None:
        """For room, so that the number comes though no record does; a thread that is there after a flood alone."""
        assert self.lock is not None
        while True:
            with self.lock:
                if self._fd < 0 or self._has_caught_up():
                    self._waits = False
                    return
                fd = self._fd
            _await_room(fd, 0.1)

    def close(self) -> None:
        assert self.lock is not None
        with self.lock:
            if self._fd >= 0 and not self._has_caught_up() and self._fd >= 0:
                _await_room(self._fd, PATIENCE)
                self._has_caught_up()
            if self._fd >= 0:
                self._end()
        super().close()


def _await_room(fd: int, timeout: float) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    poller.poll(timeout * 1000)


@contextlib.contextmanager
def installed(handler: Handler) -> Iterator[Handler]:
    """While it has what PALM's loggers, and those without a handler, are told."""
    before = PALM.level, logging.lastResort
    PALM.addHandler(handler)
    logging.lastResort = handler
    if logging.root.level == logging.WARNING and PALM.level == logging.NOTSET:  # nobody has said anything else
        PALM.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        PALM.removeHandler(handler)
        PALM.setLevel(before[0])
        logging.lastResort = before[1]
        handler.close()


@contextlib.contextmanager
def introduced(order: Order, directory: Path) -> Iterator[Handler]:
    """In a process that nobody has started for the cluster: what it prints stays its own, records go to the owner."""
    pipes = log_pipes.Pipes(streams=["records"])
    log_pipes.introduce(directory, order.name, None, os.getpid(), pipes)
    handler = Handler(pipes.writes.pop(), order, shows=True)
    with installed(handler):
        yield handler


def print_lines() -> None:
    """What this process prints goes at once, line by line, though 1 and 2 are pipes; and so does why it crashes."""
    from palm._core import space

    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.reconfigure(line_buffering=True)
    space.buffer_lines()
    faulthandler.enable(2, all_threads=False)


def relieve() -> None:
    """Who prints does not wait for ever if nobody reads these pipes."""
    from palm._core import space

    for fd in (1, 2):
        space.relieve(fd)
