# SPDX-License-Identifier: BSD-3-Clause
"""A job, as the user sees it: an iterator of results. What goes on inside is in palm.work."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from palm import arguments
from palm._core.results import ResultIterator, ResultQueue, inherits_next
from palm.connection import finalise
from palm.errors import Cancelled, RemoteError, Timeout
from palm.journal import Journal
from palm.rows import Rows
from palm.work import INPUT_DONE, JobWork, Result

if TYPE_CHECKING:
    from palm.client import Client


@dataclass(frozen=True)
class Progress:
    """What has become of the inputs.

    Attributes
    ----------
    sent, done, failed, dropped : int
        Inputs sent, complete, complete with an error, complete without a result. `dropped` counts besides each message
        for which a branch with ``slow="drop-oldest"`` or ``"reject"`` of `palm.to` had no room. Of a job without
        inputs, those that its first function yields, `sent` up to the last that is complete.
    total : int or None
        How many there will be, if that is known.
    """

    sent: int
    done: int
    failed: int
    dropped: int
    total: int | None


@inherits_next
class Job(ResultIterator):
    """Iterator, also async, of the results of a job; made by `Client.job`.

    Each result comes once: in the order in which they come, with ``ordered`` by input and place. Arrays are read-only
    views, valid as long as you hold them. They lie in the shared memory of the server that made them, so who keeps
    many of them keeps that full: copy what you keep. Several threads may take results of one job. Leaving a ``with``
    block, or dropping the job, cancels what is left. What ends a job before it is complete is raised by iterating,
    after all results that had come.

    Raises
    ------
    RemoteError
        With ``on_error="raise"``: a message has failed, the first of them; `Crashed`, a subclass, if the process that
        worked on it died. The job is cancelled.
    Exception
        Whatever the inputs raise, as it is. The job is cancelled.
    Timeout
        The job is not complete within its `timeout`.
    Cancelled
        It was cancelled, or left before it was complete.
    Disconnected
        The client was closed, or the cluster is gone.
    """

    def __init__(self, client: Client, work: JobWork, *, progress: bool) -> None:
        self._client, self._work = client, work
        self._began = time.monotonic()
        self._before: dict[str, Any] | None = None  # the cluster as it was then, if somebody has looked
        self._groups = None if work.journal is None else Groups(work.journal)
        self._bar: Any = None
        if progress:
            from palm.progress import Bar

            self._bar = Bar(" -> ".join(work.route.steps))
            work.on_end.append(lambda bar=self._bar: bar.close(_progress_of(work)))

    def __repr__(self) -> str:
        p = self.progress
        over = "ended" if self._work.over else "under way"
        return f"<palm.Job {' -> '.join(self._work.route.steps)}: {p.sent} inputs sent, {p.done} done, {over}>"

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self._work.key.hex()

    @property
    def seed(self) -> int:
        """Of `Server.rng`."""
        return self._work.options.seed

    @property
    def errors(self) -> list[RemoteError]:
        """What failed so far."""
        return self._work.errors

    @property
    def progress(self) -> Progress:
        return _progress_of(self._work)

    # ---------------------------------------------------------------------------------------------- iterating

    def _next(self) -> Result:
        while True:
            try:
                return self._taken.popleft()
            except IndexError:
                pass
            self._take()

    def _take(self, end: float = math.inf) -> bool:
        """All results that are there; StopIteration, or what ended the job, if no more will come. False: there were
        none until `end`, monotonic. Any number of threads may be here: what one has taken, another may get."""
        work = self._work
        if self._groups is not None and self._groups.advance(self._taken):
            return True
        if not self._wait(min(self._left(), max(0.0, end - time.monotonic()))):
            if self._left():
                return False
            work.stop_late()
        taken = work.take()
        if self._groups is None:
            self._taken.extend(taken)
        else:
            self._groups.add(taken)
        if self._bar is not None:
            self._bar.update(self.progress)
        if not taken and work.over and not work.results:  # in this order: what ends it comes after all results
            self._raise_end()
        return True

    def _left(self) -> float:
        """Seconds that the whole job may still take."""
        timeout = self._work.options.timeout
        return math.inf if timeout is None else max(0.0, self._began + timeout - time.monotonic())

    def _wait(self, timeout: float) -> bool:
        """For results or the end. Who is interrupted wants no more: a traceback that is kept would keep the job
        going."""
        work = self._work
        try:
            return work.connection.wait(
                lambda: bool(work.results) or work.over, None if timeout == math.inf else timeout
            )
        except KeyboardInterrupt:
            self.cancel()
            raise

    def _raise_end(self) -> None:
        _close_journal(self._work)
        end = self._work.end
        if end is None:
            raise StopIteration
        raise self._client._directory.explain(end)

    def items(self) -> Iterator[tuple[int, Any]]:
        """(number of the input, of a reduction the lowest; result). Without inputs, they are what the first function
        yields."""
        for number, _, value in self._results():
            yield number, value

    def _results(self) -> Iterator[Result]:
        while True:
            try:
                result = self._next()
            except StopIteration:
                return
            yield result

    def _one_for_each(self) -> Iterator[Any]:
        """For `Client.map`: None for inputs without a result, a list for those that fanned out."""
        number = 0
        group: list[Any] = []
        for n, _, value in self._results():
            while number < n:
                yield self._one(number, group)
                number, group = number + 1, []
            group.append(value)
        while number < self._work.sent:
            yield self._one(number, group)
            number, group = number + 1, []

    def _one(self, number: int, group: list[Any]) -> Any:
        return group if number in self._work.fanned else group[0] if group else None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._async()

    async def _async(self) -> AsyncIterator[Any]:
        import asyncio  # 17 ms that others need not wait for

        end = object()
        while (value := await asyncio.to_thread(next, self, end)) is not end:
            yield value

    def into(self, out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """To the end: the result of input n into ``out[n]``; returns `out`.

        Parameters
        ----------
        out : (N, ...) ndarray
            A memmap too; with a journal the same one again. Results have the shape ``out.shape[1:]`` and a dtype that
            casts to its own (``same_kind``). Rows of inputs without a result stay as they are.

        Raises
        ------
        ValueError, TypeError, IndexError
            `out` is no array, or read-only. A result does not fit, an input has a second one, or has no row in `out`;
            names the input. `out` is not what the journal has noted: made anew (``"w+"``), not opened (``"r+"``). The
            job is cancelled.

        Warns
        -----
        RuntimeWarning
            There is a journal, and `out` is no memmap of a file: its rows do not outlive the process.
        """
        try:
            rows = Rows(out)
            if self._groups is not None:
                rows.keep_in(self._groups.journal)
            self._write(rows)
        except (IndexError, TypeError, ValueError):
            self.cancel()
            _close_journal(self._work)
            raise
        return out

    def _write(self, rows: Rows) -> None:
        while True:
            if (several := self._taken.popleft_rows()) is not None:
                rows.put_all(*several)
                continue
            try:
                number, _, value = self._next()
            except StopIteration:
                return
            if not isinstance(value, RemoteError):
                rows.put(number, value)

    def wait(self, timeout: float | None = None) -> Progress:
        """To the end; results are thrown away.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: however long.

        Returns
        -------
        Progress
            What has become of the inputs.

        Raises
        ------
        Timeout
            It is not complete after `timeout` seconds: it goes on, wait again. Or the job's own time is over.
        RemoteError, Crashed, Cancelled, Disconnected
            What ended the job, as iterating raises it, and what the inputs raised.
        """
        timeout = arguments.seconds("timeout", timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        try:
            while self._take(end):
                self._taken.clear()
        except StopIteration:
            return self.progress
        with self._work.connection.changed:
            so_far = self._work.so_far()
        raise Timeout(f"not complete after {timeout:g} s: {so_far}")

    # ------------------------------------------------------------------------------------------------ ending

    def stop(self) -> None:
        """No more inputs; what is under way still arrives."""
        self._work.stop()

    def cancel(self) -> None:
        """What is queued is dropped; a function that runs sees `cancelled`. Iterating raises `Cancelled`.

        A function that goes on for longer than 2 s, or than the `setup` of its server took, is ended hard: its
        process is replaced, and what other jobs had there is repeated. Ctrl-C in a wait for results cancels too.
        """
        end_with(self._work, Cancelled("the job was cancelled"))

    def stats(self) -> dict[str, Any]:
        """Where the time went.

        Returns
        -------
        dict
            ``seconds`` since the job began. ``steps``, by step: ``calls``; ``seconds`` in the function,
            ``mean_seconds``, ``median_seconds`` and ``p99_seconds`` (to within a factor of two; None without calls);
            of its server ``workers``, ``queue`` (messages that wait there now), ``busy`` (share of the time in
            functions), ``own_seconds`` (PALM's: neither there nor idle), ``bytes_in``, ``bytes_out``, ``bytes_copied``,
            ``errors``; all since the server started, other jobs included. ``limits``: the step whose server has most
            to do for each of its workers. ``own``: PALM's own ``seconds``, at all of them, and their ``share`` of
            what is not idle. ``one_more``: ``gain``, the factor by which one more worker of the step that limits would
            raise the throughput, and ``why``. ``unknown_hosts``: those that do not answer, and their states: what
            processes there have done is in no number.
        """
        from palm import stats

        return {
            "seconds": time.monotonic() - self._began,
            **stats.between(self._work.route.steps, self._before, self._client.status()),
        }

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exc: object) -> None:
        self._drop()

    def __del__(self) -> None:
        if hasattr(self, "_began"):  # else __init__ has raised
            if self._is_open():
                finalise(functools.partial(leave, self._work))
            elif self._groups is not None:
                finalise(self._groups.journal.close)

    def _drop(self) -> None:
        if self._is_open():
            leave(self._work)
        else:
            _close_journal(self._work)

    def _is_open(self) -> bool:
        connection = self._work.connection
        return not self._work.over and not connection.closed and not connection.is_forked()


class Groups:
    """The results of a job with a journal, in groups that end with an input's last one: who asks for the next group has
    worked on the former."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._lock = threading.Lock()
        self._waiting = ResultQueue()
        self._done: int | None = None  # the input that the group ends

    def add(self, taken: ResultQueue) -> None:
        with self._lock:
            self._waiting.extend(taken)

    def advance(self, group: ResultQueue) -> bool:
        """Adds the next group, perhaps an empty one; False if there is none yet."""
        with self._lock:
            if self._done is not None:
                self.journal.add(self._done)
                self._done = None
            more = bool(self._waiting)
            while self._waiting and self._done is None:
                number, path, value = self._waiting.popleft()
                if value is INPUT_DONE:
                    self._done = number
                else:
                    group.append((number, path, value))
            return more


def end_with(work: JobWork, error: BaseException) -> None:
    work.stop_with(error)
    work.connection.call_later()


def leave(work: JobWork) -> None:
    end_with(work, Cancelled("the job was left before it was complete"))
    _close_journal(work)


def _close_journal(work: JobWork) -> None:
    if work.journal is not None:
        work.journal.close()


def _progress_of(work: JobWork) -> Progress:
    with work.connection.changed:
        numbers = work.counts()
    return Progress(*numbers)  # without the lock: this is Python, where signal handlers run
