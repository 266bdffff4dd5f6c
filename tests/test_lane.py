# SPDX-License-Identifier: BSD-3-Clause
"""Messages that come alone take the short way through a server (`_core/lane.pyx`), and nothing is different by it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import eventually
from helpers_lane import BY_HOST, BY_LANE, who_calls

import palm


class Lone(palm.Server):
    @palm.function
    def way(self, x: Any) -> Any:
        return who_calls()

    @palm.function
    def same(self, x: Any) -> Any:
        return x

    @palm.function
    def number(self, x: Any) -> Any:
        return [who_calls(), self.message.number, self.message.step, self.cancelled, self.message.deadline is not None]

    @palm.function
    def odd(self, x: Any) -> Any:
        if x < 0:
            raise ValueError(f"below 0: {x}")
        return [who_calls(), x] if x % 2 else None

    @palm.function
    def upto(self, n: Any) -> Any:
        return (i for i in range(n)) if n else "none"

    @palm.function
    def to(self, x: Any) -> Any:
        return palm.to("lone.way", x) if x == "way" else x

    @palm.function(retry_on=(OSError,), attempts=3)
    def second_try(self, x: Any) -> Any:
        if x.startswith("fail") and self.message.attempt < 2:
            raise OSError("not yet")
        return [who_calls(), x, self.message.attempt]

    @palm.function(attempts=2)
    def killed(self, x: Any) -> Any:
        if x == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return who_calls()

    @palm.function
    def rows(self, x: Any) -> Any:
        return x * 2

    @palm.function
    def until(self, path: Any) -> Any:
        Path(f"{path}.begun").touch()
        while not self.cancelled and not Path(path).exists():
            time.sleep(0.001)
        return [who_calls(), self.cancelled]

    @palm.function
    def touch(self, path: Any) -> Any:
        Path(path).touch()
        return who_calls()

    @palm.function(batch=True)
    def stacked(self, x: Any) -> Any:
        return x + len(x)


class Nap(palm.Butterfly):
    @palm.function
    def nap(self, seconds: Any) -> Any:
        time.sleep(seconds)
        return [who_calls(), self.worker]


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Lone, name="lone")
        cluster.start(Nap, name="nap", workers=2)
        with cluster.client() as client:  # once mapped, their memory stays so while they live
            client.call("lone.same", 1)
            assert len(list(client.job("nap.nap", [0.01] * 8))) == 8
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


def test_the_second_call_takes_it_and_others_do_not_disturb_it(client):
    assert [client.call("lone.way", 1) for _ in range(3)] == [BY_HOST, BY_LANE, BY_LANE]
    assert client.call("lone.same", 2) == 2  # another handle is opened: all are looked at again
    assert [client.call("lone.way", 1) for _ in range(2)] == [BY_HOST, BY_LANE]
    values = [1, b"", "text", [1, {"a": 2.5}], None, 2]
    assert [client.call("lone.same", x) for x in values] == values
    assert client.call("lone.way", 1) == BY_LANE


def test_two_clients_by_turns_both_take_it(client):
    with palm.Client(client.address) as other:
        for c in (client, other):
            c.call("lone.way", 0)
        ways = [c.call("lone.way", 0) for _ in range(5) for c in (client, other)]
    assert ways[2:] == [BY_LANE] * 8


def test_its_message_is_its_own(client):
    found = [client.call("lone.number", 1) for _ in range(4)]
    assert [f[0] for f in found[1:]] == [BY_LANE] * 3
    first = found[0][1]
    assert [f[1] for f in found] == [first + i for i in range(4)]
    assert {tuple(f[2:]) for f in found} == {("lone.number", False, False)}
    assert client.call("lone.number", 1, timeout=60.0)[4] is True


def test_what_is_no_result_is_told_all_the_same(client):
    """An exception, None, a generator, `palm.to`: one after the other, between results."""
    client.call("lone.odd", 1)
    for _ in range(3):
        assert client.call("lone.odd", 2) is None
        assert client.call("lone.odd", 3) == [BY_LANE, 3]
        with pytest.raises(palm.RemoteError, match="below 0: -1") as e:
            client.call("lone.odd", -1)
        assert e.value.capsule is not None
        assert client.call("lone.odd", 5) == [BY_LANE, 5]
    for n in (0, 3, 0, 2):
        assert client.call("lone.upto", n) == (list(range(n)) if n else "none")
    for x in ("a", "way", "b", "way"):
        found = client.call("lone.to", x)
        assert found == x if x != "way" else found in (BY_LANE, BY_HOST)


def test_what_is_to_be_run_again_is(client, servers):
    """As it has come: nothing of it is asked for again."""

    def received() -> int:
        return next(s["counters"]["messages_in"] for s in servers.status()["servers"] if s["name"] == "lone")

    before = received()
    for _ in range(3):
        values = ["ok", "ok", "fail", "ok", "fail" * 1000]
        results = [client.call("lone.second_try", x) for x in values]
        assert [found[1:] for found in results] == [[x, 2 if x.startswith("fail") else 1] for x in values]
        assert results[1][0] == BY_LANE
    assert received() - before == 15


def test_of_whom_a_process_has_died_is_known(client):
    """Its name stands on the page: it is refused after its attempts, and the others are not."""
    assert [client.call("lone.killed", 1) for _ in range(2)][1] == BY_LANE
    with pytest.raises(palm.Crashed, match="SIGKILL"):
        client.call("lone.killed", "kill")
    assert [client.call("lone.killed", 1) for _ in range(3)] == [BY_HOST] * 3, (
        "each is looked at, whether it is that one"
    )


def test_a_deadline_that_has_passed(client, tmp_path):
    """While another message is at work, its time passes: it is not begun then."""
    before, there, late, behind = (str(tmp_path / name) for name in ("before", "there", "late", "behind"))
    client.call("lone.until", str(tmp_path))
    assert [client.call("lone.touch", before) for _ in range(3)][2] == BY_LANE
    busy = client.submit("lone.until", there)
    eventually(Path(f"{there}.begun").exists)
    with pytest.raises(palm.Timeout):
        client.call("lone.touch", late, timeout=0.01)
    Path(there).touch()
    assert busy.result(20)[1] is False
    client.call("lone.touch", behind)
    assert Path(before).exists() and Path(behind).exists() and not Path(late).exists()


def test_who_is_given_up_sees_it(client, tmp_path):
    client.call("lone.until", str(tmp_path))
    future = client.submit("lone.until", str(tmp_path / "there"))
    eventually((tmp_path / "there.begun").exists)
    others = [client.submit("lone.same", i) for i in range(3)]  # they wait behind it, and are there when it looks
    assert future.cancel()
    assert [f.result(20) for f in others] == [0, 1, 2]
    assert [client.call("lone.way", 1) for _ in range(3)][2] == BY_LANE


def test_arrays_large_and_small(client):
    with palm.arena():
        large = np.arange(1 << 20, dtype=float)  # 8 MiB: more than an envelope lends before it is full
    for x in (large, large[:10], large, large[:2]):
        np.testing.assert_array_equal(client.call("lone.rows", x), x * 2)
    assert [client.call("lone.stacked", np.float64(1)) for _ in range(3)] == [2.0] * 3


def test_a_pipeline_of_one_at_a_time(client):
    assert list(client.job(["lone.same", "lone.same", "lone.way"], range(20), window=1))[-10:] == [BY_LANE] * 10


def test_workers_report_by_it(client):
    """Else each would get no more than it has."""
    found = list(client.job("nap.nap", [0.002] * 200))
    assert {worker for _, worker in found} == {0, 1}
    assert sum(way == BY_LANE for way, _ in found) > 100


def test_the_cluster_ends_however_busy_it_is():
    with palm.Cluster() as cluster:
        cluster.start(Lone, name="lone")
        client = cluster.client()
        ways: list[str] = []

        def go_on() -> None:
            with contextlib.suppress(palm.Crashed, palm.Disconnected):
                while True:
                    ways.append(client.call("lone.way", 1))

        threads = [threading.Thread(target=go_on) for _ in range(2)]
        for t in threads:
            t.start()
        eventually(lambda: len(ways) > 100)
        cluster.stop("lone", timeout=1000)  # then it would be killed
        for t in threads:
            t.join(20)
            assert not t.is_alive()
    assert ways.count(BY_LANE) > 50


def test_what_waits_meanwhile_is_counted(client, tmp_path):
    def waiting() -> int:
        (lone,) = (s for s in client.status()["servers"] if s["name"] == "lone")
        return lone["counters"]["backlog"]

    path = tmp_path / "go"
    running = client.submit("lone.until", str(path))
    try:
        eventually(Path(f"{path}.begun").exists)
        others = [client.submit("lone.same", i) for i in range(3)]
        eventually(lambda: waiting() >= 3)
    finally:
        path.touch()
    assert [future.result(10) for future in [running, *others]][1:] == [0, 1, 2]
    eventually(lambda: waiting() == 0)
