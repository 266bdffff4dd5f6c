# SPDX-License-Identifier: BSD-3-Clause
"""The inside of a job: reads and sends the inputs, keeps the book, collects what comes. `palm.job.Job` is its face.

One thread reads the inputs, lazily (R18): an input is read when there is room in the window for what becomes of it.
What is at hand is sent before there is one.
What comes is handed in by whoever pumps the connection, with the lock of the connection.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import AsyncIterable, Callable, Generator, Iterable, Iterator, Sized
from typing import Any

import msgspec
import numpy as np

from palm import waits
from palm._core import node as core
from palm._core import space as core_space
from palm._core.book import CONTRADICTION, NEW, OVER
from palm._core.decode import NOTHING, BlockLost
from palm._core.results import ResultQueue
from palm._core.stack import items_of
from palm.calls import is_late
from palm.connection import Connection, start_thread
from palm.delivery import Delivery, Path
from palm.directory import Directory
from palm.errors import Disconnected, PalmError, PayloadError, RemoteError, Timeout
from palm.journal import Journal
from palm.reduce_client import Reductions
from palm.remote import Route, contradiction, error_of
from palm.window import Window

HOLD = 0.002  # seconds that a message waits for company while the next input does not come
FOR_LONG = 0.25  # seconds: whoever receives need not look at this job sooner
AT_HAND = frozenset((type(None), list, tuple, range, np.ndarray))  # inputs that take no time
AT_ONCE = 0.001  # seconds that these may take whoever begins a job
LOOK = 0.02  # seconds: while an input may be waited for with others held

Result = tuple[int, Path, Any]  # number of the input, path, value
INPUT_DONE = object()  # with a journal, the value of a result that stands behind all others of an input
LAST: Path = (2**64 - 1,)  # behind all paths


class Options(msgspec.Struct, frozen=True):
    ordered: bool
    window: int | None  # messages; None: adapts
    on_error: str  # "raise", "skip", "return"
    timeout: float | None  # seconds for the whole job
    deadline: int  # the same, in ns since 1970; 0: none
    seed: int
    all_in_order: bool = False  # what is in a branch that holds up nobody is waited for too


class JobWork:
    """One job on a connection."""

    def __init__(
        self,
        connection: Connection,
        directory: Directory,
        route: Route,
        options: Options,
        inputs: Iterable[Any] | AsyncIterable[Any] | None,
        journal: Journal | None = None,
    ) -> None:
        self._directory = directory
        self.connection, self.options, self.journal = connection, options, journal
        self.delivery = Delivery(connection, directory, route, options.seed, self._cannot_go_on, start=inputs is None)
        self.key, self.book, self.ledger = self.delivery.key, self.delivery.book, self.delivery.ledger
        self.reductions = self.delivery.reductions = Reductions(
            self.delivery, self._absorbed, self._begin_flush, self._failed_early
        )
        self._window = Window(self.ledger, options.window, len(route.links))
        self._window.waits_for = self.reductions.waits_for
        self.results = ResultQueue()
        self.errors: list[RemoteError] = []
        self.done = self.dropped = 0
        self._fell: set[int] = set()  # open inputs of which a branch has dropped something
        self.failed: set[int] = set()
        self.fanned: set[int] = set()  # inputs whose function was a generator
        self.total: int | None = len(inputs) if isinstance(inputs, Sized) else None
        self.over = False
        self.end: BaseException | None = None  # what iterating raises when the results are at an end
        self.stopping = False
        self.on_end: list[Any] = []  # called once, without the lock
        self._fed = False
        self._no_inputs = inputs is None
        self._n_yielded: int | None = None  # in their stead, once that is known
        self._early: list[tuple[int, Path, int, Any]] = []  # ordered: a heap of results that are not next
        self._with_result: set[int] = set()
        self._batch = core.Batch()  # with the delivery's lock
        self._held_since = self._at_once_until = 0.0
        self._flushes = 0
        connection.add(self)
        try:
            self.delivery.open()
            self._begin(inputs)
        except BaseException as e:
            self.stop_with(e)
            connection.call_later()
            raise

    @property
    def route(self) -> Route:
        return self.delivery.route

    @property
    def sent(self) -> int:
        return self.delivery.sent

    def counts(self) -> tuple[int, int, int, int, int | None]:
        """What `palm.job.Progress` has; with the connection's lock."""
        sent, done, total = self._yielded() if self._no_inputs else (self.sent, self.done, self.total)
        return sent, done, len(self.failed), self.dropped, total

    def _yielded(self) -> tuple[int, int, int | None]:
        """Of a job without inputs: those that the first function has yielded stand for them, as far as one hears of
        them: up to the last that is done, until the function has ended."""
        total = self._n_yielded
        state, ranges = self.book.ranges(0)
        if state == OVER:
            total = 1 if total is None else total  # it has returned something, and yielded nothing
            return total, total, total
        sent = total if total is not None else ranges[-1][1] if ranges else 0
        return sent, sum(end - first for first, end in ranges), total

    # ------------------------------------------------------------------------------------------------- inputs

    def _begin(self, inputs: Iterable[Any] | AsyncIterable[Any] | None) -> None:
        """What is at hand goes at once, as far as there is room: to start a thread takes longer. All else may take
        time."""
        number, source = 0, inputs
        if type(inputs) in AT_HAND and self.journal is None and self.connection.node.ready(self.route.link):
            source = iter(_iterator(inputs))
            self._at_once_until = time.monotonic() + AT_ONCE
            try:
                number, ended = self._send(source, 0, self._may_send_at_once)
            except Exception as e:  # as from the thread: who iterates hears of it
                self.stop_with(e)
                ended = True
            if ended:
                self._end_feed()
                return
        start_thread(self._feed, "palm-inputs", source, number)

    def _may_send_at_once(self) -> bool:
        is_wanted = not (self.over or self.stopping)
        return is_wanted and self._window.has_room(self._slots()) and time.monotonic() < self._at_once_until

    def _feed(self, inputs: Iterable[Any] | AsyncIterable[Any] | None, number: int) -> None:
        """From input `number` on, which is the next that is given."""
        source = _iterator(inputs)
        try:
            with core_space.arena(shared=False):
                # the hand-shake needs somebody who receives; it may take as long as the server is busy
                self.connection.wait(lambda: self.over or self.connection.node.ready(self.route.link))
                self._send(iter(source), number, self._wait_for_room)
        except BaseException as e:  # whatever the user's iterable has raised is the user's to see
            self.stop_with(e)
        finally:
            if isinstance(source, Generator):
                source.close()
            self._end_feed()

    def _end_feed(self) -> None:
        with self.connection.changed:
            self._fed = True
            self.total = self.sent
            self._check_end()
        self.connection.nudge()

    def _send(self, source: Iterator[Any], number: int, goes_on: Callable[[], bool]) -> tuple[int, bool]:
        """As long as `goes_on`. Returns the number of the next input, and whether there is none."""
        ended = False
        while not ended and (self._is_start(number) or goes_on()):
            known = self.journal.next_done(number) if self.journal is not None else None
            if known is not None and known[0] <= number:
                skipped = self._skip(source, known[1] - number)
                number, ended = number + skipped, number + skipped < known[1]
                continue
            self._held_since = time.monotonic()
            try:
                added, ended = self._batch.fill(
                    source,
                    number,
                    self._most() if known is None else min(self._most(), known[0] - number),
                    self.options.deadline,
                    self.book,
                    self.delivery.lock,
                )
            except PayloadError as e:
                raise PayloadError(f"input {self.sent + len(self._batch)}: {e}") from None
            number += added
            self._flush()
        return number, ended

    def _is_start(self, number: int) -> bool:
        """What begins a job without inputs is sent though the job be stopped already: its function hears of that."""
        return self._no_inputs and not number and not self.over

    def _skip(self, source: Iterator[Any], n: int) -> int:
        """Inputs that the journal knows; returns how many there were."""
        found = sum(1 for _ in itertools.islice(source, n))
        with self.delivery.lock, self.connection.changed:
            self.delivery.skip(found)
            self.done += found
        return found

    def _slots(self) -> int:
        return self._window.free(self._untaken()) - len(self._batch)

    def _most(self) -> int:
        """Inputs that may be added to the batch."""
        return min(self._slots(), self._window.envelope - len(self._batch))

    def _untaken(self) -> int:
        return len(self.results) + len(self._early)

    def _room(self) -> bool:
        return self.over or self.stopping or self._window.has_room(self._slots())

    def _wait_for_room(self) -> bool:
        """False: no more inputs are wanted."""
        if not self._room():
            self._wait_visibly()
        return not (self.over or self.stopping)

    def _wait_visibly(self) -> None:
        if self.connection.wait(self._room, LOOK):
            return
        waits.begin(self, [s.server for s in self.route.steps])
        try:
            if not self.connection.wait(self._room, FOR_LONG):
                self._directory.show_client()
            self.connection.wait(self._room)
        finally:
            waits.end(self)

    def _flush(self) -> None:
        """Sends what the batch has: from then on its inputs are under way."""
        with self.delivery.lock:
            if not len(self._batch) or self.over:
                return
            self._window.weigh(self._batch.size() / len(self._batch))
            self._held_since = time.monotonic()
            if not self.delivery.sent:
                self._window.ended(0, self._held_since)
            self.delivery.send(self._batch.take())  # `fill` may be at work on it

    def idle(self) -> float:
        if self._fed:
            return FOR_LONG
        if len(self._batch) and time.monotonic() - self._held_since > HOLD:
            self._flush()
        return LOOK

    # ---------------------------------------------------------------- what comes, with the connection's lock

    def receive(self, event: core.Event) -> None:
        try:
            self._take_in(event)
        finally:
            self.delivery.tell_keepers()

    def _take_in(self, event: core.Event) -> None:
        if self.options.deadline and time.time_ns() >= self.options.deadline:
            self._finish(self._timed_out())  # functions that look at `cancelled` have given up: no results
        if self.over:
            return
        if len(event):
            self._window.weigh(event.nbytes / len(event))
        ended = 0
        if self.options.ordered or self.ledger.parted or self.journal is not None:
            outcomes = event.outcomes()
        else:
            before = len(self.results)
            try:
                outcomes = event.take_plain(self.book, self.results)
            finally:
                taken = len(self.results) - before
                self.done += taken
                ended += taken
        for form, number, path, value, count in outcomes:
            ended += form not in (core.ASK, core.ASIDE, core.LOST, core.REDUCED)
            if form == core.REDUCED:
                self._reduced(event, count, value)
            elif form == core.LOST:
                self._lost(number, path, count, "what was lent to it could not be taken")
            elif number in self.book:
                self._receive(event, form, number, path, value, count)
                if self.ledger.parted:
                    self._give_what_is_next()  # it may be in order now, though nothing else has ended
                self._settled(number, path)
            elif form in (core.ASK, core.CLOSE):
                self.delivery.dismiss(event, number, path)
            if self.over:
                return
        self.delivery.sweep()
        self._window.ended(ended, time.monotonic())
        self._grant()
        self._check_end()

    def _settled(self, number: int, path: Path) -> None:
        """After something of this input has come to an end."""
        self.delivery.settled(number, path)
        if number not in self.book:
            self._input_done(number)
        if self.reductions:
            self.reductions.settled(number, path)

    def _reduced(self, event: core.Event, epoch: int, tree: Any) -> None:
        if isinstance(tree, BlockLost):
            self.reductions.spoil(event)
        elif self.journal is not None:
            self._finish(
                ValueError("a job whose messages meet in a Reduce can have no journal: no input is done alone")
            )
        else:
            self.reductions.receive(event, epoch, tree)

    def _absorbed(self, number: int, path: Path) -> None:
        """A Reduce has it, and we hold what it has become."""
        if number in self.book:
            self._with_result.add(number)
            self._contradicts(number, self.ledger.settle(number, path))
            self._window.ended(1, time.monotonic())
            self._settled(number, path)

    def _failed_early(self, tree: Any) -> None:
        """Who does not want to hear of errors later, hears now."""
        if self.options.on_error == "raise":
            error = error_of(tree, 0)
            self.errors.append(error)
            self._finish(error)

    def _begin_flush(self) -> int:
        """Returns the number of a reduction that comes out."""
        number, self._flushes = self.reductions.n_inputs() + self._flushes, self._flushes + 1
        self.ledger.skip(number)
        self.ledger.begin(number, 1)
        return number

    def _grant(self) -> None:
        """Generators go on as far as there is room (R17)."""
        for name, more in self._window.grants(self._untaken(), len(self.results)):
            self.delivery.grant(*name, more)

    def take(self) -> ResultQueue:
        """All results that are there; generators that were waiting for this go on. Without the lock."""
        with self.connection.changed:
            taken, self.results = self.results, ResultQueue()
            if not self.over:
                self._grant()
                self.delivery.tell_keepers()
        self.connection.nudge()  # there is room now
        try:
            self.connection.call_later()
        except BaseException:  # of what others had to do later, perhaps: the results are for who asks next
            with self.connection.changed:
                taken.extend(self.results)
                self.results = taken
            raise
        return taken

    def _receive(self, event: core.Event, form: int, number: int, path: Path, value: Any, count: int) -> None:
        if form == core.ASK:
            if self.delivery.asked(event, number, path, count):
                self._window.ask((number, path))
        elif form == core.CLOSE:
            if not path:
                self.fanned.add(number)
            self._count_yielded(number, path, count)
            self.delivery.keeps(event, number, path)
            self._contradicts(number, self.ledger.close(number, path, count))
        elif form == core.ERROR:
            error = error_of(value, number)
            if self.options.deadline and is_late(error):  # by its clock
                self._finish(self._timed_out())
            else:
                self._failed(number, path, error, count)
        elif form == core.ASIDE:
            if not self.options.all_in_order:
                self.ledger.aside(number, path)
        elif form == core.DROP and count == core.DROP_SLOW:
            self._dropped(number, path)
        elif isinstance(value, BlockLost):
            self._lost(number, path, self.delivery.epoch, str(value))
        else:
            verdict = self.ledger.settle(number, path)
            if verdict & NEW and form != core.DROP:
                self._give(number, path, value)
            elif verdict & NEW and self._no_inputs:
                self.dropped += len(path) <= 1
            self._contradicts(number, verdict)

    def _count_yielded(self, number: int, path: Path, children: int) -> None:
        """Of a job without inputs, how many there are in their stead."""
        if self._no_inputs and not number and not path:
            self.reductions.children = max(1, children)
            self._n_yielded = children

    def _dropped(self, number: int, path: Path) -> None:
        """The branch along which it was sent had no room for it."""
        if self.ledger.prune(number, path) & NEW:
            self.dropped += 1
            self._fell.add(number)

    def _contradicts(self, number: int, verdict: int) -> None:
        if verdict & CONTRADICTION:
            self.delivery.forget(number)
            self._error(number, (), contradiction(number, self.route))

    def _lost(self, number: int, path: Path, epoch: int, why: str) -> None:
        if not self.delivery.reported(number, path, epoch):
            self._failed(number, path, RemoteError(why, number=number, type="BlockLost"))

    def _failed(self, number: int, path: Path, error: RemoteError, children: int = 0) -> None:
        """A message has failed, after so many children were sent, which are on their way."""
        self._count_yielded(number, path, children)
        verdict = self.ledger.close(number, path, children) if children else self.delivery.prune(number, path)
        self._contradicts(number, verdict)
        if not verdict & NEW:
            return
        self._error(number, path, error)

    def _error(self, number: int, path: Path, error: RemoteError) -> None:
        error.number = self.reductions.number_of(number, path)
        self.failed.add(error.number)
        self.errors.append(error)
        if self.options.on_error == "raise":
            self._finish(error)
        elif self.options.on_error == "return":
            self._give(number, path, error)

    def _give(self, number: int, path: Path, value: Any) -> None:
        self._with_result.add(number)
        self._append(number, path, value)

    def _append(self, number: int, path: Path, value: Any) -> None:
        if self.options.ordered:
            heapq.heappush(self._early, (number, path, len(self._early), value))
            self._give_what_is_next()
        else:
            self._append_named(number, path, value)

    def _append_named(self, number: int, path: Path, value: Any) -> None:
        """Under the number of the input that users know it by."""
        self.results.append((number if value is INPUT_DONE else self.reductions.number_of(number, path), path, value))

    def _give_what_is_next(self) -> None:
        while self._early and self.ledger.order.is_next(*self._early[0][:2]):
            number, path, _, value = heapq.heappop(self._early)
            self._append_named(number, path, value)

    def _input_done(self, number: int) -> None:
        if number < self.sent:  # else it was a flush
            self.done += 1
            self.dropped += not (
                self._no_inputs or number in self._with_result or number in self.failed or number in self._fell
            )
        self._with_result.discard(number)
        self._fell.discard(number)
        if self.journal is not None and number not in self.failed:
            self._append(number, LAST, INPUT_DONE)
        self._give_what_is_next()

    def broken(self, error: BaseException) -> None:
        self._finish(error)

    def lost(self, link: int, reason: int) -> None:
        if not self.over:
            self.delivery.lost(link, reason)

    def missed(self, link: int) -> None:
        if not self.over:
            self.delivery.missed(link)

    def _cannot_go_on(self, why: Callable[[int], PalmError]) -> None:
        if self.over:
            return
        first = self.book.first()
        error = why(self.sent if first is None else first)
        self.failed.update(self.book.numbers())
        if isinstance(error, RemoteError):
            self.errors.append(error)
        self._finish(error)

    def _check_end(self) -> None:
        if self._fed and not self.book and not self.reductions.flush():
            self._finish(None)

    # ------------------------------------------------------------------------------------------------ the end

    def stop(self) -> None:
        """No more inputs; a job without any has its first generator closed."""
        self.stopping = True
        self.connection.nudge()
        if self._no_inputs and not self.over:
            self.delivery.stop()

    def stop_late(self) -> None:
        """Its time is over. Without the lock."""
        with self.connection.changed:
            self._finish(self._timed_out())
        self.connection.nudge()

    def _timed_out(self) -> Timeout:
        return Timeout(f"the job was not complete within {self.options.timeout:g} s: {self.so_far()}")

    def so_far(self) -> str:
        """With the connection's lock."""
        sent, done, failed, *_ = self.counts()
        return f"{sent} inputs sent, {done} done, {failed} failed"

    def stop_with(self, error: BaseException) -> None:
        """Ends the job now; iterating raises `error`. Without the lock."""
        with self.connection.changed:
            self._finish(error)
        self.connection.nudge()

    def _finish(self, error: BaseException | None) -> None:
        if self.over:
            return
        self.over, self.end = True, error
        if error is not None:
            self.results.clear()
            self._early.clear()
        self.connection.later.append(self._leave)

    def _leave(self) -> None:
        """Tells the servers, unless it is all over anyway. Without the lock."""
        links = self.connection.remove(self)
        with self.delivery.lock:
            self._batch.clear()
        try:
            if self.end is not None:
                self.delivery.tell()
            self.delivery.end(links)
        except (Disconnected, ValueError):
            pass  # closed meanwhile
        for call in self.on_end:
            call()


def _iterator(inputs: Iterable[Any] | AsyncIterable[Any] | None) -> Iterable[Any]:
    if inputs is None:
        return [NOTHING]
    if isinstance(inputs, AsyncIterable):
        return _synchronous(inputs)
    return items_of(inputs)


def _synchronous(inputs: AsyncIterable[Any]) -> Generator[Any, None, None]:
    import asyncio  # 17 ms that others need not wait for

    with asyncio.Runner() as runner:
        source = aiter(inputs)

        async def following() -> Any:
            return await anext(source)

        while True:
            try:
                value = runner.run(following())
            except StopAsyncIteration:
                return
            yield value
            del value  # else an array would count as kept
