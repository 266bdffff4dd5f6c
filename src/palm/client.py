# SPDX-License-Identifier: BSD-3-Clause
"""The client: finds servers through the registry, calls functions, and submits jobs."""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import os
import time
import weakref
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from palm import arguments, places
from palm._core.lock import Lock
from palm.cache import Cache, ServerCaches
from palm.calls import Calls, Retired
from palm.connection import Connection, finalise
from palm.directory import Directory
from palm.errors import Crashed, Disconnected, Timeout
from palm.futures import Background, Call, CallFuture
from palm.job import Job, end_with, leave
from palm.journal import Journal
from palm.overview import Overview
from palm.remote import Route
from palm.step import one_step, route_of
from palm.work import JobWork, Options

_open: weakref.WeakSet[Client] = weakref.WeakSet()


class Client(concurrent.futures.Executor):
    """Thread-safe; takes steps where other executors take callables.

    Parameters
    ----------
    address : str, optional
        An endpoint or a cluster's name; None: ``$PALM_CLUSTER``, else this user's only cluster on this host.
    timeout : float
        Seconds to connect, and for questions to the registry and to caches.

    Raises
    ------
    Disconnected
        Nobody answers; says which addresses were tried.
    """

    def __init__(self, address: str | None = None, *, timeout: float = 10.0) -> None:
        self.timeout = timeout
        self.address = places.find(address)
        self._connection, self._directory = _connect(self.address, timeout)
        self._calls: dict[str, Calls] = {}  # by step, those without constants
        self._background = Background(self._connection)
        self._overview = Overview(self._connection)
        self._lock = Lock()
        _open.add(self)

    def _seconds(self, timeout: Any) -> float | None:
        return arguments.seconds("timeout", timeout)

    # -------------------------------------------------------------------------------------------------- calls

    def _calls_for(self, name: str) -> tuple[Calls, bool]:
        """The calls of a step; True: for this call alone, since it has constants."""
        known = self._calls.get(name) if type(name) is str else None
        if known is not None and not known.retired:
            return known, False
        s = one_step(name)
        if s.constants:
            return Calls(self._connection, self._directory, self._directory.route([s])), True
        calls = self._calls.get(s)
        if calls is None or calls.retired:
            route = self._directory.route([s])
            with self._lock:
                calls = self._calls.get(s)
                if calls is None or calls.retired:
                    calls = self._calls[str(s)] = Calls(self._connection, self._directory, route)
        return calls, False

    def call(self, step: str, /, *values: Any, timeout: float | None = None) -> Any:
        """Call a function and wait for what it returns.

        Parameters
        ----------
        step : str
            ``"server.function"``, or `palm.step` with constants.
        *values
            None: an empty message; one: itself; several: a tuple.
        timeout : float, optional
            Seconds; None: however long, while the server lives. What is not begun by then is not begun any more; a
            function that runs sees `cancelled`, and is ended with its process if it goes on (`Job.cancel`).

        Returns
        -------
        object
            Arrays are read-only views, valid as long as you hold them. A list where the function yields; None where it
            returned None.

        Raises
        ------
        NotFound, PayloadError, RemoteError, Crashed, Timeout, Disconnected
        """
        if timeout is not None:  # not `_seconds`: who calls from a function has asked that before
            timeout = arguments.seconds("timeout", timeout)
        known = self._calls.get(step) if type(step) is str else None
        try:
            if known is not None:  # the common case, without what follows
                try:
                    return known.wait(values, timeout)
                except Retired:
                    pass
            return self._call(step, values, timeout)
        except Crashed as e:
            raise self._directory.explain(e) from None

    def _call(self, step: str, values: tuple[Any, ...], timeout: float | None) -> Any:
        while True:
            calls, once = self._calls_for(step)
            try:
                return calls.wait(values, timeout)
            except Retired:
                continue
            finally:
                if once:
                    calls.end()

    async def acall(self, step: str, /, *values: Any, timeout: float | None = None) -> Any:
        """`call`, awaitable.

        Parameters
        ----------
        step, *values, timeout
            As of `call`.

        Returns
        -------
        object
            As of `call`. To cancel the task gives the call up, as to cancel the future of `submit` does.

        Raises
        ------
        NotFound, PayloadError, RemoteError, Crashed, Timeout, Disconnected
            As of `call`.
        """
        import asyncio  # 17 ms that others need not wait for

        return await asyncio.wrap_future(self._submit(CallFuture(self, direct=True), step, values, timeout))

    def submit(  # type: ignore[override]  # takes a step where other executors take a callable
        self, step: str, /, *values: Any, timeout: float | None = None
    ) -> concurrent.futures.Future[Any]:
        """Call a function without waiting for what it returns.

        Parameters
        ----------
        step : str
            ``"server.function"``, or `palm.step` with constants.
        *values
            None: an empty message; one: itself; several: a tuple.
        timeout : float, optional
            Seconds from now on until the future has a `Timeout`; None: however long, while the server lives. What is
            not begun by then is not begun any more.

        Returns
        -------
        concurrent.futures.Future
            Has what `call` would return or raise, but for the errors below. To cancel it cancels the call, running or
            not: softly, then hard, as `Job.cancel` does. Callbacks (`add_done_callback`) run in threads of their own,
            and may wait for other futures.

        Raises
        ------
        NotFound
            There is no such server or function.
        PayloadError
            A value cannot be sent, or a constant does not fit its type hint.
        Disconnected
            The client is closed, or the cluster is gone.
        """
        return self._submit(CallFuture(self), step, values, timeout)

    def _submit(self, future: CallFuture, step: str, values: tuple[Any, ...], timeout: float | None) -> CallFuture:
        timeout = self._seconds(timeout)
        while True:
            calls, once = self._calls_for(step)
            try:
                number = calls.send(values, future, timeout)
                break
            except BaseException as e:
                if once:
                    calls.end()
                if not isinstance(e, Retired):
                    raise
        try:
            self._background.want()
            future.begin(Call(calls, once, number, timeout))
        except BaseException:
            future.cancel()
            raise
        return future

    def map(  # type: ignore[override]
        self, step: str, /, *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """The results for each input, in order.

        It is a job (`job`): it begins at once, one thread reads the inputs, as there is room for them, and the first
        error cancels what is left. So does dropping the iterator. Iterating raises what it raises of a `Job`.

        Parameters
        ----------
        step : str
            ``"server.function"``, or `palm.step` with constants.
        *iterables
            One: its items are the messages. Several: tuples of their items, as many as the shortest has.
        timeout : float, optional
            Seconds for all of it; None: however long.
        chunksize : int
            Ignored: messages are batched anyway.

        Returns
        -------
        iterator
            Lazy; one item for each input: None where the function returned None, a list where it yields.

        Raises
        ------
        NotFound, PayloadError, Disconnected
            At once, as of `job`.
        ValueError
            The step is of a `Reduce`, which makes one message of many.
        """
        values: Iterable[Any] = iterables[0] if len(iterables) == 1 else zip(*iterables, strict=False)
        inputs = arguments.inputs(values)
        options = _options(ordered=True, timeout=self._seconds(timeout), all_in_order=True)
        route = self._directory.route(route_of(step))
        for s in route.steps:
            if route.servers[s.server].get("template") == "Reduce":
                raise ValueError(f"client.map has a result for each input, and {s} makes one of many: use client.job")
        return self._job(route, inputs, options, progress=False)._one_for_each()

    def job(
        self,
        steps: str | Sequence[str],
        inputs: Iterable[Any] | AsyncIterable[Any] | None = None,
        *,
        ordered: bool = False,
        window: int | None = None,
        on_error: Literal["raise", "skip", "return"] = "raise",
        timeout: float | None = None,
        seed: int | None = None,
        progress: bool = False,
        journal: str | PathLike[str] | None = None,
    ) -> Job:
        """Submit a pipeline and a stream of inputs; iterate over what comes out.

        Parameters
        ----------
        steps : str or sequence of str
            The route: ``"server.function"`` or `palm.step`.
        inputs : iterable, async iterable or None
            Read lazily by one thread, at most `window` messages ahead. None: one empty message, for a pipeline that
            begins with a function that yields. Of an array, its items, as iterating over it gives them; small ones go
            many at a time, and are copied once, unless the array was made under `palm.arena`.
        ordered : bool
            Results by input and place, rather than as they come.
        window : int, optional
            Most messages under way or waiting to be taken. None: adapts, to what the servers do in half a second; 16 to
            4096, and to 32 768 of less than 512 bytes. In any case no more than 512 MiB of them.
        on_error : {"raise", "skip", "return"}
            What a failed message does: cancel and raise the first; stay in `errors`; be given in the result's place.
        timeout : float, optional
            Seconds for the whole job.
        seed : int, optional
            Of `Server.rng`; None: a fresh one.
        progress : bool
            A bar on standard error.
        journal : path, optional
            A file that notes the inputs that are done: all their results were taken, and you have asked for the next
            one since; failed ones are not. The same job made again with it (same steps, constants and inputs, in the
            same order; it has the seed) sends the others alone, and its results are the same bits. Written twice a
            second and at the end, after `into` has flushed its memmap.

        Raises
        ------
        NotFound, PayloadError, Disconnected
            Steps and constants are checked here, by the functions' type hints too: whether each step can take what the
            one before it gives (`docs/contracts.md`).
        TypeError, ValueError
            Of an argument that is none of these, or a journal that is no journal, or that of another job.
        OSError
            The journal is in use, or cannot be written.
        """
        if on_error not in ("raise", "skip", "return"):
            raise ValueError(f'on_error is "raise", "skip" or "return", not {on_error!r}')
        if window is not None:
            window = arguments.whole("window", window, 1)
        if seed is not None:
            seed = arguments.whole("seed", seed, 0)
        timeout = self._seconds(timeout)
        inputs = arguments.inputs(inputs)
        steps = route_of(steps)
        route = self._directory.route(steps)
        fresh = _fresh_seed() if seed is None else seed
        book = None if journal is None else Journal(journal, steps, seed, fresh)
        seed = fresh if book is None else book.seed
        options = _options(ordered=ordered, window=window, on_error=on_error, timeout=timeout, seed=seed)
        try:
            return self._job(route, inputs, options, progress=progress, journal=book)
        except BaseException:
            if book is not None:
                book.close()
            raise

    def _job(
        self,
        route: Route,
        inputs: Iterable[Any] | AsyncIterable[Any] | None,
        options: Options,
        *,
        progress: bool,
        journal: Journal | None = None,
    ) -> Job:
        work = JobWork(self._connection, self._directory, route, options, inputs, journal)
        try:
            return Job(self, work, progress=progress)
        except BaseException:
            leave(work)
            raise

    # ------------------------------------------------------------------------------------------------- cluster

    @property
    def cache(self) -> Mapping[str, Cache]:
        """The caches of all servers, by name: ``client.cache["spectrum"]["weights"] = w``. A server that is not there
        is `NotFound`. To look one up asks the registry: keep ``client.cache["spectrum"]`` where you use it often."""
        return ServerCaches(self)

    def functions(self) -> dict[str, str]:
        """All steps there are: ``{"spectrum.power": "(frame, *, gain=1.0)"}``."""
        return {
            f"{s['name']}.{name}": f["text"]
            for s in self._directory.ask("servers")
            for name, f in s["functions"].items()
        }

    def wait_for(self, *servers: str, workers: int = 1, timeout: float = 60.0) -> None:
        """Wait until each of these servers has so many workers.

        Parameters
        ----------
        *servers : str
            Names; those too that nobody has started yet.
        workers : int
            Processes that run its functions; a `palm.Server` has one.
        timeout : float
            Seconds.

        Raises
        ------
        Timeout
            Some are not there; names them.
        Disconnected
            The cluster is gone, or the client is closed.
        """
        missing = self._directory.wait_for(servers, workers, timeout)
        if missing:
            raise Timeout(f"not there within {timeout:g} s: {', '.join(missing)}")

    def status(self) -> dict[str, Any]:
        """The cluster, as ``palm status --json`` prints it. Hosts that do not answer within 0.75 s are shown as
        unreachable."""
        return self._overview.look(self._directory.ask("status"))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close the client, as leaving a ``with`` block does; `close` does not wait.

        Parameters
        ----------
        wait : bool
            For what was submitted and has not been answered yet, however long that takes. Jobs are not waited for:
            iterating over them raises `Disconnected`.
        cancel_futures : bool
            Do not wait. Futures that are open get `Disconnected`; with ``wait=False`` too.
        """
        if wait and not cancel_futures:
            calls = [w for w in list(self._connection.works.values()) if isinstance(w, Calls)]
            pending = [(w, number) for w in calls for number in list(w.futures)]
            self._connection.wait(lambda: not any(number in w.futures for w, number in pending))
        self.close()

    def __repr__(self) -> str:
        return f"<palm.Client of {self.address}{', closed' if self._connection.closed else ''}>"

    def close(self, timeout: float = 5.0) -> None:
        """Give up what is unfinished, and say so: futures get `Disconnected`. Again: without effect."""
        if self._connection.closed or self._connection.is_forked():
            return
        for work in list(self._connection.works.values()):
            if isinstance(work, JobWork):
                end_with(work, Disconnected("the client was closed before the job was complete"))
        with self._connection.changed:
            for work in list(self._connection.works.values()):
                if isinstance(work, Calls):
                    for number in list(work.futures):
                        work.resolve(number, Disconnected("the client was closed before the answer came"))
        self._connection.call_later()
        self._connection.close(timeout)
        self._background.stop(timeout + 1.0)

    def __enter__(self) -> Client:
        return self

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)  # none: __init__ has raised
        if connection is not None and not connection.closed and not connection.is_forked():
            finalise(functools.partial(connection.close, 0))


@atexit.register
def _close_all() -> None:
    """While the threads that wait in them can still leave."""
    for client in list(_open):
        client.close(0)


def _fresh_seed() -> int:
    return int.from_bytes(os.urandom(8), "big") >> 1  # `secrets` would import OpenSSL


def _options(
    *,
    ordered: bool,
    timeout: float | None,
    window: int | None = None,
    on_error: str = "raise",
    seed: int | None = None,
    all_in_order: bool = False,
) -> Options:
    return Options(
        ordered=ordered,
        window=window,
        on_error=on_error,
        timeout=timeout,
        deadline=0 if timeout is None else time.time_ns() + int(timeout * 1e9),
        seed=_fresh_seed() if seed is None else seed,
        all_in_order=all_in_order,
    )


def _connect(address: str, timeout: float) -> tuple[Connection, Directory]:
    """A connection, and what its registry at `address` knows; Disconnected if there is none."""
    connection = None
    try:
        connection = Connection(places.endpoint(address, places.CLIENT), f"client {os.getpid()}")
        return connection, Directory(connection, address, timeout)
    except (Disconnected, OSError) as e:
        if connection is not None:
            connection.close(0)
        what = str(e) if isinstance(e, Disconnected) else f"{address!r} cannot be connected to: {e}"
        raise Disconnected(f"{what}; is the cluster running? (palm status)") from None
