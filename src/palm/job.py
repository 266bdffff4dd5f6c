# SPDX-License-Identifier: BSD-3-Clause
"""A job, as the client sees it: one thread reads the inputs, whoever iterates receives."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import heapq
import secrets
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from palm._core import node as core
from palm._core import space as core_space
from palm._core.payload import NOTHING, BlockLost
from palm.book import Book
from palm.connection import Outcome
from palm.errors import Cancelled, Crashed, Disconnected, PayloadError, RemoteError, Timeout
from palm.message import places
from palm.remote import Route, error_of

if TYPE_CHECKING:
    from palm.client import Client

WINDOW = 1024            # messages; bounds the client's and each server's queue
WINDOW_BYTES = 1 << 29   # of payload under way; at least one message is, whatever its size
BATCH = 64               # messages in an envelope: beyond, little is left to share (docs/decisions/batching.md)
BATCH_BYTES = 1 << 18
HOLD = 0.002             # seconds that a message waits for company while nobody reads another


@dataclass(frozen=True)
class Progress:
    """What has become of the inputs.

    Attributes
    ----------
    sent, done, failed, dropped : int
        Inputs sent, complete, complete with an error, complete without a result.
    total : int or None
        How many there will be, if that is known.
    """

    sent: int
    done: int
    failed: int
    dropped: int
    total: int | None


class Job:
    """Iterator, also async, of the results of a job; made by `Client.job`. Leaving `with`, or dropping it, cancels what
    is left.

    Attributes
    ----------
    id : str
    seed : int
    errors : list of RemoteError
    progress : Progress
    """

    def __init__(self, client: Client, route: Route, inputs: Iterable[Any] | AsyncIterable[Any] | None, *,
                 ordered: bool, window: int | None, on_error: str, timeout: float | None, seed: int,
                 progress: bool) -> None:
        self.key = secrets.token_bytes(16)
        self.seed = seed
        self.errors: list[RemoteError] = []
        self._client, self._connection, self._route = client, client._connection, route
        self._ordered, self._window, self._on_error = ordered, window or WINDOW, on_error
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._wall_deadline = 0 if timeout is None else time.time_ns() + int(timeout * 1e9)
        self._timeout = timeout
        self._book = Book()
        self._results: collections.deque[tuple[int, tuple[int, ...], Any]] = collections.deque()
        self._mine: collections.deque[tuple[int, tuple[int, ...], Any]] = collections.deque()  # taken off _results
        self._waiting: list[tuple[int, tuple[int, ...], int, Any]] = []  # ordered: heap of what cannot be given yet
        self._closed_nodes: dict[tuple[int, tuple[int, ...]], int] = {}
        self._with_result: set[int] = set()
        self._failed_inputs: set[int] = set()
        self._sent = self._done = self._dropped = 0
        self._sizes: dict[int, int] = {}  # of inputs that weigh
        self._bytes = 0
        self._one_input = inputs is None
        self._total = 1 if inputs is None else len(inputs) if hasattr(inputs, "__len__") else None
        self._fed = False
        self._stopping = False
        self._end: BaseException | None = None  # what iterating raises at the end
        self._over = False
        self._batch = core.Batch()
        self._batch_lock = threading.Lock()
        self._held_since = 0.0
        self._began = time.monotonic()
        self._bar: Any = None
        if progress:
            from palm.progress import Bar
            self._bar = Bar(self)
        self._handle = self._connection.handle()
        self._connection.add(self)
        self._connection.open(route.link, self._handle, route.meaning(self.key, self._connection.endpoint, seed))
        self._feeder = threading.Thread(target=self._feed, args=(inputs,), name="palm-inputs", daemon=True)
        self._feeder.start()

    @property
    def id(self) -> str:
        return self.key.hex()

    @property
    def progress(self) -> Progress:
        with self._connection.changed:
            return Progress(self._sent, self._done, len(self._failed_inputs), self._dropped, self._total)

    # ------------------------------------------------------------------------------------------------- inputs

    def _feed(self, inputs: Iterable[Any] | AsyncIterable[Any] | None) -> None:
        try:
            source: Iterator[Any]
            if inputs is None:
                source = iter([NOTHING])
            elif isinstance(inputs, AsyncIterable):
                source = _synchronous(inputs)
            else:
                source = iter(inputs)
            with core_space.arena(shared=False), contextlib.closing(_Closing(source)):
                self._send_all(source)
        except BaseException as e:  # whatever the user's iterable raised is the user's to see
            self._fail(e)
        finally:
            del inputs
            with self._connection.changed:
                self._fed = True
                self._total = self._sent
                self._check_end()
                self._connection.changed.notify_all()
                self._connection.node.wake()

    def _send_all(self, source: Iterator[Any]) -> None:
        number = 0
        while self._wait_for_room():
            before = self._batch.nbytes
            try:
                with self._batch_lock:
                    self._batch.put_next(source, number, self._wall_deadline)
            except StopIteration:
                break
            except PayloadError as e:
                raise PayloadError(f"input {number}: {e}") from None
            size = self._batch.nbytes - before
            with self._connection.changed:
                self._book.begin(number)
                self._sent += 1
                if size > 4096:
                    self._sizes[number] = size
                    self._bytes += size
                alone = len(self._book) == len(self._batch)
            number += 1
            if alone or len(self._batch) >= BATCH or self._batch.nbytes > BATCH_BYTES:
                self._flush()
            elif not self._held_since:
                self._held_since = time.monotonic()
            elif time.monotonic() - self._held_since > HOLD:
                self._flush()
        self._flush()

    def _room(self) -> bool:
        under_way = len(self._book)
        return (self._over or self._stopping or under_way + len(self._results) + len(self._waiting) < self._window
                and (self._bytes < WINDOW_BYTES or not under_way))

    def _wait_for_room(self) -> bool:
        """False: no more inputs are wanted."""
        with self._connection.changed:
            if self._room():
                return not (self._over or self._stopping)
        self._flush()
        self._connection.wait(self._room)
        return not (self._over or self._stopping)

    def _flush(self) -> None:
        with self._batch_lock:
            self._held_since = 0.0
            if len(self._batch) and not self._over:
                if not self._connection.send(self._route.link, core.DATA, self._handle, 0, self._batch):
                    self._batch.clear()
                    with self._connection.changed:
                        self.lost(self._route.link, 1)

    def idle(self) -> None:
        if self._held_since and time.monotonic() - self._held_since > HOLD:
            self._flush()

    # ------------------------------------------------------------------------- what comes, with the connection's lock

    def receive(self, outcomes: list[Outcome]) -> None:
        if self._over:
            return
        for form, number, path, value in outcomes:
            if number not in self._book:
                continue
            if form == core.CLOSE:
                self._closed_nodes[number, path] = value
                self._book.close(number, path, value)
            elif form == core.ERROR:
                self._failed(number, path, error_of(value, number))
            elif isinstance(value, BlockLost):
                self._failed(number, path, RemoteError(str(value), number=number, type="BlockLost"))
            elif self._book.settle(number, path) and form != core.DROP:
                self._with_result.add(number)
                self._give(number, path, value)
            if number not in self._book:
                self._input_done(number)
        self._check_end()

    def _give(self, number: int, path: tuple[int, ...], value: Any) -> None:
        if self._ordered:
            heapq.heappush(self._waiting, (number, path, len(self._waiting), value))
            self._release_ordered()
        else:
            self._results.append((number, path, value))

    def _release_ordered(self) -> None:
        """Gives what nothing can come before any more: all inputs before it are complete, and its own, if it fans out."""
        while self._waiting:
            number, path, _, value = self._waiting[0]
            first_open = min(self._book._open, default=None)
            if first_open is not None and (first_open < number or (first_open == number and not self._next(number, path))):
                return
            heapq.heappop(self._waiting)
            self._results.append((number, path, value))

    def _next(self, number: int, path: tuple[int, ...]) -> bool:
        """Within an open input: True if all places before `path` are complete, in a fan-out of one level."""
        nodes = self._book._open.get(number)
        if not nodes or len(path) != 1:
            return False
        complete = nodes[()].complete if () in nodes else set()
        place = places(path)[0]
        start = self._ordered_next.get(number, 0) if hasattr(self, "_ordered_next") else 0
        if not hasattr(self, "_ordered_next"):
            self._ordered_next: dict[int, int] = {}
        while start < place and start in complete:
            start += 1
        self._ordered_next[number] = start
        return start >= place

    def _failed(self, number: int, path: tuple[int, ...], error: RemoteError) -> None:
        self._failed_inputs.add(number)
        self.errors.append(error)
        if not self._book.settle(number, path):
            return
        if self._on_error == "raise":
            self._stop_with(error)
        elif self._on_error == "return":
            self._with_result.add(number)
            self._give(number, path, error)

    def _input_done(self, number: int) -> None:
        self._done += 1
        if number not in self._with_result and number not in self._failed_inputs:
            self._dropped += 1
        self._with_result.discard(number)
        self._bytes -= self._sizes.pop(number, 0)
        if self._ordered:
            self._release_ordered()

    def _check_end(self) -> None:
        if self._fed and not self._book and not self._over:
            self._finish()

    def _stop_with(self, error: BaseException) -> None:
        if not self._over:
            self._end = error
            self._finish()

    def _finish(self) -> None:
        """No more will come."""
        self._over = True
        self._connection.later.append(self._forget)

    def _forget(self) -> None:
        self._connection.remove(self)
        finished = self._end is None
        if not self._connection.is_gone(self._route.link) and not self._connection.closed:
            try:
                if not finished:
                    for name in {s.server for s in self._route.steps}:
                        self._cancel_at(self._route.links[name])
                self._connection.say(self._route.link, core.FORGET, self._handle)
            except (Disconnected, ValueError):
                pass  # closed meanwhile
        if self._bar is not None:
            self._bar.close()

    def _cancel_at(self, link: int) -> None:
        if self._connection.is_gone(link):
            return
        batch = core.Batch()
        batch.put({"job": self.key}, 0)
        self._connection.send(link, core.CANCEL, 0, 0, batch)

    def lost(self, link: int, reason: int) -> None:
        server = self._route.server_of(link)
        if server is None or self._over:
            return
        error = Crashed("its process is gone", server=server, type="Crashed", reason="stopped" if reason == 0 else "",
                        function=next(s.function for s in self._route.steps if s.server == server))
        for number in self._book.numbers():
            self._failed_inputs.add(number)
        self.errors.append(error)
        self._stop_with(error)

    # ---------------------------------------------------------------------------------------------- iterating

    def _fail(self, error: BaseException) -> None:
        with self._connection.changed:
            self._stop_with(error)
            self._connection.changed.notify_all()
        self._connection.node.wake()

    def _take(self) -> tuple[int, tuple[int, ...], Any]:
        if not self._mine:
            self._refill()
        if self._bar is not None:
            self._bar.update()
        return self._mine.popleft()

    def _refill(self) -> None:
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if not self._connection.wait(lambda: bool(self._results) or self._over, left):
            self._fail(Timeout(f"the job was not complete within {self._timeout:g} s: {self._book_text()}"))
        self._connection._call_later()
        with self._connection.changed:
            if self._end is not None and not (isinstance(self._end, Cancelled) and self._results):
                self._results.clear()
            self._mine, self._results = self._results, collections.deque()
            self._connection.changed.notify_all()  # there is room now
        if not self._mine:
            self._raise_end()

    def _book_text(self) -> str:
        p = self._sent, self._done, len(self._failed_inputs)
        return f"{p[0]} inputs sent, {p[1]} done, {p[2]} failed"

    def _raise_end(self) -> None:
        end = self._end
        if end is None:
            raise StopIteration
        if isinstance(end, Crashed):
            self._client._explain(end)
        raise end

    def __iter__(self) -> Job:
        return self

    def __next__(self) -> Any:
        return self._take()[2]

    def items(self) -> Iterator[tuple[int, Any]]:
        """(number of the input, result); without inputs, the place in what the first function yielded."""
        while True:
            try:
                number, path, value = self._take()
            except StopIteration:
                return
            yield (places(path)[0] if self._one_input and path else number), value

    def _one_for_each(self) -> Iterator[Any]:
        """For `map`: None for inputs without a result, a list for those that fanned out."""
        number, group, fanned = 0, [], False
        for n, path, value in iter(self._taken, None):
            while number < n:
                yield group if fanned else group[0] if group else None
                number, group, fanned = number + 1, [], False
            group.append(value)
            fanned = bool(path)
        while number < self._sent:
            yield group if fanned else group[0] if group else None
            number, group, fanned = number + 1, [], False

    def _taken(self) -> tuple[int, tuple[int, ...], Any] | None:
        try:
            return self._take()
        except StopIteration:
            return None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._async()

    async def _async(self) -> AsyncIterator[Any]:
        nothing = object()
        while (value := await asyncio.to_thread(next, self, nothing)) is not nothing:
            yield value

    def into(self, out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """To the end: the result of input n into ``out[n]``; `out` may be a memmap; returns it.

        Results of shape ``out.shape[1:]``, of a dtype that `out` can hold (``same_kind``).
        """
        for number, value in self.items():
            if isinstance(value, RemoteError):
                continue
            if number >= len(out):
                self.cancel()
                raise IndexError(f"the result of input {number} has no place in an array of {len(out)}")
            np.copyto(out[number: number + 1], np.asarray(value)[np.newaxis], casting="same_kind")
        return out

    def wait(self, timeout: float | None = None) -> Progress:
        """To the end; results are thrown away. Timeout: it goes on, wait again."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._over or self._results:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._connection.wait(lambda: bool(self._results) or self._over, left):
                raise Timeout(f"not complete after {timeout:g} s: {self._book_text()}")
            self._connection._call_later()
            with self._connection.changed:
                self._results.clear()
                self._connection.changed.notify_all()
            if self._bar is not None:
                self._bar.update()
        if self._end is not None:
            self._raise_end()
        return self.progress

    def stop(self) -> None:
        """No more inputs; what is under way still arrives."""
        with self._connection.changed:
            self._stopping = True
            self._connection.changed.notify_all()
        self._connection.node.wake()

    def cancel(self) -> None:
        """What is queued is dropped at once; a function that runs sees `cancelled`. Iterating raises `Cancelled`."""
        self._fail(Cancelled("the job was cancelled"))
        self._connection._call_later()

    def _close(self) -> None:
        if not self._over:
            self._fail(Disconnected("the client was closed before the job was complete"))
            self._connection._call_later()

    def stats(self) -> dict[str, Any]:
        """By step: calls, mean service time in seconds, bytes copied by its server since that started."""
        counters = {s["name"]: s["counters"] for s in self._client.status()["servers"]}
        steps = {}
        for s in self._route.steps:
            c = counters.get(s.server, {})
            f = c.get("functions", {}).get(s.function, {})
            steps[str(s)] = {"calls": f.get("calls", 0), "seconds": f.get("busy_seconds", 0.0),
                             "mean_seconds": f.get("busy_seconds", 0.0) / max(1, f.get("calls", 0)),
                             "bytes_copied": c.get("bytes_copied", 0)}
        slowest = max(steps, key=lambda k: steps[k]["mean_seconds"])
        return {"seconds": time.monotonic() - self._began, "steps": steps, "limits": slowest}

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._over:
            self.cancel()

    def __del__(self) -> None:
        if not getattr(self, "_over", True) and not self._connection.closed:
            self._over = True


class _Closing:
    """Closes a generator of inputs when the job is over, so that its `finally` runs."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source

    def close(self) -> None:
        close = getattr(self._source, "close", None)
        if close is not None and hasattr(self._source, "gi_frame"):
            close()


def _synchronous(inputs: AsyncIterable[Any]) -> Iterator[Any]:
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
