# SPDX-License-Identifier: BSD-3-Clause
"""Where clusters of this user live on this host: one directory each, of the user's alone (0700), with their sockets.

``$XDG_RUNTIME_DIR/palm/<cluster>/`` or ``/tmp/palm-<uid>/<cluster>/``: `registry` is the registry's socket, the other
sockets are named ``<role>.<pid>``, `owner` holds the pid and start time of the process that started the cluster,
`caches` says which caches are in which files. Where a cluster spans several hosts there is a directory on each:
`address` is the registry's endpoint, and instead of sockets there are empty files of the same names. What a cluster
that was killed as a whole has left behind is removed by whoever looks next. What is being removed is `.removed-…`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palm import addresses
from palm.errors import ConfigError, Disconnected

NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,30}"  # sun_path ends at 107 bytes
CLIENT = "_client"  # the role of who lives in a cluster, but is no part of it; no server has this name
REMOVED = ".removed-"  # begins the name of a directory that is no cluster's any more


def base() -> Path:
    """The directory of all clusters of this user; made if need be, refused if anybody else could write to it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    path = (
        Path(runtime) / "palm"
        if runtime and runtime.startswith("/") and len(runtime) < 40 and os.access(runtime, os.W_OK)
        else Path(f"/tmp/palm-{os.getuid()}")
    )
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{path} has to be a directory of yours alone (0700), but is "
            f"{stat.filemode(found.st_mode)} of uid {found.st_uid}: remove it"
        )
    return path


def check_name(name: str, what: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ConfigError(
            f"{what} is named {name!r}: a name has 1 to 31 letters, digits, - or _, and begins with a letter or digit"
        )
    return name


def start_time(pid: int) -> int:
    """When the process began, in ticks since boot; 0 if there is none. A pid alone may have been given anew."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if after_name[0] in (b"Z", b"X") else int(after_name[19])


def this_process() -> dict[str, Any]:
    """As a registry knows processes."""
    pid = os.getpid()
    return {"where": pid_namespace(), "pid": pid, "began": start_time(pid)}


@functools.cache
def pid_namespace() -> bytes:
    """Where pids mean what they mean here: 16 bytes of the kernel's boot id, and the inode of the pid namespace."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    return bytes.fromhex(boot_id) + os.stat("/proc/self/ns/pid").st_ino.to_bytes(8, "little")


def make(name: str | None) -> Path:
    """A directory for a new cluster owned by this process; FileExistsError if one of this name is running."""
    sweep()
    path = base() / check_name(name or f"c{os.getpid()}-{os.urandom(3).hex()}", "the cluster")
    while True:
        try:
            path.mkdir(mode=0o700)
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # it is gone by now: once more
                raise FileExistsError(_is_taken(path)) from None
    (path / "owner").write_text(f"{os.getpid()} {start_time(os.getpid())}")
    return path


def _is_taken(path: Path) -> str:
    if pid := owner(path):
        return (
            f"a cluster named {path.name!r} is running (pid {pid}): give another name, or end it, there or by "
            f"`palm down {path.name}`"
        )
    left = ", ".join(map(str, sorted(inhabitants(path)))) or "none any more"
    return f"the owner of a cluster named {path.name!r} is dead, and its processes are about to end ({left}): try again"


def owner(path: Path) -> int:
    """Pid of the cluster's owner, 0 if it is dead."""
    try:
        pid, began = map(int, (path / "owner").read_text().split())
    except (OSError, ValueError):
        return 0
    return pid if start_time(pid) == began else 0


def directory_of(registry: str) -> Path | None:
    """On this host, of the cluster whose registry is at this endpoint; None: there is none.

    For who has the address alone. Processes of a cluster are told theirs (`Order.directory`): this one cannot find that
    of a dead owner over TCP, nor tell two parts of a cluster on one host from each other.
    """
    if registry.startswith("ipc://"):
        return Path(registry.removeprefix("ipc://")).parent
    return next((path for path in directories() if address_in(path) == registry and owner(path)), None)


def address_in(path: Path) -> str:
    """The endpoint of the registry of the cluster that has this directory."""
    try:
        return (path / "address").read_text()
    except OSError:
        return f"ipc://{path}/registry"


def owner_of(registry: str) -> str:
    """Who owns the cluster of a registry's endpoint on this host: its pid and start time. Empty: nobody knows."""
    try:
        return (Path(registry.removeprefix("ipc://")).parent / "owner").read_text()
    except OSError:
        return ""


def is_abandoned(registry: str, owned_by: str = "") -> bool:
    """True of a registry's endpoint on this host, if the owner of its cluster is dead: nobody starts it again.
    owned_by: who was its owner; another cluster may have its name now."""
    if not registry.startswith("ipc://"):
        return False
    return not owner(Path(registry.removeprefix("ipc://")).parent) or bool(owned_by and owner_of(registry) != owned_by)


CacheFiles = Mapping[str, tuple[str, int]]  # by server; the bytes that its cache may take, 0: the default


def cache_files(path: Path) -> CacheFiles:
    """Which caches of a cluster are in files."""
    try:
        found: dict[str, list[Any]] = json.loads((path / "caches").read_text())
    except FileNotFoundError:
        return {}
    return {server: (file, bound) for server, (file, bound) in found.items()}


def set_cache_files(path: Path, files: CacheFiles) -> None:
    new = path / "caches.new"
    new.write_text(json.dumps(dict(files)))
    new.replace(path / "caches")


def remove(path: Path) -> None:
    """For all at once: who begins just now finds no place for its socket any more, and leaves nothing behind."""
    import shutil  # 4 ms that others need not wait for

    gone = path.with_name(f"{REMOVED}{os.urandom(4).hex()}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):  # somebody else was faster
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def directories() -> Iterator[Path]:
    """Of all clusters of this user."""
    return (path for path in base().iterdir() if path.is_dir() and not path.name.startswith(REMOVED))


def clusters() -> list[str]:
    """Names of this user's running clusters."""
    return sorted(path.name for path in directories() if owner(path))


def sweep() -> None:
    """Remove what dead clusters have left: those whose owner is dead and in which nobody lives."""
    for path in base().iterdir():
        with contextlib.suppress(FileNotFoundError):  # somebody else removes it
            if path.is_dir() and _is_left(path):
                remove(path)


def _is_left(path: Path) -> bool:
    if path.name.startswith(REMOVED):  # whoever did so has died over it
        return not start_time(int(path.name.rpartition("-")[2]))
    return not owner(path) and (path / "owner").exists() and not inhabitants(path)


def inhabitants(path: Path) -> set[int]:
    """The pids of a cluster's own processes: its clients may live on without it."""
    pids = {p.name.rpartition(".")[2] for p in path.iterdir() if not p.name.startswith(CLIENT)}
    return {int(pid) for pid in pids if pid.isdigit() and start_time(int(pid))}


def remove_dead_sockets(path: Path, *, mine: bool = False) -> None:
    """Remove the sockets of dead processes from a cluster's directory; `mine`: of this one too."""
    for p in path.iterdir():
        pid = p.name.rpartition(".")[2]
        if pid.isdigit() and (not start_time(int(pid)) or (mine and int(pid) == os.getpid())):
            p.unlink(missing_ok=True)


_made = 0


def endpoint(beside: str, role: str) -> str:
    """An endpoint of this process, to receive from peers that live where `beside` does."""
    if beside.startswith("ipc://"):
        return f"ipc://{mark(Path(beside.removeprefix('ipc://')).parent, role)}"
    return addresses.beside(beside)


def mark(directory: Path, role: str) -> Path:
    """A file that says that this process lives in a cluster: its socket, or an empty one."""
    global _made
    _made += 1
    return directory / f"{role[:24]}-{_made}.{os.getpid()}"


def find(address: str | None) -> str:
    """The endpoint of a registry, from an endpoint, a cluster's name, or what the environment says."""
    address = address or os.environ.get("PALM_CLUSTER") or None
    if address is None:
        running = clusters()
        if len(running) != 1:
            raise Disconnected(
                f"no address was given, $PALM_CLUSTER is not set, and {base()} has "
                + (
                    f"{len(running)} running clusters: {', '.join(running)}; name one: palm.Client(NAME), "
                    "$PALM_CLUSTER, or in the shell --cluster NAME (palm down NAME)"
                    if running
                    else "no running cluster: start one with `palm up` or palm.Cluster()"
                )
            )
        address = running[0]
    if ":" in address:
        return addresses.normalised(address)
    path = base() / check_name(address, "the cluster")
    if not owner(path):
        raise Disconnected(
            f"there is no running cluster {address!r}; looked in {base()}, which has: {', '.join(clusters()) or 'none'}"
        )
    return address_in(path)
