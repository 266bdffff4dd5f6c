# SPDX-License-Identifier: BSD-3-Clause
"""What a Reduce combines, and in which tree: in a time and an order of its own, without processes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model.tree import canonical

from palm import reduce_state as module
from palm.names import Names, Spans
from palm.reduce_state import COMBINE, PUSH, Full, Group, Reduction, Task, checked_key, rank


def run(task: Task) -> str:
    """What a worker does."""
    operands, names, stack = iter(task.items), iter(task.names), []
    for code in task.program:
        if code == PUSH:
            item = next(operands)
            stack.append((item.value, item.name))
        else:
            (left, name), (right, lowest) = stack[-2:]
            assert code == COMBINE and next(names) == lowest
            stack[-2:] = [(f"({left}+{right})", name)]
    [(value, name)] = stack
    assert name == task.name
    return value


def all_tasks(r: Reduction) -> list[Task]:
    return list(iter(r.task, None))


@st.composite
def leaves(draw):
    """Names as a job has them: a number has its leaf itself, or some below it, or none."""
    found = []
    for number in range(draw(st.integers(0, 40))):
        kind = draw(st.integers(0, 5))
        if kind == 0:
            found += [(number, 3 << 48 | i) for i in range(draw(st.integers(1, 6)))]
        elif kind == 1:
            found += [(number, 1 << 48 | i, 3 << 48 | k) for i in range(2) for k in range(draw(st.integers(0, 3)))]
        elif kind > 2:
            found.append((number,))
    return found


class Machine:
    """A leader, its client and its workers, in the order that `rnd` says."""

    def __init__(self, names: list, rnd: random.Random, keys: int, deterministic: bool = True) -> None:
        self.names, self.rnd, self.keys, self.deterministic = names, rnd, keys, deterministic
        self.at_client: dict[int, tuple] = {}
        self.known: list = []
        self.n_known = 0
        self.reduction = Reduction(deterministic, per_input=False)
        self.running: list[Task] = []

    def key(self, name) -> int:
        return sum(name) % self.keys

    def watermark(self, left) -> int:
        return min((name[0] for name in left), default=1 << 20)

    def checkpoint(self, whole: bool = False) -> None:
        changes = self.reduction.changes(whole)
        if whole:
            self.at_client.clear()
        for id in changes.removed:
            del self.at_client[id]
        for i in changes.added:
            self.at_client[i.id] = (i.name, i.row.key, i.count, i.value)
        self.known += changes.names
        self.n_known = self.reduction.names.count

    def successor(self) -> None:
        """The leader dies: another one begins with what the client has; what is not known there comes again."""
        self.reduction, self.running = Reduction(self.deterministic, per_input=False), []
        for item in self.at_client.values():
            self.reduction.restore(*item)
        self.reduction.know(self.known, self.n_known)
        self.checkpoint(whole=True)

    def go(self) -> dict[int, str]:
        left = list(self.names)
        self.rnd.shuffle(left)
        while left:
            self.step(left)
        self.checkpoint()
        self.reduction.end(None)
        while not self.reduction.is_complete(None):
            self.work()
        assert self.reduction.names.count == len(self.names)
        totals = [row.total for row in self.reduction.take(None).in_order()]
        assert sum(item.count for item in totals) == len(self.names)
        assert [item.name for item in totals] == [
            min(n for n in self.names if self.key(n) == item.row.key) for item in totals
        ]
        return {item.row.key: item.value for item in totals}

    def step(self, left: list) -> None:
        what = self.rnd.random()
        if what < 0.6:
            name = left[-1]
            self.reduction.absorb(name, self.key(name), str(name))
            assert not self.reduction.absorb(name, self.key(name), "again")
            left.pop()
        elif what < 0.8:
            self.work()
        elif what < 0.9:
            self.checkpoint()
            # who is settled: what the client has heard of
            self.reduction.settle(self.watermark(left))
        elif what < 0.95:
            self.successor()
            left[:] = [name for name in self.names if name not in self.reduction.names]
            self.rnd.shuffle(left)

    def work(self) -> None:
        while (task := self.reduction.task()) is not None:
            self.running.append(task)
        self.rnd.shuffle(self.running)
        if self.running:
            task = self.running.pop()
            if self.rnd.random() < 0.2:
                self.reduction.back(task)
            else:
                self.reduction.done(task, run(task))


@given(leaves(), st.integers(0, 1 << 30), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_the_tree_depends_on_the_names_alone(names, seed, keys):
    machine = Machine(names, random.Random(seed), keys)
    expected = {k: canonical([n for n in names if machine.key(n) == k]) for k in {machine.key(n) for n in names}}
    assert machine.go() == expected


@given(leaves(), st.integers(0, 1 << 30), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_each_message_is_in_its_total_once(names, seed, keys):
    machine = Machine(names, random.Random(seed), keys, deterministic=False)
    found = machine.go()
    for key in {machine.key(n) for n in names}:
        for name in names:
            assert found[key].count(str(name)) == (machine.key(name) == key)


def test_what_is_in_order_is_combined_before_the_end():
    """With 4096 inputs under way, there are no more items than one for each level of the tree."""
    r = Reduction(deterministic=True, per_input=False)
    for number in range(4096 + 1023):
        r.absorb((number,), None, number)
        if number % 64 == 63:
            for _ in range(4):
                for task in all_tasks(r):
                    r.done(task, 0)
    assert len(r.items) <= 13 + 64


def test_groups_of_inputs_come_out_apart():
    r = Reduction(deterministic=False, per_input=True)
    for number in (5, 3):
        for i in range(3):
            r.absorb((number, 1 << 48 | i), "k", i)
    r.end(5)
    for task in all_tasks(r):
        r.done(task, run(task))
    assert r.is_complete(5)
    group = r.take(5)
    [row] = group.in_order()
    assert row.total.count == 3 and row.total.name == (5, 1 << 48)
    r.drop(group)
    assert all(item.name[0] == 3 for item in r.items.values())


def test_what_is_uncombined_is_counted_without_what_has_been_taken_out():
    r = Reduction(deterministic=False, per_input=False)
    coming_out = Group(None)
    for number in range(40):
        r.restore((number,), number, 1, number, 100, into=coming_out)
    for number in range(40, 50):
        r.absorb((number,), number % 2, number, 100)
    assert (r.n_uncombined(), r.uncombined_bytes()) == (8, 800)
    r.drop(coming_out)
    assert (r.n_uncombined(), r.uncombined_bytes(), len(r.items)) == (8, 800, 10)


def test_a_key_whose_combination_fails_fails_alone():
    r = Reduction(deterministic=False, per_input=False)
    for number in range(8):
        r.absorb((number,), number % 2, number)
    for task in all_tasks(r):
        if task.row.key:
            r.failed(task, "why")
        else:
            r.done(task, "sum")
    r.absorb((8,), 1, 8)  # let go of
    r.end(None)
    assert r.is_complete(None)
    even, odd = (row.total for row in r.take(None).in_order())
    assert even.value == "sum" and not even.failed and odd.value == "why" and odd.failed
    assert odd.count == 4


def test_there_is_an_end_to_how_many_keys_there_are(monkeypatch):
    monkeypatch.setattr(module, "MOST_ITEMS", 3)
    r = Reduction(deterministic=False, per_input=False)
    for number in range(3):
        r.absorb((number,), number, number)
    with pytest.raises(Full):
        r.absorb((3,), 3, 3)
    assert (3,) not in r.names


def test_keys():
    import numpy as np

    keys = ["b", 2, None, (1, "a"), b"x", "a", -1, (1,), (0, 5)]
    assert sorted(keys, key=rank) == [None, -1, 2, b"x", "a", "b", (0, 5), (1,), (1, "a")]
    assert checked_key(np.int32(3)) == 3 and type(checked_key(np.int32(3))) is int
    assert checked_key(np.bool_(True)) == 1 and type(checked_key(np.bool_(True))) is int
    assert type(checked_key(np.str_("a"))) is str and checked_key((True, "a")) == (1, "a")
    for wrong in (1.0, [1], {"a": 1}, np.zeros(2), (1, 2.0)):
        with pytest.raises(TypeError, match="a key is"):
            checked_key(wrong)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9))), st.integers(0, 60))
def test_spans_are_a_set(ranges, floor):
    spans, model = Spans(), set()
    for begin, n in ranges:
        assert spans.add(begin, begin + n) == len(set(range(begin, begin + n)) - model)
        model |= set(range(begin, begin + n))
    assert {i for b, e in spans for i in range(b, e)} == model
    assert all((i in spans) == (i in model) for i in range(80))
    assert all(a[1] < b[0] for a, b in zip(list(spans), list(spans)[1:], strict=False))
    spans.forget(floor)
    assert all(i in spans for i in model if i >= floor)


def test_names_below_the_floor_are_known():
    names = Names()
    assert names.add((3,)) and names.add((4, 1 << 48)) and not names.add((3,))
    names.forget(4)
    assert (3,) in names and (2, 7) in names and (4, 1 << 48) in names and (4, 1 << 48 | 1) not in names
    assert names.count == 2 and names.ranges() == [((4,), 1 << 48, (1 << 48) + 1)]
