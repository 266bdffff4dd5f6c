# SPDX-License-Identifier: BSD-3-Clause
"""What several tests of arrays need."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from conftest import eventually

import palm
from palm._core import space


def place(a: np.ndarray) -> tuple[int, int]:
    """Where its first element is: (inode, offset) of the mapped file. The same place is the same physical memory."""
    address = a.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, _, offset, _, inode = line.split()[:5]
            first, last = (int(s, 16) for s in span.split("-"))
            if first <= address < last:
                return int(inode), address - first + int(offset, 16)
    raise AssertionError("not mapped")


def settle() -> None:
    """Waits until nothing is held or under way here: what follows is measured from there."""

    def nothing_held() -> bool:
        space.tick(time.monotonic_ns())
        s = space.stats()
        return s["blocks_held"] == s["blocks_lent"] == 0

    eventually(nothing_held)


def counters(client: palm.Client, server: str) -> dict[str, Any]:
    """A server's counters, read from its page when all it sent before has been counted."""
    client.call(f"{server}.same", 0)
    [found] = [s["counters"] for s in client.status()["servers"] if s["name"] == server]
    return found


class Moved(dict[str, int]):
    """By how much counters have moved; 0 for those that have not."""

    def __missing__(self, name: str) -> int:
        return 0


def difference(before: dict[str, Any], after: dict[str, Any]) -> Moved:
    return Moved({k: after[k] - v for k, v in before.items() if type(v) is int and after[k] != v})


@contextmanager
def moved(client: palm.Client | None = None, server: str = "") -> Iterator[Moved]:
    """By how much the counters of a server, or our own, move meanwhile."""
    before = counters(client, server) if client else space.read_counters()
    found = Moved()
    yield found
    found.update(difference(before, counters(client, server) if client else space.read_counters()))
