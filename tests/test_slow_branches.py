# SPDX-License-Identifier: BSD-3-Clause
"""`slow` of `palm.to`: branches that hold up nobody, and what is dropped there (R20; docs/delivery.md)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm
from palm._core.book import OPEN, OVER
from palm._core.node import Batch
from palm.branch import AHEAD, BYTES, MOST, QUICK, Branch, Queued
from palm.ledger import Ledger
from palm.message import child

FRAMES = 400
KEPT = MOST + 1, MOST  # by who sends to a viewer that stands still; the latter when all came while it was looked for
KIB = 1 << 10


class Flat(palm.Server):
    @palm.function
    def correct(self, x, *, slow):
        """A result, and the same to the viewer."""
        yield x
        yield palm.to("viewer.show", x, slow=slow)

    @palm.function
    def frames(self, n, *, size):
        for i in range(n):
            yield palm.to("viewer.weigh", np.full(size, i % 100, np.uint8), slow="drop-oldest")

    @palm.function
    def elsewhere(self, x, *, slow):
        return palm.to("viewer.show", x, slow=slow)

    @palm.function
    def fan(self, x):
        yield x
        yield palm.to(["viewer.many", "viewer.same"], x, slow="drop-oldest")

    @palm.function(retry_on=(OSError,))
    def second_time(self, x):
        """Every other one fails at first, after a while in which the viewer has told how far it is."""
        if x % 2 and self.message.attempt == 1:
            time.sleep(0.02)
            raise OSError("not yet")
        return palm.to("viewer.show", x, slow="drop-oldest")

    @palm.function
    def nowhere(self, x):
        yield palm.to("nobody.there", x, slow="reject")


class Viewer(palm.Server):
    def setup(self):
        self.seen = []

    @palm.function
    def show(self, x):
        self.seen.append(x)

    @palm.function
    def had(self):
        return self.seen

    @palm.function
    def weigh(self, x):
        return int(x.sum())

    @palm.function
    def many(self, x):
        for i in range(100):
            yield (x, i)

    @palm.function
    def same(self, x):
        return x


@pytest.fixture
def shop(cluster: palm.Cluster) -> palm.Cluster:
    cluster.start(Flat)
    cluster.start(Viewer)
    with cluster.client() as client:  # once mapped, and the link between them open
        client.call(palm.step("flat.elsewhere", slow="block"), -1)
    return cluster


def server(cluster: palm.Cluster, name: str) -> dict:
    return next(s for s in cluster.status()["servers"] if s["name"] == name)


def dropped(cluster: palm.Cluster) -> int:
    return server(cluster, "flat")["counters"]["dropped"]


def test_what_is_run_again_beside_a_branch(shop):
    """What a branch is told between two messages ends neither the message that waits for its second execution, nor the
    count of its executions."""
    pid = server(shop, "flat")["pid"]
    with shop.client() as client:
        job = client.job("flat.second_time", range(60), timeout=60)
        assert list(job) == [] and job.errors == []
        assert job.progress.done == 60
        assert len(client.call("viewer.had")) + dropped(shop) == 61  # with the one that opened the link
    assert server(shop, "flat")["pid"] == pid


@contextlib.contextmanager
def stopped(cluster: palm.Cluster, name: str = "viewer") -> Iterator[int]:
    pid = server(cluster, name)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def taking(job: palm.Job) -> Iterator[list]:
    """What a thread has taken so far; all of it in the end."""
    taken: list = []
    thread = threading.Thread(target=lambda: taken.extend(job))
    thread.start()
    try:
        yield taken
    finally:
        thread.join()


# ------------------------------------------------------------------------------------------------- what is promised


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("slow", ["drop-oldest", "reject"])
def test_a_viewer_that_is_stopped_holds_up_nobody(shop, slow, window, ordered):
    with stopped(shop):
        job = shop.client().job(palm.step("flat.correct", slow=slow), range(FRAMES), window=window, ordered=ordered)
        with taking(job) as taken:
            eventually(lambda: len(taken) == FRAMES and FRAMES - dropped(shop) in KEPT)
            assert not job._work.over  # what waits for the viewer may still become a result
            os.kill(server(shop, "viewer")["pid"], signal.SIGCONT)
    assert not job.errors
    assert taken == [*range(FRAMES)] if ordered else sorted(taken) == [*range(FRAMES)]
    seen = shop.client().call("viewer.had")[1:]
    assert sorted(set(seen)) == sorted(seen), "nothing is shown twice"
    assert len(seen) + job.progress.dropped == FRAMES == job.progress.done
    assert dropped(shop) == job.progress.dropped and len(seen) in KEPT
    if window == 1:  # else they come to the branch by turns
        waited = slice(-MOST, None) if slow == "drop-oldest" else slice(MOST)
        assert sorted(seen)[waited] == [*range(FRAMES)][waited]


def test_it_blocks_where_that_is_asked_for(shop):
    with stopped(shop):
        job = shop.client().job(palm.step("flat.correct", slow="block"), range(FRAMES), window=8, ordered=True)
        assert next(job) == 0
        eventually(lambda: server(shop, "flat")["counters"]["messages_in"] > 1)
        assert job.progress.sent <= 8
    assert list(job) == [*range(1, FRAMES)]
    assert job.progress.dropped == dropped(shop) == 0


def test_what_has_room_is_not_dropped(shop):
    job = shop.client().job(palm.step("flat.correct", slow="drop-oldest"), range(MOST), ordered=True)
    assert list(job) == [*range(MOST)] and not job.progress.dropped and not dropped(shop)
    assert sorted(shop.client().call("viewer.had")[1:]) == [*range(MOST)]


@pytest.mark.parametrize("slow", ["drop-oldest", "reject"])
def test_what_is_returned_goes_along_a_branch_too(shop, slow):
    with stopped(shop):
        job = shop.client().job(palm.step("flat.elsewhere", slow=slow), range(FRAMES), window=4)
        with taking(job) as results:
            eventually(lambda: FRAMES - dropped(shop) in KEPT)
            os.kill(server(shop, "viewer")["pid"], signal.SIGCONT)
    progress = job.progress
    assert results == []
    assert progress.done == FRAMES
    # without a result all of them: each is counted once, dropped by the branch or seen by a viewer that returns nothing
    assert progress.dropped == FRAMES


def test_memory_is_bounded_by_the_branch(shop):
    """A GiB is made while the viewer stands still."""
    size, n = 512 * KIB, 2048
    before = memory(server(shop, "flat")["pid"])
    with stopped(shop):
        with taking(shop.client().job(palm.step("flat.frames", size=size), [n])) as results:
            eventually(lambda: n - dropped(shop) in KEPT, 60)
            held = memory(server(shop, "flat")["pid"]) - before
            os.kill(server(shop, "viewer")["pid"], signal.SIGCONT)
    assert len(results) in KEPT
    assert held < 2 * MOST * size, f"{held >> 20} MiB"


def memory(pid: int) -> int:
    """Bytes that a process has of its arena and of its own."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def test_a_branch_may_fan_out(shop):
    client = shop.client()
    with stopped(shop):
        job = client.job("flat.fan", range(20), window=2)
        main = [next(job) for _ in range(20)]
    rest = list(job)
    assert sorted(main) == [*range(20)]
    assert sorted(rest) == [(x, i) for x in range(20) for i in range(100)]
    assert not job.progress.dropped


def test_a_map_waits_for_its_branches(shop):
    with stopped(shop):
        found = shop.client().map("flat.fan", range(3))
    assert [*found] == [[x, *((x, i) for i in range(100))] for x in range(3)]


def test_what_waits_at_a_server_that_dies_is_repeated(shop):
    client = shop.client()
    with stopped(shop) as pid:
        job = client.job("flat.fan", range(10), ordered=True)
        assert [next(job) for _ in range(10)] == [*range(10)]
        os.kill(pid, signal.SIGKILL)
    assert sorted(job) == [(x, i) for x in range(10) for i in range(100)]
    assert job.progress.done == 10 and not job.errors


def test_the_branching_server_dies(shop):
    client = shop.client()
    with stopped(shop):
        job = client.job("flat.fan", range(10), ordered=True)
        assert [next(job) for _ in range(10)] == [*range(10)]
        os.kill(server(shop, "flat")["pid"], signal.SIGKILL)
    assert sorted(job) == [(x, i) for x in range(10) for i in range(100)]
    assert job.progress.done == 10 and not job.errors


def test_a_job_that_is_left_lets_go_of_what_waits(shop):
    with shop.client() as client, stopped(shop):
        with client.job(palm.step("flat.frames", size=64 * KIB), [MOST]):
            eventually(lambda: server(shop, "flat")["counters"]["messages_out"] > 1)
    with shop.client() as client:
        assert client.call(palm.step("flat.correct", slow="reject"), 7) == [7]


def test_a_branch_to_nowhere_fails(shop):
    job = shop.client().job("flat.nowhere", [1], on_error="skip")
    job.wait()
    assert [e.type for e in job.errors] == ["NotFound"]


def test_what_slow_may_be():
    assert palm.to("a.b", 5, slow="reject").slow == "reject"
    with pytest.raises(ValueError, match="drop-newest"):
        palm.to("a.b", 5, slow="drop-newest")


# ------------------------------------------------------------------------------------------- the queue of a branch


def message(i: int, size: int = 8) -> Queued:
    batch = Batch()
    batch.put(bytes(size), i)
    return Queued((i, ()), batch)


def numbers(waiting: list[Queued]) -> list[int]:
    return [w.name[0] for w in waiting]


def sent(branch: Branch, now: float) -> list[int]:
    found = []
    while (w := branch.next(now)) is not None:
        found.append(w.name[0])
    return found


@pytest.mark.parametrize("drops_oldest", [False, True])
def test_a_queue_is_bounded_in_messages(drops_oldest):
    branch = Branch(None, None, drops_oldest)
    assert not any(branch.put(message(i)) for i in range(MOST))
    assert numbers(branch.put(message(MOST))) == [0 if drops_oldest else MOST]
    assert len(branch) == MOST


@pytest.mark.parametrize("drops_oldest", [False, True])
def test_a_queue_is_bounded_in_bytes(drops_oldest):
    branch = Branch(None, None, drops_oldest)
    for i in range(3):
        assert not branch.put(message(i, BYTES // 4))
    assert numbers(branch.put(message(3, BYTES // 2 + 1))) == ([0, 1] if drops_oldest else [3])


def test_one_message_has_room_whatever_its_size():
    branch = Branch(None, None, False)
    assert not branch.put(message(0, BYTES + 1)) and sent(branch, 0.0) == [0]


def test_one_is_sent_ahead_of_a_slow_server():
    branch = Branch(None, None, True)
    for i in range(MOST):
        branch.put(message(i))
    for i in range(8):
        assert sent(branch, i * 1.0) == [i]
        branch.begun(i + 1, i + 0.9)


def test_more_are_sent_ahead_of_a_quick_one_until_it_is_slow():
    branch, begun, now, most = Branch(None, None, True), 0, 0.0, 0
    for _ in range(10):
        for i in range(MOST):
            branch.put(message(i))
        n = len(sent(branch, now))
        most = max(most, n)
        begun, now = begun + n, now + QUICK / 2
        branch.begun(begun, now)
    assert most == AHEAD
    for _ in range(10):
        for i in range(MOST):
            branch.put(message(i))
        n = len(sent(branch, now))
        begun, now = begun + n, now + 2 * QUICK
        branch.begun(begun, now)
    assert n == 1


def test_what_is_under_way_is_bounded_in_bytes():
    branch, begun, now = Branch(None, None, True), 0, 0.0
    for _ in range(10):
        for i in range(4):
            branch.put(message(i, BYTES // 4))
        n = len(sent(branch, now))
        begun, now = begun + n, now + QUICK / 2
        branch.begun(begun, now)
    assert n <= 4


@pytest.mark.parametrize("count", [2, (1 << 32) - 1])
def test_more_than_was_sent_cannot_have_begun(count):
    branch = Branch(None, None, True)
    branch.put(message(0))
    assert sent(branch, 0.0) == [0]
    branch.begun(count, 0.0)
    branch.put(message(1))
    assert sent(branch, 0.0) == []
    branch.begun(1, 0.0)
    assert sent(branch, 0.0) == [1]


# ----------------------------------------------------------------------------------------------------- the two books


def test_what_is_aside_holds_no_slot_and_nothing_waits_for_it():
    ledger = Ledger()
    ledger.begin(0, 2)
    first, second = child((), 0, 0), child((), 0, 1)
    ledger.grant(0, (), 2)
    assert ledger.order.live == 4 and not ledger.order.is_next(0, second)
    ledger.aside(0, first)
    assert ledger.order.live == 3 and ledger.order.is_next(0, second) and ledger.is_aside(0, first)
    ledger.close(0, (), 2)
    ledger.settle(0, second)
    assert ledger.order.live == 1 and ledger.order.is_next(1) and 0 in ledger.book
    ledger.settle(0, first)
    assert 0 not in ledger.book and not ledger.is_aside(0, first)


def test_below_what_is_aside_is_aside():
    ledger = Ledger()
    ledger.begin(0, 1)
    ledger.aside(0, ())
    assert not ledger.order and ledger.is_aside(0, ())
    ledger.grant(0, (), 3)
    assert ledger.book.ranges(0, ())[0] == OPEN and ledger.is_aside(0, child((), 0, 2))
    ledger.close(0, (), 0)
    assert not ledger.book


def test_what_has_ended_does_not_go_aside():
    ledger = Ledger()
    ledger.begin(0, 2)
    ledger.settle(0, ())
    ledger.aside(0, ())
    assert not ledger.parted and ledger.book.ranges(0, ())[0] == OVER
