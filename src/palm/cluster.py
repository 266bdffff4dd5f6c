# SPDX-License-Identifier: BSD-3-Clause
"""A cluster on this host: a registry and servers, each a process of its own, supervised from here."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from os import PathLike
from typing import Any

from palm import places, process
from palm._core import space as core_space
from palm.client import Client
from palm.directory import REGISTRY
from palm.errors import Disconnected, PalmError, Timeout
from palm.process import Order, load
from palm.template import Server

RESTARTS = 5  # deaths within RESTART_SECONDS after which a server is given up
RESTART_SECONDS = 30.0
SWEEP_MS = 1000  # between two looks for sockets of dead clients (R15: 3 s)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Child:
    """A process, what it was told, and when it died."""

    def __init__(self, order: Order, env: dict[str, str]) -> None:
        self.order, self.env = order, env
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths: list[float] = []
        self.wanted = True
        self.pidfd = -1

    def spawn(self) -> int:
        """Starts it; returns the fd on which it says "ready", or why not."""
        order = _pickled(self.order)
        order_read, order_write = os.pipe()
        ready_read, ready_write = os.pipe()
        fds = [fd for fd in (order_read, ready_write, self.order.owner_fd) if fd >= 0]
        try:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from palm.process import main; raise SystemExit(main())",
                    str(order_read),
                    str(ready_write),
                ],
                pass_fds=fds,
                env=self.env,
                stdin=subprocess.DEVNULL,
            )
        finally:
            os.close(order_read)
            os.close(ready_write)
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pidfd = os.pidfd_open(self.process.pid)
        with open(order_write, "wb") as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(order)
        return ready_read

    def wait_ready(self, fd: int, timeout: float) -> None:
        """PalmError with the child's traceback if it fails; Timeout if it takes too long. Closes fd."""
        end = time.monotonic() + timeout
        said = b""
        with open(fd, "rb", buffering=0) as pipe:
            while not said.endswith(b"ready\n"):
                if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise Timeout(f"{self.order.name!r} was not ready within {timeout:g} s")
                more = pipe.read(65536)
                if not more:
                    break
                said += more
        if not said.endswith(b"ready\n"):
            raise PalmError(f"{self.order.name!r} did not start:\n{said.decode(errors='replace') or self.reason()}")

    def reason(self) -> str:
        """Why it died (R9)."""
        assert self.process is not None
        code = self.process.wait()
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"

    def end(self, timeout: float) -> None:
        """SIGTERM, then SIGKILL."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _pickled(order: Order) -> bytes:
    """What `palm.process.main` reads."""
    import cloudpickle  # type: ignore[import-untyped]

    try:
        return pickle.dumps((sys.path, cloudpickle.dumps(order)))
    except Exception as e:  # whatever the user's objects raise
        raise TypeError(
            f"{order.name!r} cannot be handed to its process: {order.template!r} or its setup={sorted(order.setup)} "
            f"holds something that cannot be pickled ({e}); make it in setup()"
        ) from e


class Cluster:
    """Context manager; runs from construction to `close` or the end of the process, however that ends.

    Parameters
    ----------
    name : str, optional
        By which others find it: ``palm.Client("name")``; None: one of its own.

    Examples
    --------
    >>> with palm.Cluster() as cluster:                      # doctest: +SKIP
    ...     cluster.start(Spectrum, setup={"size": 512})
    ...     results = list(cluster.client().job("spectrum.power", frames))
    """

    def __init__(self, name: str | None = None) -> None:
        if process.importing:
            raise RuntimeError(
                "a server's process imports the module of its template, and that module starts a cluster: put what "
                'starts it under `if __name__ == "__main__":`'
            )
        core_space.open_space()  # RuntimeError in a forked child (R32)
        self._directory = places.make(name)
        self.name = self._directory.name
        self.address = f"ipc://{self._directory}/registry"
        self._lock = threading.RLock()
        self._children: dict[str, Child] = {}
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._own: Client | None = None
        self._closed = False
        self._pid = os.getpid()
        self._owner_read, self._owner_write = os.pipe()  # nobody writes: it breaks when this process ends
        self._wake_read, self._wake_write = os.pipe()
        self._supervisor = threading.Thread(target=self._supervise, name="palm-supervisor", daemon=True)
        try:
            self._launch(
                Order(
                    "palm.registry:Registry",
                    REGISTRY,
                    self.address,
                    endpoint=self.address,
                    is_registry=True,
                    setup={"cluster": self.name, "address": self.address},
                    memory=64 << 20,
                ),
                {},
                1,
                30.0,
            )
        except BaseException:
            self.close()
            raise
        self._supervisor.start()
        _open.add(self)

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Cluster:
        """A cluster as a ``cluster.toml`` describes it."""
        from palm.config import Configuration

        configuration = Configuration.read(path)
        cluster = cls(configuration.name)
        try:
            configuration.start(cluster)
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
        timeout: float = 30.0,
    ) -> str:
        """Start a server; returns its name when it is ready.

        Parameters
        ----------
        template : type or str
            A subclass of `Server`, or ``"module:Class"``.
        name : str, optional
            Default: the class's name in lower case.
        workers : int
            More than 1 needs a template with workers, which this version does not have.
        setup : mapping, optional
            What `Server.setup` gets.
        cores : int, optional
            That BLAS and OpenMP may use in each process; default: all of the machine, shared by the servers.
        memory : str, optional
            Bound of shared memory of each process, as ``"2GiB"``.
        env : mapping, optional
            Environment variables of its processes.
        replace : bool
            A running server of this name gives way.
        timeout : float
            Seconds until it has to be ready.

        Raises
        ------
        PalmError
            It did not start; the message has its traceback.
        """
        self._check()
        cls = load(template)
        name = places.check_name(name or cls.__name__.lower(), "the server")
        if workers != 1:
            raise NotImplementedError(
                f"workers={workers}: a palm.Server is one process; templates with workers are not there yet"
            )
        if name == REGISTRY or (name in self._children and not replace):
            raise ValueError(f"there is a server {name!r} already: give another name, or replace=True")
        _check_setup(cls, dict(setup or {}))
        if name in self._children:
            self.stop(name)
        order = Order(template, name, self.address, setup=dict(setup or {}), memory=parse_memory(memory))
        self._launch(
            order, dict(env or {}), cores or max(1, (os.cpu_count() or 1) // (len(self._children) or 1)), timeout
        )
        return name

    def _launch(self, order: Order, env: dict[str, str], cores: int, timeout: float) -> None:
        order.owner_fd = self._owner_read
        threads = {k: str(cores) for k in _THREADS if k not in os.environ}  # before numpy is imported there (R28)
        child = Child(order, {**os.environ, **threads, **env})
        with self._lock:
            fd = child.spawn()
        try:
            child.wait_ready(fd, timeout)
        except BaseException:
            child.end(1.0)
            raise
        with self._lock:
            self._children[order.name] = child
        self._wake()

    def stop(self, name: str, *, timeout: float = 10.0) -> None:
        """Stop a server in good order: what it has received is worked on first."""
        self._check()
        with self._lock:
            child = self._children.get(name)
            if child is None or name == REGISTRY:
                raise LookupError(
                    f"there is no server {name!r} here; there are: "
                    f"{', '.join(n for n in self._children if n != REGISTRY) or 'none'}"
                )
            child.wanted = False
            del self._children[name]
        pid = child.process.pid if child.process else 0
        child.end(timeout)
        self._tell(name, pid, "stopped", "stopped")

    def scale(self, name: str, workers: int) -> None:
        """Change the number of workers: not there yet for templates of one process."""
        if workers != 1:
            raise NotImplementedError("a palm.Server is one process; templates with workers are not there yet")

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

    # -------------------------------------------------------------------------------------------- supervision

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def _supervise(self) -> None:
        """Waits for deaths, reports them, and starts again what should run (R11); removes what killed clients leave."""
        while not self._closed:
            with self._lock:
                watched = {c.pidfd: c for c in self._children.values() if c.wanted and c.pidfd >= 0}
            poller = select.poll()
            for fd in (*watched, self._wake_read):
                poller.register(fd, select.POLLIN)
            came = poller.poll(SWEEP_MS)
            if not came:
                with contextlib.suppress(OSError):
                    places.remove_dead_sockets(self._directory)
            for fd, _ in came:
                if fd == self._wake_read:
                    os.read(fd, 4096)
                elif not self._closed:
                    self._died(watched[fd])

    def _died(self, child: Child) -> None:
        with self._lock:
            if not child.wanted or self._closed or child.process is None:
                return
            pid, reason = child.process.pid, child.reason()
            now = time.monotonic()
            child.deaths = [t for t in child.deaths if now - t < RESTART_SECONDS] + [now]
            again = len(child.deaths) < RESTARTS
            if not again:
                child.wanted = False
            os.close(child.pidfd)
            child.pidfd = -1
            places.remove_dead_sockets(self._directory)
        if child.order.name != REGISTRY:
            self._tell(child.order.name, pid, reason, "restarting" if again else "failed")
        if again:
            self._restart(child)

    def _restart(self, child: Child) -> None:
        with self._lock:
            if self._closed or not child.wanted:
                return
            fd = child.spawn()
        try:
            child.wait_ready(fd, 30.0)
        except (PalmError, Timeout) as e:
            # its death is seen like any other; a start that hangs is ended here
            print(f"palm: {e}", file=sys.stderr)
            if child.process is not None and child.process.poll() is None:
                child.process.kill()

    def _tell(self, name: str, pid: int, reason: str, state: str) -> None:
        with contextlib.suppress(Disconnected, PalmError, OSError):
            self._own_client()._directory.ask("left", name, pid, reason, state)

    # ------------------------------------------------------------------------------------------------ the end

    def _check(self) -> None:
        if self._closed:
            raise Disconnected("the cluster is closed")
        if os.getpid() != self._pid:
            raise RuntimeError(
                "a cluster cannot be used in a forked child: connect to it with "
                f"palm.Client({self.name!r}) in a process started with spawn or exec"
            )

    def close(self, timeout: float = 10.0) -> None:
        """Stop all servers, then the registry, within `timeout` seconds; then hard. Again: without effect."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._wake()
        if self._supervisor.is_alive() and threading.current_thread() is not self._supervisor:
            self._supervisor.join(timeout)
        for client in [*self._clients, *([self._own] if self._own else [])]:
            client.close(0.5)
        with self._lock:
            children = [c for n, c in self._children.items() if n != REGISTRY]
            children += [c for n, c in self._children.items() if n == REGISTRY]
            for child in children:
                child.wanted = False
                if child.process is not None and child.process.poll() is None and child.order.name != REGISTRY:
                    child.process.terminate()
            end = time.monotonic() + timeout
            for child in children:
                child.end(max(0.1, end - time.monotonic()))
        for fd in (self._owner_read, self._owner_write, self._wake_read, self._wake_write):
            os.close(fd)
        places.remove(self._directory)
        _open.discard(self)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_open: weakref.WeakSet[Cluster] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for cluster in list(_open):
        cluster.close(2.0)


def parse_memory(text: str | None) -> int:
    """Bytes of ``"512MiB"``, ``"2GB"``, ``"1048576"``; 0 for None."""
    if text is None:
        return 0
    units = {
        "": 1,
        "b": 1,
        "kib": 1 << 10,
        "mib": 1 << 20,
        "gib": 1 << 30,
        "tib": 1 << 40,
        "kb": 10**3,
        "mb": 10**6,
        "gb": 10**9,
        "tb": 10**12,
    }
    digits = text.strip().rstrip("BbKkMmGgTtIi ")
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        amount = int(float(digits) * units[unit])
        if amount < 0:
            raise ValueError
        return amount
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f'{text!r} is no amount of memory: write it as "512MiB" or "2GB"') from None


def _check_setup(cls: type[Server], setup: dict[str, Any]) -> None:
    try:
        inspect.signature(cls.setup).bind(None, **setup)
    except TypeError as e:
        raise TypeError(
            f"{cls.__qualname__}.setup{inspect.signature(cls.setup)} does not take setup={sorted(setup)}: {e}"
        ) from None


def serve(
    template: type[Server],
    name: str | None = None,
    *,
    address: str | None = None,
    setup: Mapping[str, Any] | None = None,
) -> None:
    """Run a server in this process until it is stopped (SIGTERM, Ctrl-C, or the cluster's end).

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
    """
    cls = load(template)
    _check_setup(cls, dict(setup or {}))
    order = Order(
        cls,
        places.check_name(name or cls.__name__.lower(), "the server"),
        places.find(address),
        setup=dict(setup or {}),
    )
    process.run(order, lambda: None)
