# SPDX-License-Identifier: BSD-3-Clause
"""What happens while messages of a handle take the lane (`_core/lane.pyx`): deaths, repeats, cancels, chaos, strangers.
It is what would happen without it."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from helpers_hostile import exposed
from helpers_lane import BY_HOST, BY_LANE, who_calls

import palm
from palm.testing import Hit, chaos


class Over(BaseException):
    pass


def leave(how: str) -> None:
    if how == "exit":
        sys.exit(3)
    elif how == "interrupt":
        raise KeyboardInterrupt
    elif how == "other":
        raise Over("no Exception")
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


class Lone(palm.Server):
    @palm.function(attempts=1)
    def ends(self, how: Any) -> Any:
        leave(how)
        return who_calls()

    @palm.function
    def way(self, x: Any) -> Any:
        return who_calls()

    @palm.function
    def numbered(self, x: Any) -> Any:
        return [who_calls(), x, os.getpid()]

    @palm.function
    def until(self, path: Any) -> Any:
        Path(f"{path}.begun").touch()
        while not Path(path).exists():
            time.sleep(0.001)
        return who_calls()

    @palm.function
    def note(self, path: Any) -> Any:
        Path(path).touch()
        return who_calls()

    @palm.function
    def first(self, path: Any) -> Any:
        """In one test alone, which is the first to call it."""
        return self.note(path)


class Slow(palm.Server):
    @palm.function
    def nap(self, seconds: Any) -> Any:
        time.sleep(seconds)
        return who_calls()


class SlowCrew(Slow, palm.Butterfly):
    pass


class Next(palm.Server):
    @palm.function
    def pid(self, x: Any) -> Any:
        return [*x, os.getpid()]


class Parts(palm.ScatterGather):
    """Its only worker gets part after part alone, since there is one in each message."""

    def scatter(self, x: Any) -> Any:
        yield x

    def gather(self, parts: Any) -> Any:
        return parts

    @palm.function
    def part(self, x: Any) -> Any:
        if x < 0:
            raise ValueError(f"below 0: {x}")
        return [who_calls(), x] if x % 3 else None

    @palm.function(attempts=2)
    def first_dies(self, x: Any) -> Any:
        """Once."""
        path, x = x
        if x == 5 and not Path(path).exists():
            Path(path).touch()
            leave("kill")
        return [who_calls(), x]


class Crew(palm.Butterfly):
    @palm.function
    def pid(self, x: Any) -> Any:
        return [who_calls(), x, os.getpid()]


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        for template in (Lone, Next):
            cluster.start(template)
        for template in (Parts, Crew):
            cluster.start(template, workers=1)
        with cluster.client() as client:
            list(client.job(["lone.numbered", "next.pid"], range(3)))
            client.call("parts.part", 1)
            client.call("crew.pid", 1)
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


@contextmanager
def busy(cluster: palm.Cluster, step: str) -> Iterator[list[Any]]:
    """Somebody else calls it one by one all the time: these are the results."""
    found: list[Any] = []
    over = threading.Event()

    def call() -> None:
        with cluster.client() as client:
            while not over.is_set():
                found.append(client.call(step, len(found)))

    thread = threading.Thread(target=call)
    thread.start()
    try:
        eventually(lambda: len(found) > 20)
        yield found
    finally:
        over.set()
        thread.join()


def server(cluster: palm.Cluster, name: str) -> dict[str, Any]:
    return next(s for s in cluster.status()["servers"] if s["name"] == name)


def counters(cluster: palm.Cluster, name: str) -> dict[str, int]:
    """Of the process that runs its functions."""
    s = server(cluster, name)
    return (s.get("workers") or [s])[0]["counters"]


# ---------------------------------------------------------------------------------------------------------- functions


@pytest.mark.parametrize("how", ["exit", "interrupt", "other", "kill"])
def test_what_is_no_exception_ends_the_process_either_way(cluster, how):
    cluster.start(Lone)
    said = []
    for by in (BY_HOST, BY_LANE):
        with cluster.client() as client:
            if by == BY_LANE:
                assert [client.call("lone.ends", "") for _ in range(3)] == [BY_HOST, BY_LANE, BY_LANE]
            before = server(cluster, "lone")["pid"]
            with pytest.raises(palm.Crashed) as e:
                client.call("lone.ends", how)
            assert server(cluster, "lone")["pid"] != before
            said.append((e.value.reason, re.sub(r"\d+", "N", str(e.value).partition("; palm replay")[0])))
    assert said[0] == said[1]


def test_parts_of_a_scatter_take_it(client, servers):
    """None is none, and a part that fails fails its message."""
    before = counters(servers, "parts")
    found = [client.call("parts.part", x) for x in range(60)]
    assert found[10:] == [[[BY_LANE, x] if x % 3 else None] for x in range(10, 60)]
    with pytest.raises(palm.RemoteError, match="part 1 of 1: below 0: -1"):
        client.call("parts.part", -1)
    assert client.call("parts.part", 1) == [[BY_LANE, 1]]
    after = counters(servers, "parts")
    assert {name: after[name] - before[name] for name in ("messages_in", "errors")} == {"messages_in": 62, "errors": 1}
    eventually(lambda: not server(servers, "parts")["counters"]["in_flight"])  # at the latest after 2 s without work


# ------------------------------------------------------------------------------------------------------------- deaths


def test_a_part_whose_worker_dies_is_computed_again(client, tmp_path):
    path = str(tmp_path / "died")
    found = [client.call("parts.first_dies", [path, x]) for x in range(10)]
    assert Path(path).exists()
    assert [part[1] for [part] in found] == list(range(10))
    assert [part[0] for [part] in found][2:5] == [BY_LANE] * 3


@pytest.mark.parametrize("step", ["crew.pid", "lone.numbered"])
def test_a_worker_or_a_server_is_killed(client, servers, step):
    """Nothing is missing, and nothing comes twice."""
    with client.job(step, range(2000), window=1) as job:
        found = [next(job) for _ in range(50)]
        assert found[-1][0] == BY_LANE
        os.kill(found[-1][2], signal.SIGKILL)
        found += list(job)
    assert sorted(x for _, x, _ in found) == list(range(2000))
    assert len({pid for *_, pid in found}) == 2 and not job.errors


def test_the_next_server_is_killed(client, servers):
    """All that is unfinished is repeated, in a new epoch: what is opened then has the way from then on."""
    with busy(servers, "lone.way") as others:
        with client.job(["lone.numbered", "next.pid"], range(2000), window=1) as job:
            found = [next(job) for _ in range(50)]
            assert BY_LANE in {way for way, *_ in found[20:]}
            os.kill(found[-1][3], signal.SIGKILL)
            found += list(job)
        n = len(others)
        eventually(lambda: len(others) > n + 20)
    assert sorted(x for _, x, *_ in found) == list(range(2000))
    assert len({pid for *_, pid in found}) == 2 and not job.errors


def test_clients_come_and_go(client, servers):
    with busy(servers, "lone.numbered") as found:
        for _ in range(20):
            with palm.Client(client.address) as other:
                assert [other.call("lone.way", 1) for _ in range(2)][0] == BY_HOST
        n = len(found)
        eventually(lambda: len(found) > n + 20)
    assert [x for _, x, _ in found] == list(range(len(found)))
    assert found[-1][0] == BY_LANE


# ------------------------------------------------------------------------------------------------------------ cancels


def test_what_is_given_up_while_it_waits_is_not_run(client, tmp_path):
    paths = [str(tmp_path / f"{i}") for i in range(4)]
    assert [client.call("lone.note", str(tmp_path / "before")) for _ in range(3)][2] == BY_LANE
    at_work = client.submit("lone.until", str(tmp_path / "end"))
    eventually((tmp_path / "end.begun").exists)
    futures = [client.submit("lone.note", path) for path in paths]
    assert futures[0].cancel() and futures[2].cancel()
    (tmp_path / "end").touch()
    assert at_work.result(20)
    assert futures[1].result(20) and futures[3].result(20)
    assert [Path(path).exists() for path in paths] == [False, True, False, True]
    assert [client.call("lone.note", paths[0]) for _ in range(2)][1] == BY_LANE


def test_what_is_given_up_before_its_step_is_known_is_not_run(client, tmp_path):
    """What tells of the step waits behind what is at work, as the message does; that it is given up is seen sooner."""
    at_work = client.submit("lone.until", str(tmp_path / "end"))
    eventually((tmp_path / "end.begun").exists)
    futures = [client.submit("lone.first", str(tmp_path / f"{i}")) for i in range(2)]
    assert futures[0].cancel()
    (tmp_path / "end").touch()
    assert at_work.result(20) and futures[1].result(20)
    assert [(tmp_path / f"{i}").exists() for i in range(2)] == [False, True]


def test_a_job_is_cancelled(client, servers, tmp_path):
    """At once, whatever else is busy."""
    with busy(servers, "lone.way") as others:
        job = client.job("lone.numbered", count(), window=1)
        assert BY_LANE in {next(job)[0] for _ in range(50)}
        job.cancel()
        before = counters(servers, "lone")["messages_in"], len(others)
        eventually(lambda: len(others) > before[1] + 100)
        assert client.call("lone.way", 1)


def test_what_waits_of_a_client_that_ends_is_not_run(client, tmp_path):
    """It is told of while another message is at work: what else is there is of nobody."""
    other = palm.Client(client.address)
    assert [other.call("lone.note", str(tmp_path / "before")) for _ in range(3)][2] == BY_LANE
    at_work = client.submit("lone.until", str(tmp_path / "end"))
    eventually((tmp_path / "end.begun").exists)
    for i in range(3):
        other.submit("lone.note", str(tmp_path / f"{i}"))
    other.close()
    (tmp_path / "end").touch()
    assert at_work.result(20) and client.call("lone.way", 1)
    assert not [i for i in range(3) if (tmp_path / f"{i}").exists()]


@pytest.mark.parametrize("template", [Slow, SlowCrew])
def test_it_stops_while_it_is_busy(cluster, template):
    """Of which it hears when it looks behind a message that has taken long. What comes later is not worked on."""
    cluster.start(template, "slow")
    over = []

    def call() -> None:
        with cluster.client() as client:
            try:
                while True:
                    over.append(client.call("slow.nap", 0.005))
            except palm.PalmError as e:
                over.append(e)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for t in threads:
        t.start()
    eventually(lambda: over[10:].count(BY_LANE) > 10)
    cluster.stop("slow", timeout=1000)  # then it would be killed
    for t in threads:
        t.join()


# ---------------------------------------------------------------------------------------------------- chaos, strangers


def test_chaos_begins(cluster):
    """Those messages are hit that come within."""
    cluster.start(Lone)
    client = cluster.client()
    assert [client.call("lone.numbered", 0)[0] for _ in range(3)][2] == BY_LANE
    with chaos(cluster, seed=1, delay=1.0) as hits:
        assert [client.call("lone.numbered", x)[1] for x in range(5)] == list(range(5))
    assert hits == [Hit("lone", 0, (n,), "delay") for n in range(hits[0].path[0], hits[0].path[0] + 5)]
    with palm.Client(client.address) as other:  # opens a handle: the server looks whether it lasts
        assert [other.call("lone.numbered", 0)[0] for _ in range(3)][2] == BY_LANE
    assert [client.call("lone.numbered", 0)[0] for _ in range(3)][2] == BY_LANE and len(hits) == 5


def test_chaos_kills(cluster):
    """Two clients that call all the time: each call has its own result."""
    cluster.start(Lone)
    found: list[list[int]] = [[], []]
    over = threading.Event()

    def call(into: list[int]) -> None:
        with cluster.client() as client:
            while not over.is_set():
                into.append(client.call("lone.numbered", len(into))[1])

    threads = [threading.Thread(target=call, args=(into,)) for into in found]
    for t in threads:
        t.start()
    eventually(lambda: all(len(into) > 20 for into in found))
    with chaos(cluster, seed=3, kill=0.02, delay=0.05) as hits:
        eventually(lambda: {hit.what for hit in hits} == {"kill", "delay"})
        over.set()
        for t in threads:
            t.join()
    assert found == [[*range(len(into))] for into in found]


def test_rejected_messages_are_told_of_though_it_is_never_idle(cluster, capfd):
    with exposed(cluster) as (server, push), busy(cluster, "target.same") as found:
        push.send(b"no envelope")
        text = ""

        def is_said() -> bool:
            nonlocal text
            text += capfd.readouterr().err
            return "1 messages rejected so far" in text

        eventually(is_said)
        n = len(found)
        eventually(lambda: len(found) > n + 20)
        assert server.counter("rejected") == 1
