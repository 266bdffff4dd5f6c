# SPDX-License-Identifier: BSD-3-Clause
"""What the processes of a cluster do and have: read off their pages and /proc, so that none of them is asked, or waited
for (DESIGN 5.10).
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from palm import activity
from palm._core import space as core_space

_STATUS = re.compile(r"^(RssAnon|Cpus_allowed_list):\s+(\S+)", re.MULTILINE)


def observed(asked: dict[str, Any]) -> dict[str, Any]:
    """A cluster, as its registry knows it, with what its processes do.

    Parameters
    ----------
    asked : dict
        What the registry's ``status`` has answered; it stays as it is.

    Returns
    -------
    dict
        As ``palm status --json`` prints it. Processes have ``counters`` (empty: they cannot be read from here),
        ``work`` (`activity.describe`), ``queue``, the messages that lie in front of them, and ``memory`` in bytes:
        ``arena``, arrays of theirs that somebody has; ``arena_idle``, kept for the next ones for some seconds;
        ``mapped``, arrays of others that they have; ``heap``, the rest, 0 if that is not known; ``limit``, its
        bound, if it has one. Besides ``cpu_seconds``, and ``cpus``, on which they may run, as ``"0-3,8"``.
        ``now_ns``: when that was, by CLOCK_MONOTONIC.
    """
    status = dict(asked)
    servers = status["servers"] = [_read_server(server) for server in asked["servers"]]
    clients = status["clients"] = [_read(client) for client in asked["clients"]]
    workers = [worker for server in servers for worker in server["workers"]]
    queues, now = activity.queues_of(servers, clients), time.monotonic_ns()
    status["now_ns"] = now
    for process in (*servers, *clients, *workers):
        process["work"] = activity.describe(process, servers, queues, now)
    for server in servers:
        server["queue"] = queues[server["name"]]
        for worker in server["workers"]:
            c = worker["counters"]
            worker["queue"] = c.get("backlog", 0) + c.get("queue_depth", 0)
    for client in clients:
        del client["counters"], client["memory"], client["cpu_seconds"], client["cpus"]
    return status


def _read_server(server: dict[str, Any]) -> dict[str, Any]:
    """With its workers; one that is its own worker is read once."""
    itself = _read(server)
    found = {k: itself[k] for k in ("counters", "memory", "cpu_seconds", "cpus")}
    workers = [w | found if w["page"] == server["page"] else _read(w) for w in server["workers"]]
    for worker in workers:
        worker.pop("page", None)
    return itself | {"workers": workers}


def _read(process: dict[str, Any]) -> dict[str, Any]:
    """With what stands on its page, and its memory."""
    found = {k: v for k, v in process.items() if k != "page"}
    try:
        c = core_space.read_counters_of(*process["page"])
    except (OSError, core_space.CoreError):
        return found | {"counters": {}, "memory": {}, "cpu_seconds": 0.0, "cpus": ""}
    status, limit = _status(process["pid"]), c.pop("memory_limit")
    memory = {
        "arena": c.pop("arena_in_use"),
        "arena_idle": c.pop("arena_idle"),
        "mapped": c.pop("mapped"),
        "heap": int(status.get("RssAnon", 0)) * 1024,
        **({"limit": limit} if limit else {}),
    }
    cpus = status.get("Cpus_allowed_list", "")
    return found | {"counters": c, "memory": memory, "cpu_seconds": _cpu_seconds(process["pid"]), "cpus": cpus}


def _cpu_seconds(pid: int) -> float:
    """That all of its threads have had of cores, in user and kernel mode."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int) -> dict[str, str]:
    """RssAnon: kB of memory that the process shares with no other; and its CPUs."""
    try:
        return dict(_STATUS.findall(Path(f"/proc/{pid}/status").read_text()))
    except OSError:
        return {}
