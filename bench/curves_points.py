# SPDX-License-Identifier: BSD-3-Clause
"""The points of the curves, each a process with a cluster of its own: ``python bench/curves_points.py servers 16``.

It answers requests as ``bench/peers/rounds.py`` describes: {"n": messages a round}. What it answers has, for each line
of the curve, how many messages went, and the seconds and the CPU seconds that they took.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import palm
from palm._core import space

SMALL = bytes(64)
PER_JOB = 100  # messages of each of many jobs
TURNS = 64  # of clients, each of which calls several times, however many there are
LONE = 25  # so many messages of a stream take as long as one that is waited for

Line = dict[str, float]  # messages, seconds, cpu
Measure = Callable[[int], dict[str, Line]]


class Same(palm.Server):
    """Hands on what it gets, unread."""

    @palm.function
    def same(self, x: Any) -> Any:
        return x


def _with_functions(count: int) -> type[palm.Server]:
    def another() -> Callable[..., Any]:
        @palm.function
        def same(self: palm.Server, x: Any) -> Any:
            return x

        return same

    return type("Many", (palm.Server,), {f"same{i}": another() for i in range(count)})


# ------------------------------------------------------------------------------------------------ what it costs


def cpu_seconds() -> float:
    """That all of the cluster has had of cores, in user and kernel mode, with threads that have ended: of this process,
    and of its children, which all others are."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task").glob("*/children")
    pids = {own, *(int(pid) for found in children for pid in found.read_text().split())}
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)  # the clock of a process: clock_getcpuclockid(3)


def cost(work: Callable[[], int]) -> Line:
    """Of what `work` does, which returns how many messages these were."""
    cpu, began = cpu_seconds(), time.perf_counter()
    messages = work()
    seconds = time.perf_counter() - began
    return {"messages": messages, "seconds": seconds, "cpu": cpu_seconds() - cpu}


def stream(client: palm.Client, steps: list[str], n: int, x: Any = SMALL, window: int | None = None) -> int:
    """A job of n messages."""
    found = sum(1 for _ in client.job(steps, itertools.repeat(x, n), window=window))
    assert found == n, f"{found} results of {n}"
    return n


def calls(client: palm.Client, step: str, n: int) -> int:
    """One after the other."""
    for _ in range(n):
        client.call(step, SMALL)
    return n


def lone(n: int) -> int:
    return max(1, n // LONE)


# --------------------------------------------------------------------------------------------------- the curves


@contextlib.contextmanager
def servers(count: int) -> Iterator[Measure]:
    """The client has a link to each of the servers; the messages go to the last."""
    with palm.Cluster() as cluster:
        steps = [f"{cluster.start(Same, name=f's{i}')}.same" for i in range(count)]
        client = cluster.client()
        for step in steps:
            client.call(step, SMALL)
        yield lambda n: {
            "job": cost(lambda: stream(client, steps[-1:], n)),
            "calls": cost(lambda: calls(client, steps[-1], lone(n))),
        }


@contextlib.contextmanager
def functions(count: int) -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        step = f"{cluster.start(_with_functions(count), name='many')}.same{count - 1}"
        client = cluster.client()
        yield lambda n: {
            "job": cost(lambda: stream(client, [step], n)),
            "calls": cost(lambda: calls(client, step, lone(n))),
        }


@contextlib.contextmanager
def jobs(at_once: int) -> Iterator[Measure]:
    """The same jobs at each point, so many of them at once: they begin to send when all of these are open. And calls,
    while so many jobs are open that wait for their inputs."""
    with palm.Cluster() as cluster:
        step = f"{cluster.start(Same, name='a')}.same"
        client = cluster.client()

        @contextlib.contextmanager
        def opened() -> Iterator[tuple[list[palm.Job], threading.Event]]:
            gate = threading.Event()

            def inputs() -> Iterator[bytes]:
                gate.wait()
                yield from itertools.repeat(SMALL, PER_JOB)

            group = [client.job(step, inputs()) for _ in range(at_once)]
            try:
                yield group, gate
            finally:
                gate.set()
                for job in group:
                    job.wait()

        def work(n: int) -> int:
            done = 0
            while done < n:
                with opened() as (group, gate):
                    gate.set()
                    done += sum(1 for job in group for _ in job)
            return done

        def measure(n: int) -> dict[str, Line]:
            line = cost(lambda: work(n))
            with opened():
                return {"jobs": line, "calls beside": cost(lambda: calls(client, step, lone(n)))}

        yield measure


@contextlib.contextmanager
def clients(count: int) -> Iterator[Measure]:
    """Each a process. In turn: one calls some times, then the next; all are connected."""
    with palm.Cluster() as cluster:
        step = f"{cluster.start(Same, name='a')}.same"
        context = multiprocessing.get_context("spawn")
        ends = [context.Pipe() for _ in range(count)]
        processes = [context.Process(target=_client, args=(theirs, cluster.address, step)) for _, theirs in ends]
        for process in processes:
            process.start()
        for _, theirs in ends:
            theirs.close()
        ours = [end for end, _ in ends]

        def at_once(n: int) -> int:
            for end in ours:
                end.send(("jobs", n // count))
            return sum(end.recv() for end in ours)

        def in_turn(n: int) -> int:
            done = 0
            for end in itertools.islice(itertools.cycle(ours), TURNS):
                end.send(("calls", max(1, n // TURNS)))
                done += end.recv()
            return done

        for end in ours:
            end.recv()  # it is connected
        try:
            yield lambda n: {"at once": cost(lambda: at_once(n)), "in turn": cost(lambda: in_turn(lone(n)))}
        finally:
            for end in ours:
                end.close()
            for process in processes:
                process.join()


def _client(asked: Connection, address: str, step: str) -> None:
    with palm.Client(address) as client, contextlib.suppress(EOFError):
        asked.send(calls(client, step, 1))
        while True:
            what, n = asked.recv()
            if what == "calls":
                asked.send(calls(client, step, n))
            else:
                asked.send(sum(stream(client, [step], PER_JOB * 10) for _ in range(max(1, n // (PER_JOB * 10)))))


@contextlib.contextmanager
def steps(count: int) -> Iterator[Measure]:
    """Through four servers by turns. A message counts at each of its steps; jobs are of the same size at each point."""
    with palm.Cluster() as cluster:
        names = [cluster.start(Same, name=name) for name in "abcd"]
        client = cluster.client()
        route = [f"{name}.same" for name in itertools.islice(itertools.cycle(names), count)]

        def work(n: int, size: int, window: int | None = None) -> int:
            return count * sum(stream(client, route, size, window=window) for _ in range(max(1, n // (size * count))))

        yield lambda n: {
            "job": cost(lambda: work(n, max(1, n // 32))),
            "one at a time": cost(lambda: work(lone(n), max(1, lone(n) // 32), window=1)),
        }


@contextlib.contextmanager
def payload(size: int) -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        step = f"{cluster.start(Same, name='a')}.same"
        client = cluster.client()
        with palm.arena():
            x = np.arange(size // 8)

        def copied() -> int:
            [server] = [s for s in client.status()["servers"] if s["name"] == "a"]
            return int(server["counters"]["bytes_copied"] + space.read_counters()["bytes_copied"])

        def measure(n: int) -> dict[str, Line]:
            before = copied()
            line = cost(lambda: stream(client, [step], n, x, window=1))
            return {"one at a time": line | {"bytes_copied": copied() - before}}

        yield measure


@dataclass(frozen=True)
class Curve:
    """xs: the points. n: messages a round. quick: the points and messages of `--quick`."""

    what: str  # the axis
    each: str  # what is counted
    setup: Callable[[int], contextlib.AbstractContextManager[Measure]]
    xs: tuple[int, ...]
    n: int
    quick: tuple[tuple[int, ...], int]


CURVES = {
    "servers": Curve("servers that are up", "message", servers, (1, 4, 16, 64), 100_000, ((2,), 100)),
    "functions": Curve("functions of the server", "message", functions, (1, 10, 100, 1000), 100_000, ((70,), 100)),
    "jobs": Curve("jobs at once", "message", jobs, (1, 10, 100, 1000), 1000 * PER_JOB, ((1, 2), 2 * PER_JOB)),
    "clients": Curve("clients", "message", clients, (1, 4, 16, 64), 64_000, ((2,), 2000)),
    "steps": Curve("steps of the pipeline", "step", steps, (1, 2, 4, 8, 16, 32), 320_000, ((5,), 320)),
    "payload": Curve("bytes of the array", "message", payload, tuple(8**i for i in range(1, 11)), 300, ((8**7,), 4)),
}


def main(name: str, x: str) -> None:
    with CURVES[name].setup(int(x)) as measure:
        print(json.dumps({"versions": {"palm": palm.__version__}}), flush=True)
        for line in sys.stdin:
            print(json.dumps(measure(json.loads(line)["n"])), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
