# SPDX-License-Identifier: BSD-3-Clause
"""A process that runs a server, seen from the one who started it.

Nothing in here waits but `end`, and `spawn` until there is one.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from palm._core import space as core_space
from palm.births import PID_BYTES, Births, Born
from palm.deaths import Memory
from palm.log_pipes import Pipes
from palm.process import Order
from palm.restarts import LIVED, Policy, Restarts
from palm.suspects import Name, Numbered, Suspect, Suspects

if TYPE_CHECKING:
    from palm.logs import Logs

MAIN = "from palm.process import main; raise SystemExit(main())"


# What is told of a process that has ended itself, by what `Page.ended` says
_ENDS = {
    "overrun": "overran its timeout of {:g} s",
    "late": "ended, since a function went on after its deadline",
    "unwanted": "ended, since a function went on that nobody waited for",
}


class EndOfWork(NamedTuple):
    """Of a process that has ended itself, since a function took longer than it may."""

    reason: str
    to_blame: bool  # the message at work has overrun: it is not to be run again


class Child:
    """What it was told, and what is known of it; a successor is the same Child. One thread at a time.

    Parameters
    ----------
    order : Order
    env : dict
        The environment of its processes.
    timeout : float
        Seconds in which it has to be ready.
    attempts : int
        The most that a function of it allows a message.
    births : Births, optional
        Where its processes may be born; else they are executed.
    policy : Policy, optional
        After which deaths it is started again.
    logs : Logs, optional
        Hears what they say; else that goes where this process's goes.

    Raises
    ------
    TypeError
        The order cannot be handed to another process.
    """

    def __init__(
        self,
        order: Order,
        env: dict[str, str],
        timeout: float,
        attempts: int = 1,
        births: Births | None = None,
        policy: Policy | None = None,
        logs: Logs | None = None,
    ) -> None:
        self.name, self.server, self.timeout = order.process, order.name, timeout
        self.restarts = Restarts(attempts, policy)
        self.started: concurrent.futures.Future[None] = concurrent.futures.Future()  # of the first one; or why not
        self.process: subprocess.Popen[bytes] | Born | None = None
        self.pidfd = -1
        self.spawn_at: float | None = None  # the successor; monotonic
        self.end_told: tuple[int, str, str] | None = None  # pid, reason and state; None: it is there
        self.doomed = ""  # why it is ended, and not started again
        self._order, self._env, self._owner_fd = pickled(order), env, order.owner_fd
        self.worker = order.shown_worker
        self._births, self._logs = births, logs
        self._report: socket.socket | None = None
        self._said = b""
        self._page: core_space.Page | None = None
        self._since = 0.0  # when the process was started, then when it was ready
        self._late = False  # it was not ready in time

    @property
    def is_given_up(self) -> bool:
        """It is dead, and not started again."""
        return self.end_told is not None and self.end_told[2] != "restarting"

    @property
    def is_worker(self) -> bool:
        """Of a server that has a leader."""
        return self.name != self.server

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    # ---------------------------------------------------------------------------------------------- its start

    def spawn(self, suspects: Sequence[Suspect]) -> None:
        """Starts a process; OSError if there can be none."""
        again = self.process is not None
        order = os.memfd_create("order")  # a pipe would hold less than some orders have
        ours, theirs = socket.socketpair()
        pipes = None
        try:
            pipes = self._logs.pipes() if self._logs else None
            with open(order, "wb", closefd=False) as f:
                f.write(bytes(PID_BYTES))
                pickle.dump((sys.path, self._order, list(suspects), again), f)
            os.lseek(order, PID_BYTES, os.SEEK_SET)
            fds = (order, theirs.fileno(), self._owner_fd)
            self.process = self._born(*fds, pipes) or self._executed(*fds, pipes)
            self.pidfd = self._opened_pidfd()
        except BaseException:
            ours.close()
            if pipes:
                pipes.close()
            raise
        finally:
            os.close(order)
            theirs.close()
        if self._logs and pipes:
            pipes.given()
            self._logs.hear(self.server, self.worker, self.process.pid, pipes)
        ours.setblocking(False)
        self._report, self._said, self._page = ours, b"", None
        self._since, self._late, self.spawn_at = time.monotonic(), False, None

    def _born(self, order: int, report: int, owner: int, pipes: Pipes | None) -> Born | None:
        return self._births.born(order, report, owner, self._env, pipes) if self._births else None

    def _executed(self, order: int, report: int, owner: int, pipes: Pipes | None) -> subprocess.Popen[bytes]:
        out, err, records = pipes.writes if pipes else (None, None, -1)
        fds = (order, report, owner, records)
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, *map(str, fds)],
            pass_fds=[fd for fd in fds if fd >= 0],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )

    def _opened_pidfd(self) -> int:
        assert self.process is not None
        try:
            return os.pidfd_open(self.process.pid)
        except OSError:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def report(self) -> int:
        """The fd on which it says that it is ready, or why not; -1: it has said all."""
        return self._report.fileno() if self._report else -1

    def hear(self) -> bool:
        """Takes what it has said so far; True if it has become ready."""
        if self._report is None:
            return False
        try:
            while not self.is_ready:
                data, fds, _, _ = socket.recv_fds(self._report, 65536, 1)
                if not data:
                    break
                self._said += data
                for fd in fds:
                    self._map(fd)
        except BlockingIOError:
            return False
        except ConnectionError:
            pass  # it is dying
        self._close_report()
        if self.is_ready:
            self._since = time.monotonic()
        return self.is_ready

    def _map(self, fd: int) -> None:
        """Its arena came with "ready": mapped from now on, its page can be read whatever becomes of the process."""
        with contextlib.suppress(OSError, core_space.CoreError, ValueError):
            _, hi, lo = self._said.split()
            self._page = core_space.Page(os.getpid(), fd, int(hi), int(lo))
        os.close(fd)

    @property
    def is_ready(self) -> bool:
        return self._said.startswith(b"ready ") and self._said.endswith(b"\n")

    def due(self) -> list[float]:
        """When there is something to do, if nothing happens."""
        if self.spawn_at is not None:
            return [self.spawn_at]
        waits = self.pidfd >= 0 and self.started.done() and not self.is_ready and not self._late
        return [self._since + self.timeout] if waits else []

    def do_what_is_due(self, now: float, suspects: Suspects) -> None:
        """Starts the successor, or kills one that does not get ready; OSError if there can be no process."""
        if not any(at <= now for at in self.due()):
            return
        if self.spawn_at is not None:
            self.spawn(suspects.of(self.server))
        elif self.process is not None:
            self._late = True
            self.process.kill()

    # ------------------------------------------------------------------------------------------------ its end

    def doom(self, why: str, number: int) -> None:
        """It gets this signal, and has no successor."""
        self.doomed = why
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)

    def is_dead(self) -> bool:
        """And `forget` has not been called since."""
        return self.pidfd >= 0 and self.process is not None and self.process.poll() is not None

    def failure(self) -> str:
        """Why it did not get ready, though nobody has killed it; empty if that is not so."""
        if self._late:
            return f"not ready within {self.timeout:g} s"
        return "" if self.is_ready else self._said.decode(errors="replace").strip()

    def made_progress(self) -> bool:
        """Since it is ready, it has completed a message or lived some seconds; of one that died for want of memory
        only the latter counts: it may have been too much to send what the message has made."""
        lived = time.monotonic() - self._since > LIVED
        completed = self._page is not None and self._page.completed() > 0
        return self.is_ready and (lived or (completed and not self.memory().lacked))

    def suspect(self) -> tuple[Name, int] | None:
        """The message in which it died, and at which attempt; None: in none, or in several at once, or nobody knows."""
        found = self._page.at_work() if self._page is not None else None
        if found is None:
            return None
        job, hop, number, path, together, attempt, _ = found
        return ((job, hop, number, path), attempt) if together == 1 else None

    def suspects_together(self) -> tuple[Name, Numbered] | None:
        """The first and the last name of the messages in which it died, if they were several at once."""
        found = self._page.at_work() if self._page is not None else None
        if found is None:
            return None
        job, hop, number, path, together, _, last = found
        return ((job, hop, number, path), last) if together > 1 else None

    def end_of_work(self) -> EndOfWork | None:
        """Why it has ended itself, if it has."""
        found = self._page.ended() if self._page is not None else None
        if found is None:
            return None
        why, is_of_this, limit = found
        return EndOfWork(_ENDS[why].format(limit), why == "overrun" and is_of_this)

    def memory(self) -> Memory:
        """What it had when it died, as far as that is known."""
        limit, had, lacked = self._page.memory() if self._page is not None else (0, 0, False)
        return Memory(limit, had, lacked, self.process.peak if isinstance(self.process, Born) else 0)

    def forget(self) -> None:
        """Lets go of all that is left of the process; its code is in `process.returncode`."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self._close_report()
        if self._page is not None:
            self._page.close()
            self._page = None

    def _close_report(self) -> None:
        if self._report is not None:
            self._report.close()
            self._report = None

    def end(self, timeout: float) -> None:
        """SIGTERM, then SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.forget()


def pickled(order: Order) -> bytes:
    """What `palm.process.main` reads; once, so that a successor gets what the first one got."""
    import cloudpickle  # type: ignore[import-untyped]

    try:
        pickled: bytes = cloudpickle.dumps(order)
    except Exception as e:  # whatever the user's objects raise
        given = f", or what setup={sorted(order.setup)} gives it," if order.setup else ""
        raise TypeError(
            f"{order.name!r} cannot be handed to its process: {order.template!r}{given} has something that cannot be "
            f"pickled, itself or in globals that its functions use ({e}): make it in setup()"
        ) from e
    return pickled
