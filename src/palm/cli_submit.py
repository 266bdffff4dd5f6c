# SPDX-License-Identifier: BSD-3-Clause
"""``palm submit``: files through a pipeline."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from palm.cli_files import SUFFIXES, load, save, suffix_of
from palm.client import Client
from palm.errors import PalmError, RemoteError
from palm.job import Job
from palm.message import places
from palm.recording import Recording
from palm.step import Step


class Files:
    """The inputs of a job, read one by one when there is room; those that cannot be read are left out."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = paths
        self.sent: list[str] = []  # names, by number of the input
        self.unreadable: dict[str, str] = {}  # name: why

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Any]:
        for name, path in self._paths.items():
            try:
                loaded = [load(path)]
            except (OSError, ValueError) as e:
                self.unreadable[name] = f"cannot be read: {e}"
                continue
            self.sent.append(name)
            yield loaded.pop()  # nobody else has it: arrays go without a copy


class Submission:
    """One run of ``palm submit``; ValueError if a result could be written over an input."""

    def __init__(self, steps: list[Step], paths: dict[str, Path], output: Path) -> None:
        for path in paths.values():
            if path.resolve().parent == output.resolve():
                raise ValueError(f"--output {output} is where the input {path} lies: its result may be written over it")
        self._steps, self._paths, self._output = steps, paths, output
        self._files = Files(paths)
        self._job: Job | None = None
        self._recording: Recording | None = None
        self.written = 0

    @property
    def began(self) -> bool:
        return self._job is not None

    @property
    def total(self) -> int:
        return len(self._paths)

    def check_fresh(self) -> None:
        """ValueError if inputs have outputs already, of whatever steps: those of this run would lie among them."""
        there = sorted(p.name for p in self._output.glob("*") if p.suffix in SUFFIXES and self._is_of_input(p.stem))
        if there:
            some = f"{len(there)} outputs" if len(there) > 1 else "an output"
            raise ValueError(
                f"--output {self._output} has {some} of these inputs already, {', '.join(there[:3])}"
                f"{', ...' if there[3:] else ''}: give another directory, remove what is there, or, if it is of the "
                "same steps, do what is left with --resume"
            )

    def _is_of_input(self, name: str) -> bool:
        """NAME, or NAME-0, NAME-1, ..., NAME-0-0 of a function that yields."""
        while name not in self._paths:
            name, _, place = name.rpartition("-")
            if not place.isdecimal():
                return False
        return True

    def skip_done(self) -> int:
        """Leave out inputs that have an output; returns how many."""
        done = [name for name in self._paths if any((self._output / (name + s)).exists() for s in SUFFIXES)]
        for name in done:
            del self._paths[name]
        return len(done)

    def run(self, client: Client, timeout: float | None, report: Path | None = None, progress: bool = True) -> None:
        """Send all files and save what comes; report: where to write that of the job, whatever becomes of it."""
        self._output.mkdir(parents=True, exist_ok=True)
        with contextlib.nullcontext() if report is None else self._reported(client, report):
            self._run(client, timeout, progress)

    @contextlib.contextmanager
    def _reported(self, client: Client, path: Path) -> Iterator[None]:
        began, end = time.monotonic(), ""
        with Recording(client) as recording:
            try:
                yield
            except BaseException as e:
                end = "it was interrupted" if isinstance(e, KeyboardInterrupt) else reason_of(e)
                raise
            finally:
                seconds = time.monotonic() - began
                recording.close()
                self._write(path, recording, seconds, end)

    def _write(self, path: Path, recording: Recording, seconds: float, end: str) -> None:
        from palm.report import Report, write

        if self._job is None:
            return
        about = {
            "cluster": str(recording.before["cluster"]),
            "job": self._job.id,
            "began": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - seconds)),
        }
        progress = {k: v for k, v in vars(self._job.progress).items() if k != "total"}
        errors = [(str(input), why) for input, why in self.failures().items()]
        before, after, queues = recording.before, recording.after, recording.queues
        write(path, Report(self._steps, seconds, before, after, progress, queues, errors, about, end))

    def _run(self, client: Client, timeout: float | None, progress: bool) -> None:
        with client.job(self._steps, self._files, on_error="skip", timeout=timeout, progress=progress) as self._job:
            for number, path, value in self._job._results():
                self._save(self._files.sent[number], places(path), value)

    def _save(self, name: str, place: tuple[int, ...], value: Any) -> None:
        name = "-".join([name, *map(str, place)])
        save(self._output / (name + suffix_of(value)), value)
        self.written += 1

    def failures(self, but: BaseException | None = None) -> dict[Path, str]:
        """What failed so far, and why; without `but`, which ended the job and is of no single input."""
        failed = dict(self._files.unreadable)
        for error in self._job.errors if self._job else []:
            if error is not but:
                failed.setdefault(self._files.sent[error.number], reason_of(error))
        return {path: failed[name] for name, path in self._paths.items() if name in failed}


def reason_of(error: BaseException) -> str:
    """An error on one line, without its traceback."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"  # without the number
    text = str(error) if not isinstance(error, RemoteError) else str(error).partition("\n\nRemote ")[0]
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines) if isinstance(error, RemoteError) else f"{lines[0]} {lines[-1]}" if lines[1:] else lines[0]


def submit(submission: Submission, client: Client, timeout: float | None, report: Path | None = None) -> int:
    """Run, list what failed; returns the exit code."""
    try:
        submission.run(client, timeout, report)
    except (PalmError, OSError, KeyboardInterrupt) as e:
        _list(submission.failures(but=e))
        if submission.began:
            click.echo(f"not complete: {submission.written} results are written; --resume does the rest", err=True)
        raise
    failures = submission.failures()
    _list(failures)
    if failures:
        path, why = next(iter(failures.items()))
        text = f"{len(failures)} of {submission.total} inputs failed, the first one {path}: {why}"
        click.echo(f"palm: {text}", err=True)
    return int(bool(failures))


def _list(failures: dict[Path, str]) -> None:
    for path, why in failures.items():
        click.echo(f"{path}: {why}", err=True)
