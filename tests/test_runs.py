# SPDX-License-Identifier: BSD-3-Clause
"""Runs, messages that travel as one record: nobody sees more of them than that they are quick (R2, R3, B5)."""

from __future__ import annotations

import gc
import os
import signal
import time

import numpy as np
import pytest
from conftest import eventually

import palm
from palm._core import node as core
from palm._core.book import Book
from palm._core.frame import pack, unpack
from palm._core.lock import Lock
from palm._core.stack import items_of
from palm.window import MOST

N = 20_000  # messages: several windows' worth of envelopes
NUMBERS = [
    *(
        sign * (2**bits + more)
        for bits in (0, 4, 5, 7, 8, 15, 16, 31, 32, 62)
        for more in (-1, 0, 1)
        for sign in (1, -1)
    ),
    *(2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 2**200),
    *(0.0, -0.0, 1.5, -1e300, 5e-324, float("inf"), float("-inf")),
    *(True, False, None, "", "a", b"", b"b", 1 + 2j, np.float32(2.5), np.int8(-3)),
]
ARRAYS = {
    "rows": np.arange(N * 8.0).reshape(N, 8),
    "numbers": np.arange(float(N)),
    "bytes": (np.arange(N) % 251).astype(np.uint8),
    "odd rows": np.arange(3 * N, dtype=np.int16).reshape(N, 3),
    "turned": np.arange(N * 4.0).reshape(4, N).T,
    "backwards": np.arange(N * 4.0).reshape(N, 4)[::-1, ::-1],
    "every other": np.arange(N * 8.0).reshape(2 * N, 4)[::2, 1:],
    "one for all": np.broadcast_to(np.arange(4.0), (N, 4)),
    "matrices": np.arange(N * 6, dtype=np.complex64).reshape(N, 2, 3),
    "big-endian": np.arange(N * 2.0).astype(">f8").reshape(N, 2),
    "big-endian numbers": np.arange(float(N)).astype(">f8"),
    "without bytes": np.zeros((N, 0)),
    "records": np.array([(i, i / 2) for i in range(N)], [("a", "i4"), ("b", "f8")]).reshape(N, 1),
    "texts": np.array([["ab", "cde"]] * N),
    "dates": np.arange(N).astype("datetime64[s]").reshape(N, 1),
    "large": np.arange(40 * 4096.0).reshape(40, 4096),
    "none": np.zeros((0, 8)),
}


class Hand(palm.Server):
    """`seen` has how many messages the calls of `stacked` got."""

    def setup(self):
        self.seen = []

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def kind(self, x):
        return type(x).__name__, str(x.dtype), x.shape

    @palm.function(batch=True)
    def stacked(self, x):
        self.seen.append(len(x))
        return x

    @palm.function(batch=True)
    def doubled(self, x):
        return x * 2

    @palm.function(batch=True)
    def sums(self, x):
        return x.sum(axis=1)

    @palm.function(batch=True)
    def not_seven(self, x):
        if (x[:, 0] % 1000 == 7).any():
            raise ValueError("seven")
        return x

    @palm.function(batch=True)
    def kept(self, x):
        self.mine = x + 1
        return self.mine

    @palm.function(batch=True)
    def none(self, x):
        return None

    @palm.function
    def now_and_then(self, x):
        if x % 100 == 99:
            time.sleep(0.005)
        return x

    @palm.function(timeout=1.0)
    def at_ease(self, x):
        if x:
            time.sleep(0.6)
        return x

    @palm.function
    def never(self, x):
        time.sleep(0.05)
        raise ValueError(x)

    @palm.function
    def what_was_seen(self):
        return self.seen

    @palm.function
    def pid(self):
        return os.getpid()


class Hands(palm.Butterfly):
    same, doubled = Hand.same, Hand.doubled

    @palm.function
    def pid(self):
        return os.getpid()


def started(cluster):
    """Its client, when all links are open that jobs here need, and arenas are mapped."""
    cluster.start(Hand, name="a")
    cluster.start(Hand, name="b")
    cluster.start(Hands, name="hands", workers=2)
    client = cluster.client()
    for steps in (["a.same", "hands.same", "b.same"], ["hands.same"], ["a.same"]):
        client.job(steps, (np.zeros(4096) for _ in range(500))).wait()
    return client


@pytest.fixture(scope="module", params=["rings", "sockets", "frames"])
def client(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALM_LINK", "" if request.param == "rings" else request.param)
        with palm.Cluster() as cluster:
            yield started(cluster)


def in_order(job):
    return [value for _, value in sorted(job.items(), key=lambda item: item[0])]


@pytest.mark.parametrize("step", ["a.same", "a.stacked", "hands.same"])
@pytest.mark.parametrize("kind", [k for k in ARRAYS if k not in ("records", "texts", "dates")])
def test_an_array_s_items_come_back(client, kind, step):
    sent = ARRAYS[kind]
    got = in_order(client.job(step, sent))
    assert len(got) == len(sent)
    for a, b in zip(sent, got, strict=True):
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
    assert not sent.size or np.array_equal(np.stack(got), sent)


@pytest.mark.parametrize("kind", ["records", "texts", "dates"])
def test_arrays_of_other_things_too(client, kind):
    sent = ARRAYS[kind]
    assert np.array_equal(np.stack(in_order(client.job(["a.same", "b.same"], sent))), sent)


def test_what_a_function_gets_is_as_ever(client):
    assert client.job("a.kind", ARRAYS["odd rows"]).wait().done == N
    assert set(client.job("a.kind", ARRAYS["odd rows"])) == {("ndarray", "int16", (3,))}
    assert set(client.job("a.kind", ARRAYS["numbers"])) == {("float64", "float64", ())}


def test_results_of_a_batch_function_come_as_an_array(client):
    rows, out = ARRAYS["rows"], np.zeros((N, 8))
    assert client.job("a.doubled", rows).into(out) is out and np.array_equal(out, 2 * rows)
    sums = client.job("a.sums", rows).into(np.zeros(N))
    assert np.array_equal(sums, rows.sum(axis=1))
    assert np.array_equal(np.array(in_order(client.job(["a.doubled", "hands.doubled", "b.sums"], rows))), 4 * sums)
    assert {type(s) for s in client.job("a.sums", rows)} == {np.float64}


def test_many_go_into_a_call(client):
    before = len(client.call("a.what_was_seen"))
    client.job("a.stacked", np.arange(1e6).reshape(-1, 2)).wait()
    seen = client.call("a.what_was_seen")[before:]
    assert sum(seen) == 500_000 and max(seen) > 256 and len(seen) < 500_000 / 256


def test_results_in_order_and_by_number(client):
    rows = ARRAYS["rows"]
    assert all(np.array_equal(a, b) for a, b in zip(client.job("hands.same", rows, ordered=True), rows, strict=True))
    assert all(y[0] == 8.0 * n for n, y in client.job("hands.same", rows).items())
    assert list(client.map("a.sums", rows[:3000])) == list(rows[:3000].sum(axis=1))


def test_nobody_but_the_culprit_fails(client):
    job = client.job("a.not_seven", ARRAYS["rows"][:2000] / 8, on_error="skip")
    out = job.into(np.full((2000, 8), -1.0))
    seven = [n for n in range(2000) if n % 1000 == 7]
    assert sorted(e.number for e in job.errors) == seven and (out[seven] == -1).all()
    rest = np.delete(np.arange(2000), seven)
    assert np.array_equal(out[rest], ARRAYS["rows"][rest] / 8)
    with pytest.raises(palm.RemoteError, match="seven"):
        client.job("a.not_seven", ARRAYS["rows"][:2000] / 8).wait()
    client.call("a.same", 1)  # what had been sent by then is taken


def test_what_a_function_keeps_is_not_changed_by_others(client):
    first = client.job("a.kept", np.zeros((500, 64)))
    values = list(first)
    client.job("a.kept", np.ones((500, 64))).wait()
    assert all((v == 1).all() for v in values) and not values[0].flags.writeable


def test_nothing_comes_of_nothing(client):
    progress = client.job("a.none", ARRAYS["rows"]).wait()
    assert progress.done == progress.dropped == N


def test_rows_stay_as_long_as_somebody_has_one(client):
    kept = [y for n, y in client.job("a.doubled", ARRAYS["rows"]).items() if n % 997 == 0]
    gc.collect()
    client.job("a.doubled", -ARRAYS["rows"]).wait()
    assert sorted(y[0] for y in kept) == [16.0 * n for n in range(0, N, 997)]


@pytest.mark.parametrize("window", [1, 3, 700])
def test_no_more_are_under_way_than_the_window_has(client, window):
    sent = []

    def looked(job):
        for y in job:
            p = job.progress
            sent.append(p.sent - p.done)
            yield y

    rows = ARRAYS["rows"][:2000]
    assert sorted(y[0] for y in looked(client.job("a.same", rows, window=window))) == [8.0 * n for n in range(2000)]
    assert max(sent) <= window


def test_an_array_is_read_as_far_as_there_is_room(client):
    rows = np.zeros((20 * MOST, 1))
    job = client.job("a.same", rows)
    next(job)
    eventually(lambda: job.progress.done == job.progress.sent)
    assert job.progress.sent <= MOST + 4096 and job.progress.total == len(rows)
    job.cancel()


def test_into_says_what_does_not_fit(client):
    rows = ARRAYS["rows"][:100]
    with pytest.raises(IndexError, match="input 90 has no place in an array of 90 rows"):
        client.job("a.doubled", rows).into(np.zeros((90, 8)))
    with pytest.raises(ValueError, match=r"input 0 has shape \(8,\), a row of `out` \(7,\)"):
        client.job("a.doubled", rows).into(np.zeros((100, 7)))
    with pytest.raises(TypeError, match="does not cast to int64"):
        client.job("a.doubled", rows).into(np.zeros((100, 8), int))
    assert client.job("a.doubled", rows).into(np.zeros((200, 8), np.float32))[99, 0] == 2 * rows[99, 0]


def test_values_of_one_size_come_back(client):
    for n in (1, 2, 5):
        values = [v for v in NUMBERS if v is not None for _ in range(n)]
        got = in_order(client.job("hands.same", iter(values)))
        assert got == values and list(map(type, got)) == list(map(type, values))
    equal = [bytes([i % 256]) * 64 for i in range(3000)]
    assert in_order(client.job(["a.same", "hands.same", "b.same"], equal)) == equal
    small = [np.full((2, 3), float(i)) for i in range(3000)]
    assert np.array_equal(in_order(client.job(["a.same", "hands.same", "b.same"], small)), small)


@pytest.mark.parametrize("value", [v for v in NUMBERS if type(v) in (int, float)])
def test_numbers_are_msgpack_as_others_write_it(value):
    got = unpack(pack(value))
    assert got == value and type(got) is type(value) and str(got) == str(value)


def test_a_slow_call_among_quick_ones_is_told_from_them(client):
    """Though quick ones are not timed one by one."""
    assert sum(client.job("a.now_and_then", range(3000))) == sum(range(3000))
    [server] = [s for s in client.status()["servers"] if s["name"] == "a"]
    times = server["counters"]["functions"]["now_and_then"]["service_time"]
    counts = dict(zip(times["le_seconds"], times["counts"], strict=True))
    assert sum(counts.values()) == 3000
    assert sum(n for limit, n in counts.items() if limit is None or limit > 0.005) >= 30
    assert sum(n for limit, n in counts.items() if limit is not None and limit < 1e-5) > 2000
    assert server["counters"]["functions"]["now_and_then"]["busy_seconds"] > 30 * 0.005


def test_each_of_several_has_the_time_that_it_may_take():
    """Wherever among those that are timed together."""
    with palm.Cluster() as cluster:
        cluster.start(Hand, name="a")
        for n in range(4):
            inputs = [0] * (20 + n) + [1, 1]
            assert sorted(cluster.client().job("a.at_ease", inputs)) == inputs


def test_failures_are_told_before_all_of_an_envelope_has_failed(client):
    job = client.job("a.never", range(20), on_error="return")
    two = [next(job), next(job)]  # the first one goes alone
    assert all(isinstance(e, palm.RemoteError) for e in two) and job.progress.failed < 20
    assert job.wait().failed == 20


def test_no_room_is_no_less_than_none():
    batch, items = core.Batch(), items_of(np.zeros((10, 2)))
    assert batch.fill(items, 50, -5, 0, Book(), Lock()) == (0, False) and not len(batch)
    assert batch.fill(items, 50, 4, 0, Book(), Lock()) == (4, False)
    assert batch.fill(items, 54, 100, 0, Book(), Lock()) == (6, True) and len(batch) == 10


def test_a_run_of_what_has_no_bytes_is_handed_on(client):
    rows = np.zeros((3000, 4, 0))
    assert {y.shape for y in client.job(["hands.same", "a.same", "hands.same"], rows)} == {(4, 0)}


@pytest.mark.parametrize("name", ["a", "hands"])
def test_what_is_under_way_is_repeated_after_a_death(name):
    """Of a run, what is not done; whoever dies."""
    rows, got = np.arange(400_000.0).reshape(-1, 2), []
    with palm.Cluster() as cluster:
        client = started(cluster)
        pid = client.call(f"{name}.pid")
        for n, y in client.job([f"{name}.doubled", "b.same"], rows).items():
            if len(got) == 30_000:
                os.kill(pid, signal.SIGKILL)
            got.append((n, y[0]))
        assert sorted(got) == [(n, 4.0 * n) for n in range(len(rows))]
