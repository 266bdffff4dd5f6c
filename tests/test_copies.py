# SPDX-License-Identifier: BSD-3-Clause
"""How often bytes are copied: never where it can be avoided, once where it cannot, and counted (R24, R25, B1)."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import eventually
from helpers_arrays import counters, difference, moved, place, settle

import palm
from palm._core.space import LENT

N = 1 << 16  # float64: 512 KiB


class Work(palm.Server):
    def setup(self):
        self.acc = np.zeros(N)
        self.views = []

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def reset(self):
        self.setup()

    @palm.function
    def double(self, x):
        return x * 2

    @palm.function
    def double_named(self, x):
        y = x * 2
        return y

    @palm.function
    def rfft(self, x):
        return np.fft.rfft(x)

    @palm.function
    def sort(self, x):
        return np.sort(x)

    @palm.function
    def every_second(self, x):
        return x[::2]

    @palm.function
    def every_second_of_new(self, x):
        y = x + 1
        return y[::2]

    @palm.function
    def reshaped(self, x):
        return (x + 1).reshape(-1, 4).T

    @palm.function
    def astype(self, x):
        return x.astype(np.float32)

    @palm.function
    def masked(self, x):
        return x[x >= 0]

    @palm.function
    def windows(self, x):
        return np.lib.stride_tricks.sliding_window_view(x, 3)

    @palm.function
    def in_tuple(self, x):
        return x * 2, x[::2], np.sort(x)

    @palm.function
    def in_dict(self, x):
        return {"a": x * 2, "b": [x, (np.fft.rfft(x), {1: x[5:]})]}

    @palm.function
    def through_buffer(self, x):
        return np.frombuffer(memoryview(x), "u1").view("f8")

    @palm.function
    def accumulate(self, x):
        self.acc += x
        return self.acc

    @palm.function
    def view_of_kept(self, x):
        self.acc += x
        return self.acc[::2]

    @palm.function
    def kept_view(self, x):
        y = x * 2
        self.views = [y[:5]]
        return y

    @palm.function
    def kept_in_tree(self, x):
        self.acc += x
        return {"new": x * 2, "kept": [self.acc]}

    @palm.function
    def kept_tuple(self, x):
        self.views = (x * 2, 1)
        return self.views

    @palm.function
    def buffer_of_kept(self, x):
        self.acc += x
        return np.frombuffer(memoryview(self.acc), self.acc.dtype)

    @palm.function
    def windows_of_kept(self, x):
        self.acc += x
        return np.lib.stride_tricks.sliding_window_view(self.acc, 3)

    @palm.function
    def strided_over_kept(self, x):
        self.acc += x
        return np.lib.stride_tricks.as_strided(self.acc, (N // 2,), (16,))

    @palm.function
    def closed_over(self, x):
        y = x * 2
        self.views = [lambda: y]
        return y

    @palm.function
    def yields_named(self, x):
        for k in range(3):
            y = x + k
            yield y
            y += 100  # what has been yielded must not change

    @palm.function
    def yields_new(self, x):
        for k in range(3):
            yield x + k

    @palm.function
    def from_thread(self, x):
        made = []
        thread = threading.Thread(target=lambda: made.append(x * 2))
        thread.start()
        thread.join()
        return made.pop()

    @palm.function
    def foreign(self, x):
        return np.frombuffer(bytes(x.nbytes))

    @palm.function
    def under_arena(self, x):
        if not self.views:
            with palm.arena():
                self.views = [np.arange(x.size, dtype="f8")]
        return self.views[0]

    @palm.function
    def frozen_and_kept(self, x):
        y = x * 2
        y.flags.writeable = False
        self.views = [y]
        return y

    @palm.function
    def view_of_frozen_and_kept(self, x):
        y = x * 2
        self.views = [y, y[:]]  # the second can be written to whatever becomes of the first
        y.flags.writeable = False
        return y[1:]

    @palm.function
    def overwrite_what_was_frozen(self):
        self.views[0].flags.writeable = True
        for y in self.views:
            y[:] = -7

    @palm.function
    def allocate(self, counts):
        large, small = counts
        for _ in range(large):
            np.empty(1 << 20)
        for _ in range(small):
            np.empty(100)


@pytest.fixture(scope="module")
def client() -> Iterator[palm.Client]:
    with palm.Cluster() as cluster:
        for name in ("work", "second", "third"):
            cluster.start(Work, name)
        client = cluster.client()
        for name in ("work", "second", "third"):
            client.call(f"{name}.double", shared(N))
        list(client.job(["work.same", "second.same", "third.double"], [shared(N)]))
        settle()
        yield client


def shared(n: int) -> np.ndarray:
    with palm.arena():
        return np.random.default_rng(1).normal(size=n)


# ------------------------------------------------------------------------------------------------- nothing copied

FREE = [
    *("same", "double", "double_named", "rfft", "sort", "every_second", "every_second_of_new", "reshaped", "astype"),
    *("masked", "windows", "in_tuple", "in_dict", "through_buffer", "under_arena", "yields_new"),
]


@pytest.mark.parametrize("function", FREE)
def test_copies_nothing(client: palm.Client, function: str) -> None:
    x = shared(N)
    with moved() as here, moved(client, "work") as there:
        client.call(f"work.{function}", x)
    for m in (here, there):
        assert m["bytes_copied"] == m["copied_kept"] == m["copied_foreign"] == m["copied_thread"] == 0
        assert m["sent_arena"] >= 1
        assert m["sent_frames"] == 0


def test_64_mib_through_three_servers(client: palm.Client) -> None:
    x = shared(8 << 20)
    steps = ["work.same", "second.every_second", "third.double"]
    before = [counters(client, name) for name in ("work", "second", "third")]
    with moved() as here:
        [got] = client.job(steps, [x])
    after = [counters(client, name) for name in ("work", "second", "third")]
    assert np.array_equal(got, x[::2] * 2)
    assert here["bytes_copied"] == 0 and here["sent_arena"] == 1
    for b, a in zip(before, after, strict=True):
        m = difference(b, a)
        assert m["bytes_copied"] == 0 and m["sent_arena"] == 1


def test_forwarded_is_the_same_memory(client: palm.Client) -> None:
    x = shared(N)
    [got] = client.job(["work.same", "second.every_second", "third.same"], [x])
    assert place(got) == place(x)


def test_what_came_home_is_lent_again_though_it_is_kept(client: palm.Client) -> None:
    got = client.call("work.same", shared(N))
    with moved() as here:
        for x in (got, got[1:], got.reshape(4, -1).T):
            assert np.array_equal(client.call("work.same", x), x)
    assert here["bytes_copied"] == here["copied_kept"] == 0 and here["sent_arena"] == 3


def test_inputs_made_by_the_job_are_not_copied(client: palm.Client) -> None:
    with moved() as here:
        for k, got in client.job("work.same", (np.full(N, float(k)) for k in range(5))).items():
            assert got[0] == got[-1] == k
    assert here["bytes_copied"] == 0 and here["sent_arena"] == 5


# ---------------------------------------------------------------------------------------------------- copied once


@pytest.mark.parametrize(
    ("function", "nbytes"),
    [
        ("accumulate", 8 * N),
        ("view_of_kept", 4 * N),
        ("kept_view", 8 * N),
        ("frozen_and_kept", 8 * N),
        ("view_of_frozen_and_kept", 8 * N - 8),
        ("kept_in_tree", 8 * N),
        ("kept_tuple", 8 * N),
        ("buffer_of_kept", 8 * N),
        ("windows_of_kept", 8 * N),
        ("strided_over_kept", 4 * N),
        ("closed_over", 8 * N),
    ],
)
def test_kept_is_copied_once(client: palm.Client, function: str, nbytes: int) -> None:
    x = shared(N)
    with moved(client, "work") as there:
        client.call(f"work.{function}", x)
    assert (there["copied_kept"], there["bytes_copied"]) == (1, nbytes)
    assert there["copied_foreign"] == there["copied_thread"] == 0


@pytest.mark.parametrize(
    "function", ["accumulate", "view_of_kept", "buffer_of_kept", "windows_of_kept", "strided_over_kept"]
)
def test_earlier_results_keep_their_values(client: palm.Client, function: str) -> None:
    ones = np.ones(N)
    client.call("work.reset")
    got = [client.call(f"work.{function}", ones) for _ in range(5)]
    assert [(g.min(), g.max()) for g in got] == [(k, k) for k in range(1, 6)]


@pytest.mark.parametrize("function", ["frozen_and_kept", "view_of_frozen_and_kept"])
def test_read_only_is_what_its_owner_can_undo(client: palm.Client, function: str) -> None:
    got = client.call(f"work.{function}", np.ones(N))
    client.call("work.overwrite_what_was_frozen")
    assert got.min() == got.max() == 2


def test_yielded(client: palm.Client) -> None:
    x = shared(N)
    with moved(client, "work") as there:
        got = client.call("work.yields_named", x)
    assert (there["copied_kept"], there["bytes_copied"]) == (3, 3 * 8 * N)
    assert all(np.array_equal(g, x + k) for k, g in enumerate(got))
    with moved(client, "work") as there:
        got = client.call("work.yields_new", x)
    assert there["bytes_copied"] == 0
    assert all(np.array_equal(g, x + k) for k, g in enumerate(got))


@pytest.mark.parametrize(("function", "counter"), [("from_thread", "copied_thread"), ("foreign", "copied_foreign")])
def test_not_from_the_arena(client: palm.Client, function: str, counter: str) -> None:
    x = shared(N)
    with moved(client, "work") as there:
        client.call(f"work.{function}", x)
    assert (there[counter], there["bytes_copied"]) == (1, x.nbytes)
    assert there["copied_thread"] + there["copied_foreign"] + there["copied_kept"] == 1


def test_inputs_from_elsewhere_are_copied_once(client: palm.Client, tmp_path) -> None:
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "f8", (N,))
    mapped[:] = np.arange(N)
    heap = np.arange(float(N))
    ways = {
        "copied_thread": [heap, heap.reshape(4, -1).T, heap[::2]],
        "copied_foreign": [np.frombuffer(heap.tobytes()), mapped, mapped[3:], np.asarray(mapped)],
    }
    for counter, arrays in ways.items():
        for a in arrays:
            with moved() as here, moved(client, "work") as there:
                got = client.call("work.same", a)
            assert np.array_equal(got, a)
            assert (here[counter], here["bytes_copied"]) == (1, a.nbytes)
            assert there["bytes_copied"] == 0
    with moved() as here:
        list(client.job("work.same", [heap, heap]))
    assert (here["copied_thread"], here["bytes_copied"]) == (2, 2 * heap.nbytes)
    del got
    mapped._mmap.close()


# -------------------------------------------------------------------------------------------------- which way it goes


def test_counters_of_allocation(client: palm.Client) -> None:
    with moved(client, "work") as there:
        client.call("work.allocate", (7, 11))
    assert there["alloc_arena"] == 7
    assert there["alloc_small"] >= 11
    assert there["alloc_full"] == 0


@pytest.mark.parametrize(("n", "way"), [(LENT - 1, "sent_inline"), (LENT, "sent_arena")])
def test_threshold(client: palm.Client, n: int, way: str) -> None:
    with palm.arena():
        x = np.zeros(n, "u1")
    with moved() as here, moved(client, "work") as there:
        client.call("work.same", x)
    assert here[way] == there[way] == 1
    assert here["sent_arena"] + here["sent_inline"] == 1
    assert here["bytes_copied"] == there["bytes_copied"] == 0


@pytest.mark.parametrize(("n", "blocks"), [(LENT - 1, 0), (LENT, 1)])
@pytest.mark.parametrize("inside", [False, True])
def test_threshold_of_bytes(client: palm.Client, n: int, blocks: int, inside: bool) -> None:
    value = bytes(range(256)) * (n // 256) + bytes(n % 256)
    with moved() as here, moved(client, "work") as there:
        got = client.call("work.same", {"a": (value,)} if inside else value)
    assert (got["a"][0] if inside else got) == value
    assert here["sent_arena"] == there["sent_arena"] == blocks
    assert here["bytes_copied"] == there["bytes_copied"] == n * blocks


def test_a_large_tree_with_as_many_arrays_as_there_may_be(client: palm.Client) -> None:
    value = {f"{'x' * 40}{i}": np.full(1, i, "u2") for i in range(8192)}
    np.testing.assert_equal(client.call("work.same", value), value)


@pytest.mark.parametrize(("n", "blocks"), [((1 << 18) - 1, 0), (1 << 18, 1)])
def test_threshold_of_trees(client: palm.Client, n: int, blocks: int) -> None:
    """Of msgpack, which has 12 bytes beside the text: a list's head, a text's, and where the array is."""
    value = [np.arange(3), "x" * (n - 12)]
    with moved() as here, moved(client, "work") as there:
        got = client.call("work.same", value)
    np.testing.assert_equal(got, value)
    assert here["sent_arena"] == there["sent_arena"] == blocks
    assert here["sent_inline"] == there["sent_inline"] == 1, "the array"
    assert here["bytes_copied"] == there["bytes_copied"] == n * blocks


@pytest.mark.parametrize(
    ("part", "way"),
    [
        (slice(0, 2048), "sent_inline"),  # 16 KiB of 4 MiB
        (slice(0, 8192), "sent_inline"),  # 64 KiB
        (slice(0, None, 64), "sent_inline"),  # 64 KiB of every 64th element
        (slice(0, 8193), "sent_arena"),
        (slice(1, None, 2), "sent_arena"),
    ],
)
def test_small_view_of_a_large_block_does_not_keep_it(client: palm.Client, part: slice, way: str) -> None:
    x = shared(1 << 19)
    with moved() as here:
        got = client.call("work.same", x[part])
    assert np.array_equal(got, x[part])
    assert here[way] == 1 and here["sent_arena"] + here["sent_inline"] == 1
    assert here["bytes_copied"] == 0


# ----------------------------------------------------------------------------------------------- how long it is valid


def test_views_outlive_server_and_cluster() -> None:
    x = np.random.default_rng(2).normal(size=N)
    with palm.Cluster() as cluster:
        cluster.start(Work)
        cluster.start(Work, "other")
        client = cluster.client()
        killed = [client.call("work.double", x + k) for k in range(4)]
        forwarded = list(client.job(["work.double", "other.same"], [x]))
        closed = [client.call("other.double", x + k) for k in range(4)]
        [pid] = [s["pid"] for s in client.status()["servers"] if s["name"] == "work"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: [s for s in client.status()["servers"] if s["name"] == "work" and s["pid"] != pid])
        assert all(np.array_equal(got, (x + k) * 2) for k, got in enumerate(killed))
        assert np.array_equal(forwarded[0], x * 2)
    for k in range(4):
        assert np.array_equal(killed[k], (x + k) * 2)
        assert np.array_equal(closed[k], (x + k) * 2)
    assert np.array_equal(forwarded[0], x * 2)


def test_recycling_spares_what_is_held(client: palm.Client) -> None:
    """Thousands of blocks go by, of the same sizes as those that are held."""
    rng = np.random.default_rng(3)
    held = []
    inputs = (rng.integers(0, 255, 40_000 + 1000 * (k % 3), "u1") for k in range(3000))
    for k, got in enumerate(client.job(["work.same", "second.every_second"], inputs, window=64)):
        if k % 150 == 0:
            held.append((got, hashlib.blake2b(got.tobytes()).digest()))
        elif k % 50 == 0 and len(held) > 5:
            got, digest = held.pop(k % 5)
            assert hashlib.blake2b(got.tobytes()).digest() == digest
    assert len(held) > 2
    for got, digest in held:
        assert hashlib.blake2b(got.tobytes()).digest() == digest


def test_inputs_may_be_let_go_while_under_way(client: palm.Client) -> None:
    """The sender's memory is not given anew before the receiver has taken it."""
    futures = []
    for k in range(100):
        with palm.arena():
            x = np.full(4096, float(k))
        futures.append(client.submit("work.double", x))
        del x
    assert all((f.result() == 2 * k).all() for k, f in enumerate(futures))
