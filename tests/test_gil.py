# SPDX-License-Identifier: BSD-3-Clause
"""A function that holds the GIL is shown as one that does (B9), and its counters can be read meanwhile."""

from __future__ import annotations

import ctypes
import threading
import time

import pytest
from conftest import eventually

import palm
from palm import activity, gil
from palm._core import space


class Sleeper(palm.Server):
    @palm.function
    def holds(self, seconds):
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))

    @palm.function
    def lends(self, seconds):
        time.sleep(seconds)

    @palm.function
    def computes(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass


def works(cluster):
    return {s["name"]: s["work"] for s in cluster.status()["servers"]}


def all_since(works, seconds):
    return works if all(work.get("seconds", 0) > seconds for work in works.values()) else None


def test_who_holds_it_is_told(cluster):
    functions = {"holder": "holds", "lender": "lends", "computer": "computes"}
    for name in functions:
        cluster.start(Sleeper, name)
    client = cluster.client()
    futures = [client.submit(f"{name}.{function}", 6.0) for name, function in functions.items()]
    seen = eventually(lambda: all_since(works(cluster), 3.0))
    assert {name: work["holds_gil"] for name, work in seen.items()} == {
        "holder": True,
        "lender": False,
        "computer": False,
    }
    assert activity.text_of(seen["holder"]).endswith(" s, holds the GIL")
    for future in futures:
        future.result()
    assert {work["state"] for work in works(cluster).values()} == {"idle"}


@pytest.mark.parametrize(
    ("asked", "had", "seconds"),
    [(0, 0, 0.0), (5, 6, 0.0), (5, 3, 2.0), (8, 3, 0.0)],
    ids=["never", "had", "open", "now"],
)
def test_for_how_long(asked, had, seconds):
    counters = {"gil_asked_ns": asked * 10**9, "gil_had_ns": had * 10**9}
    assert activity.seconds_held(counters, 7 * 10**9) == seconds


def test_the_thread_ends():
    before = space.read_counters()["gil_had_ns"]
    with gil.watched():
        assert "palm-gil" in {t.name for t in threading.enumerate()}
    assert "palm-gil" not in {t.name for t in threading.enumerate()}
    assert space.read_counters()["gil_had_ns"] == before, "nobody has asked"
