"""Many servers that have nothing to do; `PALM_SCALE=200 pytest -s tests/test_scale.py` for what they cost."""

import os
import time
from pathlib import Path

import pytest
from conftest import eventually

import palm
from palm.connection import ASK_MOST

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


@pytest.fixture
def two():
    with palm.Cluster() as cluster:
        for name in ("s0", "s1"):
            cluster.start(Idle, name=name)
        yield cluster


class Open:
    """Work of a client that has nothing to do for the moment."""

    def __init__(self, key: bytes) -> None:
        self.key, self.asked = key, 0

    def idle(self) -> float:
        self.asked += 1
        return 1.0


def test_a_call_does_not_ask_all_that_is_open(two):
    with two.client() as client:
        client.call("s0.same", 0)
        works = [Open(i.to_bytes(16)) for i in range(1000)]
        for work in works:
            client._connection.add(work)
        began = time.monotonic()
        for i in range(200):
            assert client.call("s0.same", i) == i
        looks = (time.monotonic() - began) / ASK_MOST + 1
        for work in works:
            client._connection.remove(work)
        assert 1 <= sum(work.asked for work in works) / len(works) <= looks


def test_what_has_come_to_an_end_leaves_no_place(two):
    """What servers have opened is found by job, and forgotten with it or with them."""
    with two.client() as client:
        connection = client._connection
        jobs = [client.job(["s0.same", f"s{i % 2}.same"], range(3)) for i in range(10)]
        for job in jobs:
            assert sorted(job) == [0, 1, 2]
        assert client.call("s1.same", 1) == 1
        assert set(connection._incoming) == set().union(*connection._opened.values())
        assert connection._opened.keys() <= connection.works.keys()
        [links] = {
            work.key: work.route.links for work in connection.works.values() if "s1.same" in work.route.steps
        }.values()
        two.stop("s1")
        connection.wait(lambda: connection.is_gone(links["s1"]), 10)
        assert links["s1"] not in {link for link, _ in connection._incoming}
        assert set(connection._incoming) == set().union(*connection._opened.values())
