# SPDX-License-Identifier: BSD-3-Clause
"""A process that has imported what servers need, and forks on request: a server is there in a tenth of the time.

It has one thread, and makes no space, no node and no socket but the one on which it is asked. What it forks is a child
of its own parent. `palm.nurseries` is the parent's side.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from palm import ending

SERVE = b"serve "  # a request: this path, these outputs, from now on
READY = b"ready"
NONE = b"none"  # there can be no process
MOST = 1 << 20  # bytes of a request
FDS, ORDER = 8, 1  # how many at most, and which of them is the order

# Who reads what, in the order of precedence
_VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
}


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asks = socket.socket(fileno=int(sys.argv[1]))
    asks.set_inheritable(False)
    try:
        sys.path[:] = json.loads(asks.recv(MOST))
        _import()
        _preload(os.environ.get("PALM_PRELOAD", ""))
        ours, files = {*sys.modules}, ending.open_files()
        ending.flush_files()  # or each of its children would write the same
        set_threads = _prepare()
    except Exception as e:  # a server that is executed will say it to whom it concerns
        asks.send(f"{type(e).__name__}: {e}".encode(errors="backslashreplace"))
        return 1
    born = _serve(asks)
    if born is None:
        return 0
    asks.close()
    ending.end(ours, files, _live(*born, set_threads))


def _import() -> None:
    """What servers need, once for all."""
    import cloudpickle  # type: ignore[import-untyped]  # noqa: F401
    import threadpoolctl  # type: ignore[import-untyped]  # noqa: F401

    import palm._core.birth
    import palm.cache_server
    import palm.capsule
    import palm.faults
    import palm.host
    import palm.inner_client
    import palm.leader
    import palm.log_handler
    import palm.membership
    import palm.process
    import palm.registry  # noqa: F401

    importlib.invalidate_caches()  # which itself imports, from Python 3.12 on


def _preload(names: str) -> None:
    """Modules of a user, whom it saves their imports at each start of a server."""
    for name in filter(None, map(str.strip, names.split(","))):
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as e:
            print(f"PALM_PRELOAD: {name}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)


def _prepare() -> Callable[[Mapping[str, str]], None]:
    """For forks; returns what sets the numbers of threads."""
    import threadpoolctl

    from palm._core import birth

    libraries = threadpoolctl.ThreadpoolController().lib_controllers
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("there are threads, and a fork has one alone")
    if not birth.is_possible():
        raise RuntimeError("this system cannot fork for another process")
    gc.collect()
    gc.freeze()  # else its first collection in each child copies all pages
    return lambda env: _set_threads(libraries, env)


def _serve(asks: socket.socket) -> tuple[bytes, list[int]] | None:
    """Returns what is asked in a new process; None here, when nobody asks any more."""
    from palm._core.birth import fork_sibling

    with suppress(ConnectionError):
        asks.send(READY)
        while True:
            request, fds, flags, _ = socket.recv_fds(asks, MOST, FDS, socket.MSG_CMSG_CLOEXEC)
            if not request:
                break
            if request.startswith(SERVE) and not flags & socket.MSG_CTRUNC:
                _serve_another(request, fds)
                asks.send(READY)
                continue
            pid = -1
            if not flags & socket.MSG_CTRUNC:  # else fds are missing: there are too many open
                with suppress(OSError):
                    pid = fork_sibling(fds[ORDER])
            if pid == 0:
                return request, fds
            for fd in fds:
                os.close(fd)
            asks.send(b"%d" % pid if pid > 0 else NONE)
    return None


def _serve_another(request: bytes, fds: list[int]) -> None:
    sys.path[:] = json.loads(request.removeprefix(SERVE))
    for number, fd in enumerate(fds, 1):
        os.dup2(fd, number)
        os.close(fd)


def _live(request: bytes, fds: list[int], set_threads: Callable[[Mapping[str, str]], None]) -> int:
    """As if it had been executed by the owner at this moment."""
    from palm import process

    asked = json.loads(request)
    directory, order, report, owner, *more = fds
    standard, records = more[: len(asked["standard"])], more[len(asked["standard"]) :]
    for fd, number in zip(standard, asked["standard"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.fchdir(directory)
    os.close(directory)
    _inherit(asked)
    set_threads(os.environ)
    if "numpy.random" in sys.modules:  # or all servers draw the same numbers; `random` does it by itself
        sys.modules["numpy.random"].seed()
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    importlib.invalidate_caches()
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # Python 3.11 leaves the parent's
    sys.argv[1:] = map(str, (order, report, owner, *records))
    return process.main()


def _inherit(asked: dict[str, Any]) -> None:
    """What an executed process has from the one that started it."""
    for name in os.environ.keys() - asked["env"].keys():
        del os.environ[name]
    for name, value in asked["env"].items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    os.umask(asked["umask"])
    with suppress(OSError):
        os.sched_setaffinity(0, asked["cpus"])
    for kind, limits in asked["limits"]:
        if list(resource.getrlimit(kind)) != limits:
            with suppress(OSError, ValueError):
                resource.setrlimit(kind, limits)


def _set_threads(libraries: list[Any], env: Mapping[str, str]) -> None:
    """They have read their variables in the nursery; those that are loaded later will read the server's own."""
    cpus = len(os.sched_getaffinity(0))
    for library in libraries:
        names = _VARIABLES.get(library.internal_api, ("OMP_NUM_THREADS",))
        library.set_num_threads(min(cpus, next((n for name in names if (n := _number(env.get(name)))), cpus)))


def _number(text: str | None) -> int:
    """The first number of an OMP_NUM_THREADS as "4,2"; 0: none."""
    first = (text or "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0
