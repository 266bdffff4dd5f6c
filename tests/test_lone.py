# SPDX-License-Identifier: BSD-3-Clause
"""One result alone, as most calls have it, is settled in one step (`Event.settle_lone`); others are not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import zmq
from conftest import eventually
from helpers_hostile import Stranger

from palm._core import book as core_book
from palm._core import node as core
from palm._core.decode import BlockLost

pytest_plugins = "helpers_hostile"  # its fixtures


class Receiver:
    """A node, and a stranger who sends to it."""

    def __init__(self, endpoint: str, wire) -> None:
        self.node = core.Node(endpoint)
        self.golden = wire.golden
        self._context = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self._push.connect(endpoint)
        found: list[Stranger] = []
        thread = threading.Thread(target=lambda: found.append(Stranger(None, self._push, wire)))
        thread.start()
        while thread.is_alive():
            self.node.next(0.01)  # says HELLO in answer
        [self.stranger] = found

    def event(self, body: bytes, *records: dict) -> core.Event:
        whole = [self.golden.record(**r) for r in records]
        self.stranger.say(body, kind=self.golden.DATA, handle=1, records=whole, paths=[0])

        def data() -> core.Event | None:
            event = self.node.next(1.0)
            return event if event is not None and event.is_data() else None

        return eventually(data)

    def close(self) -> None:
        self.stranger.close()
        self._push.close(1000)
        self._context.term()
        self.node.close(0)


@pytest.fixture
def receiver(tmp_path, wire) -> Iterator[Receiver]:
    receiver = Receiver(f"ipc://{tmp_path}/node", wire)
    yield receiver
    receiver.close()


@pytest.fixture
def book() -> core_book.Book:
    """Of three inputs that are open."""
    book = core_book.Book()
    book.begin(0, 3)
    return book


def test_a_result_alone(receiver, book):
    event = receiver.event(b"abc", {"form": receiver.golden.BYTES, "number": 1, "body_size": 3})
    assert event.settle_lone(book) == (1, b"abc")
    assert book.numbers() == [0, 2]
    assert event.settle_lone(book) is None, "of an input that is done"
    event.done()


def test_a_result_of_what_has_children_is_left_as_it_is(receiver, book):
    """It contradicts what is known, and whoever asks for its outcome hears that."""
    book.settle(1, (0,))
    before = book.dump()
    event = receiver.event(b"abc", {"form": receiver.golden.BYTES, "number": 1, "body_size": 3})
    assert event.settle_lone(book) is None and book.dump() == before
    event.done()


def test_what_is_not_so_simple_is_left_as_it_is(receiver, book):
    g = receiver.golden
    plain = {"form": g.BYTES, "number": 1, "body_size": 3}
    for records in (
        [plain | {"path_at": 0, "path_count": 1}],  # a child
        [plain | {"form": g.CLOSE, "count": 1, "body_size": 0}],
        [plain, plain | {"number": 2, "body_at": 3}],
    ):
        event = receiver.event(b"abcdef"[: sum(r["body_size"] for r in records)], *records)
        assert len(event) == len(records) and event.settle_lone(book) is None
        event.done()
    assert book.numbers() == [0, 1, 2]


def test_what_cannot_be_read_is_not_settled(receiver, book):
    event = receiver.event(b"\xc1", {"form": receiver.golden.TREE, "number": 1, "body_size": 1})
    assert event.settle_lone(book) is None and book.numbers() == [0, 1, 2]
    [(_, number, path, value, _)] = event.outcomes()
    assert (number, path) == (1, ()) and isinstance(value, BlockLost)
    event.done()


def test_another_number_of_messages_than_before(receiver, book):
    """Whoever takes the long way finds the contradiction."""
    book.settle(1, (0,))
    event = receiver.event(b"abc", {"form": receiver.golden.BYTES, "number": 1, "body_size": 3})
    assert event.settle_lone(book) is None
    assert book.settle(1) & core_book.CONTRADICTION
    event.done()
