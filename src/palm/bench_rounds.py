# SPDX-License-Identifier: BSD-3-Clause
"""Rounds of `palm bench`: contestants, each a process of its own, measure by turns."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palm.bench_workloads import PEER_LIMITS, Case, Workload

PATIENCE = 180.0  # seconds that a contestant has to answer
SETUP_PATIENCE = 900.0  # and to set itself up, for which it may have to make an environment
INSTALL = "PALM_BENCH_INSTALL"  # in a peer's surroundings; "no": it does not make an environment that is not there

Request = dict[str, Any]
Answer = dict[str, Any]


class Failed(Exception):
    """A contestant broke; the text says how."""


class Unavailable(Exception):
    """A contestant cannot do this here; the text says why."""


class Contestant:
    """A process that measures a round a request, once it is `ready`. It ends when its standard input does."""

    def __init__(self, command: Sequence[str], *, one_core: bool = False, install: bool = True, link: str = "") -> None:
        core = min(os.sched_getaffinity(0))
        env = dict(os.environ) | ({"PALM_LINK": link} if link else {}) | ({} if install else {INSTALL: "no"})
        self.process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, {core})) if one_core else None,
        )
        self._said = b""
        self._complained = b""
        self.versions: dict[str, str] = {}

    def ready(self) -> None:
        """Waits until it has set itself up."""
        self.versions = self._answer(SETUP_PATIENCE).get("versions", {})

    def ask(self, request: Request) -> Answer:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._reason()) from None
        return self._answer(PATIENCE)

    def _answer(self, patience: float) -> Answer:
        answer: Answer = json.loads(self._line(patience))
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        return answer

    def _line(self, patience: float) -> bytes:
        assert self.process.stdout is not None and self.process.stderr is not None
        end = time.monotonic() + patience
        streams = [self.process.stdout, self.process.stderr]
        while b"\n" not in self._said:
            for stream in select.select(streams, [], [], max(0.0, end - time.monotonic()))[0]:
                more = os.read(stream.fileno(), 65536)
                if stream is self.process.stdout and not more:
                    raise Failed(self._reason())
                if stream is self.process.stdout:
                    self._said += more
                elif more:
                    self._complained = (self._complained + more)[-4096:]
                else:
                    streams.remove(stream)
            if time.monotonic() > end:
                raise Failed(f"no answer within {patience:g} s")
        line, _, self._said = self._said.partition(b"\n")
        return line

    def _reason(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        assert self.process.stderr is not None
        if select.select([self.process.stderr], [], [], 0)[0]:
            self._complained += os.read(self.process.stderr.fileno(), 65536)
        last = self._complained.decode(errors="replace").strip().splitlines() or [f"exit code {self.process.poll()}"]
        return last[-1]

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@dataclass
class Result:
    """One contestant in one case."""

    values: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    absent: str = ""  # why it was not measured
    broken: bool = False

    @property
    def measured(self) -> bool:
        return bool(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


Results = dict[str, dict[str, Result]]  # by case, by contestant


@dataclass
class Run:
    workload: Workload
    results: Results
    versions: dict[str, dict[str, str]]


@dataclass
class Options:
    rounds: int
    quick: bool
    peers: Path | None


@contextlib.contextmanager
def contestants(
    workload: Workload, peers: Path | None, results: Results, *, install: bool = True
) -> Iterator[dict[str, Contestant]]:
    """Those that could be started; the others have left their reason in `results`.

    install : bool
        Environments of peers that are not there are made.
    """
    commands = {
        "palm": [sys.executable, "-c", f"from palm.bench_palm import contestant; contestant({workload.ours!r})"]
    }
    if peers is not None:
        commands |= {p.name: [sys.executable, str(peers / p.program), p.workload] for p in workload.peers}
    running: dict[str, Contestant] = {}
    try:
        # two may want the same environment, and only one can make it
        for together in [[name] for name in commands] if install else [list(commands)]:
            for name in together:
                link = workload.link if name == "palm" else ""
                running[name] = Contestant(commands[name], one_core=workload.one_core, install=install, link=link)
            for name in together:
                try:
                    running[name].ready()
                except (Failed, Unavailable) as e:
                    running.pop(name).close()
                    for case in workload.cases:
                        results[case.name][name] = Result(absent=str(e), broken=not isinstance(e, Unavailable))
        yield running
    finally:
        for c in running.values():
            c.close()


def measure(workload: Workload, options: Options, progress: Callable[[str], None]) -> Run:
    results: Results = {case.name: {} for case in workload.cases}
    with contestants(workload, options.peers, results, install=not options.quick) as running:
        for i in range(1 if options.quick else 0, options.rounds + 1):
            for case in workload.cases:
                for name, c in list(running.items()):
                    progress(f"{workload.name}, {case.name}: {name}, " + (f"round {i}" if i else "warm-up"))
                    result = results[case.name].setdefault(name, Result())
                    one_round(c, name, case, options.quick, result, count=i > 0)
                    if result.broken:  # an answer that comes too late would be taken for the next one
                        running.pop(name).close()
                        _leave(results, name, result)
        return Run(workload, results, {name: c.versions for name, c in running.items()})


def _leave(results: Results, name: str, why: Result) -> None:
    for found in results.values():
        result = found.setdefault(name, Result())
        result.absent, result.broken = why.absent, True


def one_round(c: Contestant, name: str, case: Case, quick: bool, result: Result, *, count: bool = True) -> None:
    """Adds to `result`; from a failure on, it has the reason and is not asked again. The rounds before it count."""
    if result.absent:
        return
    limit = PEER_LIMITS.get((name, case.name), sys.maxsize)
    n = min(case.quick, max(1, limit // 5)) if quick else min(case.n, limit)
    try:
        answer = c.ask({"case": case.name, "n": n, "size": case.size})
    except (Failed, Unavailable) as e:
        result.absent, result.broken = str(e), not isinstance(e, Unavailable)
        return
    if count:
        result.values.append(answer["value"])
        result.answers.append(answer)


def ratios(ours: Result, other: Result) -> list[float]:
    return [a / b for a, b in zip(ours.values, other.values, strict=False)]
