# SPDX-License-Identifier: BSD-3-Clause
"""Generators that look at `self.cancelled` while what they look for comes in: they learn of their own end, and the
server lives on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import eventually

import palm


class Looking(palm.Server):
    def setup(self):
        self.ended = []
        self.spinning = True

    @palm.function
    def spin(self, on):
        self.spinning = on

    @palm.function
    def ends(self):
        return list(self.ended)

    @palm.function
    def until_cancelled(self, *, then):
        """Yields messages, each in a slice of its own, and then looks without yielding."""
        try:
            time.sleep(0.002)
            yield 0
            while not self.spinning:
                time.sleep(0.002)
                yield 0
            while not self.cancelled:
                time.sleep(0.001)
            if then == "yield":
                yield 1
                yield 2
            elif then == "route":
                yield palm.to("looking.ends")
                yield 2
            elif then == "raise":
                raise ValueError("it is over")
            elif then == "stay":
                try:
                    yield 1
                except GeneratorExit:
                    yield 2  # what a generator must not do: it cannot be closed
        finally:
            self.ended.append(then)

    @palm.function
    def busy(self, gate):
        while not Path(gate).exists():
            assert not self.cancelled
            time.sleep(0.001)

    @palm.function
    def endless(self):
        n = 0
        while True:
            yield n
            n += 1

    @palm.function
    def looks_for_a_while(self):
        time.sleep(0.002)
        yield 0
        began = time.monotonic()
        while time.monotonic() - began < 0.3:
            assert not self.cancelled
        n = 1
        while True:
            yield n
            n += 1


@pytest.fixture(scope="module")
def client():
    with palm.Cluster() as cluster:
        cluster.start(Looking)
        with cluster.client() as client:
            client.call("looking.ends")
            [server] = client.status()["servers"]
            yield client
            assert client.status()["servers"][0]["pid"] == server["pid"], "it was never restarted"


@pytest.mark.parametrize("then", ["return", "yield", "route", "raise", "stay"])
def test_a_generator_sees_that_its_own_job_is_cancelled(client, then):
    """So is another one, whose turn would be next."""
    client.call("looking.spin", False)
    job = client.job(palm.step("looking.until_cancelled", then=then))
    assert next(job) == 0
    other = client.job("looking.endless")
    assert next(other) == 0
    client.call("looking.spin", True)
    other.cancel()
    job.cancel()
    eventually(lambda: then in client.call("looking.ends", timeout=10))


def test_a_generator_that_looks_while_its_job_is_left(client):
    n = client.call("looking.ends").count("gone")
    for _ in range(20):
        job = client.job(palm.step("looking.until_cancelled", then="gone"))
        assert next(job) == 0
        del job
    eventually(lambda: client.call("looking.ends", timeout=10).count("gone") == n + 20)


def test_a_generator_that_looks_while_its_job_is_stopped(client):
    """It ends at its next message, and all that it yielded arrives."""
    job = client.job("looking.looks_for_a_while")
    found = [next(job)]
    job.stop()
    found += list(job)
    assert found == list(range(len(found)))
    assert job.progress.done == job.progress.total == len(found) and not job.errors


def test_a_job_is_stopped_whose_open_waits_in_the_queue(client, tmp_path):
    """Its generator ends before it begins."""

    def received() -> int:
        return client.status()["servers"][0]["counters"]["messages_in"]

    n = received()
    busy = client.submit("looking.busy", str(tmp_path / "gate"))
    eventually(lambda: received() == n + 1)
    job = client.job("looking.endless", timeout=20)
    job.stop()
    last = client.submit("looking.ends")  # over the same link, after all that the job says
    eventually(lambda: received() == n + 3)
    (tmp_path / "gate").touch()
    assert list(job) == []
    busy.result(10)
    last.result(10)
