# SPDX-License-Identifier: BSD-3-Clause
"""How a server's process comes to be: born in the nursery, where there is one, else executed.

The nursery (`palm.nursery`) is a child of the cluster's owner, which has imported everything already. A start costs
some 20 ms instead of 300. Whatever is wrong with it, servers can be executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palm import nursery
from palm.log_pipes import Pipes
from palm.restarts import LIVED, Restarts

if TYPE_CHECKING:
    from palm.logs import Logs

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
NURSERY = "registry/nursery"  # in the log; a name that no server of a user can have
PID_BYTES = 8  # at the begin of an order: the nursery's fork leaves the pid there
MOST = 128 << 10  # bytes of a request: what a socket of this kind takes at once
ANSWER = 1.0  # seconds in which the nursery forks; it may be stopped by a signal

_MAIN = "from palm.nursery import main; raise SystemExit(main())"
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})

# Read when a process, libc, Python, numpy or PALM begins: too early for one that is born
_READ_AT_BEGIN = (
    *("LD_", "GLIBC_", "MALLOC_", "LANG", "LC_", "TZ"),
    *("PYTHON", "NPY_", "NUMPY_", "OPENBLAS_", "GOTO_", "OMP_", "GOMP_", "KMP_", "MKL_", "BLIS_", "PALM_"),
)


class Born:
    """A child of this process that it has not started itself; used like a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        if timeout is not None and self.poll() is None:
            self._await(timeout)
        code = self._reap(0)
        assert code is not None
        return code

    def _await(self, timeout: float) -> None:
        fd = os.pidfd_open(self.pid)
        try:
            if not _readable([fd], timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        finally:
            os.close(fd)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # somebody else has reaped it: its code is lost, as it is for Popen
                pid, status = self.pid, 0
            if pid == self.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Births:
    """Of one cluster, whose supervisor calls everything in here, with its lock. Only `born` waits, for milliseconds.

    Parameters
    ----------
    logs : Logs, optional
        Hears what the nursery says.
    """

    def __init__(self, logs: Logs | None = None) -> None:
        self._logs = logs
        self.settled = threading.Event()  # the first nursery is ready, or will never be
        self.why_none = ""  # what it has said instead of "ready"
        self._restarts = Restarts()
        self._process: subprocess.Popen[bytes] | None = None
        self._asks: socket.socket | None = None
        self._pidfd = -1
        self._env: dict[str, str] = {}
        self._is_ready = False
        self._bore = False
        self._since = 0.0
        self._spawn_at: float | None = 0.0
        self.do_what_is_due(time.monotonic())

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    # ------------------------------------------------------------------------------------------------- births

    def born(self, order: int, report: int, owner: int, env: Mapping[str, str], pipes: Pipes | None) -> Born | None:
        """A process of this order, if the nursery has one for this environment. pipes: those that it is heard by; None:
        it prints where this process does."""
        if not self._is_ready or _that_matter(env) != _that_matter(self._env):
            return None
        standard = [1, 2] if pipes else [fd for fd in (1, 2) if _is_open(fd)]
        fds = [order, report, owner, *(pipes.writes if pipes else standard)]
        request = json.dumps({"env": dict(env), "standard": standard, **_circumstances()}).encode()
        if len(request) > MOST:
            return None
        if not self._has_answered(request, fds):
            self._end()
            self._again(self._restarts.died(self._made_progress()))
        pid = int.from_bytes(os.pread(order, 4, 0), sys.byteorder)
        self._bore = self._bore or pid > 0
        return Born(pid) if pid else None

    def _has_answered(self, request: bytes, fds: Sequence[int]) -> bool:
        """What it says is in the order too, where it stays true whatever becomes of the nursery."""
        assert self._asks is not None
        directory = os.open(".", os.O_PATH | os.O_DIRECTORY)
        try:
            socket.send_fds(self._asks, [request], [directory, *fds])
            return bool(self._asks.recv(64))
        except OSError:
            return False
        finally:
            os.close(directory)

    # ------------------------------------------------------------------------------------- the nursery's own life

    def fds(self) -> list[int]:
        """To be watched: something has happened to it when one is readable."""
        asks = [self._asks.fileno()] if self._asks is not None and not self._is_ready else []
        return [*asks, self._pidfd] if self._pidfd >= 0 else []

    def due(self) -> list[float]:
        return [] if self._spawn_at is None else [self._spawn_at]

    def do_what_is_due(self, now: float) -> None:
        """Starts it."""
        if self._spawn_at is None or self._spawn_at > now:
            return
        self._spawn_at = None
        try:
            self._spawn()
        except OSError:
            self._end()
            self._again(self._restarts.failed())

    def _spawn(self) -> None:
        self._env = {**os.environ, **dict.fromkeys(THREADS, "1")}  # with one thread it can be forked
        self._asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asks.settimeout(ANSWER)
        pipes = self._logs.pipes(("stdout", "stderr")) if self._logs else None
        out, err = pipes.writes if pipes else (None, None)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _MAIN, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )
        finally:
            if self._logs and pipes:
                pipes.given()
                self._logs.hear(NURSERY, None, self.pid, pipes)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._asks.send(json.dumps([p for p in sys.path if isinstance(p, str)]).encode())
        self._is_ready, self._bore, self._since = False, False, time.monotonic()

    def look(self) -> None:
        """After something has happened to it."""
        if self._process is None:
            return
        if not self._is_ready:
            self._hear()
        if self._process is not None and self._process.poll() is not None:
            delay = self._restarts.died(self._made_progress()) if self._is_ready else self._restarts.failed()
            self._end()
            self._again(delay)

    def _hear(self) -> None:
        assert self._asks is not None
        try:
            said = self._asks.recv(4096, socket.MSG_DONTWAIT)
        except OSError:
            return
        if said == nursery.READY:
            self._is_ready = True
            self._restarts.ready()
            self.settled.set()
        elif said:
            self.why_none = said.decode(errors="replace")
            self._end()
            self.settled.set()

    def _made_progress(self) -> bool:
        return self._bore or time.monotonic() - self._since > LIVED

    def _again(self, delay: float | None) -> None:
        self.settled.set()
        self._spawn_at = None if delay is None else time.monotonic() + delay

    def _end(self) -> None:
        """It has nothing to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        if self._asks is not None:
            self._asks.close()
        self._process, self._pidfd, self._asks, self._is_ready = None, -1, None, False

    def close(self) -> None:
        """Again: without effect."""
        self._spawn_at = None
        self._end()
        self.settled.set()


def _that_matter(env: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in env.items() if k.startswith(_READ_AT_BEGIN) and k not in THREADS}


def _circumstances() -> dict[str, Any]:
    """What an executed process would have from this one."""
    umask = next(
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask:")
    )
    return {
        "umask": int(umask, 8),
        "cpus": list(os.sched_getaffinity(0)),
        "limits": [(kind, resource.getrlimit(kind)) for kind in _LIMITS],
    }


def _is_open(fd: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(fd)
        return True
    return False


def _readable(fds: list[int], timeout: float) -> bool:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(max(0, int(timeout * 1000) + 1)))
