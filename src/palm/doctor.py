# SPDX-License-Identifier: BSD-3-Clause
"""``palm doctor``: what this machine gives to PALM, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from palm import places
from palm._core import space as core_space
from palm.cluster import Cluster
from palm.template import Server, function

ENOUGH = 256 << 20  # bytes of shared memory, below which streams of images soon travel in frames
CGROUPS = Path("/sys/fs/cgroup")
FILES_OF_A_SERVER = 64  # about so many it has open by itself
PROBE = 1 << 20  # bytes of the array that goes to a second process and back


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    level : {"OK", "WARN", "FAIL"}
        FAIL: PALM does not work here. WARN: it does, but not as well as it could.
    what, text : str
        What was looked at, and what was found.
    advice : str
        What to do; empty if it is OK.
    """

    level: Literal["OK", "WARN", "FAIL"]
    what: str
    text: str
    advice: str = ""


class Mirror(Server):
    """Sends back what comes."""

    @function
    def back(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The same array."""
        return image


def diagnose() -> Iterator[Finding]:
    """All checks, one after the other; one that raises is a FAIL."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        versions,
        directory,
        leftovers,
        memory_limits,
        open_files,
        arena,
        huge_pages,
        cores,
        second_process,
    )
    for check in checks:
        try:
            yield from check()
        except Exception as e:
            yield Finding(
                "FAIL",
                check.__name__.replace("_", " "),
                f"{type(e).__name__}: {e}",
                "what the error says; else report it with this line",
            )


def versions() -> Iterator[Finding]:
    """Of Python and of the libraries in use."""
    import zmq

    import palm

    libzmq = ".".join(map(str, core_space.zmq_version()))
    text = (
        f"palm {palm.__version__}, Python {platform.python_version()}, numpy {np.__version__}, pyzmq {zmq.__version__}"
    )
    yield Finding("OK", "versions", f"{text} with libzmq {libzmq}, Linux {platform.release()}")
    if core_space.zmq_has("curve"):
        yield Finding("OK", "encryption", "libzmq has CURVE")
    else:
        yield Finding(
            "WARN",
            "encryption",
            "libzmq has no CURVE: clusters stay on one host",
            "install the wheel of pyzmq: pip install --force-reinstall pyzmq",
        )


def directory() -> Iterator[Finding]:
    """Where the sockets are."""
    try:
        yield Finding("OK", "sockets", f"{places.base()}, of this user alone")
    except OSError as e:
        yield Finding("FAIL", "sockets", str(e), "remove it, or set XDG_RUNTIME_DIR to a directory of yours alone")


def leftovers() -> Iterator[Finding]:
    """Clusters, running and dead."""
    dead = [p for p in sorted(places.directories()) if (p / "owner").exists() and not places.owner(p)]
    yield Finding("OK", "clusters", f"running: {', '.join(places.clusters()) or 'none'}")
    for path in dead:
        if pids := sorted(places.inhabitants(path)):
            yield Finding(
                "WARN",
                "clusters",
                f"{path.name}: who started it is dead, but processes of it live: {', '.join(map(str, pids))}",
                f"kill {' '.join(map(str, pids))}",
            )
        else:
            yield Finding(
                "WARN",
                "clusters",
                f"{path.name}: dead, its sockets are left in {path}",
                "nothing: the next cluster that starts removes them",
            )


def memory_limits() -> Iterator[Finding]:
    """Those of control groups and of the process."""
    groups = [f"{limit >> 20} MiB by {where}" for where, limit in cgroup_limits()]
    yield Finding("OK", "memory", f"limited to {', '.join(groups)}" if groups else "no control group limits it")
    for name, what, option in (
        (resource.RLIMIT_AS, "address space (RLIMIT_AS)", "-v"),
        (resource.RLIMIT_FSIZE, "size of files, memfds too (RLIMIT_FSIZE)", "-f"),
    ):
        soft = resource.getrlimit(name)[0]
        if soft != resource.RLIM_INFINITY:
            yield Finding(
                "WARN",
                "memory",
                f"{what}: limited to {soft >> 20} MiB, shared memory is smaller for it",
                f"ulimit {option} unlimited, or ask the batch system for more",
            )


def open_files() -> Iterator[Finding]:
    """How many a server may have: it raises its own limit as far as it is allowed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    clients = "any number of" if hard == resource.RLIM_INFINITY else f"some {max(0, hard - FILES_OF_A_SERVER) // 4}"
    few = hard != resource.RLIM_INFINITY and hard < 1024
    yield Finding(
        "WARN" if few else "OK",
        "files",
        f"a server can have {clients} clients and peers (hard limit of open files: {hard})",
        "ulimit -H -n 65536, or ask the administrator for more" if few else "",
    )


def cgroup_limits(own: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> list[tuple[str, int]]:
    """Limits of memory, from this process's control group up, versions 1 and 2: (file, bytes)."""
    found = []
    for line in own.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = Path(f"{top}{name}")
        for at in (group, *group.parents):
            if at.is_relative_to(top) and (limit := _number(at / file)) < 1 << 62:
                found.append((str(at / file), limit))
    return found


def _number(path: Path) -> int:
    """The number in a file; without bound where there is no file, or another word in it."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 1 << 63


def arena() -> Iterator[Finding]:
    """This process's shared memory."""
    core_space.open_space()
    bound = core_space.stats()["arena_bound"]
    if not core_space.has_arena():
        yield Finding(
            "WARN",
            "shared memory",
            "there is none: arrays go through sockets",
            "look at the limits of memory above; memfd_create has to be allowed",
        )
    elif bound < ENOUGH:
        yield Finding(
            "WARN",
            "shared memory",
            f"at most {bound >> 20} MiB a process: beyond, arrays go through sockets",
            'give the job more memory, or set it: cluster.start(..., memory="1GiB")',
        )
    else:
        yield Finding("OK", "shared memory", f"up to {bound >> 20} MiB a process")


def huge_pages() -> Iterator[Finding]:
    """Whether shared memory may have huge pages."""
    path = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    try:
        mode = path.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        mode = "none in this kernel"
    if mode in ("never", "deny", "none in this kernel"):
        yield Finding(
            "WARN",
            "huge pages",
            f"shmem_enabled: {mode}; the first touch of large arrays is slower",
            f"as root: echo advise > {path}",
        )
    else:
        yield Finding("OK", "huge pages", f"shmem_enabled: {mode}")


def cores() -> Iterator[Finding]:
    """Cores that this process may use, and threads that BLAS and OpenMP start on them."""
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    usable, quota = len(os.sched_getaffinity(0)), cpu_quota()
    text = f"{usable} of {os.cpu_count()}" + (f", {quota:g} of them by quota" if quota < usable else "")
    pools = {str(p["internal_api"]): int(p["num_threads"]) for p in threadpool_info()}
    text += "".join(f"; {name}: {n} threads" for name, n in pools.items())
    most = max(pools.values(), default=1)
    if most > min(usable, max(1.0, quota)):
        yield Finding(
            "WARN",
            "cores",
            f"{text}: more threads than cores, they will hinder one another",
            f"export OMP_NUM_THREADS={max(1, int(min(usable, quota)))}, or cluster.start(..., cores=1)",
        )
    else:
        yield Finding("OK", "cores", text)


def cpu_quota(root: Path = CGROUPS) -> float:
    """Cores by the quota of the control group at the root of what is seen here; infinite without one."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = str(_number(root / "cpu/cpu.cfs_quota_us")), str(_number(root / "cpu/cpu.cfs_period_us"))
    if not quota.isdigit() or int(quota) >= 1 << 62:
        return float("inf")
    return int(quota) / int(period)


def second_process() -> Iterator[Finding]:
    """An array goes to a server of a cluster and back."""
    import palm

    with Cluster() as cluster, cluster.client() as client:
        cluster.start(Mirror)
        before = core_space.read_counters()
        with palm.arena():
            sent = np.arange(PROBE // 8, dtype=np.float64)
        # twice: a server counts what it has sent, so the first answer is counted when the second one is there
        same = all(np.array_equal(client.call("mirror.back", sent, timeout=10.0), sent) for _ in range(2))
        here, there = core_space.read_counters(), client.status()["servers"][0]["counters"]
    lent = here["sent_arena"] > before["sent_arena"] and there.get("sent_arena", 0) > 0
    if not same:
        yield Finding("FAIL", "second process", "an array came back changed", "report it: this must not happen")
    elif not lent:
        yield Finding(
            "WARN",
            "second process",
            "an array went there and back, but not in shared memory",
            "processes of one user in one pid namespace share memory; see docs/arena.md, Reaching a peer",
        )
    else:
        yield Finding("OK", "second process", "an array went there and back in shared memory, nothing was copied")
