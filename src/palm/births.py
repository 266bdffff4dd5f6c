# SPDX-License-Identifier: BSD-3-Clause
"""How a server's process comes to be: born in the nursery, where there is one, else executed.

The nursery (`palm.nursery`, `palm.nurseries`) is a child of the cluster's owner, which has imported everything already.
A start costs some 20 ms instead of 300. Whatever is wrong with it, servers can be executed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palm import nurseries
from palm.log_pipes import Pipes
from palm.nurseries import Nursery
from palm.own_names import NURSERY
from palm.polling import readable
from palm.restarts import LIVED, Restarts

if TYPE_CHECKING:
    from palm.logs import Logs

PID_BYTES = 8  # at the begin of an order: the nursery's fork leaves the pid there
MOST = 128 << 10  # bytes of a request: what a socket of this kind takes at once

_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


class Born:
    """A child of this process that it has not started itself; used like a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.peak = 0  # bytes that it had at most, of which some were shared; when it is dead

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
            if not readable([fd], timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        finally:
            os.close(fd)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status, used = os.wait4(self.pid, options)
                self.peak = used.ru_maxrss * 1024
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
        self._nursery: Nursery | None = None
        self._bore = False
        self._since = 0.0
        self._begin_at: float | None = 0.0
        self.do_what_is_due(time.monotonic())

    @property
    def pid(self) -> int:
        return self._nursery.pid if self._nursery else 0

    @property
    def is_ready(self) -> bool:
        return self._nursery is not None and self._nursery.is_ready

    # ------------------------------------------------------------------------------------------------- births

    def born(self, order: int, report: int, owner: int, env: Mapping[str, str], pipes: Pipes | None) -> Born | None:
        """A process of this order, if the nursery has one for this environment. pipes: those that it is heard by; None:
        it prints where this process does."""
        if self._nursery is None or not self._nursery.is_for(env):
            return None
        standard = [1, 2] if pipes else [fd for fd in (1, 2) if _is_open(fd)]
        fds = [order, report, owner, *(pipes.writes if pipes else standard)]
        request = json.dumps({"env": dict(env), "standard": standard, **_circumstances()}).encode()
        if len(request) > MOST:
            return None
        if not self._nursery.has_answered(request, fds):
            self._end()
            self._again(self._restarts.died(self._made_progress()))
        pid = int.from_bytes(os.pread(order, 4, 0), sys.byteorder)
        self._bore = self._bore or pid > 0
        return Born(pid) if pid else None

    # ------------------------------------------------------------------------------------- the nursery's own life

    def fds(self) -> list[int]:
        """To be watched: something has happened to it when one is readable."""
        return self._nursery.fds() if self._nursery else []

    def due(self) -> list[float]:
        return [] if self._begin_at is None else [self._begin_at]

    def do_what_is_due(self, now: float) -> None:
        """Takes the one that is left of another cluster, or starts one."""
        if self._begin_at is None or self._begin_at > now:
            return
        self._begin_at = None
        try:
            self._begin()
        except OSError:
            self._end()
            self._again(self._restarts.failed())

    def _begin(self) -> None:
        pipes = self._logs.pipes(("stdout", "stderr")) if self._logs else None
        try:
            self._nursery = nurseries.taken(pipes.writes if pipes else None)
        finally:
            if self._logs and pipes:
                pipes.given()
                self._logs.hear(NURSERY, None, self.pid, pipes)
        self._bore, self._since = False, time.monotonic()
        if self._nursery.is_ready:
            self._note_ready()

    def _note_ready(self) -> None:
        self._restarts.ready()
        self.settled.set()

    def look(self) -> None:
        """After something has happened to it."""
        if self._nursery is None:
            return
        if not self._nursery.is_ready:
            self._hear(self._nursery)
        if self._nursery is not None and not self._nursery.is_alive():
            delay = self._restarts.died(self._made_progress()) if self.is_ready else self._restarts.failed()
            self._end()
            self._again(delay)

    def _hear(self, nursery: Nursery) -> None:
        self.why_none = nursery.heard()
        if nursery.is_ready:
            self._note_ready()
        elif self.why_none:
            if self._logs:
                text = f"there is no nursery, and each server imports all by itself: {self.why_none}"
                self._logs.say(NURSERY, None, nursery.pid, logging.WARNING, text)
            self._end()
            self.settled.set()

    def _made_progress(self) -> bool:
        return self._bore or time.monotonic() - self._since > LIVED

    def _again(self, delay: float | None) -> None:
        self.settled.set()
        self._begin_at = None if delay is None else time.monotonic() + delay

    def _end(self) -> None:
        if self._nursery is not None:
            self._nursery.end()
        self._nursery = None

    def close(self) -> None:
        """The next cluster of this process may have the nursery. Again: without effect."""
        self._begin_at = None
        self.settled.set()
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            nurseries.keep(nursery)


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
