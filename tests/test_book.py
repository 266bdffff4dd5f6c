# SPDX-License-Identifier: BSD-3-Clause
"""The book in C beside a model that knows nothing but what it was told, and works everything out anew each time."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm._core import book as core
from palm._core.book import COMPLETED, CONTRADICTION, INPUT_DONE, NEW, OPEN, OVER, UNKNOWN, Book
from palm._core.space import CoreError
from palm.message import INDEX_BITS, child, places


class Tree:
    """One input: what was said of which path."""

    def __init__(self):
        self.leaves, self.pruned, self.ends, self.grants = set(), set(), {}, {}

    def nodes(self):
        """Names that are known to have children."""
        said = self.leaves | self.pruned | self.ends.keys() | self.grants.keys()
        return {p[:d] for p in said for d in range(len(p))} | self.ends.keys() | self.grants.keys()

    def children(self, node):
        names = self.leaves | self.pruned | self.nodes()
        return {p for p in names if p and p[:-1] == node}

    def complete(self, name):
        if name in self.leaves | self.pruned:
            return True
        return name in self.ends and len(self.complete_below(name)) == self.ends[name]

    def complete_below(self, node):
        return sorted(places(p)[-1] for p in self.children(node) if self.complete(p))

    def sent(self, node):
        top = max((places(p)[-1] + 1 for p in self.children(node)), default=0)
        return self.ends.get(node, max(top, self.grants.get(node, 0)))

    def over(self, name):
        """The shortest name at or above this one that is complete, or None."""
        return next((name[:d] for d in range(len(name) + 1) if self.complete(name[:d])), None)

    def contradicts(self, name):
        """What the nodes above it say against the existence of a name, as far as they are open."""
        for d in range(len(name)):
            if self.complete(name[:d]):
                return False
            hops = {p[-1] >> INDEX_BITS for p in self.children(name[:d])}
            if hops - {name[d] >> INDEX_BITS} or places(name)[d] >= self.ends.get(name[:d], 1 << INDEX_BITS):
                return True
        return False

    def open_nodes(self):
        return [n for n in self.nodes() if self.over(n) is None]


class Model:
    def __init__(self):
        self.begun, self.inputs = 0, {}

    def begin(self, n):
        self.inputs.update({i: Tree() for i in range(self.begun, self.begun + n)})
        self.begun += n

    def live(self):
        return len(self.inputs) + sum(
            t.sent(n) - len(t.complete_below(n)) for t in self.inputs.values() for n in t.open_nodes()
        )

    def is_next(self, number, path):
        first = min(self.inputs, default=number)
        if number != first or number not in self.inputs:
            return number <= first
        tree = self.inputs[number]
        for d in range(len(path)):
            if path[:d] not in tree.nodes() or not set(range(places(path)[d])) <= set(tree.complete_below(path[:d])):
                return False
            if places(path)[d] in tree.complete_below(path[:d]):
                return True
        return True

    def ranges(self, number, path):
        tree = self.inputs.get(number)
        if tree is None:
            return (OVER if number < self.begun else UNKNOWN), []
        if tree.contradicts(path):
            return None, []
        if tree.over(path) is not None:
            return OVER, []
        if path not in tree.nodes():
            return UNKNOWN, []
        found = []
        for i in tree.complete_below(path):
            if found and found[-1][1] == i:
                found[-1] = (found[-1][0], i + 1)
            else:
                found.append((i, i + 1))
        return OPEN, found

    def tell(self, what, number, path, n):
        """The verdicts that are right, as a set: what contradicts something complete may be noticed or not."""
        tree = self.inputs.get(number)
        if tree is None:
            return {0}
        if tree.contradicts(path):
            return {CONTRADICTION}
        over = tree.over(path)
        if over is not None:
            return self._late(what, tree, path, over)
        before = set(tree.nodes())
        if what == "settle" and path in before:
            return {CONTRADICTION}
        if what == "close" and (path in tree.ends or any(places(p)[-1] >= n for p in tree.children(path))):
            return {0 if tree.ends.get(path) == n else CONTRADICTION}
        if what == "grant":
            if path in tree.ends or (path in before and n <= tree.sent(path)):
                return {0}
            tree.grants[path] = n
            return {NEW}
        if what == "close":
            tree.ends[path] = n
        else:
            (tree.leaves if what == "settle" else tree.pruned).add(path)
        top = tree.over(path)
        if top is None:
            return {NEW}
        if not top:
            del self.inputs[number]
        return {NEW | COMPLETED | (0 if top else INPUT_DONE) | len(top) << 16}

    def _late(self, what, tree, path, over):
        clash = over in tree.leaves and (path != over or what in ("close", "grant"))
        clash |= over == path and over in tree.ends and what == "settle" and over not in tree.pruned
        if not clash:
            return {0}
        parent, index = over[:-1], places(over)[-1]
        alone = not {index - 1, index + 1} & set(tree.complete_below(parent))
        return {CONTRADICTION} if alone else {0, CONTRADICTION}


def agree(book, model, names):
    assert book.numbers() == sorted(model.inputs) and len(book) == len(model.inputs)
    assert book.first() == min(model.inputs, default=None)
    assert book.live == model.live()
    for number, path in names:
        assert book.is_next(number, path) == model.is_next(number, path), (number, path)
        state, ranges = model.ranges(number, path)
        assert book.ranges(number, path) == (UNKNOWN if state is None else state, ranges), (number, path)
        assert book.granted(number, path) == (model.inputs[number].sent(path) if state == OPEN else 0)


paths = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=3).map(
    lambda parts: tuple((9 if odd == 0 else hop) << INDEX_BITS | i for hop, (odd, i) in enumerate(parts))
)
events = st.tuples(
    st.sampled_from(["settle", "settle", "settle", "close", "close", "prune", "grant", "begin", "forget"]),
    st.integers(0, 3),
    paths,
    st.integers(0, 4),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=40))
def test_whatever_is_said(said):
    book, model = Book(), Model()
    names = {(number, path[:d]) for _, number, path, _ in said for d in range(len(path) + 1)}
    for what, number, path, n in [("begin", 0, (), 2), *said]:
        if what == "begin":
            book.begin(model.begun, n)
            model.begin(n)
        elif what == "forget":
            book.forget(number)
            model.inputs.pop(number, None)
        else:
            arguments = (number, path, n) if what in ("close", "grant") else (number, path)
            verdict = getattr(book, what)(*arguments)
            assert verdict in model.tell(what, number, path, n), (what, number, path, n)
        agree(book, model, names)
    copy = book.copy()
    assert copy.dump() == book.dump() and copy.live == book.live
    agree(copy, model, names)


def events_of(tree, path=(), hop=0):
    """All that is said of a tree of lists, where what is no list is a leaf."""
    if not isinstance(tree, list):
        return [("settle", path)]
    found = [("close", path, len(tree))]
    for index, branch in enumerate(tree):
        found += events_of(branch, child(path, hop, index), hop + 1)
    return found


def tell(book, number, event):
    return getattr(book, event[0])(number, *event[1:])


trees = st.recursive(st.just(0), lambda t: st.lists(t, max_size=4), max_leaves=25)


@settings(deadline=None)
@given(trees, st.randoms(use_true_random=False), st.data())
def test_any_order_and_any_event_again(tree, chance, data):
    """I1, I2, I3: done by the last event and not before, each event counts once."""
    said = events_of(tree)
    chance.shuffle(said)
    again = [data.draw(st.sampled_from(said)) for _ in range(data.draw(st.integers(0, 5)))]
    book, model, verdicts = Book(), Model(), []
    book.begin(0)
    model.begin(1)
    for event in [*said[:-1], *(e for e in again if e != said[-1]), said[-1]]:
        assert 0 in book, "one event is missing"
        verdicts.append(tell(book, 0, event))
        assert verdicts[-1] in model.tell(event[0], 0, event[1], event[2] if event[0] == "close" else 0)
    assert 0 not in book and not book.live and not len(book)
    assert sum(v & NEW for v in verdicts) == len(said) and sum(v & INPUT_DONE > 0 for v in verdicts) == 1
    assert not any(v & CONTRADICTION for v in verdicts)
    assert not any(tell(book, 0, e) for e in said)


@pytest.mark.parametrize("tree", [0, [], [0, 0], [[0, []], 0, [[0], 0]]])
def test_every_order(tree):
    said = events_of(tree)
    orders = itertools.permutations(said) if len(said) < 7 else (random.sample(said, len(said)) for _ in range(500))
    for order in orders:
        book = Book()
        book.begin(0)
        for n, event in enumerate(order):
            assert 0 in book, (order, n)
            tell(book, 0, event)
        assert 0 not in book


@settings(deadline=None)
@given(st.lists(trees, min_size=1, max_size=3), st.randoms(use_true_random=False), st.data())
def test_the_order_leaves_no_trace(inputs, chance, data):
    said = [(number, e) for number, tree in enumerate(inputs) for e in events_of(tree)]
    some = chance.sample(said, data.draw(st.integers(0, len(said))))
    one, other = Book(), Book()
    for book in (one, other):
        book.begin(0, len(inputs))
        for number, event in some:
            tell(book, number, event)
        chance.shuffle(some)
    assert one.dump() == other.dump() and one.live == other.live
    before = one.dump()
    for number, event in some:
        assert tell(one, number, event) == 0
    assert one.dump() == before


@settings(deadline=None)
@given(st.lists(trees, max_size=4), st.randoms(use_true_random=False))
def test_what_is_next_is_never_overtaken(inputs, chance):
    """Results given out when `is_next` says so come in the order of their names, and all of them do."""
    book = Book()
    book.begin(0, len(inputs))
    said = [(number, e) for number, tree in enumerate(inputs) for e in events_of(tree)]
    chance.shuffle(said)
    waiting, given_out = [], []
    for number, event in said:
        if tell(book, number, event) & NEW and event[0] == "settle":
            waiting.append((number, event[1]))
        for one in sorted(waiting):
            if not book.is_next(*one):
                break
            given_out.append(one)
            waiting.remove(one)
    assert not waiting and given_out == sorted(given_out)


@settings(deadline=None)
@given(st.lists(trees, min_size=1, max_size=4), st.randoms(use_true_random=False), st.integers(1, 5))
def test_slots_come_back(inputs, chance, block):
    """I7: live is what was granted and is not complete; a job that is over holds nothing."""
    book = Book()
    book.begin(0, len(inputs))
    said = [(number, e) for number, tree in enumerate(inputs) for e in events_of(tree)]
    said += [(n, ("grant", e[1], -(-e[2] // block) * block)) for n, e in said if e[0] == "close"]
    chance.shuffle(said)
    for number, event in said:
        tell(book, number, event)
        assert book.live >= len(book)
    assert not book.live


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), st.randoms(use_true_random=False))
def test_it_has_what_is_open(window, depth, chance):
    """I9: an input with thousands of names below it, of which a window is open, takes as much as the window."""
    book = Book()
    book.begin(0)
    tail = tuple(hop << INDEX_BITS for hop in range(1, depth))
    waiting, most = list(range(window)), 0
    for sent in range(window, window + 1000):
        at = chance.randrange(window)
        index, waiting[at] = waiting[at], sent
        for level in range(1, depth):
            book.close(0, (index, *tail[: level - 1]), 1)
        book.settle(0, (index, *tail))
        most = max(most, len(book.dump()) // 8)
    assert most <= (window + 1) * 2 + window * depth * 8 + 16


def test_limits():
    book = Book()
    with pytest.raises(ValueError):
        book.begin(1)
    book.begin(0)
    for call in (book.settle, book.prune, book.is_next, book.ranges, book.granted):
        with pytest.raises(CoreError, match="limit"):
            call(0, range(33))
        with pytest.raises(OverflowError):
            call(0, (1 << 64,))
        with pytest.raises(OverflowError):
            call(-1, ())
    with pytest.raises(CoreError, match="limit"):
        book.close(0, (), (1 << 48) + 1)
    assert book.settle(0, range(32)) == NEW | COMPLETED | 32 << 16
    assert core.depth(NEW | COMPLETED | 32 << 16) == 32


def test_many_ranges():
    book = Book()
    book.begin(0)
    for i in range(0, 200, 2):
        book.settle(0, (i,))
    assert book.ranges(0) == (OPEN, [(i, i + 1) for i in range(0, 200, 2)])
