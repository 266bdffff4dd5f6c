# SPDX-License-Identifier: BSD-3-Clause
"""mpi4py.futures: the executor of MPI, rank 0 and two workers."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from typing import Any

import environment
import mpi_peer
import rounds
from processes import same
from uneven import durations, over_ideal, work


@contextlib.contextmanager
def tasks() -> Iterator[rounds.Measure]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor(max_workers=2) as executor:
        executor.bootup()

        def collect(n: int) -> list[int]:
            return list(executor.map(same, range(n), unordered=True))

        yield lambda request: rounds.rate_of(collect, request["n"])


@contextlib.contextmanager
def makespan() -> Iterator[rounds.Measure]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor(max_workers=2) as executor:
        executor.bootup()

        def measure(request: rounds.Request) -> dict[str, Any]:
            each = durations(request["case"], request["n"])
            began = time.perf_counter()
            measured = list(executor.map(work, each, unordered=True))
            return {"value": over_ideal(time.perf_counter() - began, measured)}

        yield measure


if __name__ == "__main__":
    if "PMI_RANK" in os.environ:
        rounds.main({"tasks": tasks, "makespan": makespan}, functools.partial(environment.versions, mpi_peer.PINNED))
    elif environment.entered("mpi", mpi_peer.PINNED):
        mpi_peer.launch(3, "-m", "mpi4py.futures")
