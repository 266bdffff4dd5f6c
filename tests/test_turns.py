# SPDX-License-Identifier: BSD-3-Clause
"""Which generators of a server go on, and in which order; alone, and that many cost no more than as many times one."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import palm
from palm import generators
from palm.generators import Generators
from palm.turns import Turns


class Generator:
    """As much of `palm.making.Making` as `Turns` looks at."""

    looks = 0

    def __init__(self, room: bool = True, asked: bool = False, due: float = 0.0, job: bytes = b"") -> None:
        self.room, self.asked, self.due, self.ended = room, asked, due, False
        self.assignment = SimpleNamespace(stale=False, is_slow=False, job=SimpleNamespace(key=job))

    def has_room(self) -> bool:
        Generator.looks += 1
        return self.room and not self.assignment.stale


def test_each_has_its_turn_once_and_again_behind_the_others():
    turns, (a, b, c) = Turns(), (Generator() for _ in range(3))
    for m in (a, b, a, c):
        turns.put(m)
    for m in turns.take(0.0):
        turns.put(m)
        if m is b:
            break
    assert list(turns.take(0.0)) == [c, a, b]
    assert turns.due() == math.inf


def test_jobs_take_turns_and_so_do_the_generators_of_each():
    turns, few = Turns(), Generator(job=b"few")
    many = [Generator(job=b"many") for _ in range(100)]
    for m in (*many, few):
        turns.put(m)
    taken = []
    for m in turns.take(0.0):
        taken.append(m)
        turns.put(m)
    assert taken[1::2] == [few] * 50 and taken[0::2] == many[:51]
    turns.remove(few)
    assert list(turns.take(0.0)) == many[51:] + many[:51]
    assert turns.due() == math.inf


def test_who_has_no_room_comes_when_it_is_granted():
    turns, m = Turns(), Generator(room=False, asked=True)
    turns.put(m)
    assert not list(turns.take(0.0)) and turns.waiting() is m
    m.room = True
    turns.put(m)
    assert turns.waiting() is None and turns.due() == 0.0 and list(turns.take(0.0)) == [m]


def test_who_is_run_again_comes_when_it_is_due():
    turns, m, other = Turns(), Generator(due=7.0), Generator()
    for each in (m, m, other):  # twice: its room has grown meanwhile
        turns.put(each)
    assert list(turns.take(6.9)) == [other] and turns.due() == 7.0
    assert list(turns.take(7.0)) == [m] and not list(turns.take(9.0))
    assert m.due == 0.0 and turns.due() == math.inf


@pytest.mark.parametrize("due", [0.0, 7.0])
def test_who_is_closed_does_not_come(due):
    turns, m = Turns(), Generator(due=due)
    turns.put(m)
    turns.remove(m)
    m.ended = True
    assert not list(turns.take(8.0)) and turns.all() == []


def test_one_of_a_former_epoch_comes_with_its_message():
    turns, m, waits = Turns(), Generator(), Generator(room=False, asked=True)
    turns.put(m)
    turns.put(waits)
    m.assignment.stale = waits.assignment.stale = True
    assert not list(turns.take(0.0)) and turns.waiting() is None
    m.assignment.stale = waits.assignment.stale = False
    turns.put(m)
    turns.put(waits)
    assert list(turns.take(0.0)) == [m] and turns.waiting() is waits and turns.all() == [m, waits]


def test_those_that_wait_are_not_looked_at():
    turns = Turns()
    for _ in range(1000):
        turns.put(Generator(room=False, asked=True))
    Generator.looks = 0
    for _ in range(1000):
        turns.put(Generator())
        assert len(list(turns.take(0.0))) == 1
        turns.due()
        turns.waiting()
    assert Generator.looks <= 3000


class Timed(Generators):
    """Whose every turn takes a second."""

    def __init__(self, monkeypatch) -> None:
        super().__init__(None, SimpleNamespace(flush_all=lambda a: None), None, None, None)
        self.now, self.turned = 0.0, 0
        monkeypatch.setattr(generators, "time", SimpleNamespace(monotonic=lambda: self.now))

    def _turn(self, m) -> None:
        self.now += 1.0
        self.turned += 1
        self._turns.put(m)


def test_others_have_their_turn_for_as_long(monkeypatch):
    timed = Timed(monkeypatch)
    timed._turns.put(Generator())
    timed.make_more(others=True)
    for now, turned in ((1.5, 1), (1.9, 1), (2.0, 2), (3.9, 2)):
        timed.now = max(timed.now, now)
        timed.make_more(others=True)
        assert timed.turned == turned
    timed.make_more(others=False)
    assert timed.turned == 3


class Beside(palm.Server):
    def setup(self):
        self.gate = None

    @palm.function
    def quick(self, gate):
        self.gate = Path(gate)
        yield gate

    @palm.function
    def slow(self, n):
        """Each time after a quick one has run, until what that has made is where it goes; false: it is not."""
        while n:
            time.sleep(0.002)
            gate, self.gate = self.gate, None
            if gate is None:
                yield None
                continue
            n, end = n - 1, time.monotonic() + 10
            while not gate.exists() and time.monotonic() < end:
                time.sleep(0.001)
            yield gate.exists()


def test_what_is_ready_does_not_wait_for_a_slow_one(cluster, tmp_path):
    cluster.start(Beside)
    client, n = cluster.client(), 5
    job = client.job("beside.slow", [n])
    with ThreadPoolExecutor() as pool:
        found = pool.submit(list, job)
        for i in range(n):
            gate = tmp_path / str(i)
            assert client.call("beside.quick", str(gate)) == [str(gate)]
            gate.touch()
        assert found.result() == [True] * n


class Pairs(palm.Server):
    @palm.function
    def pair(self, x):
        yield x
        yield -x

    @palm.function
    def cpu(self):
        return time.process_time()


def test_many_generators_at_a_time_cost_as_many_times_one(cluster):
    """All of them wait for room at first. Time of the processor, not of the clock."""
    cluster.start(Pairs)
    client = cluster.client()

    def cost(n: int) -> float:
        before = client.call("pairs.cpu")
        assert sum(1 for _ in client.job("pairs.pair", range(n))) == 2 * n
        return client.call("pairs.cpu") - before

    cost(100)
    few, many = (min(cost(n) for _ in range(3)) for n in (250, 4000))
    assert many < 5 * 16 * few, f"{few / 250 * 1e6:.0f} us each of 250, {many / 4000 * 1e6:.0f} us each of 4000"
