# SPDX-License-Identifier: BSD-3-Clause
"""Waits for room are visible (R19): in `Client.status()`, and to people in `palm status`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually

import palm
from palm import activity, waits
from palm._core import space

S = 1_000_000_000


class A(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def many(self, n):
        yield from range(n)


class B(palm.Server):
    @palm.function
    def gate(self, x, *, path):
        """Waits until the path is there."""
        pause = threading.Event()
        while not Path(path).exists() and not self.cancelled:
            pause.wait(0.002)
        return x


class C(palm.Server):
    @palm.function
    def same(self, x):
        return x


@pytest.fixture
def abc(cluster: palm.Cluster) -> palm.Cluster:
    for template in (A, B, C):
        cluster.start(template)
    return cluster


def work_of(cluster: palm.Cluster, name: str) -> dict:
    return next(s for s in cluster.status()["servers"] if s["name"] == name)["work"]


def clients(cluster: palm.Cluster) -> list[dict]:
    return [c["work"] for c in cluster.status()["clients"]]


@contextlib.contextmanager
def running(job: palm.Job) -> Iterator[None]:
    thread = threading.Thread(target=job.wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_client_says_where_it_waits(abc, tmp_path):
    gate, client = tmp_path / "gate", abc.client()
    assert work_of(abc, "b") == {"state": "idle"} and clients(abc) == []
    with running(client.job(["a.same", palm.step("b.gate", path=str(gate)), "c.same"], range(100), window=8)):
        try:
            eventually(lambda: [(w["state"], w.get("room_in")) for w in clients(abc)] == [("waiting", "b")])
            eventually(lambda: work_of(abc, "b")["state"] == "running")
            assert work_of(abc, "b")["function"] == "gate" and work_of(abc, "c") == {"state": "idle"}
            out = subprocess.run(
                [sys.executable, "-c", "from palm.cli import main; main()", "status"],
                env={**os.environ, "PALM_CLUSTER": abc.name},
                capture_output=True,
                text=True,
                timeout=30,
            ).stdout
            assert f"client (pid {os.getpid()}): waiting for room in b" in out and "running gate" in out
        finally:
            gate.touch()
    eventually(lambda: clients(abc) == [{"state": "idle"}])


def test_a_generator_says_where_it_waits(abc, tmp_path):
    gate = tmp_path / "gate"
    with running(abc.client().job(["a.many", palm.step("b.gate", path=str(gate))], [1000], window=8)):
        try:
            work = eventually(lambda: (w := work_of(abc, "a"))["state"] == "waiting" and w)
            assert work["room_in"] == "b" and work["seconds"] >= activity.BRIEF
            eventually(
                lambda: work_of(abc, "a")["seconds"] > work["seconds"]
            )  # one wait, though events come in between
        finally:
            gate.touch()
    eventually(lambda: work_of(abc, "a") == {"state": "idle"})


def test_a_server_that_is_stopped_is_where_others_wait(abc, tmp_path):
    pid = next(s["pid"] for s in abc.status()["servers"] if s["name"] == "c")
    assert len(list(abc.client().job(["a.same", "c.same"], range(10)))) == 10  # the hand-shake is over
    os.kill(pid, signal.SIGSTOP)
    try:
        with running(abc.client().job(["a.same", "c.same"], range(100), window=8)):
            try:
                eventually(lambda: ("waiting", "c") in [(w["state"], w.get("room_in")) for w in clients(abc)])
                a = abc.status()["servers"][0]["counters"]
                assert a["unread"] > 0 and a["unread_pid"] == pid
            finally:
                os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_results_that_nobody_takes(abc):
    job = abc.client().job("a.same", range(100), window=8)
    next(job)
    job._work.connection.wait(lambda: len(job._work.results) == 8)
    eventually(lambda: [(w["state"], w.get("room_in")) for w in clients(abc)] == [("waiting", "")])
    job.cancel()
    eventually(lambda: clients(abc) == [{"state": "idle"}])


def test_a_client_that_has_died_is_not_shown(abc, tmp_path):
    script = (
        "import palm, sys\n"
        f"job = palm.Client().job(palm.step('b.gate', path={str(tmp_path / 'gate')!r}), range(100), window=8)\n"
        "job.wait()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PALM_CLUSTER": abc.name})
    try:
        eventually(lambda: [(w["state"], w.get("room_in")) for w in clients(abc)] == [("waiting", "b")], 30)
    finally:
        child.kill()
        child.wait()
    eventually(lambda: clients(abc) == [])


# ----------------------------------------------------------------------------------------------------- the page


def shown() -> list[str] | None:
    return space.read_counters().get("waiting_for")


def test_one_wait_is_shown_the_first_that_began():
    first, second = object(), object()
    waits.begin(first, ["a", "b"])
    waits.begin(second, ["c"])
    waits.begin(first, ["d"])
    assert shown() == ["a", "b"]
    waits.end(first)
    waits.end(first)
    assert shown() == ["c"]
    waits.end(second)
    assert shown() is None


# ------------------------------------------------------------------------------------------------- what it means


def server(name: str, pid: int, state: str = "running", **counters: object) -> dict:
    names = ("running_since_ns", "running_number", "gil_asked_ns", "gil_had_ns", "backlog", "queue_depth", "unread")
    zero = dict.fromkeys((*names, "unread_pid"), 0)
    return {"name": name, "pid": pid, "where": b"here", "state": state, "counters": zero | counters}


def client(**counters: object) -> dict:
    """none: it cannot be read."""
    return {"where": b"here", "counters": counters}


@pytest.mark.parametrize(
    ("counters", "work"),
    [
        ({}, {"state": "idle"}),
        (
            {"running_since_ns": 4 * S, "running": "f", "running_number": 7},
            {"state": "running", "function": "f", "number": 7, "seconds": 1.0, "holds_gil": False},
        ),
        ({"waiting_since_ns": int(4.9 * S), "waiting_for": ["b"]}, {"state": "idle"}),
        ({"waiting_since_ns": 2 * S, "waiting_for": ["b"]}, {"state": "waiting", "room_in": "b", "seconds": 3.0}),
        ({"waiting_since_ns": 2 * S, "waiting_for": ["c"]}, {"state": "waiting", "room_in": "", "seconds": 3.0}),
        ({"waiting_since_ns": 2 * S, "waiting_for": []}, {"state": "waiting", "room_in": "", "seconds": 3.0}),
    ],
)
def test_what_a_process_does(counters, work):
    servers = [server("a", 1, **counters), server("b", 2, running_since_ns=S), server("c", 3)]
    assert activity.describe(servers[0], servers, activity.queues_of(servers, []), 5 * S) == work


@pytest.mark.parametrize(
    ("others", "full"),
    [
        ([{}, {}], ""),
        ([{"running_since_ns": 3 * S}, {"running_since_ns": 2 * S}], "c"),
        ([{"running_since_ns": 3 * S, "backlog": 1}, {"running_since_ns": 2 * S}], "b"),
        ([{"queue_depth": 5}, {"backlog": 2, "queue_depth": 2}], "b"),
        ([{"unread": 9, "unread_pid": 3}, {"running_since_ns": 2 * S}], "c"),
    ],
)
def test_which_server_is_full(others, full):
    servers = [server("b", 2, **others[0]), server("c", 3, **others[1])]
    assert activity.fullest(servers, activity.queues_of(servers, []), 5 * S) == full


def test_what_a_client_has_sent_lies_in_front_of_a_server():
    servers = [server("b", 2), server("c", 3, backlog=2)]
    queues = activity.queues_of(servers, [client(unread=3, unread_pid=2), client()])
    assert queues == {"b": 3, "c": 2}


def test_in_front_of_a_server_that_is_not_there_lies_nothing():
    servers = [server("b", 0, "restarting"), server("c", 3, unread=0, unread_pid=0)]
    assert activity.queues_of(servers, [client()]) == {"b": 0, "c": 0}


def test_a_server_that_is_suspended_is_full():
    servers = [server("b", 2, backlog=1000), server("c", 3, "suspended")]
    assert activity.fullest(servers, activity.queues_of(servers, []), 5 * S) == "c"


def test_in_words():
    assert activity.text_of({"state": "idle"}) == "idle"
    assert (
        activity.text_of({"state": "running", "function": "f", "number": 812, "seconds": 43.25, "holds_gil": False})
        == "running f, message 812, 43.2 s"
    )
    assert activity.text_of({"state": "waiting", "room_in": "b", "seconds": 3.0}) == "waiting for room in b 3.0 s"
    assert "results to be taken" in activity.text_of({"state": "waiting", "room_in": "", "seconds": 3.0})
