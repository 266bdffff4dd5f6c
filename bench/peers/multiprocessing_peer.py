# SPDX-License-Identifier: BSD-3-Clause
"""The standard library's multiprocessing: Pool, and Pipe."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import platform
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import rounds
from processes import running, same
from uneven import durations, over_ideal, work

spawn = multiprocessing.get_context("spawn")


def reply(end: Connection) -> None:
    while True:
        end.send_bytes(same(end.recv_bytes()))


@contextlib.contextmanager
def roundtrip() -> Iterator[rounds.Measure]:
    ours, theirs = spawn.Pipe()
    with running((reply, (theirs,))):

        def measure(request: rounds.Request) -> dict[str, Any]:
            message, times = bytes(request["size"]), []
            for _ in range(request["n"]):
                began = time.perf_counter()
                ours.send_bytes(message)
                ours.recv_bytes()
                times.append(time.perf_counter() - began)
            return {"value": 1e6 * statistics.median(times)}

        yield measure


@contextlib.contextmanager
def tasks(size: int | None = None) -> Iterator[rounds.Measure]:
    """`size`: tasks of a chunk; None: as many as the pool chooses, an eighth of all."""
    with spawn.Pool(2) as pool:
        pool.map(same, range(64))
        yield lambda request: rounds.rate_of(lambda n: pool.map(same, range(n), size), request["n"])


@contextlib.contextmanager
def makespan() -> Iterator[rounds.Measure]:
    with spawn.Pool(2) as pool:
        pool.map(same, range(64))

        def measure(request: rounds.Request) -> dict[str, Any]:
            each = durations(request["case"], request["n"])
            began = time.perf_counter()
            measured = list(pool.imap_unordered(work, each, chunksize=1))
            return {"value": over_ideal(time.perf_counter() - began, measured)}

        yield measure


if __name__ == "__main__":
    setups = {"roundtrip": roundtrip, "tasks": tasks, "makespan": makespan}
    setups["tasks, 64 a chunk"] = functools.partial(tasks, 64)
    rounds.main(setups, lambda: {"python": platform.python_version()})
