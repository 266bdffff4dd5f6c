# SPDX-License-Identifier: BSD-3-Clause
"""The same work in one process, by numpy alone."""

from __future__ import annotations

import contextlib
import functools
import statistics
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


@contextlib.contextmanager
def memcpy() -> Iterator[rounds.Measure]:
    """An array of this size is copied once, into memory that is warm."""

    def measure(request: rounds.Request) -> dict[str, Any]:
        if request["case"].startswith("rate"):
            raise rounds.Unavailable("one copy after the other is no pipeline")
        array = np.ones(request["size"], np.uint8)
        copy, took = np.zeros_like(array), []
        for _ in range(request["n"]):
            began = time.perf_counter()
            np.copyto(copy, array)
            took.append(time.perf_counter() - began)
        return {"value": 1e6 * statistics.median(took)}

    yield measure


if __name__ == "__main__":
    rounds.main({"reduce": reduce, "memcpy": memcpy}, lambda: {"numpy": np.__version__})
