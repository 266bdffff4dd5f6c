# SPDX-License-Identifier: BSD-3-Clause
"""Calls of one step: a job without an end, in which each call is an input."""

from __future__ import annotations

import concurrent.futures
import secrets
from typing import Any

from palm._core import node as core
from palm._core.payload import NOTHING, BlockLost
from palm.book import Book, Path
from palm.connection import Connection
from palm.errors import RemoteError, Timeout
from palm.remote import Route, error_of

Future = concurrent.futures.Future[Any]


class Answer:
    """What a thread waits for that has nothing else to do: a future costs more than all the rest of a call."""

    __slots__ = ("done", "error", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None


class Calls:
    """Carried by a connection; futures are resolved without its lock."""

    def __init__(self, connection: Connection, route: Route) -> None:
        self.key = secrets.token_bytes(16)
        self.connection, self.route = connection, route
        self.book = Book()
        self.futures: dict[int, Future | Answer] = {}
        self.dead = False  # a process on the route is gone: make new ones
        self._results: dict[int, list[tuple[Path, Any]]] = {}
        self._fanned: set[int] = set()
        self._next = 0
        self._handle = connection.handle()
        connection.add(self)
        connection.open(route.link, self._handle, route.meaning(self.key, connection.endpoint, 0))

    def send(self, values: tuple[Any, ...], future: Future | Answer) -> int:
        """One call; no value: an empty message, several: a tuple. Returns its number, to give it up."""
        batch = core.Batch()
        with self.connection.changed:
            number = self._next
            self._next += 1
            batch.put(NOTHING if not values else values[0] if len(values) == 1 else values, number)
            self.book.begin(number)
            self.futures[number] = future
        if not self.connection.send(self.route.link, core.DATA, self._handle, 0, batch):
            with self.connection.changed:
                self.lost(self.route.link, 1)
        return number

    def wait(self, values: tuple[Any, ...], timeout: float | None) -> Any:
        """One call, and what it returns or raises; Timeout after `timeout` seconds."""
        answer = Answer()
        number = self.send(values, answer)
        self.connection.wait(lambda: answer.done, timeout)
        if not answer.done:
            self.give_up(number)
            raise self.timed_out(timeout)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def give_up(self, number: int) -> None:
        """What still comes of this call is ignored."""
        with self.connection.changed:
            self.book.forget(number)
            self.futures.pop(number, None)
            self._results.pop(number, None)

    def timed_out(self, timeout: float | None) -> Timeout:
        return Timeout(f"{' -> '.join(self.route.steps)} has not answered within {timeout or 0:g} s")

    def end(self) -> None:
        """No more calls: the server may forget what the handle means."""
        self.connection.remove(self)
        if not self.connection.is_gone(self.route.link):
            self.connection.say(self.route.link, core.FORGET, self._handle)

    # ---------------------------------------------------------------- what comes, with the connection's lock

    def receive(self, event: core.Event) -> None:
        for form, number, path, value in event.outcomes():
            if number not in self.book:
                continue
            if form == core.ERROR or isinstance(value, BlockLost):
                self.book.forget(number)
                self.resolve(number, _error(form, value, number))
                continue
            if form == core.CLOSE:
                self._fanned.add(number)
                self.book.close(number, path, value)
            elif self.book.settle(number, path) and form != core.DROP:
                self._results.setdefault(number, []).append((path, value))
            if number not in self.book:
                self.resolve(number, None)

    def resolve(self, number: int, error: BaseException | None) -> None:
        future = self.futures.pop(number, None)
        value = self._value(number)
        if isinstance(future, Answer):
            future.value, future.error, future.done = value, error, True
        elif future is not None:
            self.connection.later.append(lambda: settle(future, value, error))

    def _value(self, number: int) -> Any:
        """What a call returns: a list where the function yields, None for a message that was dropped."""
        results = self._results.pop(number, [])
        if number in self._fanned:
            self._fanned.discard(number)
            return [value for _, value in sorted(results, key=lambda r: r[0])]
        return results[0][1] if results else None

    def lost(self, link: int, reason: int) -> None:
        server = self.route.server_of(link)
        if server is None:
            return
        self.dead = True
        self.connection.works.pop(self.key, None)
        for number in list(self.futures):
            self.book.forget(number)
            self.resolve(number, self.route.crashed(server, number, reason))

    def idle(self) -> float:
        return 1.0


def _error(form: int, value: Any, number: int) -> RemoteError:
    if form == core.ERROR:
        return error_of(value, number)
    return RemoteError(str(value), number=number, type="BlockLost")


def settle(future: Future, value: Any, error: BaseException | None) -> None:
    """Unless somebody has cancelled it."""
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
