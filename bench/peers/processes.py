# SPDX-License-Identifier: BSD-3-Clause
"""Processes that a peer starts beside its own, and what their functions do."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any


def same(x: Any) -> Any:
    return x


@contextlib.contextmanager
def running(*servers: tuple[Callable[..., None], tuple[Any, ...]]) -> Iterator[None]:
    """Until the end of the block, each function in a process."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=target, args=args, daemon=True) for target, args in servers]
    for p in processes:
        p.start()
    try:
        yield
    finally:
        for p in processes:
            p.terminate()
            p.join()
