# SPDX-License-Identifier: BSD-3-Clause
"""Servers that fail at a place that a test chooses, once, and what is left in them; a client, to be killed.

A test arms a trap by a file; the first process that comes to the place renames it, and what it says happens there.
"""

from __future__ import annotations

import collections
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import palm
from palm._core import node as core
from palm._core import space

INPUTS = 24
SIZE = 4096  # numbers in an array, which goes by shared memory then

SHAPES: dict[str, tuple[list[str], Callable[[int], list[int]]]] = {  # steps, and what becomes of an input
    "linear": (["a.up", "b.twice", "c.down"], lambda x: [2 * x + 1]),
    "fan-out": (["a.pair", "b.pair", "c.down"], lambda x: [x - 1, -x - 1, -x - 1, x - 1]),
    "cyclic": (["a.up", "b.twice", "a.up", "b.twice"], lambda x: [4 * x + 6]),
}


def array(n: int) -> np.ndarray:
    return np.full(SIZE, n)


def number_in(x: np.ndarray) -> int:
    assert (x == x[0]).all()
    return int(x[0])


class Trap:
    """In a directory, where the test and the servers see it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.gate = directory / "gate"

    def arm(self, place: str, what: str) -> None:
        for left in self._directory.iterdir():
            left.unlink()
        (self._directory / "new").write_text(what)
        (self._directory / "new").rename(self._directory / f"armed {place}")

    def is_sprung(self) -> bool:
        return any(p.name.startswith("sprung") for p in self._directory.iterdir())

    def spring(self, place: str) -> None:
        """In a server: what the test wants to happen in this place, if it is the first to come here."""
        sprung = self._directory / f"sprung {place}"
        try:
            (self._directory / f"armed {place}").rename(sprung)
        except OSError:
            return
        self._happens(sprung.read_text())

    def _happens(self, what: str) -> None:
        if what in ("SIGKILL", "SIGSTOP"):
            os.kill(os.getpid(), getattr(signal, what))
        elif what == "segfault":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            ctypes.string_at(0)
        elif what == "exit":
            sys.exit(3)
        elif what == "exception":
            raise RuntimeError("the trap")
        else:  # something happens to somebody else
            while not self.gate.exists():
                time.sleep(0.001)


class TrapNode(core.Node):
    """Has a place between the building of an envelope and its handing over, and one after that."""

    trap: Trap | None = None

    def send_kept(self, link: int, kind: int, handle: int, hop: int, batch: core.Batch) -> bool:
        trapped = self.trap is not None and kind == core.DATA
        if trapped:
            self.trap.spring("sending")
        gone = super().send_kept(link, kind, handle, hop, batch)
        if trapped:
            self.trap.spring("just sent")
        return gone


def files() -> int:
    """Of this process, without those that stand for a living process: the pulse opens and closes them as it looks."""
    return sum(not is_no_file_of_ours(info) for info in Path("/proc/self/fdinfo").iterdir())


def is_no_file_of_ours(info: Path) -> bool:
    try:
        pids = [int(line.split()[1]) for line in info.read_text().splitlines() if line.startswith("Pid:")]
    except FileNotFoundError:  # the listing's own, or closed meanwhile
        return True
    return any(pid > 0 for pid in pids)


class Healthy(palm.Server):
    @palm.function
    def up(self, x):
        return x + 1

    @palm.function
    def down(self, x):
        return x - 1

    @palm.function
    def pair(self, x):
        yield x
        yield -x

    @palm.function
    def inside(self):
        """What this process has of jobs, this call's included."""
        host, stats = self._host, space.stats()
        return {
            "jobs": len(host._jobs),
            "handles": len(host._assignments),
            "generators": len(host._generators._turns.all()) + sum(len(job.making) for job in host._jobs.values()),
            "bytes": stats["arena_in_use"] + stats["mapped"],
            "fds": files(),
        }


class Trapped(Healthy):
    def __init__(self):
        core.Node = TrapNode  # in a server's process: tests make no server

    def setup(self, directory):
        self.trap = self._host.node.trap = Trap(Path(directory))
        signal.signal(signal.SIGUSR1, lambda *_: self.trap.spring("idle"))

    @palm.function
    def twice(self, x):
        self.trap.spring("in a function")
        return x * 2

    @palm.function
    def pair(self, x):
        yield x
        self.trap.spring("in a function")
        yield -x


def inputs(wait: Callable[[], Any]) -> Iterator[np.ndarray]:
    """The first half, then `wait`, then the rest."""
    for n in range(INPUTS):
        if n == INPUTS // 2:
            wait()
        yield array(n)


def expected(shape: str, numbers: range) -> collections.Counter[int]:
    return collections.Counter(y for x in numbers for y in SHAPES[shape][1](x))


def main() -> None:
    """A client: says when the first half is back, and goes on when it is told."""
    _, address, shape = sys.argv
    half = range(INPUTS // 2)
    with palm.Client(address) as client:
        job = client.job(SHAPES[shape][0], inputs(sys.stdin.readline))
        found = collections.Counter(number_in(next(job)) for _ in range(expected(shape, half).total()))
        assert found == expected(shape, half)
        print("half", flush=True)
        job.wait()
