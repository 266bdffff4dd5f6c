# SPDX-License-Identifier: BSD-3-Clause
"""Calls: what a function gets, what the caller gets back, and everybody at once (API 1 and 3)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm


class Forms(palm.Server):
    @palm.function
    def none(self):
        return "nothing came"

    @palm.function
    def one(self, x):
        return x

    @palm.function
    def two(self, a, b):
        return {"a": a, "b": b}

    @palm.function
    def kind(self, x):
        return type(x).__name__

    @palm.function
    def scaled(self, x, *, gain=1.0, offset):
        return x * gain + offset

    @palm.function
    def odd(self, x):
        return x if x % 2 else None

    @palm.function
    def pid(self):
        return os.getpid()

    @palm.function
    def numbers(self, n):
        return self.rng.standard_normal(n)

    @palm.function
    def what_message(self, x):
        m = self.message
        return {
            "job": m.job,
            "number": m.number,
            "path": m.path,
            "stage": m.stage,
            "step": m.step,
            "rest": m.rest,
            "client": m.client,
            "deadline": m.deadline,
            "attempt": m.attempt,
        }

    @palm.function
    def remember(self, key, value):
        self.cache[key] = value
        return self.cache.append("keys", key)

    @palm.function
    def recall(self, key):
        return self.cache[key]


class Streams(palm.Server):
    def setup(self):
        self.closed = 0

    @palm.function
    def upto(self, n):
        yield from range(n)

    @palm.function
    def gaps(self, n):
        for i in range(n):
            yield i if i % 2 else None

    @palm.function
    def endless(self):
        n = 0
        try:
            while True:
                yield n
                n += 1
        finally:
            self.closed += 1

    @palm.function
    def endless_after(self, x):
        yield from self.endless()

    @palm.function
    def closed_so_far(self):
        return self.closed

    @palm.function
    def fails_after(self, n):
        yield from range(n)
        raise ValueError(f"after {n}")

    @palm.function
    def route(self, x):
        return palm.to("forms.kind", x) if isinstance(x, str) else x

    @palm.function
    def route_with_constants(self, x):
        return palm.to(palm.step("forms.scaled", gain=3.0, offset=1.0), x)

    @palm.function
    def fork(self, x):
        yield palm.to(["forms.one", *self.message.rest], x)
        yield x * 10
        yield palm.to("forms.kind", x)

    @palm.function
    def nowhere(self, x):
        return palm.to("nobody.home", x)


class Slow(palm.Server):
    @palm.function
    def until(self, path, seconds):
        """Returns when the file is there."""
        end = time.monotonic() + seconds
        while not Path(path).exists() and time.monotonic() < end:
            time.sleep(0.002)
        return path

    @palm.function
    def soft(self, path):
        """Returns when it is told to stop."""
        Path(path).write_text("running")
        while not self.cancelled:
            time.sleep(0.002)
        Path(path).write_text("cancelled")

    @palm.function
    def fast(self, x):
        return x


class Caller(palm.Server):
    @palm.function
    def through(self, x):
        return self.client.call("forms.one", x) + 1

    @palm.function
    def missing(self):
        return self.client.call("nobody.home")


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        for template in (Forms, Streams, Slow, Caller):
            cluster.start(template)
        with cluster.client() as client:  # once mapped, their memory stays so while they live
            for step, *values in ("forms.none",), ("streams.upto", 1), ("slow.fast", 1), ("caller.through", 1):
                client.call(step, *values)
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


# ------------------------------------------------------------------------------------------------ the message in


def test_the_positional_parameters_are_the_message(client):
    assert client.call("forms.none") == "nothing came"
    assert client.call("forms.one", 5) == 5
    assert client.call("forms.one", 1, 2) == (1, 2)  # several values are a tuple; one parameter takes it whole
    assert client.call("forms.two", 1, 2) == {"a": 1, "b": 2}
    assert client.call("forms.two", (1, 2)) == {"a": 1, "b": 2}


@pytest.mark.parametrize("value", [(), [], {}, (None,), [None, 1], "", b"", 0, False, {"a": (1, [2.0])}])
def test_a_value_arrives_as_what_it_was(client, value):
    assert client.call("forms.kind", value) == type(value).__name__
    back = client.call("forms.one", value)
    assert back == value and type(back) is type(value)


def test_none_is_a_message_that_says_none(client):
    assert client.call("forms.kind", None) == "NoneType"


@pytest.mark.parametrize(
    ("step", "values", "says"),
    [
        ("forms.none", (1,), r"forms\.none\(\) has 0 positional parameters, but the message is one int"),
        (
            "forms.one",
            (),
            r"forms\.one\(x\) has 1 positional parameters?, but the message is empty: give the call 1 value",
        ),
        ("forms.two", (1,), r"forms\.two\(a, b\) has 2 positional parameters, but the message is one int"),
        ("forms.two", (1, 2, 3), r"2 positional parameters, but the message is a tuple of 3"),
        ("forms.two", ([1, 2],), r"2 positional parameters, but the message is one list"),
    ],
)
def test_a_message_that_does_not_fit_says_so(client, step, values, says):
    with pytest.raises(palm.RemoteError, match=says) as caught:
        client.call(step, *values)
    assert caught.value.type == "PayloadError"
    assert client.call("forms.one", 5) == 5


def test_constants(client):
    assert client.call(palm.step("forms.scaled", offset=1), 2) == 3
    assert client.call(palm.step("forms.scaled", gain=10, offset=1), 2) == 21
    weights = np.arange(4.0)
    assert np.array_equal(client.call(palm.step("forms.scaled", gain=weights, offset=weights), 2), weights * 3)


def test_the_cache_of_a_server(client):
    first = client.call("forms.remember", "a", np.arange(3))
    assert client.call("forms.remember", "b", 2) == first + 1
    assert np.array_equal(client.call("forms.recall", "a"), np.arange(3))
    with pytest.raises(palm.RemoteError) as caught:
        client.call("forms.recall", "missing")
    assert caught.value.type == "KeyError"


# --------------------------------------------------------------------------------------------------- what comes back


def test_none_and_generators(client):
    assert client.call("forms.odd", 2) is None
    assert client.call("streams.upto", 3) == [0, 1, 2]
    assert client.call("streams.upto", 1) == [0]
    assert client.call("streams.upto", 0) == []
    assert client.call("streams.gaps", 6) == [1, 3, 5]  # None is never sent, in any position
    assert client.call("streams.upto", 10_000) == list(range(10_000))
    with pytest.raises(palm.RemoteError, match="after 3"):
        client.call("streams.fails_after", 3)
    assert client.call("streams.upto", 2) == [0, 1]


def test_to_takes_another_route(client):
    assert client.call("streams.route", 5) == 5
    assert client.call("streams.route", "text") == "str"
    assert client.call("streams.route_with_constants", 2) == 7.0
    assert sorted(client.call("streams.fork", 7), key=str) == [7, 70, "int"]
    with pytest.raises(palm.RemoteError, match="nobody") as caught:
        client.call("streams.nowhere", 1)
    assert caught.value.type == "NotFound"
    assert client.call("streams.route", 6) == 6


def test_rest_of_the_route(client):
    """`[branch, *self.message.rest]` is the branch, then the rest of the job."""
    found = list(client.job(["streams.fork", palm.step("forms.scaled", gain=2, offset=1)], [7]))
    assert sorted(found, key=str) == [141, 15, "int"]


def test_a_timeout_leaves_the_client_usable(client, tmp_path):
    there = tmp_path / "there"
    began = time.monotonic()
    with pytest.raises(palm.Timeout, match=r"slow\.until .*0\.05 s") as caught:
        client.call("slow.until", str(there), 30, timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert 0.05 <= time.monotonic() - began < 5
    assert client.call("forms.one", 1) == 1
    there.touch()
    assert client.call("slow.fast", 2, timeout=10) == 2  # its late answer is nobody's


def test_submit_with_a_timeout(client, tmp_path):
    there = tmp_path / "there"
    with pytest.raises(palm.Timeout, match="0.05 s"):
        client.submit("slow.until", str(there), 30, timeout=0.05).result(10)
    there.touch()
    assert client.submit("slow.fast", 2, timeout=10).result(10) == 2


def test_message_and_its_fields(client):
    m = client.call("forms.what_message", 0)
    assert (m["step"], m["stage"], m["rest"], m["attempt"]) == ("forms.what_message", 0, (), 1)
    job = client.job(["streams.upto", "forms.what_message", "forms.one"], [2, 0, 1], timeout=60)
    found = sorted(job, key=lambda m: m["path"])
    assert [m["path"] for m in found] == [(0, 0), (0, 1), (2, 0)]
    assert [m["number"] for m in found] == [0, 0, 2]
    assert {m["job"] for m in found} == {job.id}
    assert {m["stage"] for m in found} == {1}
    assert {m["rest"] for m in found} == {("forms.one",)}
    assert all(0 < m["deadline"] - time.time() < 60 for m in found)


def test_the_same_seed_gives_the_same_numbers(client):
    def numbers(seed, window=None):
        return list(client.job("forms.numbers", [3] * 20, seed=seed, window=window, ordered=True))

    first = numbers(7)
    assert np.array_equal(first, numbers(7, window=1))
    assert not np.array_equal(first, numbers(8))
    assert len({float(x[0]) for x in first}) == 20, "each message has numbers of its own"
    fresh = [client.job("forms.numbers", [3]) for _ in range(2)]
    assert fresh[0].seed != fresh[1].seed
    assert not np.array_equal(list(fresh[0]), list(fresh[1]))
    assert np.array_equal(numbers(7), first)


def test_two_stages_have_numbers_of_their_own(client):
    once = list(client.job("forms.numbers", [4], seed=3))[0]
    twice = list(client.job(["forms.one", "forms.numbers"], [4], seed=3))[0]
    assert not np.array_equal(once, twice)


def test_one_server_twice_in_a_pipeline(client):
    double = palm.step("forms.scaled", gain=2, offset=0)
    more = palm.step("forms.scaled", gain=1, offset=1)
    assert list(client.job([double, "slow.fast", more, double], range(50), ordered=True)) == [
        4 * n + 2 for n in range(50)
    ]


# -------------------------------------------------------------------------------------------------- many at a time


def test_submit_as_completed_and_wait(client):
    futures = {client.submit("forms.one", n): n for n in range(200)}
    assert {f.result(10): n for f, n in futures.items()} == {n: n for n in range(200)}
    assert all(f.result() == futures[f] for f in concurrent.futures.as_completed(futures, timeout=10))
    done, not_done = concurrent.futures.wait([client.submit("streams.upto", 3) for _ in range(20)], timeout=10)
    assert not not_done and [f.result() for f in done] == [[0, 1, 2]] * 20
    assert isinstance(client.submit("streams.fails_after", 1).exception(10), palm.RemoteError)


def test_callbacks_may_call_again(client):
    again: concurrent.futures.Future[int] = concurrent.futures.Future()
    client.submit("forms.one", 1).add_done_callback(
        lambda f: client.submit("forms.one", f.result() + 1).add_done_callback(lambda g: again.set_result(g.result()))
    )
    assert again.result(10) == 2


def test_acall(client):
    async def both():
        return await asyncio.gather(*(client.acall("forms.one", n, timeout=10) for n in range(100)))

    assert asyncio.run(both()) == list(range(100))

    async def fails():
        await client.acall("streams.fails_after", 1)

    with pytest.raises(palm.RemoteError, match="after 1"):
        asyncio.run(fails())


def test_map_is_in_order_and_has_one_for_each(client):
    assert list(client.map("forms.one", range(100))) == list(range(100))
    assert list(client.map("forms.odd", range(5))) == [None, 1, None, 3, None]
    assert list(client.map("forms.two", range(2), "ab")) == [{"a": 0, "b": "a"}, {"a": 1, "b": "b"}]
    assert list(client.map("streams.upto", [2, 0, 1])) == [[0, 1], [], [0]]
    assert list(client.map("streams.upto", [1, 2])) == [[0], [0, 1]]
    assert list(client.map("forms.one", [])) == []


def test_map_is_lazy(client):
    read = []

    def endless():
        while True:
            read.append(1)
            yield len(read)

    results = client.map("forms.one", endless())
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    del results
    eventually(lambda: threads("palm-inputs") == 0)


def threads(name: str) -> int:
    return sum(t.name == name for t in threading.enumerate())


def test_calls_from_many_threads(client):
    def many(k):
        return [client.call("forms.one", 1000 * k + n) for n in range(100)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(many, range(8))) == [[1000 * k + n for n in range(100)] for k in range(8)]


def test_calls_submits_and_jobs_at_once(client):
    def call(k):
        return client.call("forms.one", k)

    def job(k):
        return sum(client.job("forms.one", range(k)))

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(call, k) for k in range(60)]
        jobs = [pool.submit(job, k) for k in range(60)]
        futures = [client.submit("forms.one", k) for k in range(60)]
        assert [f.result(20) for f in calls] == list(range(60))
        assert [f.result(20) for f in jobs] == [sum(range(k)) for k in range(60)]
        assert [f.result(20) for f in futures] == list(range(60))


def test_many_clients(servers):
    clients = [servers.client() for _ in range(20)]
    try:
        assert [c.call("forms.one", n) for n, c in enumerate(clients)] == list(range(20))
    finally:
        for c in clients:
            c.close()


def test_a_fresh_client_loses_no_first_call(servers):
    for n in range(20):
        with palm.Client(servers.address) as fresh:
            assert fresh.call("forms.one", n, timeout=10) == n


def test_a_client_by_name_and_by_environment(servers, monkeypatch):
    with palm.Client(servers.name) as client:
        assert client.call("forms.one", 1) == 1
    monkeypatch.setenv("PALM_CLUSTER", servers.name)
    with palm.Client() as client:
        assert client.call("forms.one", 2) == 2
    monkeypatch.setenv("PALM_CLUSTER", servers.address)
    with palm.Client() as client:
        assert client.call("forms.one", 3) == 3


def test_a_server_calls_another(client):
    assert client.call("caller.through", 41) == 42
    assert list(client.job("caller.through", range(50), ordered=True)) == list(range(1, 51))
    with pytest.raises(palm.RemoteError, match="nobody") as caught:
        client.call("caller.missing")
    assert caught.value.type == "NotFound"


def test_functions_and_wait_for(client):
    functions = client.functions()
    assert functions["forms.scaled"] == "(x, *, gain=1.0, offset)"
    assert functions["forms.two"] == "(a, b)"
    assert functions["streams.endless"] == "()"
    client.wait_for("forms", "streams", timeout=10)
    with pytest.raises(palm.Timeout, match="nobody"):
        client.wait_for("forms", "nobody", timeout=0.05)


# --------------------------------------------------------------------------------------------------- generators end


def test_stop_ends_an_endless_generator(client):
    """`stop`: no more inputs, Sources are closed; what is under way still arrives."""
    before = client.call("streams.closed_so_far")
    job = client.job("streams.endless")
    found = [next(job) for _ in range(10)]
    job.stop()
    found += list(job)
    assert found == list(range(len(found)))
    eventually(lambda: client.call("streams.closed_so_far") == before + 1)


def test_cancel_closes_an_endless_generator(client):
    before = client.call("streams.closed_so_far")
    job = client.job("streams.endless")
    assert next(job) == 0
    job.cancel()
    with pytest.raises(palm.Cancelled):
        list(job)
    eventually(lambda: client.call("streams.closed_so_far") == before + 1)


def test_leaving_a_job_closes_its_generators(client):
    before = client.call("streams.closed_so_far")
    with client.job(["forms.one", "streams.endless_after"], [1, 2, 3]) as job:
        seen: set[int] = set()
        for number, _ in job.items():
            seen.add(number)
            if len(seen) == 3:
                break
    eventually(lambda: client.call("streams.closed_so_far") == before + 3)


def test_calls_are_answered_while_a_generator_runs(client):
    with client.job("streams.endless", window=8) as job:
        for _, n in zip(job, range(100), strict=False):
            assert client.call("streams.upto", 2, timeout=10) == [0, 1], n


def test_a_generator_waits_for_who_reads(client):
    """Nobody takes the results: the generator is not run on and on (R17, R19)."""
    with client.job("streams.endless", window=8) as job:
        assert next(job) == 0
        made = []
        for _ in range(30):  # calls take their turns with the generator: time enough for millions
            client.call("streams.closed_so_far")
            made.append(len(job._work.results))
        assert max(made) < 100_000


def test_a_long_function_sees_that_it_is_cancelled(client, tmp_path):
    """Softly first: a flag that the function can read (R30)."""
    told = tmp_path / "told"
    job = client.job("slow.soft", [str(told)])
    eventually(lambda: told.exists() and told.read_text() == "running")
    job.cancel()
    eventually(lambda: told.read_text() == "cancelled")
    assert client.call("slow.fast", 1, timeout=10) == 1


# ------------------------------------------------------------------------------------------------ closing a client


def test_close_gives_up_what_is_unfinished_and_says_so(servers, tmp_path):
    client = servers.client()
    there = tmp_path / "there"
    future = client.submit("slow.until", str(there), 30)
    client.close()
    client.close()  # again: without effect
    with pytest.raises(palm.Disconnected, match="closed"):
        future.result(10)
    with pytest.raises(palm.Disconnected, match="closed"):
        client.call("forms.one", 1)
    with pytest.raises(palm.Disconnected, match="closed"):
        client.submit("forms.one", 1)
    there.touch()


def test_with_waits(servers, tmp_path):
    with servers.client() as client:
        futures = [client.submit("forms.one", n) for n in range(50)]
    assert [f.result(0) for f in futures] == list(range(50))


def test_shutdown_like_any_executor(servers):
    client = servers.client()
    future = client.submit("forms.one", 1)
    client.shutdown()
    assert future.result(0) == 1
    client = servers.client()
    future = client.submit("slow.until", "/nowhere", 1)
    client.shutdown(wait=False, cancel_futures=True)
    assert isinstance(future.exception(10), palm.Disconnected | concurrent.futures.CancelledError)


def test_threads_that_wait_when_the_client_is_closed(servers, tmp_path):
    there = tmp_path / "there"
    client = servers.client()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.call, "slow.until", str(there), 30) for _ in range(4)]
        eventually(lambda: sum(len(w.futures) for w in client._connection.works.values() if hasattr(w, "futures")) == 4)
        client.close()
        there.touch()
        for w in waiting:
            with pytest.raises(palm.Disconnected):
                w.result(10)
