# SPDX-License-Identifier: BSD-3-Clause
"""Calls of one step: a job without an end, in which each call is an input."""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from palm._core import node as core
from palm._core.book import CONTRADICTION, NEW
from palm._core.decode import NOTHING, BlockLost
from palm._core.node import ASIDE, ASK, CLOSE, DROP, ERROR, LOST, Batch
from palm.connection import Answer, Connection
from palm.delivery import Delivery, Path
from palm.errors import Disconnected, PalmError, RemoteError, Timeout
from palm.remote import Route, contradiction, error_of

if TYPE_CHECKING:
    from palm.directory import Directory
    from palm.futures import CallFuture

NEVER = 1 << 64  # ns since 1970
GRANT_OF_A_CALL = 4096  # children granted at a time: the caller wants a list of all of them


class Retired(Exception):
    """These calls have lost their server: make others."""


class Calls:
    """Carried by a connection; futures are settled without its lock. Without a directory, a server that dies has no
    successor."""

    def __init__(self, connection: Connection, directory: Directory | None, route: Route) -> None:
        self.connection = connection
        self.delivery = Delivery(connection, directory, route, 0, self._cannot_go_on, calls=True)
        self.key, self.book = self.delivery.key, self.delivery.book
        self.futures: dict[int, CallFuture | Answer] = {}
        self._deadlines: dict[int, int] = {}  # of those that have one, ns since 1970
        self.retired = False  # a server of the route is gone: make new ones
        self._results: dict[int, list[tuple[Path, Any]]] = {}
        self._fanned: set[int] = set()
        connection.add(self)
        try:
            self.delivery.open()
        except BaseException:
            connection.remove(self)
            raise

    @property
    def route(self) -> Route:
        return self.delivery.route

    def send(self, values: tuple[Any, ...], future: CallFuture | Answer, timeout: float | None) -> int:
        """One call; no value: an empty message, several: a tuple. After `timeout` seconds it is not begun any more.
        Returns its number, to give it up; Retired if others have to be made."""
        batch = Batch()
        deadline = 0 if timeout is None else time.time_ns() + int(timeout * 1e9)
        delivery = self.delivery
        self.connection.check()  # before any lock: in a forked child they may be locked for ever
        # without the lock: it may take long, and a dtype that is sent first is described by Python, where handlers run
        batch.put(NOTHING if not values else values[0] if len(values) == 1 else values, 0, None, deadline)
        delivery.lock.acquire()
        try:
            number = delivery.sent
            batch.set_number(number)
            self._expect(number, future, deadline)
            try:
                delivery.send(batch)
            except BaseException:
                self.give_up(number)
                raise
        finally:
            delivery.lock.release()
        return number

    def _expect(self, number: int, future: CallFuture | Answer, deadline: int) -> None:
        self.connection.changed.acquire()
        try:
            if self.retired:  # with the lock: once it is among them, a loss has it repeated
                raise Retired
            self.futures[number] = future
            if deadline:
                self._deadlines[number] = deadline
            if type(future) is not Answer:
                self.connection.awaited += 1
        finally:
            self.connection.changed.release()

    def wait(self, values: tuple[Any, ...], timeout: float | None) -> Any:
        """One call, and what it returns or raises; Timeout after `timeout` seconds."""
        answer = Answer()
        number = self.send(values, answer, timeout)
        try:
            self.connection.wait_for(answer, timeout)
        except BaseException:  # of a signal handler
            self.cancel(number)
            raise
        if not answer.done:
            self.give_up(number)
            raise self.timed_out(timeout)
        if answer.error is not None:
            raise self.timed_out(timeout) if is_late(answer.error) else answer.error
        return answer.value

    def give_up(self, number: int) -> None:
        """What still comes of this call is ignored, and who makes something of it is told."""
        with self.connection.changed:
            self.delivery.forget(number)
            self.delivery.tell_keepers()
            self.delivery.done(number)
            self._out(number)
            self._results.pop(number, None)
            self._fanned.discard(number)

    def cancel(self, number: int) -> None:
        """Give it up, and tell the server, which ends what runs. (Of one whose time is over the server knows by
        itself.)"""
        self.give_up(number)
        with contextlib.suppress(Disconnected):
            self.delivery.tell(number)

    def _out(self, number: int) -> CallFuture | Answer | None:
        future = self.futures.pop(number, None)
        if self._deadlines:
            self._deadlines.pop(number, None)
        if future is not None and type(future) is not Answer:
            self.connection.awaited -= 1
        return future

    def timed_out(self, timeout: float | None) -> Timeout:
        return Timeout(f"{' -> '.join(self.route.steps)} has not answered within {timeout or 0:g} s")

    def end(self) -> None:
        """No more calls: the server may forget what the handle means."""
        links = self.connection.remove(self)
        if not self.connection.closed:
            self.delivery.end(links)

    # ---------------------------------------------------------------- what comes, with the connection's lock

    def receive(self, event: core.Event) -> None:
        try:
            self._take_in(event)
        finally:
            self.delivery.tell_keepers()

    def _take_in(self, event: core.Event) -> None:
        lone = event.settle_lone(self.book)
        if lone is not None:  # nearly all that comes
            number, value = lone
            self._finish(number, value, None)
            self.delivery.settled(number, ())
            return
        for form, number, path, value, count in event.outcomes():
            if form == LOST:
                self._lost(number, path, count, "what was lent to it could not be taken")
            elif form == ASIDE:
                pass  # the caller waits for all of it
            elif number in self.book:
                self._receive(event, form, number, path, value, count)
                self.delivery.settled(number, path)
            elif form in (ASK, CLOSE):
                self.delivery.dismiss(event, number, path)

    def _receive(self, event: core.Event, form: int, number: int, path: Path, value: Any, count: int) -> None:
        if form == ASK:
            if self.delivery.asked(event, number, path, count):
                self.delivery.grant(number, path, GRANT_OF_A_CALL)
        elif form == ERROR:
            self._failed(number, error_of(value, number))
        elif type(value) is BlockLost:
            self._lost(number, path, self.delivery.epoch, str(value))
        elif form == CLOSE:
            self._fanned.add(number)
            self.delivery.keeps(event, number, path)
            if self.book.close(number, path, count) & CONTRADICTION:
                self._failed(number, contradiction(number, self.route))
        else:
            verdict = self.book.settle(number, path)
            if not path and verdict & (NEW | CONTRADICTION) == NEW:  # there is no more to come
                self._finish(number, None if form == DROP else value, None)
                return
            if verdict & NEW and form != DROP:
                self._results.setdefault(number, []).append((path, value))
            if verdict & CONTRADICTION:
                self._failed(number, contradiction(number, self.route))
        if number in self.futures and number not in self.book:
            self.resolve(number, None)

    def _lost(self, number: int, path: Path, epoch: int, why: str) -> None:
        if not self.delivery.reported(number, path, epoch):
            self._failed(number, RemoteError(why, number=number, type="BlockLost"))

    def _failed(self, number: int, error: RemoteError) -> None:
        self.delivery.forget(number)
        self.resolve(number, error)

    def resolve(self, number: int, error: BaseException | None) -> None:
        self._finish(number, self._value(number), error)

    def _finish(self, number: int, value: Any, error: BaseException | None) -> None:
        self.delivery.done(number)
        if error is None and self._deadlines and time.time_ns() >= self._deadlines.get(number, NEVER):
            # a function that looks at `cancelled` has given up: this is no result
            error = RemoteError("its time is over", number=number, type="Timeout")
        future = self._out(number)
        if isinstance(future, Answer):
            answer = future
            answer.value, answer.error, answer.done = value, error, True
        elif future is not None:
            self.connection.settled.append((future, value, error))

    def _value(self, number: int) -> Any:
        """What a call returns: a list where the function yields, None for a message that was dropped."""
        results = self._results.pop(number, [])
        if number in self._fanned:
            self._fanned.discard(number)
            return [value for _, value in sorted(results, key=operator.itemgetter(0))]
        return results[0][1] if results else None

    def broken(self, error: BaseException) -> None:
        why = PalmError(f"an answer could not be taken in: {error!r}")
        why.__cause__ = error
        self._cannot_go_on(lambda number: why)

    def lost(self, link: int, reason: int) -> None:
        if self.futures:
            self.delivery.lost(link, reason)
        elif self.route.server_of(link) is not None:
            self._retire()  # nobody waits: there is nothing to repeat

    def missed(self, link: int) -> None:
        if self.futures:
            self.delivery.missed(link)
        elif self.route.server_of(link) is not None:
            self._retire()

    def _retire(self) -> None:
        self.retired = True
        self.connection.works.pop(self.key, None)

    def _cannot_go_on(self, why: Callable[[int], PalmError]) -> None:
        self._retire()
        for number in list(self.futures):
            self.book.forget(number)
            self.resolve(number, why(number))

    def idle(self) -> float:
        return 5.0  # nothing is ever due


def is_late(error: BaseException) -> bool:
    """True for what a server says of a message whose deadline has passed; a function that raises has a traceback."""
    return isinstance(error, RemoteError) and error.type == "Timeout" and not error.traceback
