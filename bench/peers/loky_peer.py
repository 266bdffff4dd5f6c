# SPDX-License-Identifier: BSD-3-Clause
"""loky's executor of two processes, tasks in chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import environment
import rounds
from processes import same

PINNED = ("loky==3.7.0", "cloudpickle==3.1.3")
CHUNKS = 4  # a worker, as Pool.map has them


@contextlib.contextmanager
def tasks() -> Iterator[rounds.Measure]:
    import loky

    with loky.ProcessPoolExecutor(max_workers=2) as executor:

        def collect(n: int) -> list[int]:
            return list(executor.map(same, range(n), chunksize=-(-n // (2 * CHUNKS))))

        collect(64)
        yield lambda request: rounds.rate_of(collect, request["n"])


if __name__ == "__main__":
    environment.compete("loky", PINNED, {"tasks": tasks})
