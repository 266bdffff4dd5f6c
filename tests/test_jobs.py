# SPDX-License-Identifier: BSD-3-Clause
"""Jobs: they end by themselves, lose nothing, read lazily, and stop when told (R2, R3, R17, R18)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import eventually

import palm
from palm import work
from palm._core import node as core
from palm.calls import Calls
from palm.connection import start_thread
from palm.own_names import REGISTRY


class Work(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def double(self, x):
        return x * 2

    @palm.function
    def odd(self, x):
        return x if x % 2 else None

    @palm.function
    def upto(self, n):
        yield from range(n)

    @palm.function
    def boom_at_seven(self, x):
        if x % 10 == 7:
            raise ValueError(f"no {x}")
        return x

    @palm.function
    def mixed(self, n):
        """By turns: a drop, one, an error, many, many and then an error."""
        match n % 5:
            case 0:
                return None
            case 1:
                return n
            case 2:
                raise ValueError(f"no {n}")
            case 3:
                return (v for v in range(n % 4))
            case _:
                return self.broken(n)

    def broken(self, n):
        yield n
        yield None
        raise KeyError(n)

    @palm.function
    def claims(self, index):
        """Yields, and has a child that is beyond all that could have been yielded."""
        running = self._host._generators.running
        running.assignment.job.report.batch.event(core.DROP, running.number, (index,))
        yield from range(1000)


class Second(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def odd(self, x):
        return x if x % 2 else None

    @palm.function
    def twice(self, x):
        yield x
        yield x

    @palm.function
    def row(self, n):
        return np.full(4, n, np.float32)

    @palm.function
    def wait_for(self, path):
        end = time.monotonic() + 30
        while not Path(path).exists() and not self.cancelled and time.monotonic() < end:
            time.sleep(0.002)
        return path


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Work)
        cluster.start(Second)
        with cluster.client() as client:  # once mapped, their memory stays so while they live
            client.call("work.same", client.call("second.same", 1))
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


def reader_is_gone() -> bool:
    return all(t.name != "palm-inputs" for t in threading.enumerate())


# ------------------------------------------------------------------------------------------------- what is at hand


@pytest.fixture
def threads_from(client, monkeypatch) -> list[int]:
    """The number of the input from which on a thread reads, for each that is started; there is a link to the server."""
    client.call("work.same", 1)
    found: list[int] = []

    def start(target, name, inputs, number):
        assert name == "palm-inputs"
        found.append(number)
        start_thread(target, name, inputs, number)

    monkeypatch.setattr(work, "start_thread", start)
    return found


@pytest.mark.parametrize("inputs", [[1, 2, 3], (1, 2, 3), range(1, 4), np.arange(1, 4)])
def test_what_is_at_hand_is_sent_without_a_thread(client, threads_from, inputs):
    assert list(client.job("work.same", inputs, ordered=True)) == [1, 2, 3]
    assert threads_from == []


def test_what_is_at_hand_and_has_no_room_is_read_by_a_thread(client, threads_from):
    assert list(client.job("work.same", [1, 2, 3], window=1, ordered=True)) == [1, 2, 3]
    assert list(client.job("work.same", range(100_000), ordered=True)) == [*range(100_000)]
    assert threads_from[0] == 1 and 1 < threads_from[1] < 100_000


def test_what_takes_time_is_read_by_a_thread(client, threads_from, monkeypatch):
    assert list(client.job("work.same", iter([1, 2, 3]), ordered=True)) == [1, 2, 3]
    monkeypatch.setattr(work, "AT_ONCE", 0.0)
    assert list(client.job("work.same", [1, 2, 3], ordered=True)) == [1, 2, 3]
    assert threads_from == [0, 0]


def test_what_is_at_hand_and_cannot_be_sent_is_told_to_who_iterates(client, threads_from):
    job = client.job("work.same", [1, 2, object], ordered=True)
    with pytest.raises(palm.PayloadError, match="input 2: "):
        list(job)
    assert threads_from == []


# ------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("steps", "inputs", "results"),
    [
        ("work.same", range(0), []),
        ("work.same", range(1), [0]),
        ("work.same", range(3000), range(3000)),
        (["work.odd", "second.same"], range(300), range(1, 300, 2)),
        (["work.odd", "second.odd", "work.same"], range(300), range(1, 300, 2)),
        ("work.odd", [0] * 50, []),
        (["work.upto", "second.same"], [3, 0, 2], [0, 1, 2, 0, 1]),
        (["work.upto", "second.odd"], [4, 0, 3], [1, 3, 1]),
        (["work.upto", "second.twice", "work.same"], [2, 3], [0, 0, 1, 1, 0, 0, 1, 1, 2, 2]),
        (["work.upto", "work.upto", "work.upto"], [4], [0, 0, 0, 1]),
        (["second.twice"] * 8, [1], [1] * 256),
        (["work.same", "second.same"] * 20, range(20), range(20)),
    ],
)
def test_a_job_ends_by_itself(client, steps, inputs, results):
    """R3: with filters, splits and generators in it; nobody passes a count."""
    job = client.job(steps, inputs, ordered=True)
    assert list(job) == list(results)
    assert (job.progress.sent, job.progress.done, job.progress.total) == (len(inputs),) * 3
    assert not job.errors
    assert list(job) == [], "and stays at its end"


@pytest.mark.parametrize("window", [1, 2, 64, None])
def test_what_goes_in_comes_out_by_name(client, window):
    """R2: produced == results + drops + errors, by name."""
    inputs = list(range(500))
    job = client.job(["work.mixed", "second.same"], inputs, on_error="skip", window=window)
    got: dict[int, list[object]] = {}
    for number, value in job.items():
        got.setdefault(number, []).append(value)
    failed = sorted(e.number for e in job.errors)
    assert failed == [n for n in inputs if n % 5 in (2, 4)]
    for n in inputs:
        match n % 5:
            case 1:
                assert got[n] == [n]
            case 3:
                assert sorted(got.get(n, [])) == list(range(n % 4))
            case 0 | 2:
                assert n not in got
            case 4:
                assert got.get(n, [n]) == [n], "a child that was sent before the error may arrive, no other"
    p = job.progress
    assert (p.sent, p.done, p.failed) == (500, 500, 200)
    assert p.dropped == sum(n % 5 == 0 or (n % 5 == 3 and n % 4 == 0) for n in inputs)


def test_ordered(client):
    steps = ["work.upto", "second.twice", "work.same"]
    expected = [v for n in (3, 0, 5, 1) for v in range(n) for _ in range(2)]
    assert list(client.job(steps, [3, 0, 5, 1], ordered=True)) == expected
    assert sorted(client.job(steps, [3, 0, 5, 1])) == sorted(expected)
    items = list(client.job(steps, [2, 0, 1], ordered=True).items())
    assert items == [(0, 0), (0, 0), (0, 1), (0, 1), (2, 0), (2, 0)]


def test_numbers_without_inputs(client):
    job = client.job(["second.twice", "second.same"], [5])
    assert sorted(job.items()) == [(0, 5), (0, 5)]


# --------------------------------------------------------------------------------------------------- inputs, lazily


@pytest.mark.parametrize("window", [1, 3, 64])
def test_inputs_are_read_at_most_a_window_ahead(client, window):
    """R18: endless generators are fine."""
    read = taken = 0
    ahead = []

    def endless():
        nonlocal read
        while True:
            ahead.append(read - taken)
            read += 1
            yield read

    with client.job(["work.same", "second.same"], endless(), window=window) as job:
        for _ in job:
            taken += 1
            if taken == 500:
                break
    assert max(ahead) <= window + 1, "one is in the reader's hand"
    assert taken <= read <= taken + window + 1
    eventually(reader_is_gone)


def test_nothing_is_read_while_nobody_takes_results(client):
    read = []

    def endless():
        while True:
            read.append(1)
            yield 1

    with client.job("work.same", endless(), window=10) as job:
        next(job)
        eventually(lambda: len(read) >= 10)
        for _ in range(20):
            client.call("second.same", 1)
        assert len(read) <= 1 + 64 + 10, "the batch that came with the first result, and a window"


def test_inputs_that_raise(client):
    """What inputs raise cancels the job and is raised as it is."""

    class Mine(Exception):
        pass

    error = Mine("mine")

    def inputs():
        yield 1
        yield 2
        raise error

    with pytest.raises(Mine) as caught:
        list(client.job("work.same", inputs()))
    assert caught.value is error
    with pytest.raises(Mine):
        client.job("work.same", inputs()).wait(10)
    with pytest.raises(Mine):
        list(client.map("work.same", inputs()))
    assert client.call("work.same", 1) == 1


def test_inputs_whose_iter_raises(client):
    class Bad:
        def __iter__(self):
            raise OSError("not today")

    with pytest.raises(OSError, match="not today"):
        list(client.job("work.same", Bad()))


def test_inputs_that_are_none(client):
    with pytest.raises(TypeError, match="iterable"):
        list(client.job("work.same", 5))


def test_inputs_that_cannot_be_sent(client):
    with pytest.raises(palm.PayloadError, match=r"input 2.*object"):
        list(client.job("work.same", [1, 2, object(), 4]))
    assert list(client.job("work.same", [1])) == [1]


def test_a_generator_of_inputs_is_closed_in_its_own_thread(client):
    closed = threading.Event()

    def inputs():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with client.job("work.same", inputs(), window=4) as job:
        next(job)
    assert closed.wait(10)
    eventually(reader_is_gone)


def test_async_inputs_and_async_iteration(client):
    async def inputs():
        for n in range(100):
            await asyncio.sleep(0)
            yield n

    assert list(client.job("work.double", inputs(), ordered=True)) == list(range(0, 200, 2))

    async def main():
        return [v async for v in client.job("work.double", inputs(), ordered=True)]

    assert asyncio.run(main()) == list(range(0, 200, 2))


def test_async_inputs_that_raise(client):
    async def inputs():
        yield 1
        raise LookupError("async")

    with pytest.raises(LookupError, match="async"):
        list(client.job("work.same", inputs()))


def test_slow_inputs_do_not_hold_up_results(client):
    """An input goes at once when nothing is under way, even if the next one never comes."""
    asked, go_on = threading.Event(), threading.Event()

    def inputs():
        yield 1
        asked.set()
        go_on.wait(30)

    with client.job("work.same", inputs()) as job:
        assert next(job) == 1
        assert asked.wait(10)
        go_on.set()
        assert list(job) == []


def test_slow_inputs_that_follow_quick_ones(client):
    """A batch that has begun does not wait for company forever."""
    go_on = threading.Event()

    def inputs():
        yield from range(10)
        go_on.wait(30)

    with client.job("work.same", inputs()) as job:
        assert sorted(next(job) for _ in range(10)) == list(range(10))
        go_on.set()
        assert list(job) == []


def test_empty_inputs(client):
    job = client.job("work.same", [])
    assert list(job) == [] and job.progress.total == 0
    assert client.job("work.same", iter(())).wait(10).sent == 0


# ---------------------------------------------------------------------------------------------------------- errors


def test_on_error_raise(client):
    job = client.job("work.boom_at_seven", range(1000))
    with pytest.raises(palm.RemoteError, match="no 7") as caught:
        list(job)
    assert (caught.value.number, caught.value.function, caught.value.type) == (7, "boom_at_seven", "ValueError")
    assert job.errors[0].number == 7
    eventually(reader_is_gone)
    assert client.call("work.same", 1) == 1


def test_on_error_raise_stays_raised(client):
    job = client.job("work.boom_at_seven", [7])
    for _ in range(2):
        with pytest.raises(palm.RemoteError, match="no 7"):
            next(job)


def test_on_error_skip(client):
    job = client.job("work.boom_at_seven", range(100), on_error="skip", ordered=True)
    assert list(job) == [n for n in range(100) if n % 10 != 7]
    assert sorted(e.number for e in job.errors) == list(range(7, 100, 10))
    assert (job.progress.failed, job.progress.done) == (10, 100)


def test_on_error_return(client):
    job = client.job(["work.boom_at_seven", "second.same"], range(20), on_error="return", ordered=True)
    results = list(job)
    assert [n for n, r in enumerate(results) if isinstance(r, palm.RemoteError)] == [7, 17]
    assert [r for r in results if not isinstance(r, palm.RemoteError)] == [n for n in range(20) if n % 10 != 7]
    assert results[17].number == 17


def test_an_error_down_the_pipeline_says_where(client):
    with pytest.raises(palm.RemoteError) as caught:
        list(client.job(["second.same", "work.same", "work.boom_at_seven"], [7]))
    assert (caught.value.server, caught.value.function) == ("work", "boom_at_seven")


def test_a_generator_that_fails_after_some(client):
    job = client.job("work.mixed", [4, 9, 1], on_error="skip", ordered=True)
    assert list(job.items()) == [(0, 4), (1, 9), (2, 1)]
    assert sorted(e.number for e in job.errors) == [0, 1]


@pytest.mark.parametrize("options", [{"on_error": "ignore"}, {"window": 0}, {"window": -1}])
def test_wrong_options(client, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        client.job("work.same", [1], **options)


# ------------------------------------------------------------------------------------------------ into, wait, progress


def test_into_an_array_and_a_memmap(client, tmp_path):
    expected = np.repeat(np.arange(100), 4).reshape(100, 4)
    out = np.zeros((100, 4), np.float64)
    assert client.job("second.row", range(100)).into(out) is out
    assert np.array_equal(out, expected)
    mapped = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (100, 4))
    client.job("second.row", range(100)).into(mapped)
    del mapped
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)


def test_into_leaves_holes_where_nothing_came(client):
    out = np.full(10, -1)
    client.job("work.odd", range(10)).into(out)
    assert out.tolist() == [-1, 1, -1, 3, -1, 5, -1, 7, -1, 9]
    out = np.full(10, -1)
    job = client.job("work.boom_at_seven", range(10), on_error="return")
    job.into(out)
    assert out.tolist() == [*range(7), -1, 8, 9] and len(job.errors) == 1


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.zeros((3, 4), np.float32), IndexError),
        (np.zeros((9, 5)), ValueError),
        (np.zeros((9, 4), int), TypeError),
        ([0] * 9, TypeError),
        (np.zeros(()), TypeError),
        (np.broadcast_to(0.0, (9, 4)), ValueError),
    ],
)
def test_into_what_does_not_fit(client, out, error):
    with pytest.raises(error):
        client.job("second.row", range(9)).into(out)
    eventually(reader_is_gone)
    assert client.call("work.same", 1) == 1


def test_wait_and_progress(client):
    job = client.job("work.odd", range(1000))
    p = job.wait(20)
    assert (p.sent, p.done, p.failed, p.dropped, p.total) == (1000, 1000, 0, 500, 1000)
    assert job.progress == p
    assert list(job) == []
    with pytest.raises(palm.RemoteError, match="no 7"):
        client.job("work.boom_at_seven", range(10)).wait()


def test_total_is_unknown_until_the_inputs_have_ended(client):
    go_on = threading.Event()

    def inputs():
        yield from range(5)
        go_on.wait(30)

    with client.job("work.same", inputs()) as job:
        assert len([next(job) for _ in range(5)]) == 5
        assert job.progress.total is None
        go_on.set()
        assert job.wait(10).total == 5


def test_wait_may_be_waited_for_again(client, tmp_path):
    there = tmp_path / "there"
    job = client.job("second.wait_for", [str(there)])
    with pytest.raises(palm.Timeout, match="0.05 s"):
        job.wait(0.05)
    there.touch()
    assert job.wait(10).done == 1


def test_the_progress_bar(client, capfd):
    assert list(client.job(["work.same", "second.same"], range(10), ordered=True, progress=True)) == list(range(10))
    assert "10/10" in capfd.readouterr().err


def test_stats_say_which_step_limits(client):
    with client.job(["work.same", "second.same"], range(100)) as job:
        job.wait(10)
        stats = job.stats()
    assert set(stats["steps"]) == {"work.same", "second.same"}
    assert stats["limits"] in stats["steps"]
    assert all(s["calls"] >= 100 and s["seconds"] > 0 for s in stats["steps"].values())


# --------------------------------------------------------------------------------------------------- ending early


def endless_inputs(read):
    while True:
        read.append(1)
        yield 1


@pytest.mark.parametrize("how", ["with", "drop", "cancel", "close the client"])
def test_a_job_that_is_left_reads_no_more(servers, how):
    read: list[int] = []
    client = servers.client()
    job = client.job(["work.same", "second.same"], endless_inputs(read), window=8)
    assert next(job) == 1
    if how == "with":
        with job:
            pass
    elif how == "drop":
        del job
        gc.collect()
    elif how == "cancel":
        job.cancel()
        with pytest.raises(palm.Cancelled):
            list(job)
    else:
        client.close()
        with pytest.raises(palm.Disconnected):
            list(job)
    eventually(reader_is_gone)
    before = len(read)
    client.close()
    assert len(read) == before


def test_stop_lets_arrive_what_is_under_way(client):
    read: list[int] = []

    def inputs():
        for n in range(10**9):
            read.append(n)
            yield n

    job = client.job("work.same", inputs(), ordered=True, window=16)
    found = [next(job) for _ in range(5)]
    job.stop()
    found += list(job)
    assert found == list(range(job.progress.sent)) and job.progress.done == job.progress.sent
    assert len(read) - len(found) in (0, 1)


def test_leaving_a_block_by_an_exception(client):
    read: list[int] = []
    with pytest.raises(ZeroDivisionError), client.job("work.same", endless_inputs(read)) as job:
        next(job)
        raise ZeroDivisionError
    eventually(reader_is_gone)


def test_the_timeout_of_a_job(client, tmp_path):
    there = tmp_path / "there"
    began = time.monotonic()
    with pytest.raises(palm.Timeout, match=r"1 s.*1 inputs sent"):
        list(client.job("second.wait_for", [str(there)], timeout=1.0))
    assert 1.0 <= time.monotonic() - began < 10
    there.touch()
    assert client.call("second.same", 1, timeout=10) == 1


def test_a_queued_job_that_is_cancelled_is_not_run(client, tmp_path):
    """What is queued is dropped at once (R30)."""
    there, late = tmp_path / "there", tmp_path / "late"
    first = client.job("second.wait_for", [str(there)])
    queued = client.job("second.wait_for", [str(late)] * 100)
    eventually(lambda: queued.progress.sent == 100)
    queued.cancel()
    there.touch()
    assert list(first) == [str(there)]
    assert client.call("second.same", 1, timeout=10) == 1, "100 waits of 30 s would have come first"


# --------------------------------------------------------------------------------------------------- many at a time


def test_two_jobs_by_turns(client):
    a = client.job(["work.same", "second.same"], range(2000), ordered=True)
    b = client.job(["second.same", "work.double"], range(2000), ordered=True)
    pairs = list(zip(a, b, strict=True))
    assert pairs == [(n, 2 * n) for n in range(2000)]


def test_a_job_as_input_of_another(client):
    first = client.job("work.double", range(500), ordered=True)
    assert list(client.job("second.same", first, ordered=True)) == list(range(0, 1000, 2))


def test_calls_inside_the_loop_of_a_job(client):
    for n in client.job("work.same", range(200), ordered=True):
        assert client.call("work.double", n) == 2 * n


def test_jobs_in_threads(client):
    def run(k):
        return list(client.job(["work.same", "second.same"], range(k, k + 500), ordered=True))

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(run, range(12))) == [list(range(k, k + 500)) for k in range(12)]


@pytest.mark.parametrize("size", [1, 20_000])
def test_one_job_read_by_threads(client, size):
    """Readers that let go of the interpreter take turns within what one of them has taken."""
    lock = threading.Lock()

    def read(job, found):
        for x in job:
            mean = x.mean()
            with lock:
                found.append(mean)

    for _ in range(5):
        found = []
        job = client.job("work.same", (np.full(size, float(i)) for i in range(400)))
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for f in [pool.submit(read, job, found) for _ in range(4)]:
                f.result(30)
        assert sorted(found) == list(range(400))


def test_arrays_of_all_sizes_through_two_servers(client):
    sizes = [0, 1, 100, 2047, 2048, 2049, 100_000, 1_000_000]
    with palm.arena():
        arrays = [np.arange(n, dtype=np.float64) for n in sizes]
    for x, y in zip(arrays, client.job(["work.same", "second.same"], arrays, ordered=True), strict=True):
        assert np.array_equal(x, y) and y.dtype == x.dtype and not y.flags.writeable


def test_a_job_of_large_arrays_is_bounded_by_bytes(client):
    """The window counts bytes too: 512 MiB under way, whatever the number (R17)."""
    under_way = []

    def inputs():
        for _ in range(40):
            under_way.append(job.progress.sent - job.progress.done if made.wait(30) else 0)
            yield np.ones(8 << 20)  # 64 MiB

    made = threading.Event()
    job = client.job("work.same", inputs())
    made.set()
    assert sum(x.nbytes for x in job) == 40 * (64 << 20)
    assert max(under_way) <= 8


@pytest.mark.parametrize("index", [(1 << 32) - 1, 1 << 32, 1 << 40, (1 << 48) - 1])
def test_a_child_that_cannot_be_fails_its_input_alone(client, index):
    """A peer may write any index, but tells and is told of 2^32 - 1 children at most."""
    job = client.job("work.claims", [index, index], on_error="skip")
    assert set(job) <= set(range(1000))
    assert [e.type for e in job.errors] == ["Nondeterministic"] * 2
    assert client.call("work.same", 1) == 1


def test_what_receiving_raises_ends_the_job_it_belongs_to(client):
    """Whoever's thread receives; the others go on."""
    client.call("work.same", 1)
    job, other = client.job("work.same", range(1000)), client.job("work.same", range(1000))

    def receive(event):
        raise ZeroDivisionError("on purpose")

    job._work.receive = receive
    assert sorted(other) == list(range(1000))
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        list(job)
    works = [w for w in client._connection.works.values() if isinstance(w, Calls)]
    [calls] = [w for w in works if w.route.steps[0].server != REGISTRY]
    broken = SimpleNamespace(receive=receive, broken=calls.broken, key=calls.key)
    incoming = client._connection._incoming
    incoming.update({place: broken for place, work in incoming.items() if work is calls})
    with pytest.raises(palm.PalmError, match="on purpose"):
        client.call("work.same", 1)
    assert client.call("work.same", 1) == 1, "by other calls"
