# SPDX-License-Identifier: BSD-3-Clause
"""`palm.to`: constants go by their content, and a server that is being started again holds up nobody else."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm


class Router(palm.Server):
    @palm.function
    def scale(self, gain):
        return palm.to(palm.step("target.scaled", gain=gain), 10)

    @palm.function
    def scale_each(self, gains):
        for gain in gains:
            yield palm.to(palm.step("target.scaled", gain=gain), 10)

    @palm.function
    def late(self, x):
        return palm.to("late.plus_one", x)

    @palm.function
    def late_each(self, n):
        for i in range(n):
            yield palm.to("late.plus_one", i)

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def first_elsewhere(self, x):
        return x if x else palm.to("target.same", x)

    @palm.function(attempts=1)
    def split_and_die(self, path):
        yield from range(3)
        while not Path(path).exists():
            yield None
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGKILL)

    @palm.function
    def in_place(self, n):
        gain = np.empty(4)
        for i in range(n):
            gain[:] = i
            yield palm.to(palm.step("target.scaled", gain=gain), 10)


class Target(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def pair(self, x):
        yield x
        yield x

    @palm.function
    def known(self):
        """Jobs, and messages of which it keeps children."""
        return len(self._host._jobs), sum(len(job.making) for job in self._host._jobs.values())

    @palm.function
    def scaled(self, x, *, gain):
        return gain * x, len(self._host._assignments)


class Gate(palm.Server):
    @palm.function
    def hold(self, x, *, path):
        while not Path(path).exists() and not self.cancelled:
            time.sleep(0.002)
        return x


class Late(palm.Server):
    def setup(self, gate):
        Path(f"{gate}.begun").touch()
        while not Path(gate).exists():
            time.sleep(0.002)

    @palm.function
    def plus_one(self, x):
        return x + 1


@pytest.fixture
def client(cluster):
    cluster.start(Router)
    cluster.start(Target)
    return cluster.client()


def test_constants_of_a_step_that_is_gone_are_not_anothers(client):
    """Each step dies before the next one is made, mostly at the same address."""
    found = client.job("router.scale", range(200), ordered=True)
    assert [x for x, _ in found] == [10 * n for n in range(200)]
    found = client.job("router.scale_each", [list(range(200))], ordered=True)
    assert [x for x, _ in found] == [10 * n for n in range(200)]


@pytest.mark.parametrize("of", ["router.scale", "router.scale_each"])
def test_equal_constants_share_a_handle(client, of):
    gains = [n % 3 for n in range(300)]
    found = list(client.job(of, gains if of == "router.scale" else [gains]))
    assert sorted(x for x, _ in found) == sorted(10 * gain for gain in gains)
    assert max(handles for _, handles in found) <= 3


def test_an_array_that_has_changed_is_another_constant(client):
    found = client.job("router.in_place", [20], ordered=True)
    assert [x.tolist() for x, _ in found] == [[10.0 * n] * 4 for n in range(20)]


@pytest.mark.parametrize("of", ["router.late", "router.late_each"])
def test_who_sends_to_a_server_that_is_started_again_does_other_work_meanwhile(cluster, client, tmp_path, of):
    gate, begun = tmp_path / "gate", tmp_path / "gate.begun"
    gate.touch()
    cluster.start(Late, setup={"gate": str(gate)})
    gate.unlink()
    begun.unlink()
    os.kill(next(s["pid"] for s in cluster.status()["servers"] if s["name"] == "late"), signal.SIGKILL)
    eventually(begun.exists)
    job = client.job(of, range(20) if of == "router.late" else [20], ordered=True)
    eventually(lambda: client.status()["servers"][1]["counters"]["messages_in"] > 0)
    assert client.call("router.same", 7, timeout=5) == 7
    assert not job.progress.done
    gate.touch()
    assert list(job) == list(range(1, 21))


@pytest.mark.parametrize("of", ["router.late", "router.late_each"])
def test_what_goes_to_nobody_fails(client, of):
    job = client.job(of, range(3) if of == "router.late" else [3], on_error="skip")
    assert list(job) == []
    assert [(e.type, e.server) for e in job.errors] == [("NotFound", "router")] * 3


def kill(cluster, name):
    os.kill(next(s["pid"] for s in cluster.status()["servers"] if s["name"] == name), signal.SIGKILL)


def test_a_server_whose_forwarder_has_died_forgets_the_job_at_its_end(cluster, client):
    assert client.call("target.known") == (1, 0), "the call's own job"
    killed = threading.Event()
    job = client.job("router.first_elsewhere", (killed.wait(60) and n if n else n for n in range(3)))
    assert next(job) == 0
    assert client.call("target.known") == (2, 0)
    kill(cluster, "router")
    killed.set()
    assert sorted(job) == [1, 2]
    eventually(lambda: client.call("target.known") == (1, 0))


def test_who_opens_a_handle_for_a_job_that_is_over_is_told(cluster, client):
    assert client.call("target.known") == (1, 0)
    target = next(s for s in client._directory.ask("servers") if s["name"] == "target")
    route = client._directory.route([palm.step("target.same")])
    client._connection.open(route.link, 999, route.meaning(bytes(16), 0, client._connection.endpoint, 0))
    assert target["pid"] and client.call("target.known") == (2, 0)
    eventually(lambda: client.call("target.known") == (1, 0))


def test_what_is_kept_below_a_message_that_was_set_aside_is_let_go(cluster, client, tmp_path):
    cluster.start(Gate)
    die, gate, more = tmp_path / "die", tmp_path / "gate", threading.Event()
    inputs = (more.wait(60) and str(gate) if n else str(die) for n in range(2))
    steps = ["router.split_and_die", "target.pair", palm.step("gate.hold", path=str(gate))]
    job = client.job(steps, inputs, on_error="skip")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = pool.submit(job.wait)
        try:
            eventually(lambda: client.call("target.known")[1] == 3)
            die.touch()
            eventually(lambda: job.errors)
            eventually(lambda: client.call("target.known")[1] == 0)
            assert not gate.exists() and not job._work.over
        finally:
            job.cancel()
            more.set()
        with pytest.raises(palm.Cancelled):
            done.result(10)
