# SPDX-License-Identifier: BSD-3-Clause
"""`palm.testing.chaos`, where it is made: in the process that owns the cluster. `palm.faults` is the servers' side.

Each server's process has a connection, over which it says what is to befall a message, and waits. So a fault is at the
message, never beside it; and somebody else continues who is stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from palm import arguments, places
from palm.calls import Calls
from palm.cluster import Cluster
from palm.faults import MOST, SOCKET, Plan
from palm.message import places as places_in
from palm.polling import readable

if TYPE_CHECKING:
    from palm.client import Client
    from palm.supervisor import Supervisor

_NO_FUNCTION = "(chaos)"  # no name in Python: a server that is asked for it has nothing to run
_UCRED = struct.Struct("3i")  # pid, uid, gid


class Hit(NamedTuple):
    """A message that was hit.

    Attributes
    ----------
    server : str
        The one that worked on it, or has just made it.
    stage : int
        Steps passed since the input.
    path : tuple of int
        The number of the input, then the place in each fan-out, as in `Message`.
    what : str
        "kill", "stop" or "delay".
    """

    server: str
    stage: int
    path: tuple[int, ...]
    what: str


@contextlib.contextmanager
def chaos(
    cluster: Cluster, *, seed: int, kill: float = 0.0, stop: float = 0.0, delay: float = 0.0
) -> Iterator[list[Hit]]:
    """While the block lasts, kill, stop and delay the servers of a cluster, each time in the middle of a message.

    Jobs give the results that they would give without it, each once: that is what tests with it are to show of your
    servers. Whether a message is hit, and how, follows from the seed, the server's name and the message's own (stage,
    number and path): the same seed hits the same messages of the same jobs again. In which order, and what else is
    under way then, is the machine's. It is hit before its function begins, or when that is over and nothing sent yet.

    Parameters
    ----------
    cluster : Cluster
        In the process that has started it.
    seed : int
    kill : float
        Probability, for a message at each step and for each value that a function yields, that its server's process
        gets SIGKILL. It is started again at once.
    stop : float
        That it is stopped (SIGSTOP) for up to 0.2 seconds, then continued.
    delay : float
        That its function is held up for up to 20 ms.

    Yields
    ------
    list of Hit
        What has been hit so far, in the order of time; sorted, it is the same for the same seed.

    Raises
    ------
    ValueError
        One is no probability, or their sum is above 1; or there is chaos in this cluster already.

    Notes
    -----
    A message is hit once at most at each step, in each job, so every job ends, even with ``kill=1.0``. Its deaths are
    not counted against it: ``attempts=1`` is no hindrance, nor is a server given up. Servers that are running learn of
    it before the block begins, unless they are busy for longer than a client waits to connect; of a function that has
    begun to yield before, the other values are not hit. Servers under `palm.serve` are never hit, since nobody would
    start them again, nor is the registry. Without chaos, an open job costs one system call more, and a message nothing.

    Examples
    --------
    >>> def test_survives(cluster):                                                        # doctest: +SKIP
    ...     with palm.testing.chaos(cluster, seed=1, kill=0.02, stop=0.01, delay=0.05) as hits:
    ...         assert sorted(cluster.client().job(["a.up", "b.twice"], range(100))) == expected
    ...     assert hits
    """
    if not isinstance(cluster, Cluster):
        raise TypeError(f"chaos is for the palm.Cluster that has started the servers, not for {cluster!r}")
    cluster._check()
    made = _Chaos(cluster._directory, _plan(seed, kill=kill, stop=stop, delay=delay), cluster._supervisor)
    try:
        made.announce(cluster._own_client())
        yield made.hits
    finally:
        made.close()


def _plan(seed: int, **shares: float) -> Plan:
    plan = Plan(arguments.whole("seed", seed, 0), **{k: arguments.probability(k, v) for k, v in shares.items()})
    if plan.kill + plan.stop + plan.delay > 1:
        raise ValueError(f"a message has one fate: the sum of kill, stop and delay is 1 at most, not that of {shares}")
    return plan


class _Sufferer:
    """A server's process, as long as it is connected."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.pid: int = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
        self._pidfd = os.pidfd_open(self.pid)
        self.until: float | None = None  # it waits; monotonic
        self._stopped = False

    def wait(self, seconds: float, *, stopped: bool) -> None:
        if stopped:
            self.signal(signal.SIGSTOP)
        self._stopped, self.until = stopped, time.monotonic() + seconds

    def release(self) -> None:
        if self._stopped:
            self.signal(signal.SIGCONT)
        self._stopped, self.until = False, None
        with contextlib.suppress(OSError):
            self.connection.send(b"go on")

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        self.release()
        self.connection.close()
        os.close(self._pidfd)


class _Chaos:
    """A thread that listens to the servers' processes, and does to them what they say."""

    def __init__(self, directory: Path, plan: Plan, supervisor: Supervisor) -> None:
        self.hits: list[Hit] = []
        self._supervisor = supervisor
        self._plan = json.dumps(asdict(plan)).encode()
        self._path = directory / SOCKET
        self._known: set[tuple[Any, ...]] = set()  # messages that were hit, by job and name
        self._sufferers: dict[int, _Sufferer] = {}  # by fd
        self._met: set[int] = set()  # pids
        self._client: Client | None = None
        self._over = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listener.bind(str(self._path))
            self._listener.listen(128)
        except OSError:
            self._listener.close()
            raise ValueError(f"there is chaos in this cluster already ({self._path}): one block at a time") from None
        self._wake = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="palm-chaos", daemon=True)
        self._thread.start()

    def announce(self, client: Client) -> None:
        """Returns when each running server has looked for us: it does so when a job is opened, so one is."""
        directory, connection, self._client = client._directory, client._connection, client
        servers = [server for server in directory.ask("servers") if server["supervised"]]
        pids = [server["pid"] for server in servers]
        opened = [Calls(connection, None, directory.route_to(server, _NO_FUNCTION)) for server in servers]
        try:
            connection.wait(lambda: all(p in self._met or not places.start_time(p) for p in pids), client.timeout)
        finally:
            for calls in opened:
                calls.end()

    def close(self) -> None:
        """Nobody is hit any more, and whoever is stopped goes on."""
        self._path.unlink(missing_ok=True)
        self._over = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._listener.close()

    # -------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        try:
            while not self._over:
                for fd in self._ready():
                    if fd == self._listener.fileno():
                        self._accept()
                    elif fd in self._sufferers:
                        self._hear(self._sufferers[fd])
                self._release_those_due()
        finally:
            for sufferer in self._sufferers.values():
                sufferer.close()

    def _release_those_due(self) -> None:
        now = time.monotonic()
        for sufferer in self._sufferers.values():
            if sufferer.until is not None and sufferer.until <= now:
                sufferer.release()

    def _ready(self) -> list[int]:
        """Fds to be read, as soon as there are some or somebody is to go on."""
        due = [s.until for s in self._sufferers.values() if s.until is not None]
        fds = (self._wake, self._listener.fileno(), *self._sufferers)
        return readable(fds, min(due) - time.monotonic() if due else None)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        try:
            sufferer = _Sufferer(connection)
            connection.send(self._plan)
        except OSError:  # it has died
            connection.close()
            return
        self._sufferers[connection.fileno()] = sufferer
        self._met.add(sufferer.pid)
        if self._client is not None:
            self._client._connection.nudge()

    def _hear(self, sufferer: _Sufferer) -> None:
        try:
            said = sufferer.connection.recv(MOST)
        except OSError:
            said = b""
        if said:
            self._hit(sufferer, json.loads(said))
        else:
            del self._sufferers[sufferer.connection.fileno()]
            sufferer.close()

    def _hit(self, sufferer: _Sufferer, said: dict[str, Any]) -> None:
        path = said["number"], *places_in(tuple(said["path"]))
        hit = Hit(said["server"], said["stage"], path, said["what"])
        name = said["job"], hit
        if name in self._known:
            sufferer.release()
            return
        self._known.add(name)
        self.hits.append(hit)
        if hit.what == "kill":
            self._supervisor.excuse(sufferer.pid)
            sufferer.signal(signal.SIGKILL)
        else:
            sufferer.wait(said["seconds"], stopped=hit.what == "stop")
