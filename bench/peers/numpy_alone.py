# SPDX-License-Identifier: BSD-3-Clause
"""The same work in one process, by numpy alone."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import rounds


@contextlib.contextmanager
def reduce() -> Iterator[rounds.Measure]:
    def measure(request: rounds.Request) -> dict[str, Any]:
        arrays = [np.full(request["size"] // 8, float(i)) for i in range(request["n"])]
        began = time.perf_counter()
        total = functools.reduce(np.add, arrays)
        seconds = time.perf_counter() - began
        assert total[0] == sum(range(request["n"]))
        return {"value": 1e3 * seconds}

    yield measure


if __name__ == "__main__":
    rounds.main({"reduce": reduce}, lambda: {"numpy": np.__version__})
