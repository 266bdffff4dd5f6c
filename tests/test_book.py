# SPDX-License-Identifier: BSD-3-Clause
"""The book: when is an input complete, whatever comes in whatever order, twice or not."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm.book import Book
from palm.message import INDEX_BITS, child, places


def test_an_input_is_a_leaf():
    book = Book()
    book.begin(3)
    assert 3 in book and len(book) == 1 and book.numbers() == [3]
    assert book.settle(3, ())
    assert 3 not in book and not len(book)
    assert not book.settle(3, ()), "known already"
    assert not book.settle(4, ()), "never begun"


def test_a_generator_is_complete_when_all_is_known():
    book = Book()
    book.begin(0)
    a, b = child((), 0, 0), child((), 0, 1)
    assert book.settle(0, b)
    book.close(0, (), 2)
    assert 0 in book
    assert not book.settle(0, b)
    assert book.settle(0, a)
    assert 0 not in book


def test_a_generator_without_children():
    book = Book()
    book.begin(0)
    book.close(0, (), 0)
    assert 0 not in book
    book.close(0, (), 0)


def test_the_close_may_come_first_and_twice():
    book = Book()
    book.begin(0)
    book.close(0, (), 1)
    book.close(0, (), 1)
    assert 0 in book
    assert book.settle(0, child((), 0, 0)) and 0 not in book


def test_forget():
    book = Book()
    book.begin(0)
    book.begin(1)
    book.forget(0)
    book.forget(5)
    assert book.numbers() == [1]
    book.close(0, (), 3)
    assert not book.settle(0, child((), 0, 0)) and book.numbers() == [1]


def test_what_settles_a_node_settles_all_below():
    book = Book()
    book.begin(0)
    a = child((), 0, 0)
    book.settle(0, child(a, 1, 0))
    assert book.settle(0, a), "an error of the generator itself"
    assert not book.settle(0, child(a, 1, 1)), "its late children are unknown from now on"
    book.close(0, a, 7)
    book.close(0, (), 1)
    assert 0 not in book


def test_is_next():
    book = Book()
    for n in range(3):
        book.begin(n)
    a, b = child((), 0, 0), child((), 0, 1)
    assert book.is_next(0, a) is False, "nothing is known of input 0: it may be a leaf, or end in an error"
    assert not book.is_next(1, ())
    book.settle(0, a)
    assert book.is_next(0, b)
    assert not book.is_next(0, child((), 0, 2))
    book.close(0, (), 1)
    assert book.is_next(1, ()) is False and book.numbers() == [1, 2]
    book.settle(1, ())
    assert book.is_next(1, ()) and not book.is_next(2, a)


def test_paths():
    p = child(child((), 0, 5), 3, 7)
    assert places(p) == (5, 7)
    assert p == (5, 3 << INDEX_BITS | 7)


def events_of(tree, path=(), hop=0):
    """All that is said of a tree of lists, where what is no list is a leaf."""
    if not isinstance(tree, list):
        return [("settle", path)]
    found = [("close", path, len(tree))]
    for index, branch in enumerate(tree):
        found += events_of(branch, child(path, hop, index), hop + 1)
    return found


def tell(book, number, event):
    if event[0] == "close":
        book.close(number, *event[1:])
        return False
    return book.settle(number, event[1])


trees = st.recursive(st.just(0), lambda t: st.lists(t, max_size=4), max_leaves=25)


@given(trees, st.randoms(use_true_random=False), st.data())
def test_any_order_and_any_event_again(tree, chance, data):
    events = events_of(tree)
    chance.shuffle(events)
    again = [data.draw(st.sampled_from(events)) for _ in range(data.draw(st.integers(0, 5)))]
    book = Book()
    book.begin(9)
    settled = sum(tell(book, 9, e) for e in events[:-1] + [e for e in again if e != events[-1]])
    assert 9 in book, "one event is missing"
    settled += tell(book, 9, events[-1])
    assert 9 not in book
    assert settled == sum(e[0] == "settle" for e in events), "each leaf once"
    assert not any(tell(book, 9, e) for e in events)


@pytest.mark.parametrize("tree", [0, [], [0, 0], [[0, []], 0, [[0], 0]]])
def test_every_order(tree):
    events = events_of(tree)
    orders = (
        itertools.permutations(events) if len(events) < 7 else (random.sample(events, len(events)) for _ in range(500))
    )
    for order in orders:
        book = Book()
        book.begin(0)
        for n, event in enumerate(order):
            assert (0 in book) is True, (order, n)
            tell(book, 0, event)
        assert 0 not in book


@given(st.lists(trees, max_size=4), st.randoms(use_true_random=False))
def test_what_is_next_is_never_overtaken(inputs, chance):
    """Results given out when `is_next` says so come in the order of their paths."""
    book = Book()
    events = []
    for number, tree in enumerate(inputs):
        book.begin(number)
        events += [(number, e) for e in events_of(tree)]
    chance.shuffle(events)
    waiting, given_out = [], []
    for number, event in events:
        if tell(book, number, event):
            waiting.append((number, event[1]))
        for one in sorted(waiting):
            if not book.is_next(*one):
                break
            given_out.append(one)
            waiting.remove(one)
    assert not waiting and given_out == sorted(given_out)
