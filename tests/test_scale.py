"""Many servers that have nothing to do; `PALM_SCALE=200 pytest -s tests/test_scale.py` for what they cost."""

import os
import time
from pathlib import Path

import pytest
from conftest import eventually

import palm

N = int(os.environ.get("PALM_SCALE", "12"))


class Idle(palm.Server):
    @palm.function
    def same(self, x):
        return x


@pytest.fixture
def cluster():
    with palm.Cluster() as cluster:
        for i in range(N):
            cluster.start(Idle, name=f"s{i}")
        yield cluster


def scheduled(pid: int) -> tuple[int, int]:
    """Nanoseconds on a core, and how often it got one; of all threads."""
    found = [Path(task, "schedstat").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(f[0]) for f in found), sum(int(f[2]) for f in found)


def spent(pids: list[int], seconds: float) -> dict[int, tuple[float, float]]:
    """Of each: the share of a core, and how often it got one a second."""
    before = {pid: scheduled(pid) for pid in pids}
    time.sleep(seconds)  # this is what is measured
    after = {pid: scheduled(pid) for pid in pids}
    return {pid: tuple((after[pid][i] - before[pid][i]) / seconds for i in (0, 1)) for pid in pids}


def resident(pid: int) -> int:
    """KiB that are its own."""
    [line] = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("RssAnon")]
    return int(line.split()[1])


def test_idle(cluster):
    """All are there, and hardly ever wake: three threads of each, in seconds."""
    with cluster.client() as client:
        began = time.monotonic()
        status = client.status()
        took = time.monotonic() - began
    servers = {s["name"]: s["pid"] for s in status["servers"]}
    assert sorted(servers) == sorted(f"s{i}" for i in range(N))
    registry = status["registry"]["pid"]

    def rests() -> bool:
        return all(wakes < 3 for _, wakes in spent([*servers.values(), registry], 2.0).values())

    eventually(rests, 30)
    cost = spent([*servers.values(), registry], 10.0 if "PALM_SCALE" in os.environ else 0.1)
    all_of_it, own = 1e-7 * sum(ns for ns, _ in cost.values()), 1e-7 * cost[registry][0]
    print(
        f"\n{N} servers: status in {took:.3f} s; idle {all_of_it:.2f} % of a core, of which the registry {own:.3f} %; "
        f"registry {resident(registry)} KiB, {len(os.listdir(f'/proc/{registry}/fd'))} files; "
        f"a server {resident(servers['s0'])} KiB"
    )
