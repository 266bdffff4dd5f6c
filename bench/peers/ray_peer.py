# SPDX-License-Identifier: BSD-3-Clause
"""Ray: tasks for two CPUs, and so two workers."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator

import environment
import rounds
from processes import same

PINNED = ("ray==2.60.0",)


@contextlib.contextmanager
def tasks() -> Iterator[rounds.Measure]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    with tempfile.TemporaryDirectory() as d:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=d,
        )
        try:
            task = ray.remote(same)

            def collect(n: int) -> list[int]:
                return ray.get([task.remote(i) for i in range(n)])

            collect(64)
            yield lambda request: rounds.rate_of(collect, request["n"])
        finally:
            ray.shutdown()


if __name__ == "__main__":
    environment.compete("ray", PINNED, {"tasks": tasks})
