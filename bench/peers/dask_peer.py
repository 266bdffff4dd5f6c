# SPDX-License-Identifier: BSD-3-Clause
"""Dask distributed: a local cluster of two workers, processes of one thread each."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator

import environment
import rounds
from processes import same

PINNED = ("distributed==2026.8.0", "dask==2026.8.0")


@contextlib.contextmanager
def tasks() -> Iterator[rounds.Measure]:
    import distributed

    with (
        tempfile.TemporaryDirectory() as d,
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=d,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def collect(n: int) -> list[int]:
            return client.gather(client.map(same, range(n), pure=False))

        collect(64)
        yield lambda request: rounds.rate_of(collect, request["n"])


if __name__ == "__main__":
    environment.compete("dask", PINNED, {"tasks": tasks})
