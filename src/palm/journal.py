# SPDX-License-Identifier: BSD-3-Clause
"""The file in which a job notes the inputs that are done, so that the same job, made again, does the others alone (B4).

Lines of JSON. The first says which job it is. Each other one has ranges [first, end) of inputs whose results were
taken and worked on, or by what the rows of some of these are known again. It only grows; a last line that a kill cut
off is as if it had never been.
"""

from __future__ import annotations

import bisect
import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from palm._core import frame
from palm.step import Step

VERSION = 1
HEAD = b'{"palm journal": '  # how the first line begins
EVERY = 0.5  # seconds between two lines: so much is done again after a kill
PATIENCE = 2.0  # seconds for a job that was dropped to let go of its journal

Ranges = list[tuple[int, int]]  # half-open, sorted, apart from each other


class Journal:
    """Of one job.

    Parameters
    ----------
    path : path
        Made if it is not there.
    steps : sequence of Step
    seed : int, optional
        Of the job's random numbers. None: that of the journal, or `fresh`.
    fresh : int

    Attributes
    ----------
    seed : int
    done : list of (int, int)
        The inputs that were done when it was opened.
    sync : callable or None
        Called before a line is written: results are safe then.
    sample : callable or None
        Of inputs that are done, given their numbers: which of them have rows, and what will be the same as long as
        these are.
    is_sampled : bool
        Whether so much is known of the inputs that were noted last.

    Raises
    ------
    ValueError
        The file is no journal, or that of other steps, other constants or another seed.
    BlockingIOError
        Another job uses it.
    OSError
    """

    def __init__(self, path: str | PathLike[str], steps: Sequence[Step], seed: int | None, fresh: int) -> None:
        self.path = os.fspath(path)
        self.sync: Callable[[], Any] | None = None
        self.sample: Callable[[list[int]], tuple[list[int], str]] | None = None
        self.known: tuple[list[int], str] | None = None  # the last sample that was noted, of any inputs
        self.is_sampled = False
        self._numbers: list[int] = []
        self._written = time.monotonic()
        self._file = open(self.path, "a+b")
        try:
            self._lock()
            self.seed, self.done = self._begin(steps, seed, fresh)
        except BaseException:
            self._file.close()
            raise

    def next_done(self, number: int) -> tuple[int, int] | None:
        """The first range of `done` that ends behind this input."""
        at = bisect.bisect_right(self.done, number, key=lambda r: r[1])
        return self.done[at] if at < len(self.done) else None

    def add(self, number: int) -> None:
        """The results of this input were taken and worked on."""
        if self._file.closed:
            return
        self._numbers.append(number)
        if time.monotonic() - self._written > EVERY:
            self.write()

    def write(self) -> None:
        """All that was added is on disk, results first."""
        if self.sync is not None:
            self.sync()
        if self._numbers:
            known = (
                []
                if self.sample is None
                else [dict(zip(("inputs", "digest"), self.sample(self._numbers), strict=True))]
            )
            self._append(ranges_of(self._numbers), *known)
            self._numbers.clear()
        self._written = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            try:
                self.write()
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked process may have the file too
                self._file.close()

    def _lock(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise BlockingIOError(f"the journal {self.path} is in use by another job") from None
                time.sleep(0.01)

    def _begin(self, steps: Sequence[Step], seed: int | None, fresh: int) -> tuple[int, Ranges]:
        self._file.seek(0)
        whole, _, cut_off = self._file.read().rpartition(b"\n")
        is_new = not whole and (cut_off.startswith(HEAD) or HEAD.startswith(cut_off))
        lines = [] if is_new else self._lines(whole or cut_off)  # before anything is cut off: it may be something else
        if is_new or cut_off:
            self._file.truncate(0 if is_new else len(whole) + 1)
        mine = {"palm journal": VERSION, "steps": [_text(s) for s in steps]}
        if is_new:
            self._append(mine | {"seed": fresh if seed is None else seed})
            return fresh if seed is None else seed, []
        found, *lines = lines
        self._compare(mine | {"seed": found["seed"] if seed is None else seed}, found)
        samples = [(line["inputs"], line["digest"]) for line in lines if type(line) is dict]
        self.known = next((sample for sample in reversed(samples) if sample[0]), None)
        self.is_sampled = bool(lines) and type(lines[-1]) is dict
        return found["seed"], _merged([(first, end) for line in lines if type(line) is list for first, end in line])

    def _lines(self, whole: bytes) -> list[Any]:
        try:
            head, *lines = map(json.loads, whole.split(b"\n"))
            if head["palm journal"] == VERSION and type(head["seed"]) is int and all(map(_is_line, lines)):
                return [head, *lines]
        except (LookupError, TypeError, ValueError):
            pass
        raise ValueError(f"{self.path} is no journal of a job, or a damaged one; name another file, or remove it")

    def _compare(self, mine: dict[str, Any], found: dict[str, Any]) -> None:
        for what in ("steps", "seed"):
            if mine[what] != found[what]:
                there, here = _names_of(found[what]), _names_of(mine[what])
                they = f"with {what} {there}, while this one has {here}"
                if there == here:
                    they = f"with other constants of its steps {there}"
                raise ValueError(f"the journal {self.path} is of another job, {they}; name another file, or remove it")

    def _append(self, *lines: Any) -> None:
        self._file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        self._file.flush()
        os.fdatasync(self._file.fileno())


def _names_of(found: Any) -> Any:
    """Steps without what stands for their constants; else what it is."""
    return [str(step).partition(":")[0] for step in found] if isinstance(found, list) else found


def ranges_of(numbers: Sequence[int]) -> Ranges:
    return _merged([(n, n + 1) for n in numbers])


def _merged(ranges: Ranges) -> Ranges:
    merged: Ranges = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((first, end))
    return merged


def _is_line(line: Any) -> bool:
    if type(line) is dict:
        return type(line["digest"]) is str and all(type(n) is int and n >= 0 for n in line["inputs"])
    return type(line) is list and all(type(first) is type(end) is int and 0 <= first < end for first, end in line)


def _text(s: Step) -> str:
    """A step with what tells its constants from others."""
    import hashlib  # 4 ms that others need not wait for

    return f"{s}:{hashlib.blake2b(frame.pack(s.constants), digest_size=8).hexdigest()}" if s.constants else str(s)
