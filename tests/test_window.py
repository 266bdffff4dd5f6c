# SPDX-License-Identifier: BSD-3-Clause
"""How many messages of a job may be under way: its window, with a clock that is simulated (R17)."""

from __future__ import annotations

import heapq
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import eventually

import palm
from palm._core import space
from palm.delivery import SWEEP_BYTES
from palm.ledger import Ledger
from palm.window import AHEAD, BYTES, ENVELOPE, FLOOR, IN_TURN, MOST, SLOTS, SMALL, TOGETHER, Pace, Window

HOP = 0.00015  # seconds from process to process


class Run:
    """A pipeline of servers, each with so many processes, and somebody who takes what comes.

    Parameters
    ----------
    service : list of float
        Seconds in a process, of each server.
    n : int
        Inputs.
    slots : int, optional
        Of a window that does not adapt.
    burst, pause : int, float
        Whoever takes the results waits so many seconds after each so many.
    """

    def __init__(self, service, n, slots=None, processes=1, burst=1 << 60, pause=0.0, envelope=1):
        self.pace = Pace(max(FLOOR, 4 * len(service)))
        self.pace.ended(0, 0.0)
        self.most = self.pace.slots
        free = [[0.0] * processes for _ in service]
        ready: list[float] = []  # when the results come that are under way, a heap
        untaken: list[float] = []  # when those are taken that have come, a heap
        sent, now, came, taken_at = 0, 0.0, 0, 0.0
        while came < n:
            while sent < n and len(ready) + len(untaken) < (slots or self.pace.slots):
                heapq.heappush(ready, self.through(free, service, now))
                sent += 1
            if untaken and (not ready or untaken[0] <= ready[0]):
                now = max(now, heapq.heappop(untaken))
                continue
            now = max(now, heapq.heappop(ready))
            came += 1
            taken_at = max(taken_at, now) + (pause if came % burst == 0 else 0.0)
            heapq.heappush(untaken, taken_at)
            if came % envelope == 0:
                self.pace.ended(envelope, now)
                self.most = max(self.most, self.pace.slots)
        self.seconds = taken_at

    @staticmethod
    def through(free, service, now):
        for processes, seconds in zip(free, service, strict=True):
            begins = max(now + HOP, heapq.heappop(processes))
            now = begins + seconds
            heapq.heappush(processes, now)
        return now + HOP


@pytest.mark.parametrize("envelope", [1, 16])
def test_tiny_messages_have_all_slots_at_once(envelope):
    run = Run([1e-6], 20_000, envelope=envelope)
    assert run.pace.slots == MOST
    assert run.seconds < Run([1e-6], 20_000, slots=SLOTS).seconds + 0.005


@pytest.mark.parametrize(
    ("service", "processes"),
    [([0.01], 1), ([0.1], 1), ([0.1], 12), ([0.05] * 16, 1), ([0.001, 0.02, 0.003], 1), ([0.3, 0.02], 4)],
)
def test_slow_steps_need_few_slots_and_lose_nothing(service, processes):
    run = Run(service, 2000, processes=processes)
    rate = processes / max(service)
    assert run.most <= max(FLOOR, 4 * len(service), 1.2 * rate * AHEAD)
    assert run.seconds < 1.01 * Run(service, 2000, slots=SLOTS, processes=processes).seconds


def test_whoever_takes_by_bursts_does_not_wait_longer():
    how = dict(service=[0.001], n=10_000, burst=400, pause=0.4)
    assert Run(**how).seconds < 1.02 * Run(**how, slots=SLOTS).seconds


def test_what_becomes_slow_loses_its_slots():
    pace, now = Pace(FLOOR), 0.0
    pace.ended(0, now)
    for _ in range(100):
        now += 0.001
        pace.ended(100, now)
    assert pace.slots == MOST
    for _ in range(300):
        now += 0.1
        pace.ended(1, now)
    assert pace.slots == FLOOR


def test_a_client_that_stood_still_measures_no_burst():
    """What has come meanwhile comes at once, but took as long."""
    pace, now, most = Pace(FLOOR), 0.0, 0
    pace.ended(0, now)
    for _ in range(20):
        now += 1.0
        for i in range(100):
            pace.ended(1, now + i * 1e-6)
        most = max(most, pace.slots)
    assert most <= 100 * AHEAD * 1.01


@pytest.mark.parametrize("slots", [1, 17, SLOTS, 10 * SLOTS])
def test_a_window_that_is_asked_for_stays(slots):
    window = Window(Ledger(), slots)
    for i in range(100):
        window.ended(1000, i * 0.01)
        assert window.slots == slots


def test_an_envelope_has_little_of_the_window():
    """Or client and servers would have it by turns."""
    window = Window(Ledger())
    window.weigh(8)
    assert window.envelope == ENVELOPE <= window.slots // 4
    window.ended(0, 0.0)
    window.ended(10_000, 0.01)
    assert window.envelope == MOST // IN_TURN > ENVELOPE


@pytest.mark.parametrize(("slots", "enough"), [(1, 1), (16, 1), (64, 1), (128, 2), (4096, 64)])
def test_inputs_that_had_to_wait_go_together_where_many_are_under_way(slots, enough):
    window = Window(Ledger(), slots)
    assert not window.has_room(-1)
    assert window.has_room(enough) and not window.has_room(enough - 1)


def test_bytes_are_bounded_whatever_the_rate():
    for slots in (None, SLOTS):
        window = Window(Ledger(), slots)
        for i in range(100):
            window.ended(1000, i * 0.01)
        window.weigh(1 << 20)
        assert window.slots == BYTES >> 20
        window.weigh(2 * BYTES)
        assert window.slots == 1


def test_small_messages_have_all_slots_however_slow():
    window = Window(Ledger())
    assert window.slots == SLOTS
    window.weigh(SMALL // SLOTS)
    assert window.slots == SLOTS
    window.weigh(2 * (SMALL // SLOTS))
    assert window.slots == SLOTS // 2
    window.weigh(SMALL)
    assert window.slots == FLOOR


@pytest.mark.parametrize(
    ("nbytes", "slots"), [(64, MOST), (SMALL // MOST, MOST), (2 * SMALL // MOST, MOST // 2), (8192, SLOTS)]
)
def test_what_is_quick_has_more_slots_as_long_as_it_is_small(nbytes, slots):
    window = Window(Ledger())
    window.weigh(nbytes)
    for i in range(100):
        window.ended(1000, i * 0.001)
    assert window.slots == slots


def test_a_job_with_generators_has_no_more_slots_than_it_keeps():
    window = Window(Ledger())
    window.weigh(64)
    window.ask((0, ()))
    for i in range(100):
        window.ended(1000, i * 0.001)
    assert window.slots == SLOTS


# ----------------------------------------------------------------------------------------------------------- jobs


class Step(palm.Server):
    @palm.function
    def first(self, x):
        return int(x[0])


@pytest.fixture
def client(cluster: palm.Cluster) -> palm.Client:
    cluster.start(Step)
    client = cluster.client()
    client.call("step.first", np.zeros(1))  # the hand-shake is over
    return client


def frames(n: int, size: int) -> Iterator[np.ndarray]:
    for i in range(n):
        yield np.full(size, i, np.uint8)


def test_a_job_begins_with_few_large_messages(cluster, client):
    pid = client.status()["servers"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        job = client.job("step.first", frames(64, 1 << 20))
        eventually(lambda: job.progress.sent == FLOOR and not job._work._room())
    finally:
        os.kill(pid, signal.SIGCONT)
    assert sorted(job) == [*range(64)]


def test_inputs_that_are_done_are_not_kept_for_long(client):
    before, most = space.stats()["arena_in_use"], 0  # by other tests of this process
    for _ in client.job("step.first", frames(64, 1 << 20), window=1):
        space.tick(time.monotonic_ns())  # what has come back is free when the pulse has looked
        most = max(most, space.stats()["arena_in_use"] - before)
    assert most <= SWEEP_BYTES + (8 << 20), f"{most >> 20} MiB"


def test_generators_wait_for_as_much_room_as_inputs():
    """One child at a time would travel alone, as its successor would."""
    ledger = Ledger()
    window = Window(ledger, slots=SLOTS)
    ledger.begin(0, SLOTS - 6)
    window.ask((5, ()))
    assert list(window.grants(0, 0)) == []
    for number in range(6, 6 + SLOTS // TOGETHER):
        ledger.settle(number, ())
    [(name, more)] = window.grants(0, 0)
    assert name == (5, ()) and more > 1
