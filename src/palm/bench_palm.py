# SPDX-License-Identifier: BSD-3-Clause
"""PALM as a contestant of its own benchmark: it answers requests as ``bench/peers/rounds.py`` describes."""

from __future__ import annotations

import contextlib
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import palm
from palm.bench_workloads import durations

Request = dict[str, Any]
Answer = dict[str, Any]
Measure = Callable[[Request], Answer]


class Same(palm.Server):
    """Hands on what it gets, unread."""

    @palm.function
    def same(self, x: Any) -> Any:
        return x


class Task(palm.Butterfly):
    """Done at once, or after a sleep."""

    @palm.function
    def same(self, x: Any) -> Any:
        return x

    @palm.function
    def sleep(self, seconds: float) -> float:
        """The seconds that it took."""
        began = time.perf_counter()
        time.sleep(seconds)
        return time.perf_counter() - began


class Layer(palm.Server):
    """8 neurons that see standardised values."""

    def setup(self) -> None:
        self.weights = np.random.default_rng(1).standard_normal((8, 8))

    @palm.function
    def single(self, x: Any) -> Any:
        return np.tanh((x - x.mean()) / x.std() @ self.weights)

    @palm.function(batch=True)
    def stacked(self, x: Any) -> Any:
        z = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
        return np.tanh(z @ self.weights)

    @palm.function(batch=True)
    def doubled(self, x: Any) -> Any:
        return x * 2


class Sum(palm.Reduce):
    @palm.function
    def add(self, a: Any, b: Any) -> Any:
        return a + b


class SameBits(Sum):
    deterministic = True


@contextlib.contextmanager
def roundtrip() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        cluster.start("palm.bench_palm:Same", name="a")
        call = cluster.client().call

        def measure(request: Request) -> Answer:
            message, times = bytes(request["size"]), []
            for _ in range(request["n"]):
                began = time.perf_counter()
                call("a.same", message)
                times.append(time.perf_counter() - began)
            return {"value": 1e6 * statistics.median(times)}

        yield measure


@contextlib.contextmanager
def stream() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        cluster.start("palm.bench_palm:Same", name="a")
        client = cluster.client()

        def measure(request: Request) -> Answer:
            n, size = request["n"], request["size"]
            arrays = request["case"] == "arrays"
            messages = np.arange(n * size / 8).reshape(n, -1) if arrays else [bytes(size) for _ in range(n)]
            return {"value": _rate(client, ["a.same"], messages, n)}

        yield measure


@contextlib.contextmanager
def chain() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        steps = [f"{cluster.start('palm.bench_palm:Same', name=name)}.same" for name in "abc"]
        client = cluster.client()

        def measure(request: Request) -> Answer:
            n = request["n"]
            return {"value": _rate(client, steps, [bytes(request["size"]) for _ in range(n)], n)}

        yield measure


def _rate(client: palm.Client, steps: list[str], messages: Any, n: int) -> float:
    began = time.perf_counter()
    results = list(client.job(steps, messages))
    seconds = time.perf_counter() - began
    assert len(results) == n
    return n / seconds


def _rate_counted(client: palm.Client, steps: list[str], messages: Any, n: int) -> float:
    """The same for so many that it would be the list that costs."""
    began = time.perf_counter()
    results = sum(1 for _ in client.job(steps, messages))
    seconds = time.perf_counter() - began
    assert results == n
    return n / seconds


def _rate_into(client: palm.Client, step: str, messages: np.ndarray[Any, Any]) -> float:
    """The same where results go into an array that is there."""
    out = np.full_like(messages, -1)
    began = time.perf_counter()
    client.job(step, messages).into(out)
    seconds = time.perf_counter() - began
    assert np.array_equal(out, 2 * messages)
    return len(messages) / seconds


@contextlib.contextmanager
def pipeline(names: str = "abc") -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        steps = [f"{cluster.start('palm.bench_palm:Same', name=name)}.same" for name in names]
        client = cluster.client()

        def measure(request: Request) -> Answer:
            with palm.arena():
                x = np.arange(request["size"] / 8)
            if request["case"].startswith("rate"):
                return {"value": _rate(client, steps, (x for _ in range(request["n"])), request["n"])}
            return {"value": 1e6 * _latency(client, steps, x, request["n"]), "bytes_copied": _copied(cluster)}

        yield measure


@contextlib.contextmanager
def tasks() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        cluster.start("palm.bench_palm:Task", name="task", workers=2)
        client = cluster.client()

        def measure(request: Request) -> Answer:
            n = request["n"]
            began = time.perf_counter()
            results = list(client.job(["task.same"], range(n)))
            seconds = time.perf_counter() - began
            assert sorted(results) == list(range(n))
            return {"value": n / seconds}

        yield measure


@contextlib.contextmanager
def makespan() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        cluster.start("palm.bench_palm:Task", name="task", workers=2)
        client = cluster.client()

        def measure(request: Request) -> Answer:
            each = durations(request["case"], request["n"])
            began = time.perf_counter()
            measured = list(client.job(["task.sleep"], each))
            seconds = time.perf_counter() - began
            assert len(measured) == len(each)
            return {"value": seconds / (sum(measured) / 2)}

        yield measure


@contextlib.contextmanager
def tracking() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        steps = [f"{cluster.start('palm.bench_palm:Same', name=name)}.same" for name in "abc"]
        client = cluster.client()

        def measure(request: Request) -> Answer:
            n, size = request["n"], request["size"]
            x = np.arange(size / 8) if size > 64 else bytes(size)
            through = steps if request["case"] == "3 servers" else steps[:1]
            return {"value": _rate_counted(client, through, (x for _ in range(n)), n)}

        yield measure


@contextlib.contextmanager
def batch() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        cluster.start("palm.bench_palm:Layer", name="layer")
        client = cluster.client()

        def measure(request: Request) -> Answer:
            n = request["n"]
            messages = np.arange(n * 8.0).reshape(n, 8)
            if request["case"] == "doubled":
                return {"value": _rate_into(client, "layer.doubled", messages)}
            step = "layer.stacked" if request["case"] == "stacked" else "layer.single"
            return {"value": _rate(client, [step], messages, n)}

        yield measure


@contextlib.contextmanager
def reduce() -> Iterator[Measure]:
    with palm.Cluster() as cluster:
        cluster.start("palm.bench_palm:Sum", name="any", workers=2)
        cluster.start("palm.bench_palm:SameBits", name="same", workers=2)
        client = cluster.client()

        def measure(request: Request) -> Answer:
            step = "same.add" if request["case"] == "deterministic" else "any.add"
            with palm.arena():
                arrays = [np.full(request["size"] // 8, float(i)) for i in range(request["n"])]
            began = time.perf_counter()
            [total] = client.job([step], arrays)
            seconds = time.perf_counter() - began
            assert total[0] == sum(range(request["n"]))
            return {"value": 1e3 * seconds}

        yield measure


def _latency(client: palm.Client, steps: list[str], x: np.ndarray[Any, Any], n: int) -> float:
    """Median seconds from when the input is handed out to when its result is there, one at a time."""
    began: list[float] = []
    ended: list[float] = []

    def inputs() -> Iterator[np.ndarray[Any, Any]]:
        for _ in range(n):
            began.append(time.perf_counter())
            yield x

    for _ in client.job(steps, inputs(), window=1):
        ended.append(time.perf_counter())
    return statistics.median(b - a for a, b in zip(began, ended, strict=True))


def _copied(cluster: palm.Cluster) -> dict[str, int]:
    return {s["name"]: s["counters"]["bytes_copied"] for s in cluster.status()["servers"] if s["name"] in "abc"}


@contextlib.contextmanager
def importing() -> Iterator[Measure]:
    program = (
        "import time; a = time.perf_counter(); import numpy, zmq; b = time.perf_counter(); import palm; "
        "print(b - a, time.perf_counter() - b)"
    )

    def once() -> tuple[float, float]:
        out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        before, ours = map(float, out.split())
        return 1e3 * before, 1e3 * ours

    def measure(request: Request) -> Answer:
        each = [once() for _ in range(request["n"])]
        return {"value": statistics.median(o for _, o in each), "numpy_zmq": statistics.median(b for b, _ in each)}

    yield measure


OURS: dict[str, Callable[[], contextlib.AbstractContextManager[Measure]]] = {
    "roundtrip": roundtrip,
    "stream": stream,
    "chain": chain,
    "pipeline": pipeline,
    "eight": functools.partial(pipeline, "abcdefgh"),
    "tasks": tasks,
    "makespan": makespan,
    "tracking": tracking,
    "batch": batch,
    "reduce": reduce,
    "import": importing,
}


def contestant(workload: str) -> None:
    """PALM as one of the contestants: see bench/peers/rounds.py."""
    with OURS[workload]() as measure:
        print(json.dumps({"versions": {"palm": palm.__version__}}), flush=True)
        for line in sys.stdin:
            print(json.dumps(measure(json.loads(line))), flush=True)


if __name__ == "__main__":
    contestant(sys.argv[1])
