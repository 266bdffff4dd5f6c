# SPDX-License-Identifier: BSD-3-Clause
"""`palm.testing.chaos`: the same messages are hit again, nothing is lost, and it ends with its block (B10)."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm
from palm.faults import STOP, At, Plan
from palm.restarts import DEATHS
from palm.testing import Hit, chaos


class A(palm.Server):
    @palm.function
    def up(self, x):
        return x + 1

    @palm.function(attempts=1)
    def once(self, x):
        return x

    @palm.function(attempts=1)
    def die(self, x):
        os.kill(os.getpid(), signal.SIGSEGV)

    @palm.function
    def rows(self, n):
        for i in range(n):
            yield np.full(4096, i)
            yield None

    @palm.function
    def gaps(self, n):
        for i in range(n):
            yield None
            yield i

    @palm.function
    def raises(self, x):
        raise ValueError(x)

    @palm.function
    def yields_and_raises(self, x):
        yield x
        raise ValueError(x)

    @palm.function
    def is_as_written(self):
        """Nothing is between the loop and this function."""
        return self._host.place.assignment.function == self.is_as_written


class B(palm.Server):
    @palm.function
    def pair(self, x):
        yield x
        yield -x

    @palm.function
    def first(self, x):
        return float(x[0])


@pytest.fixture
def ab(cluster: palm.Cluster) -> palm.Cluster:
    cluster.start(A)
    cluster.start(B)
    return cluster


def pid_of(cluster: palm.Cluster, name: str) -> int:
    return next(s["pid"] for s in cluster.status()["servers"] if s["name"] == name)


# ---------------------------------------------------------------------------------------------- who is hit, and when


def test_the_same_seed_hits_the_same_messages(ab):
    """Each result comes once, and none fails for having been hit."""

    def run(seed: int) -> list[Hit]:
        with chaos(ab, seed=seed, kill=0.04, stop=0.02, delay=0.05) as hits:
            job = ab.client().job(["a.up", "b.pair", "a.up", "b.pair"], range(16))
            found = Counter(job)
        assert found == Counter(v for x in range(16) for y in (x + 2, -x) for v in (y, -y))
        assert not job.errors and job.progress.done == 16
        return sorted(hits)

    first = run(5)
    assert {hit.what for hit in first} == {"kill", "stop", "delay"} and {hit.server for hit in first} == {"a", "b"}
    assert run(5) == first
    assert run(6) != first


def test_fate_is_in_the_name():
    names = [At(b"", stage, n, path) for stage in range(2) for path in ((), (7,), (7, 9)) for n in range(500)]
    plan = Plan(1, kill=0.2, stop=0.3, delay=0.1)
    fates = [plan.fault("a", at) for at in names]
    assert fates == [plan.fault("a", at._replace(job=b"another")) for at in names]
    assert fates != [plan.fault("b", at) for at in names]
    assert fates != [Plan(2, 0.2, 0.3, 0.1).fault("a", at) for at in names]
    thousands = [fates[k : k + 500] for k in range(0, len(fates), 500)]
    assert all(thousands.count(fates) == 1 for fates in thousands), "stage and path tell"


def test_probabilities():
    names = [At(b"", 0, n, ()) for n in range(3000)]
    fates = [Plan(1, kill=0.2, stop=0.3, delay=0.1).fault("a", at) for at in names]
    shares = Counter(f.what if f else "none" for f in fates)
    for what, share in (("kill", 0.2), ("stop", 0.3), ("delay", 0.1), ("none", 0.4)):
        assert abs(shares[what] / len(names) - share) < 0.05
    assert {f.late for f in fates if f} == {True, False}
    assert all(0 <= f.seconds <= STOP for f in fates if f)
    kills = [Plan(1, kill=0.2, stop=0.0, delay=0.0).fault("a", at) for at in names]
    assert kills == [f if f and f.what == "kill" else None for f in fates], "the others do not matter to it"


def test_every_message_kills_once(ab):
    """No message is set aside for it, with one attempt even, and no server given up."""
    n = DEATHS + 2
    with chaos(ab, seed=1, kill=1.0) as hits:
        job = ab.client().job("a.once", range(n), ordered=True)
        assert list(job) == list(range(n))
    assert sorted(hits) == [Hit("a", 0, (k,), "kill") for k in range(n)]
    assert pid_of(ab, "a") and not ab._supervisor._suspects.of("a")


def test_each_value_of_a_generator_is_a_message(ab):
    """None is none: it is never sent."""
    with chaos(ab, seed=1, kill=1.0) as hits:
        assert ab.client().call("a.gaps", 4) == [0, 1, 2, 3]
    assert sorted(hits) == [Hit("a", 0, (0,), "kill"), *(Hit("a", 0, (0, k), "kill") for k in range(4))]


def test_a_message_that_kills_by_itself_is_still_set_aside(ab):
    with chaos(ab, seed=1, delay=1.0) as hits, pytest.raises(palm.Crashed) as caught:
        ab.client().call("a.die", 1)
    assert caught.value.reason == "SIGSEGV" and hits == [Hit("a", 0, (0,), "delay")]


def test_a_stopped_server_goes_on(ab):
    """When its time is over, or when the block is left."""
    seed = next(s for s in range(10**6) if Plan(s, 0.0, 1.0, 0.0).fault("a", At(b"", 0, 0, ())).seconds > 0.9 * STOP)
    pid = pid_of(ab, "a")

    def stopped() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    for leave in (False, True):
        with chaos(ab, seed=seed, stop=1.0) as hits:
            future = ab.client().submit("a.up", 1)
            eventually(stopped)
            if not leave:
                assert future.result(10) == 2
        assert future.result(10) == 2
        assert hits == [Hit("a", 0, (0,), "stop")] and pid_of(ab, "a") == pid


# -------------------------------------------------------------------------------------------- its begin and its end


def test_it_lasts_as_long_as_its_block(ab):
    """Of a job that began before and ends after, those messages are hit that came within; of calls too."""
    client = ab.client()
    turns = [threading.Semaphore(0) for _ in range(2)]

    def inputs():
        for first, turn in zip((0, 10), turns, strict=True):
            yield from range(first, first + 10)
            turn.acquire()
        yield from range(20, 30)

    job = client.job("a.up", inputs())
    found = [next(job) for _ in range(10)]
    assert client.call("a.up", 1) == 2
    with chaos(ab, seed=1, delay=1.0) as hits:
        turns[0].release()
        found += [next(job) for _ in range(10)]
        assert client.call("a.up", 2) == 3
    turns[1].release()
    found += list(job)
    assert client.call("a.up", 3) == 4
    assert sorted(found) == list(range(1, 31))
    assert sorted(hits) == sorted(Hit("a", 0, (n,), "delay") for n in [1, *range(10, 20)])


def test_without_it_functions_are_called_as_they_are(ab):
    assert ab.client().call("a.is_as_written")
    with chaos(ab, seed=1):
        assert not ab.client().call("a.is_as_written")
    assert ab.client().call("a.is_as_written")


def test_servers_that_are_started_in_the_block(cluster):
    with chaos(cluster, seed=1, delay=1.0) as hits:
        cluster.start(A)
        assert cluster.client().call("a.up", 1) == 2
    assert hits == [Hit("a", 0, (0,), "delay")]


def test_the_cluster_is_closed_in_the_block():
    with palm.Cluster() as cluster:
        cluster.start(A)
        with chaos(cluster, seed=1, stop=1.0):
            cluster.client().submit("a.up", 1)
            cluster.close()


@pytest.mark.parametrize(
    ("wrong", "error", "what"),
    [
        ({"kill": -0.1}, ValueError, "kill is a probability"),
        ({"stop": 1.1}, ValueError, "stop is a probability"),
        ({"delay": float("nan")}, ValueError, "delay is a probability"),
        ({"delay": "often"}, TypeError, "delay is a probability"),
        ({"kill": 0.5, "delay": 0.6}, ValueError, "one fate"),
        ({"seed": 0.5}, TypeError, "seed is a whole number"),
    ],
)
def test_what_is_no_plan(cluster, wrong, error, what):
    with pytest.raises(error, match=what), chaos(cluster, **{"seed": 1} | wrong):
        pass


def test_who_may_make_it(cluster):
    with pytest.raises(TypeError, match=r"palm\.Cluster"), chaos(cluster.client(), seed=1):  # type: ignore[arg-type]
        pass
    with chaos(cluster, seed=1), pytest.raises(ValueError, match="one block at a time"), chaos(cluster, seed=2):
        pass
    with chaos(cluster, seed=1):
        pass
    cluster.close()
    with pytest.raises(palm.Disconnected), chaos(cluster, seed=1):
        pass


# --------------------------------------------------------------------------------------------- nothing else changes


@pytest.mark.parametrize("function", ["raises", "yields_and_raises"])
def test_tracebacks_are_the_users(ab, function):
    with chaos(ab, seed=1, delay=1.0) as hits, pytest.raises(palm.RemoteError) as caught:
        ab.client().call(f"a.{function}", 7)
    assert caught.value.type == "ValueError" and "faults.py" not in caught.value.traceback
    assert hits


def test_arrays_are_not_copied_for_it(ab):
    with chaos(ab, seed=1, delay=0.5):
        found = list(ab.client().job(["a.rows", "b.first"], [20], ordered=True))
    assert found == [float(k) for k in range(20)]
    [counters] = [s["counters"] for s in ab.status()["servers"] if s["name"] == "a"]
    assert counters["copied_kept"] == 0 and counters["sent_arena"] >= 20
