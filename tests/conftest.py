# SPDX-License-Identifier: BSD-3-Clause
"""The ledger: each test leaves blocks, file descriptors, threads, processes, sockets and files as it found them."""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import palm
from palm import cluster as cluster_module
from palm import nurseries, places
from palm._core import space

pytest.register_assert_rewrite("helpers_hostile", "helpers_logs", "helpers_shell")  # they have fixtures

# Clusters of this run alone, so that runs beside each other do not see each other's. Short: paths of sockets are.
# Processes that tests start import this too, and stay with the directory of the process that runs the tests, of which
# pytest-xdist has several.
WHO = f"worker {os.environ.get('PYTEST_XDIST_WORKER', '')}"
MINE = os.environ.get("PALM_TESTS_OF") != WHO
RUNTIME = tempfile.mkdtemp(prefix="pt-", dir="/tmp") if MINE else os.environ["PALM_TESTS_IN"]
os.environ["PALM_TESTS_OF"] = WHO
os.environ["PALM_TESTS_IN"] = os.environ["XDG_RUNTIME_DIR"] = RUNTIME
os.environ["XDG_STATE_HOME"] = f"{RUNTIME}/state"
LOGS = f"{RUNTIME}/state/"  # the log of a cluster that outlives a test is open when its first server says anything
os.environ["PALM_CAPSULES"] = f"{RUNTIME}/capsules"
# Else each server would import pytest, and compile its test's module: half of the time of all tests.
os.environ["PALM_PRELOAD"] = "pytest"
# OpenBLAS's threads wait awake for 2^26 ticks when they begin, and after each use: 0.1 s of a core for each process.
os.environ["OPENBLAS_THREAD_TIMEOUT"] = "4"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A shell that starts tests in the background has them ignore Ctrl-C, which some of them are about.
signal.signal(signal.SIGINT, signal.default_int_handler)
TOOLS_THREADS = ("pytest_timeout", "pymonitor")
GRACE = (
    60  # s after a test's time limit, in which it can still clean up; then its process says where it hangs, and ends
)
watched = False  # a test is at work
stderr = -1  # of the terminal, not what pytest captures


def pytest_configure() -> None:
    global stderr
    stderr = os.dup(2)


@pytest.fixture(autouse=True, scope="module")
def nothing_old_is_looked_through() -> None:
    """The ledger collects garbage twice a test: not among all modules and tests, which took half of the time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """pytest-timeout fails a test that lasts too long; what then hangs in its `finally` would do so for ever."""
    global watched
    marker = item.get_closest_marker("timeout")
    limit = float(
        item.config.getoption("timeout", None) or (marker.args[0] if marker else item.config.getini("timeout"))
    )
    watched = True
    faulthandler.dump_traceback_later(limit + GRACE, file=stderr, exit=True)
    try:
        return (yield)
    finally:
        watched = False
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact() -> None:
    """pytest's own hook has ended the watch when a test fails: its teardown is watched too."""
    if watched:
        faulthandler.dump_traceback_later(GRACE, file=stderr, exit=True)


def pytest_unconfigure() -> None:
    if MINE:
        shutil.rmtree(RUNTIME, ignore_errors=True)


def eventually(fact: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Waits for a fact, and returns it; the watchdog ends the wait, never the test's meaning."""
    end = time.monotonic() + timeout
    while not (found := fact()):
        assert time.monotonic() < end, f"not within {timeout} s: {fact}"
        time.sleep(0.005)
    return found


def first_module(text: str) -> str:
    """Whose frame is the first of a traceback that came from a server: the name of a file."""
    return Path(text.partition('  File "')[2].partition('"')[0]).name


def children(of: int | None = None) -> set[int]:
    """Pids of the living children of a process, zombies not counted. Of this one: but for the nursery that is kept for
    the next cluster."""
    kept = nurseries.spare()
    mine = {kept.pid} if kept and of is None else set()
    while True:
        tasks = [*Path(f"/proc/{of or os.getpid()}/task").iterdir()]
        try:
            texts = [(task / "children").read_text() for task in tasks]
        except FileNotFoundError:  # a thread has ended, and others have its children now
            continue
        return {pid for text in texts for pid in map(int, text.split()) if places.start_time(pid)} - mine


def of_clusters() -> set[int]:
    """Pids of what the clusters have that are open: they may start others at any time."""
    found = set()
    for cluster in [*cluster_module._open]:
        supervisor = cluster._supervisor
        found |= {supervisor._births.pid, *(child.pid for child in [*supervisor._children.values()])}
    return found


def fds() -> dict[str, str]:
    """But for those of the nursery that is kept for the next cluster."""
    kept, found = nurseries.spare(), {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if not target.startswith(("/proc", "/dev/", LOGS)) and not (kept and kept.has(int(fd))):
            found[fd] = target
    return found


def memfds() -> set[str]:
    return {t for t in fds().values() if t.startswith("/memfd:palm")}


def state() -> dict[str, Any]:
    gc.collect()
    space.tick(time.monotonic_ns())
    s = space.stats()
    return {
        "blocks held": s["blocks_held"],
        "blocks lent": s["blocks_lent"],
        "children": children() - of_clusters(),
        "threads": {t.name for t in threading.enumerate() if not t.name.startswith(TOOLS_THREADS)},
        "fds": len(fds()),
        "clusters": set(os.listdir(places.base())),
        "/dev/shm": set(os.listdir("/dev/shm")),
    }


def more(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What there is more of; less may be the end of what a test before has only just let go of."""
    return {k: (before[k], after[k]) for k in before if not after[k] <= before[k]}


@pytest.fixture(autouse=True)
def ledger() -> Iterator[None]:
    """Compares before and after; what takes a moment to go (a peer that is dying, an orphan's mapping) gets it."""
    with palm.arena():
        np.empty(1 << 20)  # the space, the pulse and libzmq's threads are there for good
    before = state()
    yield
    end = time.monotonic() + 5
    while (differences := more(before, state())) and time.monotonic() < end:
        time.sleep(0.02)
    if "fds" in differences:
        differences["open now"] = fds()
    assert not differences, f"left behind (before, after): {differences}"


@pytest.fixture
def cluster() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        yield cluster
