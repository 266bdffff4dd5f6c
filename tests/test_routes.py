# SPDX-License-Identifier: BSD-3-Clause
"""`palm.to`: constants go by their content, and a server that is being started again holds up nobody else."""

from __future__ import annotations

import os
import signal
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
    def in_place(self, n):
        gain = np.empty(4)
        for i in range(n):
            gain[:] = i
            yield palm.to(palm.step("target.scaled", gain=gain), 10)


class Target(palm.Server):
    @palm.function
    def scaled(self, x, *, gain):
        return gain * x, len(self._host._assignments)


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
