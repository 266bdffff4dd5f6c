# SPDX-License-Identifier: BSD-3-Clause
"""The nurseries of this process: each a child that runs `palm.nursery`, and the socket on which it is asked.

When a cluster ends, its nursery is kept for the next one: imports are what takes the time at the start of a cluster.
One is kept at most. It ends with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palm import nursery

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ANSWER = 1.0  # seconds in which one answers; it may be stopped by a signal

_MAIN = "from palm.nursery import main; raise SystemExit(main())"

# Read when a process, libc, Python, numpy or PALM begins: too early for one that is born
_READ_AT_BEGIN = (
    *("LD_", "GLIBC_", "MALLOC_", "LANG", "LC_", "TZ"),
    *("PYTHON", "NPY_", "NUMPY_", "OPENBLAS_", "GOTO_", "OMP_", "GOMP_", "KMP_", "MKL_", "BLIS_", "PALM_"),
)

_lock = threading.RLock()
_spare: Nursery | None = None


class Nursery:
    """One of them. Its errors are OSErrors.

    Parameters
    ----------
    outputs : sequence of int, optional
    """

    def __init__(self, outputs: Sequence[int] | None) -> None:
        self.is_ready = False
        self._env = {**os.environ, **dict.fromkeys(THREADS, "1")}  # with one thread it can be forked
        self._who = _who()
        self._asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asks.settimeout(ANSWER)
        out, err = outputs or (None, None)
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
        except OSError:
            self._asks.close()
            raise
        self.pid, self._pidfd = self._process.pid, -1
        try:
            self._pidfd = os.pidfd_open(self.pid)
            self._asks.send(_path())
        except OSError:
            self.end()
            raise

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def is_for(self, env: Mapping[str, str]) -> bool:
        """It is ready, and a child of it can have this environment."""
        return self.is_ready and _that_matter(env) == _that_matter(self._env)

    def fds(self) -> list[int]:
        """To be watched: something has happened to it when one is readable."""
        return [self._pidfd] if self.is_ready else [self._asks.fileno(), self._pidfd]

    def has(self, fd: int) -> bool:
        return fd in (self._asks.fileno(), self._pidfd)

    def heard(self) -> str:
        """Why it never will be ready; "": it is, or has said nothing yet."""
        try:
            said = self._asks.recv(4096, socket.MSG_DONTWAIT)
        except OSError:
            return ""
        self.is_ready = said == nursery.READY
        return "" if self.is_ready else said.decode(errors="replace")

    def has_answered(self, request: bytes, fds: Sequence[int]) -> bool:
        """To the request of a birth. What it says is in the order too, and true there whatever becomes of it."""
        directory = os.open(".", os.O_PATH | os.O_DIRECTORY)
        try:
            socket.send_fds(self._asks, [request], [directory, *fds])
            return bool(self._asks.recv(64))
        except OSError:
            return False
        finally:
            os.close(directory)

    def serves_from_now_on(self, outputs: Sequence[int]) -> bool:
        """Another cluster, or none, with the `sys.path` of this moment. False: it does not answer."""
        try:
            socket.send_fds(self._asks, [nursery.SERVE + _path()], [*outputs])
            return self._asks.recv(64) == nursery.READY
        except OSError:
            return False

    def is_of_now(self) -> bool:
        """One that were started now would be the same."""
        return self._who == _who() and self.is_for(os.environ)

    def end(self) -> None:
        """It has nothing to tidy up. Again: without effect."""
        if self._who[0] == os.getpid():  # else it is not our child
            self._process.kill()
            self._process.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._asks.close()
        self._pidfd, self.is_ready = -1, False


def taken(outputs: Sequence[int] | None) -> Nursery:
    """The one that was kept, which is ready already, or a new one. outputs: file descriptors that it has as 1 and 2;
    None: this process's own, for a new one."""
    global _spare
    with _lock:
        kept, _spare = _spare, None
    if kept is not None:
        with contextlib.suppress(OSError):
            if outputs and kept.is_of_now() and kept.is_alive() and kept.serves_from_now_on(outputs):
                return kept
        kept.end()
    return Nursery(outputs)


def keep(nursery: Nursery) -> None:
    """If it is of use, and none is kept yet; else it is ended."""
    global _spare
    is_kept = False
    try:
        with contextlib.suppress(OSError):  # there may be no file descriptors left
            if nursery.is_of_now() and nursery.is_alive() and _hears_nothing(nursery):
                with _lock:
                    if _spare is None:
                        _spare, is_kept = nursery, True
    finally:
        if not is_kept:
            nursery.end()


@atexit.register
def end() -> None:
    """The one that is kept. Again: without effect."""
    global _spare
    with _lock:
        kept, _spare = _spare, None
    if kept is not None:
        kept.end()


def _forget() -> None:
    """In a forked child, whose it is not: else it would live as long as that."""
    global _lock
    _lock = threading.RLock()
    end()


os.register_at_fork(after_in_child=_forget)


def spare() -> Nursery | None:
    return _spare


def _hears_nothing(nursery: Nursery) -> bool:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        return nursery.serves_from_now_on([nowhere, nowhere])
    finally:
        os.close(nowhere)


def _path() -> bytes:
    return json.dumps([p for p in sys.path if isinstance(p, str)]).encode()


def _that_matter(env: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in env.items() if k.startswith(_READ_AT_BEGIN) and k not in THREADS}


def _who() -> tuple[Any, ...]:
    """What a process has from its parent and cannot be told later."""
    namespaces = []
    with contextlib.suppress(OSError):
        namespaces = sorted(os.readlink(f"/proc/thread-self/ns/{name}") for name in os.listdir("/proc/thread-self/ns"))
    return (
        os.getpid(),
        os.getresuid(),
        os.getresgid(),
        os.getgroups(),
        os.getpriority(os.PRIO_PROCESS, 0),
        Path("/proc/self/root").stat().st_ino,
        *namespaces,
    )
