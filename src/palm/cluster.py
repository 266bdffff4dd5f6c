# SPDX-License-Identifier: BSD-3-Clause
"""A cluster on this host: a registry and servers, each a process of its own, supervised from here."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import functools
import inspect
import itertools
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from palm import addresses, arguments, cache, cpus, places, process
from palm._core import space as core_space
from palm.amounts import parse_memory
from palm.births import Births
from palm.child import Child
from palm.client import Client
from palm.errors import Disconnected, NotFound, PalmError
from palm.nurseries import THREADS
from palm.options import Options, Prepared, Spec
from palm.own_names import CACHE, REGISTRY, is_own
from palm.process import Order, load
from palm.reports import Reports
from palm.restarts import Policy
from palm.supervisor import Supervisor
from palm.template import Server, iterate_exposed
from palm.uninterrupted import uninterrupted

LOADS = 60.0  # seconds for a cache to be read from its file
STOPS = 10.0  # seconds for workers that go to do what they have
STARTS = 30.0  # seconds until a server has to be ready
KILLED = 5.0  # seconds beyond its timeout in which a close ends what it has killed


class _Start(NamedTuple):
    """Of a process."""

    order: Order
    env: Mapping[str, str] = {}  # noqa: RUF012
    cores: int = 1
    timeout: float = STARTS
    attempts: int = 1
    policy: Policy | None = None
    shares: Sequence[tuple[int, ...]] = ((),)  # of CPUs; worker n has the n-th, and so on in turn


class Cluster:
    """Context manager; runs from construction to `close` or the end of the process, however that ends.

    Parameters
    ----------
    name : str, optional
        By which others find it: ``palm.Client("name")``; None: one of its own.

    Raises
    ------
    FileExistsError
        A cluster of this name runs on this host.
    ConfigError
        The name is none: 1 to 31 letters, digits, - or _, the first a letter or digit.
    RuntimeError
        The module of a server's class is being imported by its process: what starts a cluster belongs under
        ``if __name__ == "__main__":``. Or this is a forked child of a process that uses PALM.
    PalmError
        The registry did not start.

    Examples
    --------
    >>> with palm.Cluster() as cluster:                      # doctest: +SKIP
    ...     cluster.start(Spectrum, setup={"size": 512})
    ...     results = list(cluster.client().job("spectrum.power", frames))
    """

    def __init__(self, name: str | None = None, *, _listen: str | None = None, _part_of: str | None = None) -> None:
        """_listen: as in a cluster.toml. _part_of: the registry of a cluster elsewhere, of which this is a part."""
        _check_not_imported("starts a cluster")
        core_space.open_space()  # RuntimeError in a forked child (R32)
        address = addresses.listening(_listen) if _listen else _part_of
        self._directory = places.make(name)
        self.name = self._directory.name
        if address is not None:
            (self._directory / "address").write_text(address)
        self.address = address or f"ipc://{self._directory}/registry"
        self._lock = threading.Lock()
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._own: Client | None = None
        self._crews: dict[str, Callable[[list[int]], None]] = {}  # by server: what starts workers with these numbers
        self._prepared = Prepared(self._directory, self._look_at_cache_file)
        self._closed = self._is_over = False  # is_over: nothing is left
        self._closing = threading.Lock()  # of the threads that close
        self._pid = os.getpid()
        self._owner_read, self._owner_write = os.pipe()  # nobody writes: it breaks when this process ends
        from palm.logs import Logs  # what it imports, a client need not wait for

        self._logs = Logs(self._directory)
        self._reports = Reports(self._ask_registry)
        self._births = Births(self._logs)
        self._supervisor = Supervisor(self._directory, self._reports.put, self._births, self._logs.say)
        try:
            if _part_of is None:
                self._begin_registry()
                self._begin_caches()
        except BaseException:
            self.close()
            raise
        _open.add(self)

    def __repr__(self) -> str:
        return f"<palm.Cluster {self.name!r}{', closed' if self._closed else ''}>"

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Cluster:
        """A cluster as a ``cluster.toml`` describes it (`docs/configuration.md`); returns when its servers are ready.

        Parameters
        ----------
        path : str or path
            Modules of classes are looked for beside this file, too.

        Raises
        ------
        ConfigError
            The file is wrong: says file, line and the nearest valid word. Or there is no such class, or its `setup`
            does not take what the file gives.
        OSError
            The file cannot be read (FileNotFoundError); a cluster of its name runs (FileExistsError).
        PalmError
            A server did not start; the message has its traceback.
        """
        from palm import applying
        from palm.config import Configuration

        configuration = Configuration.read(path)
        cluster = applying.open_cluster(configuration)
        try:
            applying.start(configuration, cluster)
        except BaseException:
            cluster.close()
            raise
        return cluster

    # ----------------------------------------------------------------------------------------------- servers

    def start(
        self,
        template: type[Server] | str,
        name: str | None = None,
        *,
        workers: int = 1,
        setup: Mapping[str, Any] | None = None,
        cores: int | None = None,
        memory: str | None = None,
        env: Mapping[str, str] | None = None,
        replace: bool = False,
        timeout: float = STARTS,
    ) -> str:
        """Start a server; returns its name when it is ready.

        Parameters
        ----------
        template : type or str
            A subclass of `Server`, or ``"module:Class"``.
        name : str, optional
            Default: the class's name in lower case.
        workers : int
            Processes that run its functions; of a `palm.Server` 1. The leader of other templates is one more.
        setup : mapping, optional
            What `Server.setup` gets.
        cores : int, optional
            That BLAS and OpenMP may use in each process; default: all of the machine, shared by the servers.
        memory : str, optional
            Bound of shared memory of each process, as ``"2GiB"``.
        env : mapping, optional
            Environment variables of its processes.
        replace : bool
            A running server of this name gives way: it does what it has received; jobs wait for its successor, and
            repeat with it what they miss.
        timeout : float
            Seconds until it has to be ready.

        Raises
        ------
        TypeError
            `template` is no template, exposes no function, or cannot be handed to a process; its `setup` does not take
            what `setup` gives; an argument is of another type.
        ValueError
            There is a server of this name and `replace` is False; a `palm.Server` has one worker alone; an argument is
            none that can be. `ConfigError`: the name is none.
        ImportError, AttributeError
            There is no such module, or no such class in it.
        Timeout
            It was not ready within `timeout` seconds.
        PalmError
            It did not start; the message has its traceback.
        Disconnected
            The cluster is closed.
        """
        setup, env = arguments.mapping("setup", setup), arguments.mapping("env", env)
        for key, value in env.items():
            if not isinstance(value, str):
                raise TypeError(f"env has strings: {{{key!r}: {str(value)!r}}}, not {value!r}")
        cores = None if cores is None else arguments.whole("cores", cores, 1)
        seconds = arguments.seconds("timeout", timeout)
        return self._start(
            Spec(template, name, workers, setup, cores, memory, env),
            replace,
            arguments.AGES if seconds is None else seconds,
        )

    def _start(self, spec: Spec, replace: bool, timeout: float = STARTS, is_led: bool = False) -> str:
        """is_led: there is a leader somewhere else, which gets more workers."""
        self._check()
        cls = load(spec.template)
        name = _name_of(spec.name, cls)
        check_start(cls, spec.workers, spec.setup)
        there = self._servers()
        if name in there and not replace:
            raise ValueError(f"there is a server {name!r} already: give another name, or replace=True")
        start = self._planned(cls, name, spec, timeout)
        try:
            if name in there:
                self._stop(name, STOPS, successor=name)
            if not is_led:
                leads = cls._is_parallel
                first = msgspec.structs.replace(start.order, leads=leads)
                self._launch(start._replace(order=first, cores=1 if leads else start.cores))
        except BaseException as e:
            if name in there:  # jobs need wait no longer
                self._reports.put("left", name, 0, str(e), "removed").wait()
            raise
        if cls._is_parallel:
            self._crews[name] = functools.partial(self._hire, start)
            try:
                self.scale(name, spec.workers)
            except BaseException:
                with contextlib.suppress(LookupError):  # not one of them has been started
                    self._stop(name, STOPS)
                raise
        return name

    def _planned(self, cls: type[Server], name: str, spec: Spec, timeout: float) -> _Start:
        """How its processes are started."""
        order, options = self._order(spec.template, name), self._prepared.of(name)
        order.setup, order.cache, order.cpus = dict(spec.setup), options.cache, options.cpus
        order.memory, order.memory_limit = parse_memory(spec.memory) or options.memory_limit, options.memory_limit
        shares = cpus.shares(options.cpus, spec.cores or 0, spec.workers)
        most = len(options.cpus) or os.cpu_count() or 1
        cores = spec.cores or max(1, min(most, (os.cpu_count() or 1) // (len(self._servers()) or 1)))
        attempts = max((f.attempts for _, f in iterate_exposed(cls)), default=1)
        return _Start(order, spec.env, cores, timeout, attempts, options.restart, shares)

    def _begin_registry(self) -> None:
        order = self._order("palm.registry:Registry", REGISTRY)
        order.endpoint, order.is_registry, order.memory = self.address, True, 64 << 20
        order.setup = {
            "cluster": self.name,
            "address": self.address,
            "log": str(self._logs.path),
            "store": str(self._directory / "registry.db"),
        }
        self._launch(_Start(order))

    def _order(self, template: type[Server] | str, name: str) -> Order:
        return Order(template, name, self.address, str(self._directory))

    def _begin_caches(self) -> None:
        self._begin_own("palm.cache_server:CacheServer", CACHE, {"directory": str(self._directory)})

    def _begin_own(self, template: str, name: str, setup: dict[str, Any]) -> None:
        """One of PALM's own servers. Nobody need wait for it: the registry knows, or will, that it is on its way."""
        order = self._order(template, name)
        order.setup = setup
        child = self._child(_Start(order, attempts=3))
        child.started.add_done_callback(functools.partial(self._have_begun, name))
        self._supervisor.begin(child)

    def _have_begun(self, name: str, started: concurrent.futures.Future[None]) -> None:
        if started.exception() is not None and not self._closed:
            self._reports.put("left", name, 0, str(started.exception()), "failed")

    def _end_own(self, name: str, timeout: float) -> None:
        if (child := self._supervisor.remove(name)) is not None:
            self._end([child], timeout)

    def _prepare(self, name: str, options: Options) -> None:
        """From now on a server of this name is started so. OSError if its cache cannot be had from the file."""
        self._prepared.set(name, options)

    def _look_at_cache_file(self, name: str) -> str:
        """Returns what is wrong with it."""
        wrong: str = self._own_client().call(cache.LOOK, name, timeout=LOADS)
        return wrong

    def _forget_cache(self, name: str) -> None:
        self._prepared.forget(name)
        with contextlib.suppress(PalmError):
            self._own_client().call(cache.DROP, name, timeout=1.0)

    def _hire(self, start: _Start, numbers: list[int]) -> None:
        """Starts workers with these numbers, all at the same time."""

        def launch(number: int) -> None:
            share = start.shares[number % len(start.shares)]
            self._launch(start._replace(order=msgspec.structs.replace(start.order, worker=number, cpus=share)))

        with concurrent.futures.ThreadPoolExecutor(len(numbers), "palm-hire") as threads:
            hired = {number: threads.submit(launch, number) for number in numbers}
        for number, future in hired.items():
            if future.exception() is not None:  # its number is free again
                self._reports.put("left", f"{start.order.name}/{number}", 0, "did not start", "removed")
        for future in hired.values():
            future.result()

    def _launch(self, start: _Start) -> None:
        self._supervisor.start(self._child(start))

    def _child(self, start: _Start) -> Child:
        order, env, cores, timeout, attempts, policy, _ = start
        order.owner_fd, order.work_grace = self._owner_read, process.WORK_GRACE
        threads = {k: str(cores) for k in THREADS if k not in os.environ}  # before numpy is imported there (R28)
        births = None if env else self._births  # nobody knows which of the modules there would have read it
        return Child(order, {**os.environ, **threads, **env}, timeout, attempts, births, policy, self._logs)

    def stop(self, name: str, *, timeout: float = 10.0) -> None:
        """Stop a server in good order; returns when it has ended.

        What it has received is worked on first; what comes more than a second later is not. Its cache ends with it, but
        for one that is in a file. Jobs that need it fail.

        Parameters
        ----------
        name : str
        timeout : float
            Seconds, after which its processes are killed.

        Raises
        ------
        NotFound
            No such server was started here; says which were. A process under `palm.serve` is stopped where it runs.
        Disconnected
            The cluster is closed.
        """
        self._check()
        self._stop(name, timeout)
        self._forget_cache(name)

    def _stop(self, name: str, timeout: float, successor: str = "") -> None:
        """successor: the same name, if jobs are to wait for the next server of that name."""
        names = [] if name == REGISTRY or "/" in name else [name, *self._workers_of(name)]
        children = [child for n in names if (child := self._supervisor.remove(n)) is not None]
        if not children:
            there = ", ".join(n for n in self._servers() if n != REGISTRY) or "none"
            raise NotFound(f"there is no server {name!r} here; there are: {there}")
        self._crews.pop(name, None)
        if successor:  # before it is gone, so that nobody takes its end for one that is final
            self._reports.put("left", successor, children[0].pid, "replaced", "restarting").wait()
        self._end(children, timeout, successor)

    def _end(self, children: list[Child], timeout: float, successor: str = "") -> None:
        """One after the other: the leader first, whose workers do what it has."""
        end = time.monotonic() + timeout
        for child in children:
            child.end(max(0.1, end - time.monotonic()))
            if child.name != successor:
                self._reports.put("left", child.name, child.pid, "stopped", "removed").wait()

    def workers(self, name: str) -> int:
        """How many processes of this cluster run a server's functions, or will when they have been started again."""
        gone = self._supervisor.given_up()
        return len([n for n in self._workers_of(name) if n not in gone]) or int(name in self._servers())

    def _servers(self) -> list[str]:
        return [n for n in self._supervisor.names() if "/" not in n]

    def _workers_of(self, name: str) -> list[str]:
        """Those with the smallest numbers first."""
        found = [n for n in self._supervisor.names() if n.partition("/")[0] == name and "/" in n]
        return sorted(found, key=lambda n: int(n.partition("/")[2]))

    def scale(self, name: str, workers: int) -> None:
        """Change the number of workers of a parallel server; returns when it has so many. Those that go first do
        what they have. Workers that have joined by `palm.serve` are not counted.

        Raises
        ------
        LookupError
            There is no such server with workers here.
        PalmError
            A worker did not start; the message has its traceback.
        """
        self._check()
        hire = self._crews.get(name)
        if hire is None and name in self._servers():
            return _check_workers(workers, is_parallel=False)
        if hire is None:
            raise NotFound(
                f"there is no server {name!r} with workers of this cluster; there are: "
                f"{', '.join(self._crews) or 'none'}. One that was started by palm.serve has as many as there are "
                "processes"
            )
        _check_workers(workers, is_parallel=True)
        self._bury_workers(name)
        working = self._workers_of(name)
        if len(working) > workers:
            gone = [child for n in working[workers:] if (child := self._supervisor.remove(n)) is not None]
            self._end(gone, STOPS)
        elif len(working) < workers:
            hire(self._reserve(name, workers - len(working)))

    def _bury_workers(self, name: str) -> None:
        """Those that were given up: others may have their numbers."""
        gone = self._supervisor.given_up()
        for child in [self._supervisor.remove(n) for n in self._workers_of(name) if n in gone]:
            if child is not None:
                self._reports.put("left", child.name, child.pid, "stopped", "removed").wait()

    def _reserve(self, name: str, count: int) -> list[int]:
        """Numbers for new workers: others may have joined the server by `palm.serve`."""
        directory = self._own_client()._directory
        numbers: list[int] = directory.patiently(lambda: directory.ask("reserve", name, count, places.this_process()))
        return numbers

    def client(self) -> Client:
        """A new client, closed with the cluster at the latest."""
        self._check()
        client = Client(self.address)
        self._clients.add(client)
        return client

    def status(self) -> dict[str, Any]:
        """The same object as ``palm status --json`` prints."""
        self._check()
        return self._own_client().status()

    def _own_client(self) -> Client:
        with self._lock:
            if self._own is None:
                self._own = Client(self.address)
            return self._own

    def _ask_registry(self, function: str, *values: Any) -> None:
        """Of one that is away for a while too: its successor has what it has left behind, and would never hear."""
        if not self._closed:
            directory = self._own_client()._directory
            directory.patiently(lambda: directory.ask(function, *values), lambda: self._closed)

    # ------------------------------------------------------------------------------------------------ the end

    def _check(self) -> None:
        if self._closed:
            raise Disconnected("the cluster is closed: `close` was called, or its `with` has been left")
        if os.getpid() != self._pid:
            raise RuntimeError(
                "a cluster cannot be used in a forked child: connect to it with "
                f"palm.Client({self.name!r}) in a process started with spawn or exec"
            )

    def close(self, timeout: float = 10.0) -> None:
        """Stop all servers, then the registry, within `timeout` seconds; then hard. Again: without effect. Ctrl-C does
        not stop it, but is raised when it is done; a second one is raised at once."""
        if os.getpid() == self._pid and not self._is_over:
            uninterrupted(lambda: self._close(timeout), timeout + KILLED)

    def _close(self, timeout: float) -> None:
        with self._closing:
            if not self._closed:
                self._closed = True
                self._end_all(timeout)
                self._is_over = True

    def _end_all(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        children = self._supervisor.close()
        for client in [*self._clients, *([self._own] if self._own else [])]:
            client.close(0.5)
        self._reports.close(timeout)
        if self._own:
            self._own.close(0)  # it may have been made only now
        for _, wave in itertools.groupby(sorted(children, key=_when_it_ends), _when_it_ends):
            together = list(wave)
            for child in together:
                if child.process is not None and child.process.poll() is None:
                    child.process.terminate()
            for child in together:
                child.end(max(0.1, end - time.monotonic()))
        for fd in (self._owner_read, self._owner_write):
            os.close(fd)
        self._logs.close()
        places.remove(self._directory)
        _open.discard(self)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.close()
        except BaseException:
            self.close()  # it was interrupted; now it is closed, if it was not
            raise


_open: set[Cluster] = set()  # each runs until it is closed, whether anybody holds it or not


@atexit.register
def _close_all() -> None:
    for cluster in [*_open]:
        cluster.close(2.0)


def _check_not_imported(does: str) -> None:
    if process.importing:
        raise RuntimeError(
            f"the module of a server's class is imported by the server's process, and this one {does}: put that under "
            '`if __name__ == "__main__":`'
        )


def _when_it_ends(child: Child) -> int:
    """Those whom others need at their end are there for longer: a worker's leader, the caches, everybody's registry."""
    if is_own(child.server):
        return 3 if child.name == REGISTRY else 2
    return 0 if "/" in child.name else 1


def _name_of(name: str | None, cls: type[Server]) -> str:
    """Of a server of a user."""
    name = places.check_name(cls.__name__.lower() if name is None else name, "the server")
    if is_own(name):
        raise ValueError(f"{REGISTRY!r} is the name of the cluster's own server: give another one")
    return name


def _check_workers(workers: int, is_parallel: bool) -> None:
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ValueError(f"workers={workers!r}: it is a whole number, and a server has one worker at least")
    if workers > 1 and not is_parallel:
        raise ValueError(
            f"workers={workers}: a palm.Server is one process; as a palm.Butterfly, with nothing else changed, it has "
            "as many as you like"
        )


def check_start(cls: type[Server], workers: int, setup: Mapping[str, Any]) -> None:
    """TypeError or ValueError if it cannot be started so."""
    _check_workers(workers, cls._is_parallel)
    cls._check_complete()
    if not cls._exposed:
        raise TypeError(f"{cls.__qualname__} exposes no function that could be called: put @palm.function before one")
    _check_setup(cls, setup)


def _check_setup(cls: type[Server], setup: Mapping[str, Any]) -> None:
    given = "{" + ", ".join(f"{name!r}: ..." for name in sorted(setup)) + "}"
    if setup and cls.setup is Server.setup:
        raise TypeError(f"{cls.__qualname__} has no `setup` method that could take setup={given}")
    try:
        inspect.signature(cls.setup).bind(None, **setup)
    except TypeError as e:
        raise TypeError(
            f"{cls.__qualname__}.setup{inspect.signature(cls.setup)} does not fit setup={given}: {e}"
        ) from None


def serve(
    template: type[Server],
    name: str | None = None,
    *,
    address: str | None = None,
    setup: Mapping[str, Any] | None = None,
) -> None:
    """Run a server in this process until it is stopped (SIGTERM, Ctrl-C, or the cluster's end): then it does what it
    has, and this returns; a second Ctrl-C interrupts.

    A `Butterfly` or `Reduce` has as many workers as there are processes that serve it under the same name, this one
    among them; its leader is a process beside them, which one of them starts, and another one again if it dies. Such
    processes may come, go and die at any time. They may also join a server that ``cluster.start`` has started, and end
    with that one.

    Nobody watches this process: a function that overruns its `timeout` ends it, with exit code 124 and a line on
    standard error, and whoever has started it may start it again. What was cancelled or is late sees
    `self.cancelled`, and is not ended.

    Parameters
    ----------
    template : type
        A subclass of `Server`.
    name : str, optional
        Default: the class's name in lower case.
    address : str, optional
        Of the cluster, as for `Client`.
    setup : mapping, optional
        What `Server.setup` gets.

    Raises
    ------
    PalmError
        There is another server of this name; or the one that it has worked for was stopped by its cluster.
    Disconnected
        There is no such cluster.
    """
    from palm import log_handler

    _check_not_imported("serves one")
    cls, setup = load(template), arguments.mapping("setup", setup)
    _check_setup(cls, setup)
    order = Order(
        cls,
        _name_of(name, cls),
        registry := places.find(address),
        str(places.directory_of(registry) or ""),
        setup=setup,
        guest=cls._is_parallel,
    )
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        with log_handler.introduced(order, Path(order.directory)) as records:
            process.run(order, lambda: None, records)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
