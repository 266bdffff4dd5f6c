# SPDX-License-Identifier: BSD-3-Clause
"""Jobs without inputs: what a Source yields are the inputs (DESIGN 3, API 2 and 5.2, 5.5)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm


class Camera(palm.Source):
    def setup(self, told: str = "") -> None:
        self.exposure_time, self.told = 1.0, told

    @palm.function
    def frames(self, *, n):
        for i in range(n):
            yield np.full(4, i * self.exposure_time)

    @palm.function
    def endless(self):
        try:
            while True:
                yield self.exposure_time
        finally:
            if self.told:
                Path(self.told).touch()

    @palm.function
    def exposure(self, seconds):
        self.exposure_time = seconds

    @palm.function
    def counted(self, *, n):
        yield from range(n)

    @palm.function
    def drawn(self, *, n):
        for _ in range(n):
            yield 0

    @palm.function
    def branches(self, x):
        yield palm.to(["work.same", *self.message.rest], x)
        yield palm.to(["work.same", *self.message.rest], -x)

    @palm.function
    def one(self, *, value):
        return value

    @palm.function
    def until(self, *, there):
        yield from range(5)
        while not Path(there).exists():
            yield None  # what there is goes on its way
            time.sleep(0.002)
        yield from range(5, 7)


class Live(Camera):
    live = True


class Work(palm.Butterfly):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def even(self, x):
        return None if x % 2 else x

    @palm.function
    def where(self, x):
        return self.message.number, self.message.path

    @palm.function
    def pair(self, x):
        yield x
        yield x

    @palm.function
    def drawn(self, x):
        return self.rng.standard_normal()

    @palm.function
    def fails(self, x):
        if x % 10 == 7:
            raise ValueError(f"not {x}")
        return x


class Sum(palm.Reduce):
    deterministic = True

    @palm.function
    def add(self, a, b):
        return a + b


class Meet(Sum):
    per_input = True


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        for cls in (Camera, Work, Sum, Meet):
            cluster.start(cls)
        with cluster.client() as client:  # once mapped, memory stays so
            for last in ("sum.add", "meet.add", "work.where"):
                list(client.job([frames(20), "work.pair", last]))
        cluster.status()
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


@pytest.fixture
def cluster() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        yield cluster


def frames(n: int) -> palm.Step:
    return palm.step("camera.frames", n=n)


def test_what_it_yields_are_the_inputs(client):
    job = client.job([frames(20), "work.where"], ordered=True)
    assert list(job.items()) == [(n, (n, (n,))) for n in range(20)]
    job = client.job([frames(20), "work.pair", "work.where"], ordered=True)
    assert list(job.items()) == [(n, (n, (n, k))) for n in range(20) for k in range(2)]


def test_each_has_its_row(client):
    out = np.zeros((20, 4))
    client.job([frames(20), "work.same"]).into(out)
    assert (out == np.arange(20)[:, None]).all()


def test_errors_name_the_input(client):
    job = client.job([palm.step("camera.counted", n=20), "work.fails"], on_error="skip")
    assert sorted(job) == [x for x in range(20) if x % 10 != 7]
    assert sorted(error.number for error in job.errors) == [7, 17]


def test_progress_counts_what_it_yields(client, tmp_path):
    there = tmp_path / "there"
    steps = [palm.step("camera.until", there=str(there)), "work.even"]
    with client.job(steps) as job:
        assert [next(job) for _ in range(3)] == [0, 2, 4]
        p = eventually(lambda: client.call("work.same", True) and (p := job.progress).done == 5 and p)
        assert (p.sent, p.done, p.failed, p.dropped, p.total) == (5, 5, 0, 2, None)
        there.touch()
        assert list(job) == [6]
    p = job.progress
    assert (p.sent, p.done, p.failed, p.dropped, p.total) == (7, 7, 0, 3, 7)
    assert client.job(palm.step("camera.counted", n=0)).wait(10) == palm.Progress(0, 0, 0, 0, 0)
    with pytest.raises(palm.Timeout, match="5 inputs sent, 5 done"):
        list(client.job([palm.step("camera.until", there=str(tmp_path / "not")), "work.same"], timeout=1))


def test_progress_of_a_function_that_does_not_yield(client):
    job = client.job(palm.step("camera.one", value=5))
    assert list(job) == [5] and job.progress == palm.Progress(1, 1, 0, 0, 1)
    job = client.job(palm.step("camera.one", value=None))
    assert list(job) == [] and job.progress == palm.Progress(1, 1, 0, 1, 1)


def test_random_numbers_are_those_of_inputs(client):
    """What is made of frame 3 is drawn as of input 3, but a step later."""
    [of_source, again] = [
        list(client.job([palm.step("camera.drawn", n=10), "work.drawn"], seed=3, ordered=True)) for _ in range(2)
    ]
    of_inputs = list(client.job(["work.same", "work.drawn"], [0] * 10, seed=3, ordered=True))
    assert of_source == again == of_inputs and len(set(of_source)) == 10


@pytest.mark.parametrize("window", [1, None])
def test_reductions_of_what_it_yields(client, window):
    steps = [palm.step("camera.counted", n=100), "work.pair"]
    assert list(client.job([*steps, "sum.add"], window=window)) == [9900]
    found = list(client.job([*steps, "meet.add"], window=window, ordered=True).items())
    assert found == [(n, 2 * n) for n in range(100)]


@pytest.mark.parametrize(
    "last", [["sum.add"], ["meet.add"], ["meet.add", "work.where"], ["work.where"], ["work.drawn"]]
)
def test_the_same_in_one_thread(client, last):
    objects = {cls.__name__.lower(): cls() for cls in (Camera, Work, Sum, Meet)}
    steps = [palm.step("camera.counted", n=7), "work.pair", *last]
    assert palm.testing.run(objects, steps, seed=3) == list(client.job(steps, seed=3, ordered=True))


def test_it_splits_one_into_branches(client):
    assert sorted(client.job(["camera.branches", "work.same"], [1, 2])) == [-2, -1, 1, 2]
    assert list(client.job(["camera.branches", "meet.add"], [1, 2], ordered=True)) == [0, 0]


def test_it_answers_calls_between_two_inputs_and_is_closed_by_stop(cluster, tmp_path):
    told = tmp_path / "told"
    cluster.start(Camera, setup={"told": str(told)})
    cluster.start(Work)
    client = cluster.client()
    job = client.job(["camera.endless", "work.same"], ordered=True, window=8)
    assert next(job) == 1.0
    client.call("camera.exposure", 0.1)
    while next(job) != 0.1:
        pass
    job.stop()
    assert set(job) <= {0.1} and eventually(told.exists)


def test_it_is_run_again_unless_it_is_live(cluster):
    for cls in (Camera, Live):
        cluster.start(cls)
    cluster.start(Work)
    client = cluster.client()
    for name in ("camera", "live"):
        job = client.job([palm.step(f"{name}.counted", n=3000), "work.same"], ordered=True, window=16)
        found = [next(job) for _ in range(10)]
        pid = next(s["pid"] for s in cluster.status()["servers"] if s["name"] == name)
        os.kill(pid, signal.SIGKILL)
        if name == "camera":
            assert [*found, *job] == list(range(3000))
        else:
            with pytest.raises(palm.Crashed, match="SIGKILL"):
                found += list(job)
            assert found == list(range(len(found)))


def test_a_live_one_goes_on_when_another_dies(cluster):
    cluster.start(Live)
    cluster.start(Work)
    job = cluster.client().job([palm.step("live.counted", n=3000), "work.same"], ordered=True, window=16)
    found = [next(job) for _ in range(10)]
    for server in cluster.status()["servers"]:
        if server["name"] == "work":
            os.kill(server["pid"], signal.SIGKILL)
    assert [*found, *job] == list(range(3000))


def test_two_branches_of_an_array_share_its_block(cluster):
    """It is lent twice: nothing is copied."""
    cluster.start(Camera)
    cluster.start(Work, workers=1)
    with palm.arena():
        x = np.ones(1 << 16)
    x.flags.writeable = False
    assert len(list(cluster.client().job("camera.branches", [x]))) == 2
    camera = next(s for s in cluster.status()["servers"] if s["name"] == "camera")
    assert camera["counters"]["bytes_copied"] == 0
