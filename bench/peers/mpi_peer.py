# SPDX-License-Identifier: BSD-3-Clause
"""MPI, mpi4py over MPICH: rank 0 is the client, the others are what it works with.

Ranks spin while they wait for each other, so between two rounds they wait for a line in a pipe instead. Where there are
more ranks than cores, they yield at once.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import environment
import numpy as np
import rounds
from processes import same

PINNED = ("mpi4py==4.1.2", "mpich==5.0.0", "numpy==2.4.6")
RANKS = {"roundtrip": 2, "stream": 2, "chain": 4, "pipeline": 4, "reduce": 2, "reduce from the client": 3}
WINDOW = 256  # messages under way, where there are many

Round = Callable[[Any, rounds.Request], Any]


def launch(ranks: int, *options: str) -> None:
    """Continues as mpiexec, which starts this program once for each rank, with these options of Python's."""
    if ranks > len(os.sched_getaffinity(0)):
        os.environ["MPIR_CVAR_POLLS_BEFORE_YIELD"] = "1"
    # what MPICH chooses for 1 MiB takes longer with two ranks
    os.environ["MPIR_CVAR_REDUCE_INTRA_ALGORITHM"] = "binomial"
    mpiexec = str(Path(sys.prefix) / "bin" / "mpiexec")
    os.execv(mpiexec, [mpiexec, "-iface", "lo", "-n", str(ranks), sys.executable, *options, *sys.argv])


def keep_to_a_core(rank: int, ranks: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if ranks <= len(cores):
        os.sched_setaffinity(0, {cores[rank]})


@contextlib.contextmanager
def root(comm: Any, ours: Round) -> Iterator[rounds.Measure]:
    """Rank 0; what `ours` gives is the value of a round."""
    with tempfile.TemporaryDirectory() as d, contextlib.ExitStack() as stack:
        paths = [f"{d}/{rank}" for rank in range(1, comm.size)]
        for path in paths:
            os.mkfifo(path)
        comm.bcast(d)
        others = [stack.enter_context(open(path, "w", buffering=1)) for path in paths]

        def measure(request: rounds.Request) -> dict[str, Any]:
            for other in others:
                print(json.dumps(request), file=other)
            return {"value": ours(comm, request)}

        yield measure


def follow(comm: Any, theirs: Round) -> None:
    """Any other rank, until rank 0 ends."""
    with open(f"{comm.bcast(None)}/{comm.rank}") as requests:
        for line in requests:
            theirs(comm, json.loads(line))


# --------------------------------------------------------------------------------------- small messages: rank to rank


def roundtrip(comm: Any, request: rounds.Request) -> float:
    message, answer, times = bytes(request["size"]), bytearray(request["size"]), []
    comm.Barrier()
    for _ in range(request["n"]):
        began = time.perf_counter()
        comm.Send(message, 1)
        comm.Recv(answer, 1)
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)


def reply(comm: Any, request: rounds.Request) -> None:
    buffer = bytearray(request["size"])
    comm.Barrier()
    for _ in range(request["n"]):
        comm.Recv(buffer, 0)
        comm.Send(same(buffer), 0)


def receiver(comm: Any, request: rounds.Request, source: int) -> Callable[[], Any]:
    """Gives one message after the other, each an object of its own."""
    size = request["size"]
    buffer = bytearray(size)

    def array() -> np.ndarray:
        comm.Recv(x := np.empty(size // 8), source)
        return x

    def text() -> bytes:
        comm.Recv(buffer, source)
        return bytes(buffer)

    return array if request["case"] == "arrays" else text


def stream(comm: Any, request: rounds.Request) -> float:
    n, size = request["n"], request["size"]
    arrays = request["case"] == "arrays"
    messages = np.arange(n * size / 8).reshape(n, -1) if arrays else [i.to_bytes(size, "little") for i in range(n)]
    receive, results = receiver(comm, request, comm.size - 1), []
    comm.Barrier()
    began = time.perf_counter()
    for i, message in enumerate(messages):
        if i >= WINDOW:
            results.append(receive())
        comm.Send(message, 1)  # small: it is copied, and nobody waits for a receiver
    while len(results) < n:
        results.append(receive())
    seconds = time.perf_counter() - began
    assert all(map(np.array_equal if arrays else bytes.__eq__, results, messages))
    return n / seconds


def hand_on(comm: Any, request: rounds.Request) -> None:
    receive, following = receiver(comm, request, comm.rank - 1), (comm.rank + 1) % comm.size
    comm.Barrier()
    for _ in range(request["n"]):
        comm.Send(same(receive()), following)


# ------------------------------------------------------------------------------------------------------------- arrays


def pipeline(comm: Any, request: rounds.Request) -> float:
    x = np.arange(request["size"] / 8)
    result = np.empty_like(x)
    comm.Barrier()
    value = (all_at_once if request["case"].startswith("rate") else one_by_one)(comm, x, result, request["n"])
    assert np.array_equal(x, result)
    return value


def one_by_one(comm: Any, x: np.ndarray, result: np.ndarray, n: int) -> float:
    times = []
    for _ in range(n):
        began = time.perf_counter()
        comm.Send(x, 1)
        comm.Recv(result, comm.size - 1)
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)


def all_at_once(comm: Any, x: np.ndarray, result: np.ndarray, n: int) -> float:
    under_way: collections.deque[Any] = collections.deque()

    def take() -> None:
        comm.Recv(result, comm.size - 1)
        under_way.popleft().Wait()

    began = time.perf_counter()
    for _ in range(n):
        if len(under_way) == WINDOW:
            take()
        under_way.append(comm.Isend(x, 1))
    while under_way:
        take()
    return n / (time.perf_counter() - began)


def hand_array_on(comm: Any, request: rounds.Request) -> None:
    x = np.empty(request["size"] // 8)
    comm.Barrier()
    for _ in range(request["n"]):
        comm.Recv(x, comm.rank - 1)
        comm.Send(same(x), (comm.rank + 1) % comm.size)


def reduce(comm: Any, request: rounds.Request) -> float:
    """Each rank has its part of the arrays beforehand."""
    n, length = request["n"], request["size"] // 8
    if n % comm.size:
        raise ValueError(f"{n} arrays cannot be shared out to {comm.size} ranks")
    arrays = [np.full(length, float(i)) for i in range(comm.rank, n, comm.size)]
    total, both = np.zeros(length), np.empty(length)
    comm.Barrier()
    began = time.perf_counter()
    for x in arrays:
        comm.Reduce(x, both)
        if comm.rank == 0:
            total += both
    seconds = time.perf_counter() - began
    assert comm.rank or total[0] == total[-1] == sum(range(n))
    return 1e3 * seconds


def reduce_from_the_client(comm: Any, request: rounds.Request) -> float:
    """Rank 0 has the arrays, the others add up what they get."""
    n, length = request["n"], request["size"] // 8
    arrays = [np.full(length, float(i)) for i in range(n)] if comm.rank == 0 else []
    total, x, result = np.zeros(length), np.empty(length), np.empty(length)
    comm.Barrier()
    began = time.perf_counter()
    for i in range(n):
        worker = 1 + i % (comm.size - 1)
        if comm.rank == 0:
            comm.Send(arrays[i], worker)
        elif comm.rank == worker:
            comm.Recv(x, 0)
            total += x
    comm.Reduce(total, result)
    seconds = time.perf_counter() - began
    assert comm.rank or result[0] == result[-1] == sum(range(n))
    return 1e3 * seconds


PARTS: dict[str, tuple[Round, Round]] = {  # of rank 0, of the others
    "roundtrip": (roundtrip, reply),
    "stream": (stream, hand_on),
    "chain": (stream, hand_on),
    "pipeline": (pipeline, hand_array_on),
    "reduce": (reduce, reduce),
    "reduce from the client": (reduce_from_the_client, reduce_from_the_client),
}


def rank(workload: str) -> None:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    keep_to_a_core(comm.rank, comm.size)
    ours, theirs = PARTS[workload]
    if comm.rank:
        follow(comm, theirs)
    else:
        rounds.main({workload: functools.partial(root, comm, ours)}, functools.partial(environment.versions, PINNED))


if __name__ == "__main__":
    if "PMI_RANK" in os.environ:
        rank(sys.argv[1])
    elif environment.entered("mpi", PINNED):
        launch(RANKS[sys.argv[1]])
