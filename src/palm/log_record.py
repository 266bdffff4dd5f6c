# SPDX-License-Identifier: BSD-3-Clause
"""A line of the log: what it says, how it lies in a file, and who wants it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

MOST_TEXT = 16384  # letters of one record; of a longer one the begin is kept
MARK = re.compile(rb"\x1e!(\d+)\n")  # in a pipe: so many lines are missing here (csrc/src/spill.h too)
_LEVELS = {"critical": 50, "fatal": 50, "error": 40, "warning": 30, "warn": 30, "info": 20, "debug": 10}


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of a file, JSON.

    Attributes
    ----------
    time : float
        Seconds since 1970: when it was made; of what was printed, when it was read.
    level : str
        Of what was printed: "INFO" on standard output, "WARNING" on standard error.
    number : int
        The same level as `logging` counts.
    server : str
    worker : int or None
        None: a leader, or one of PALM's own processes.
    pid : int
    text : str
    job : str
        Id of the job at work; empty: none, or another thread than the one that runs functions has said it.
    message : list of int or None
        Number and places of the message at work (`Message.path`); None: none, or several in a batch function.
    logger : str
        Name of the logger; empty: it was printed.
    stream : str
        "stdout" or "stderr", if it was printed.
    dropped : int
        So many lines are missing here: there were too many.
    host : str
        Where it was made; in no file, which is of one host.
    """

    time: float
    level: str
    number: int
    server: str
    worker: int | None = None
    pid: int = 0
    text: str
    job: str = ""
    message: list[int] | None = None
    logger: str = ""
    stream: str = ""
    dropped: int = 0
    host: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def encoded(record: Record) -> bytes:
    """With its newline."""
    try:
        return _encode(record) + b"\n"
    except UnicodeEncodeError:  # half of a pair
        record.text = record.text.encode(errors="backslashreplace").decode()
        return _encode(record) + b"\n"


def decoded(line: bytes) -> Record | None:
    """None: it is none."""
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def abridged(text: str) -> str:
    more = len(text) - MOST_TEXT
    return text if more <= 0 else f"{text[:MOST_TEXT]} ... {more} letters more"


def process_of(record: Record) -> str:
    """``"denoise/0"``, of a leader ``"denoise"``."""
    return record.server if record.worker is None else f"{record.server}/{record.worker}"


def level_of(text: str) -> int:
    """Of ``"warning"``, or of a number; ValueError."""
    number = _LEVELS.get(text.lower(), int(text) if text.isdecimal() and len(text) < 4 else None)
    if number is None:
        raise ValueError(f"{text!r} is no level: debug, info, warning, error, critical, or a number")
    return number


class Wanted(NamedTuple):
    """Which records somebody wants to see.

    Attributes
    ----------
    server : str
        ``"denoise"``: its leader and workers; ``"denoise/0"``: this worker; empty: all.
    job : str
        How its id begins; empty: any.
    level : int
        The least one.
    """

    server: str = ""
    job: str = ""
    level: int = logging.NOTSET

    def has(self, record: Record) -> bool:
        if record.number < self.level or not record.job.startswith(self.job):
            return False
        return not self.server or is_of(process_of(record), self.server)

    def among(self, lines: Iterable[bytes]) -> list[bytes]:
        """Those lines that are records, and wanted."""
        return [line for line in lines if (record := decoded(line)) is not None and self.has(record)]


def is_of(process: str, server: str) -> bool:
    """A process of this server, or the one of this name."""
    return process == server or process.startswith(server + "/")
