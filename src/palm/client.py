# SPDX-License-Identifier: BSD-3-Clause
"""The client: finds servers through the registry, calls functions, and submits jobs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import difflib
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import AsyncIterable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, Literal

from palm import places
from palm._core import node as core
from palm._core import space as core_space
from palm.book import Book
from palm.connection import Connection, Outcome
from palm.errors import Crashed, Disconnected, NotFound, PayloadError, RemoteError, Timeout
from palm.job import Job
from palm.remote import Route, error_of, number_of_values
from palm.step import Step, route_of
from palm.work import WINDOW, JobWork, Options

REGISTRY = "registry"
_HOST = socket.gethostname()
_REASON_WAIT = 2.0  # seconds that a supervisor has to tell why a process died


class Calls:
    """The calls of one step: a job without an end, one input a call."""

    def __init__(self, client: Client, route: Route) -> None:
        self.key = secrets.token_bytes(16)
        self.client, self.route = client, route
        self.book = Book()
        self.handle = client._connection.handle()
        self.futures: dict[int, concurrent.futures.Future[Any]] = {}
        self.results: dict[int, list[tuple[tuple[int, ...], Any]]] = {}
        self.next = 0
        self.dead = False
        client._connection.add(self)
        client._connection.open(route.link, self.handle, route.meaning(self.key, client._connection.endpoint, 0))

    def send(self, values: tuple[Any, ...]) -> tuple[int, concurrent.futures.Future[Any]]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        batch = core.Batch()
        with self.client._connection.changed:
            number = self.next
            self.next += 1
        batch.put(number_of_values(values), number)
        with self.client._connection.changed:
            self.book.begin(number)
            self.futures[number] = future
        if not self.client._connection.send(self.route.link, core.DATA, self.handle, 0, batch):
            with self.client._connection.changed:
                self.lost(self.route.link, 1)
        return number, future

    def receive(self, outcomes: list[Outcome]) -> None:
        for form, number, path, value in outcomes:
            if number not in self.book:
                continue
            if form == core.CLOSE:
                self.results.setdefault(number, [])
                self.book.close(number, path, value)
            elif form == core.ERROR:
                self.book.forget(number)
                self._resolve(number, error_of(value, number))
            elif self.book.settle(number, path) and form != core.DROP:
                self.results.setdefault(number, []).append((path, value))
            if number not in self.book and number in self.futures:
                self._resolve(number, None)

    def _resolve(self, number: int, error: BaseException | None) -> None:
        future = self.futures.pop(number)
        results = self.results.pop(number, None)
        if error is not None:
            self.client._connection.later.append(lambda: _set(future, None, error))
            return
        one = (
            None
            if not results and results != []
            else (
                results[0][1]
                if results and not results[0][0]
                else [v for _, v in sorted(results or [], key=lambda r: r[0])]
            )
        )
        self.client._connection.later.append(lambda: _set(future, one, None))

    def lost(self, link: int, reason: int) -> None:
        server = self.route.server_of(link)
        if server is None:
            return
        self.dead = True
        self.client._connection.works.pop(self.key, None)
        for number in list(self.futures):
            self.book.forget(number)
            self._resolve(
                number,
                Crashed(
                    "its process is gone",
                    server=server,
                    number=number,
                    function=self.route.steps[0].function,
                    type="Crashed",
                    pid=self.route.servers[server]["pid"],
                    reason="stopped" if reason == 0 else "",
                ),
            )

    def idle(self) -> None:
        pass


def _set(future: concurrent.futures.Future[Any], value: Any, error: BaseException | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)


class Client(concurrent.futures.Executor):
    """Thread-safe; takes steps where other executors take callables.

    Parameters
    ----------
    address : str, optional
        An endpoint or a cluster's name; None: ``$PALM_CLUSTER``, else this user's only cluster on this host.
    timeout : float
        Seconds to connect, and for questions to the registry.

    Raises
    ------
    Disconnected
        Nobody answers; says which addresses were tried.
    """

    def __init__(self, address: str | None = None, *, timeout: float = 10.0) -> None:
        self.timeout = timeout
        self.address = places.find(address)
        self._connection, link = _connect(self.address, timeout)
        self._calls: dict[str, Calls] = {}
        self._known: dict[str, dict[str, Any]] = {}
        self._linked: dict[int, str] = {}
        self._connection.on_gone.append(self._forget_server)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()
        registry = {"address": self.address, "functions": {}, "pid": 0}
        self._registry = Route([Step("registry.lookup")], {REGISTRY: registry}, link, {REGISTRY: link})

    # ------------------------------------------------------------------------------------------- the registry

    def _ask(self, function: str, *values: Any, timeout: float | None = None) -> Any:
        """Calls the registry."""
        name = f"{REGISTRY}.{function}"
        registry = self._registry
        route = Route([Step(name)], registry.servers, registry.link, registry.links)
        return self._call(name, route, values, self.timeout if timeout is None else timeout)

    def _lookup(self, steps: Sequence[Step]) -> dict[str, dict[str, Any]]:
        """What is known of the servers of these steps, each checked to have the function."""
        names = sorted({s.server for s in steps})
        missing = [n for n in names if n not in self._known]
        if missing:
            self._known |= self._find(missing)
        for s in steps:
            self._check_step(s, self._known[s.server])
        return {n: self._known[n] for n in names}

    def _find(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """What the registry says of these servers; one that is being restarted is waited for."""
        found = self._ask("lookup", names)
        absent = [n for n in names if n not in found["servers"]]
        if absent and all(found["states"].get(n) == "restarting" for n in absent):
            self._wait_for(absent, 1, self.timeout)
            found = self._ask("lookup", names)
            absent = [n for n in names if n not in found["servers"]]
        if absent:
            raise NotFound(_no_server(absent[0], found["names"], found["states"].get(absent[0], "")))
        servers: dict[str, dict[str, Any]] = found["servers"]
        return servers

    def _check_step(self, s: Step, server: dict[str, Any]) -> None:
        functions = server["functions"]
        if s.function not in functions:
            raise NotFound(_no_function(s, functions, server.get("hidden", [])))
        constants = functions[s.function]["constants"]
        for name in s.constants:
            if name not in constants:
                raise PayloadError(f"{s} has no constant {name!r}; its signature is {functions[s.function]['text']}")
        for name, has_default in constants.items():
            if not has_default and name not in s.constants:
                raise PayloadError(
                    f"{s} needs the constant {name!r}: palm.step({str(s)!r}, {name}=...); its signature is "
                    f"{functions[s.function]['text']}"
                )

    def _route(self, steps: Sequence[Step]) -> Route:
        servers = self._lookup(steps)
        links = {name: self._link(name, server) for name, server in servers.items()}
        return Route(list(steps), servers, links[steps[0].server], links)

    def _link(self, name: str, server: dict[str, Any]) -> int:
        if server["host"] == _HOST:
            link = self._connection.link_to_living(server["address"], server["pid"])
        else:
            link = self._connection.link(server["address"], self.timeout)
        with self._connection.changed:
            self._linked[link] = name
        return link

    def _forget_server(self, link: int) -> None:
        """Its successor has another address."""
        self._known.pop(self._linked.pop(link, ""), None)

    def _reason(self, server: str, pid: int) -> str:
        """Why a process of a server died, as its supervisor saw it."""
        try:
            for _ in range(20):
                reason: str = self._ask("reason", server, pid)
                if reason:
                    return reason
                threading.Event().wait(_REASON_WAIT / 20)
        except (Disconnected, Timeout, RemoteError):
            pass
        return "its process is gone"

    def _explain(self, error: BaseException) -> BaseException:
        """Completes a Crashed with the reason."""
        if isinstance(error, Crashed) and not error.reason:
            error.reason = self._reason(error.server, error.pid)
            error.args = (f"the process of {error.server!r} is gone: {error.reason}",)
        return error

    # -------------------------------------------------------------------------------------------------- calls

    def _calls_of(self, key: str, route: Route) -> Calls:
        with self._lock:
            calls = self._calls.get(key)
            if calls is None or calls.dead:
                calls = self._calls[key] = Calls(self, route)
            return calls

    def _calls_for(self, s: str) -> tuple[Calls, bool]:
        """The calls of a step; True: for this call alone, since it has constants."""
        [s] = route_of(s)
        calls = self._calls.get(s)
        if not s.constants and calls is not None and not calls.dead:
            return calls, False
        route = self._route([s])
        return (Calls(self, route), True) if s.constants else (self._calls_of(str(s), route), False)

    def _call(self, key: str, route: Route, values: tuple[Any, ...], timeout: float | None) -> Any:
        return self._wait(self._calls_of(key, route), values, timeout, key)

    def _wait(self, calls: Calls, values: tuple[Any, ...], timeout: float | None, name: str) -> Any:
        number, future = calls.send(values)
        self._connection.wait(future.done, timeout)
        self._connection.call_later()
        if not future.done():
            with self._connection.changed:
                calls.book.forget(number)
                calls.futures.pop(number, None)
            raise Timeout(f"{name} has not answered within {timeout:g} s")
        error = future.exception()
        if error is not None:
            raise self._explain(error)
        return future.result()

    def call(self, step: str, /, *values: Any, timeout: float | None = None) -> Any:
        """Call a function and wait for what it returns.

        Parameters
        ----------
        step : str
            ``"server.function"``, or `palm.step` with constants.
        *values
            None: an empty message; one: itself; several: a tuple.
        timeout : float, optional
            Seconds; None: however long, while the server lives.

        Returns
        -------
        object
            Arrays are read-only views, valid as long as you hold them. A list where the function yields; None where it
            returned None.

        Raises
        ------
        NotFound, PayloadError, RemoteError, Crashed, Timeout, Disconnected
        """
        calls, once = self._calls_for(step)
        try:
            return self._wait(calls, values, timeout, step)
        finally:
            if once:
                self._end(calls)

    def _end(self, calls: Calls) -> None:
        self._connection.remove(calls)
        if not self._connection.is_gone(calls.route.link):
            self._connection.say(calls.route.link, core.FORGET, calls.handle)

    async def acall(self, step: str, /, *values: Any, timeout: float | None = None) -> Any:
        """`call`, awaitable."""
        return await asyncio.wrap_future(self.submit(step, *values, timeout=timeout))

    def submit(
        self,
        step: str,
        /,
        *values: Any,
        timeout: float | None = None,  # type: ignore[override]
    ) -> concurrent.futures.Future[Any]:
        """Call a function without waiting; the future has what `call` would return or raise."""
        calls, once = self._calls_for(step)
        number, inner = calls.send(values)
        outer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        timer: threading.Timer | None = None

        def finish(done: concurrent.futures.Future[Any]) -> None:
            if timer is not None:
                timer.cancel()
            if once:
                self._end(calls)
            if outer.done() or not outer.set_running_or_notify_cancel():
                return
            error = done.exception()
            if error is None:
                outer.set_result(done.result())
            elif isinstance(error, Crashed) and not error.reason:
                threading.Thread(target=lambda: outer.set_exception(self._explain(error)), daemon=True).start()
            else:
                outer.set_exception(error)

        def give_up() -> None:
            with self._connection.changed:
                calls.book.forget(number)
                calls.futures.pop(number, None)
            _set(inner, None, Timeout(f"{step} has not answered within {timeout:g} s"))

        if timeout is not None:
            timer = threading.Timer(timeout, give_up)
            timer.daemon = True
            timer.start()
        inner.add_done_callback(finish)
        self._pump_in_background()
        return outer

    def _pump_in_background(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._pump, name="palm-client", daemon=True)
                self._thread.start()

    def _pump(self) -> None:
        def none_left() -> bool:
            return not any(isinstance(w, Calls) and w.futures for w in self._connection.works.values())

        try:
            while self._connection.wait(none_left, 3600.0):
                self._connection.call_later()
                with self._lock:
                    if none_left():
                        self._thread = None
                        return
        except (Disconnected, ValueError):
            pass  # closed: close() has dealt with the futures

    def map(
        self,
        step: str,
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,  # type: ignore[override]
        chunksize: int = 1,
    ) -> Iterator[Any]:
        """The results for each input, in order; lazy. `chunksize` is ignored: messages are batched anyway."""
        inputs: Iterable[Any] = iterables[0] if len(iterables) == 1 else zip(*iterables, strict=False)
        job = self.job(step, inputs, ordered=True, timeout=timeout)
        return job._one_for_each()

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
            begins with a function that yields.
        ordered : bool
            Results by input and place, rather than as they come.
        window : int, optional
            Most inputs under way or waiting to be taken; None: 1024, and 512 MiB.
        on_error : {"raise", "skip", "return"}
            What a failed message does: cancel and raise the first; stay in `errors`; be given in the result's place.
        timeout : float, optional
            Seconds for the whole job.
        seed : int, optional
            Of `Server.rng`; None: a fresh one.
        progress : bool
            A bar on standard error.
        journal : path, optional
            Not there yet (NotImplementedError).

        Raises
        ------
        NotFound, PayloadError, Disconnected
            Steps and constants are checked here.
        """
        if on_error not in ("raise", "skip", "return"):
            raise ValueError(f'on_error is "raise", "skip" or "return", not {on_error!r}')
        if window is not None and window < 1:
            raise ValueError(f"a window has at least one message, not {window}")
        if journal is not None:
            raise NotImplementedError("a journal is not there yet")
        options = Options(
            ordered=ordered,
            window=window or WINDOW,
            on_error=on_error,
            timeout=timeout,
            deadline=0 if timeout is None else time.time_ns() + int(timeout * 1e9),
            seed=secrets.randbits(63) if seed is None else seed,
        )
        work = JobWork(self._connection, self._route(route_of(steps)), options, inputs)
        job = Job(self, work, progress=progress, one_input=inputs is None)
        self._jobs.add(job)
        return job

    # ------------------------------------------------------------------------------------------------- cluster

    def functions(self) -> dict[str, str]:
        """All steps there are: ``{"spectrum.power": "(frame, *, gain=1.0)"}``."""
        return {f"{s['name']}.{name}": f["text"] for s in self._ask("servers") for name, f in s["functions"].items()}

    def wait_for(self, *servers: str, workers: int = 1, timeout: float = 60.0) -> None:
        """Wait until each of these servers has so many workers."""
        missing = self._wait_for(servers, workers, timeout)
        if missing:
            raise Timeout(f"not there within {timeout:g} s: {', '.join(missing)}")

    def _wait_for(self, servers: Sequence[str], workers: int, timeout: float) -> list[str]:
        """The names that are not there after `timeout` seconds."""
        missing: list[str] = self._ask("wait_for", list(servers), workers, timeout, timeout=timeout + self.timeout)
        return missing

    def status(self) -> dict[str, Any]:
        """The cluster, as ``palm status --json`` prints it."""
        status: dict[str, Any] = self._ask("status")
        for server in status["servers"]:
            where = server.pop("page")
            try:
                server["counters"] = core_space.read_counters_of(*where)
            except (OSError, core_space.CoreError):
                server["counters"] = {}
        return status

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if wait and not cancel_futures:
            pending = [
                f
                for w in list(self._connection.works.values())
                if isinstance(w, Calls)
                for f in list(w.futures.values())
            ]
            self._connection.wait(
                lambda: (
                    all(f.done() for f in pending)
                    or not any(isinstance(w, Calls) and w.futures for w in self._connection.works.values())
                )
            )
        self.close()

    def close(self, timeout: float = 5.0) -> None:
        """Give up what is unfinished, and say so: futures get `Disconnected`. Again: without effect."""
        if self._connection.closed:
            return
        for job in list(self._jobs):
            job._close()
        with self._connection.changed:
            for work in list(self._connection.works.values()):
                if isinstance(work, Calls):
                    for number in list(work.futures):
                        work._resolve(number, Disconnected("the client was closed before the answer came"))
        self._connection.call_later()
        self._connection.close(timeout)

    def __enter__(self) -> Client:
        return self

    def __del__(self) -> None:
        try:
            if not self._connection.closed:
                self._connection.close(0)
        except AttributeError:
            pass  # __init__ has raised


def _connect(address: str, timeout: float) -> tuple[Connection, int]:
    """A connection, and its link to the registry at `address`; Disconnected if there is none."""
    connection = None
    try:
        connection = Connection(
            places.endpoint(address, "client"), f"client {os.getpid()}", frames=os.environ.get("PALM_FRAMES") == "1"
        )
        return connection, connection.link(address, timeout)
    except (Disconnected, OSError) as e:
        if connection is not None:
            connection.close(0)
        what = str(e) if isinstance(e, Disconnected) else f"{address!r} cannot be connected to: {e}"
        raise Disconnected(f"{what}; is the cluster running? (palm status)") from None


def _no_server(name: str, names: Sequence[str], state: str) -> str:
    if state:
        return f"the server {name!r} is not running; its state is: {state}"
    near = difflib.get_close_matches(name, names, 1)
    return (
        f"there is no server {name!r}."
        + (f" Did you mean {near[0]!r}?" if near else "")
        + (f" There are: {', '.join(sorted(names))}" if names else " There are none: start one with cluster.start")
    )


def _no_function(s: Step, functions: dict[str, Any], hidden: Sequence[str]) -> str:
    if s.function in hidden:
        return (
            f"{s}: {s.function!r} is a method of the server, but not exposed; put @palm.function before it. "
            f"Exposed are: {', '.join(sorted(functions)) or 'none'}"
        )
    near = difflib.get_close_matches(s.function, functions, 1)
    return (
        f"{s}: the server {s.server!r} has no function {s.function!r}"
        + (f"; did you mean {near[0]!r}?" if near else "")
        + f" It has: {', '.join(sorted(functions)) or 'none'}"
    )
