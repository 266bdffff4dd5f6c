# SPDX-License-Identifier: BSD-3-Clause
"""Futures of `Client.submit`: cancelled, late, with callbacks that wait or raise; what is left of calls that fail."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually

import palm
from palm._core import node as core


class Busy(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def until(self, path):
        Path(path + ".running").touch()
        while not Path(path).exists():
            time.sleep(0.002)
        return path

    @palm.function
    def forever(self, path):
        Path(path).write_text("running")
        try:
            while True:
                yield 1
        finally:
            Path(path).write_text("closed")

    @palm.function
    def gain(self, x, *, gain):
        return x


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Busy)
        with cluster.client() as client:  # once mapped, its memory stays so while it lives
            client.call("busy.same", 1)
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


def open_calls(client: palm.Client) -> int:
    return sum(len(w.futures) for w in client._connection.works.values() if hasattr(w, "futures"))


# ------------------------------------------------------------------------------------------------------ cancelled


def test_a_call_that_is_cancelled_is_given_up(client, tmp_path):
    told = tmp_path / "told"
    future = client.submit("busy.forever", str(told))
    eventually(lambda: told.exists() and told.read_text() == "running")
    assert future.cancel() and future.cancelled()
    eventually(lambda: told.read_text() == "closed")
    assert not open_calls(client)
    assert concurrent.futures.wait([future], timeout=10).done == {future}
    assert future.cancel(), "again"


def test_a_task_that_is_cancelled_gives_its_call_up(client, tmp_path):
    told = tmp_path / "told"

    async def run() -> None:
        task = asyncio.create_task(client.acall("busy.forever", str(told)))
        while not (told.exists() and told.read_text() == "running"):
            await asyncio.sleep(0.005)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(task, 0.01)

    asyncio.run(run())
    eventually(lambda: told.read_text() == "closed")
    assert not open_calls(client)


def test_a_call_that_is_too_late_is_given_up(client, tmp_path):
    told = tmp_path / "told"
    with pytest.raises(palm.Timeout, match="has not answered within"):
        client.submit("busy.forever", str(told), timeout=0.3).result(30)
    if told.exists():
        eventually(lambda: told.read_text() == "closed")
    assert not open_calls(client)


def test_futures_that_are_cancelled_at_any_moment(client):
    for k in range(300):
        future = client.submit("busy.same", k)
        threading.Thread(target=future.cancel).start()
        concurrent.futures.wait([future], timeout=30)
        assert future.cancelled() or future.result(0) == k
    eventually(lambda: not open_calls(client) and client._connection.awaited == 0)


# ---------------------------------------------------------------------------------------------------------- waiting


class Impatient:
    """A connection whose longest waits end after 10 ms."""

    def __init__(self, connection: object) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def wait(self, condition: object, timeout: float | None = None) -> bool:
        return self._connection.wait(condition, 0.01 if timeout is None or timeout > 60 else timeout)


def test_futures_are_waited_for_however_long(client, monkeypatch, tmp_path):
    """A wait that ends, as one of an hour does some time, is not the end of waiting."""
    monkeypatch.setattr(client._background, "_connection", Impatient(client._connection))
    there = tmp_path / "there"
    future = client.submit("busy.until", str(there))
    eventually(Path(f"{there}.running").exists)
    time.sleep(0.1)
    there.touch()
    assert future.result(10) == str(there)


class Yesterday:
    """The clock of a client by which each deadline has passed before the call is sent."""

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    def time_ns(self) -> int:
        return 1


@pytest.mark.parametrize("use", ["call", "submit", "acall"])
def test_a_server_that_tells_first_that_a_call_is_late(client, monkeypatch, use):
    assert client.call("busy.same", 1) == 1  # so that the registry need not be asked
    monkeypatch.setattr("palm.calls.time", Yesterday())
    with pytest.raises(palm.Timeout, match="busy.same has not answered within 20 s"):
        if use == "call":
            client.call("busy.same", 1, timeout=20)
        elif use == "submit":
            client.submit("busy.same", 1, timeout=20).result(20)
        else:
            asyncio.run(client.acall("busy.same", 1, timeout=20))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_server_that_tells_first_that_a_job_is_late(client, monkeypatch, on_error):
    monkeypatch.setattr("palm.client.time", Yesterday())
    monkeypatch.setattr("palm.work.time", Yesterday())
    with pytest.raises(palm.Timeout, match="not complete within 20 s"):
        list(client.job("busy.same", [1, 2], timeout=20, on_error=on_error))


@pytest.mark.parametrize("timeout", [float("inf"), 1e30, 1e18])
def test_a_timeout_may_be_endless(client, timeout):
    assert client.call("busy.same", 1, timeout=timeout) == 1
    assert client.submit("busy.same", 1, timeout=timeout).result(10) == 1
    assert list(client.job("busy.same", [1], timeout=timeout)) == [1]
    job = client.job("busy.same", [1])
    assert job.wait(timeout).done == 1


# ---------------------------------------------------------------------------------------------------------- callbacks


def test_a_callback_may_wait_for_other_futures(client):
    answers: list[object] = []
    done = threading.Event()

    def second(future: concurrent.futures.Future[object]) -> None:
        answers.append([future.result(), client.submit("busy.same", 3).result(20)])
        done.set()

    def first(future: concurrent.futures.Future[object]) -> None:
        inner = client.submit("busy.same", 2)
        answers.append(inner.result(20))
        inner.add_done_callback(second)

    client.submit("busy.same", 1).add_done_callback(first)
    assert done.wait(20)
    assert answers == [2, [2, 3]]


def test_a_callback_that_takes_its_time_holds_up_nobody(client, tmp_path):
    go_on, entered = threading.Event(), threading.Event()

    def slow(_: object) -> None:
        entered.set()
        go_on.wait(30)

    there = tmp_path / "there"
    future = client.submit("busy.until", str(there))  # it is not done when the callback is added
    future.add_done_callback(slow)
    there.touch()
    try:
        assert entered.wait(20)
        assert [f.result(20) for f in [client.submit("busy.same", k) for k in range(20)]] == list(range(20))
    finally:
        go_on.set()


def test_what_a_callback_raises_is_its_own(client, tmp_path, caplog):
    there = tmp_path / "there"
    future = client.submit("busy.until", str(there))
    others = [client.submit("busy.same", k) for k in range(3)]
    called: list[int] = []

    def leaves(_: object) -> None:
        called.append(1)
        raise SystemExit(3)

    future.add_done_callback(leaves)
    future.add_done_callback(lambda _: called.append(2))
    there.touch()
    assert [f.result(20) for f in others] == [0, 1, 2]
    eventually(lambda: called == [1, 2])
    assert client.submit("busy.same", 1).result(20) == 1
    eventually(lambda: "has raised" in caplog.text)


def test_callbacks_run_at_once_where_the_future_is_done(client):
    future = client.submit("busy.same", 1)
    future.result(20)
    seen: list[int] = []
    future.add_done_callback(lambda _: seen.append(threading.get_ident()))
    assert seen == [threading.get_ident()]


def test_as_completed_and_wait(client):
    futures = [client.submit("busy.same", k) for k in range(50)]
    assert sorted(f.result() for f in concurrent.futures.as_completed(futures, timeout=30)) == list(range(50))
    assert concurrent.futures.wait(futures, timeout=30).not_done == set()


# ------------------------------------------------------------------------------------------------ what is left behind


@pytest.mark.parametrize("use", ["call", "submit", "job"])
def test_constants_that_cannot_be_sent_leave_nothing(client, use):
    deep: list[object] = []
    for _ in range(1000):
        deep = [deep]
    client.call("busy.same", 1)  # the registry has been asked then
    before = len(client._connection.works)
    with pytest.raises(palm.PayloadError):
        getattr(client, use)(palm.step("busy.gain", gain=deep), [1])
    assert len(client._connection.works) == before


def test_what_is_to_be_called_later_is_called_whatever_some_of_it_raises(client):
    called: list[int] = []
    connection = client._connection

    def raises() -> None:
        called.append(1)
        raise KeyError("first")

    connection.later.append(raises)
    connection.later.append(lambda: called.append(2))
    with pytest.raises(KeyError, match="first"):
        connection.call_later()
    assert called == [1, 2]


def test_a_call_whose_server_is_lost_while_it_is_made_is_made_again(client, monkeypatch):
    """The server has gone and come back, and nobody waited for it: so its calls have retired."""
    assert client.call("busy.same", 1) == 1
    calls = client._calls["busy.same"]

    class Batch(core.Batch):
        def put(self, *args: object) -> None:
            super().put(*args)
            with calls.connection.changed:
                calls._retire()

    monkeypatch.setattr("palm.calls.Batch", Batch)
    future = palm.futures.CallFuture(client)
    with pytest.raises(palm.calls.Retired):
        calls.send((1,), future, None)
    assert not calls.futures
    monkeypatch.undo()
    assert client.call("busy.same", 2, timeout=20) == 2
