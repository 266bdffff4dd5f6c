# SPDX-License-Identifier: BSD-3-Clause
"""Running into the bound of shared memory costs copies, never data (R24, R26); what is idle goes back (R27)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import eventually
from helpers_arrays import counters, moved, settle

import palm
from palm._core import node as core
from palm._core import space

MIB = 1 << 20


class Narrow(palm.Server):
    def setup(self):
        self.held = []

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def double(self, x):
        return x * 2

    @palm.function
    def hold(self, x):
        self.held.append(x + 0)
        return self.held[-1]

    @palm.function
    def sums(self):
        return [float(x.sum()) for x in self.held]

    @palm.function
    def several(self, n):
        for k in range(n):
            yield np.full(MIB // 8, float(k))

    @palm.function
    def stats(self):
        return space.stats()

    @palm.function
    def tick(self, seconds):
        space.tick(time.monotonic_ns() + int(seconds * 1e9))
        return space.stats()


@pytest.fixture
def narrow() -> Iterator[palm.Client]:
    with palm.Cluster() as cluster:
        cluster.start(Narrow, memory="32MiB")
        yield cluster.client()


def test_one_array_larger_than_the_bound(narrow: palm.Client) -> None:
    x = np.arange(6.0 * MIB)  # 48 MiB
    with moved(narrow, "narrow") as there:
        got = narrow.call("narrow.double", x)
    assert np.array_equal(got, x * 2)
    assert there["alloc_full"] >= 1 and there["sent_arena"] == 0
    assert narrow.call("narrow.stats")["arena_in_use"] <= 32 * MIB


def test_more_arrays_than_the_bound_holds(narrow: palm.Client) -> None:
    inputs = [np.full(MIB // 2, float(k)) for k in range(20)]  # 4 MiB each, all kept by the server
    with moved(narrow, "narrow") as there:
        got = list(narrow.job("narrow.hold", inputs, ordered=True))
    assert [(g.min(), g.max()) for g in got] == [(k, k) for k in range(20)]
    assert narrow.call("narrow.sums") == [float(x.sum()) for x in inputs]
    assert there["alloc_full"] >= 10
    stats = narrow.call("narrow.stats")
    assert 16 * MIB <= stats["arena_in_use"] <= stats["arena_bound"] == 32 * MIB


def test_client_that_keeps_everything(narrow: palm.Client) -> None:
    """Each result is held: the server's arena is full of what the client holds, and it goes on by other ways."""
    got = list(narrow.job("narrow.several", [100], ordered=True))
    assert [(g.min(), g.max()) for g in got] == [(k, k) for k in range(100)]
    assert counters(narrow, "narrow")["alloc_full"] >= 1
    del got
    again = list(narrow.job("narrow.several", [20], ordered=True))
    assert [g[0] for g in again] == list(range(20))


def test_memory_comes_back_when_the_client_lets_go(narrow: palm.Client) -> None:
    for _ in range(3):
        got = list(narrow.job("narrow.several", [25], ordered=True))
        assert [g[-1] for g in got] == list(range(25))
        del got
        eventually(lambda: narrow.call("narrow.stats")["arena_in_use"] == 0)
    assert counters(narrow, "narrow")["alloc_full"] == 0


def test_idle_memory_goes_back(narrow: palm.Client) -> None:
    list(narrow.job("narrow.several", [25], ordered=True))
    eventually(lambda: narrow.call("narrow.stats")["arena_in_use"] == 0)
    idle = narrow.call("narrow.stats")["arena_idle"]
    assert idle >= MIB
    after = narrow.call("narrow.tick", 60)
    assert after["arena_idle"] <= 4 * MIB  # the floor: an eighth of the bound
    assert after["trimmed_bytes"] >= idle - 4 * MIB
    assert [g[0] for g in narrow.job("narrow.several", [5], ordered=True)] == list(range(5))


def test_idle_memory_of_the_client_goes_back() -> None:
    settle()
    with palm.arena():
        arrays = [np.ones(4 * MIB) for _ in range(6)]  # 192 MiB
    assert space.stats()["arena_in_use"] >= 192 * MIB
    del arrays
    assert space.stats()["arena_idle"] >= 192 * MIB
    space.tick(time.monotonic_ns())  # too early: idle for no time at all
    assert space.stats()["arena_idle"] >= 192 * MIB
    space.tick(time.monotonic_ns() + 60 * 10**9)
    assert space.stats()["arena_idle"] <= 64 * MIB  # the floor


def available() -> int:
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


@pytest.mark.skipif(available() < 8 << 30, reason="needs 8 GiB")
@pytest.mark.parametrize(
    "transport",
    [
        "arena",
        pytest.param("frames", marks=pytest.mark.skipif("PALM_SLOW" not in os.environ, reason="20 s; PALM_SLOW=1")),
    ],
)
def test_more_than_2_gib(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALM_LINK", "frames" if transport == "frames" else "")
    n = (1 << 31) + 1
    with palm.Cluster() as cluster:
        cluster.start(Narrow)
        client = cluster.client()
        with palm.arena():
            x = np.zeros(n, "u1")
        x[[0, 1 << 30, 1 << 31]] = 1, 2, 3
        with moved() as here:
            got = client.call("narrow.same", x)
        assert got.shape == (n,) and got.dtype == np.uint8
        assert got[[0, 1, 1 << 30, (1 << 31) - 1, 1 << 31]].tolist() == [1, 0, 2, 0, 3]
        assert here["bytes_copied"] == 0 and here[f"sent_{transport}"] == 1
        del x, got
    settle()
    space.tick(time.monotonic_ns() + 60 * 10**9)
    assert space.stats()["arena_idle"] <= 64 * MIB


def test_nothing_named_is_left_in_shared_memory(cluster: palm.Cluster) -> None:
    before = set(os.listdir("/dev/shm"))
    cluster.start(Narrow)
    cluster.client().call("narrow.double", np.zeros(MIB))
    assert set(os.listdir("/dev/shm")) == before


def test_many_nodes_of_one_process(narrow, tmp_path):
    """Each lets go of what has arrived, though it sends nothing more: the pulse looks after all of them."""
    nodes = [core.Node(f"ipc://{tmp_path}/{i}") for i in range(70)]
    with palm.Client(narrow.address) as last:
        assert last.call("narrow.same", np.ones(MIB // 8)).sum() == MIB // 8
        eventually(lambda: space.stats()["blocks_held"] == 0)
    for node in nodes:
        node.close(0)
