# SPDX-License-Identifier: BSD-3-Clause
"""A cluster, as its registry knows it, with what its processes do on all of its machines.

Those of this one are read off their pages, those of others by what answers there (`palm.machine_server`), which are
asked together, and waited for a moment: of one that does not answer nothing is known, and that is what is said.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from palm import activity, pages, places
from palm.connection import Connection
from palm.machines import Machines, Question, Reply

PATIENCE = 0.75  # seconds that machines have to answer
Process = dict[str, Any]
Page = tuple[int, ...]


class Machine(NamedTuple):
    """What is known of one, by its processes' pages. state: that of its server, or "unreachable"."""

    name: str
    state: str
    cores: int | None = None
    read: Mapping[Page, Process] = {}  # noqa: RUF012


class Overview:
    """By the connection of a client of the cluster."""

    def __init__(self, connection: Connection) -> None:
        self._machines = Machines(connection)

    def look(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The cluster as of now.

        Parameters
        ----------
        asked : mapping
            What the registry's ``status`` has answered; it stays as it is.

        Returns
        -------
        dict
            As ``palm status --json`` prints it. Processes have what `pages.read` returns; ``read_ns``, when that was;
            ``work`` (`activity.describe`, or "unknown"); ``queue``, the messages that lie in front of them, None if
            that is not known. ``hosts`` have ``state``, "unreachable" if one does not answer, as its processes are
            then, and ``cores``, which PALM may use there, or None. Times are of CLOCK_MONOTONIC of this host,
            ``now_ns`` too.
        """
        machines = self._look_at(asked)
        servers = [_server(s, machines) for s in asked["servers"]]
        clients = [_process(c, machines) for c in asked["clients"]]
        _say_what_they_do(servers, clients)
        told = {
            "servers": servers,
            "clients": [{key: client[key] for key in ("pid", "work")} for client in clients],
            "hosts": [{"host": m.name, "state": m.state, "cores": m.cores} for m in machines.values() if m.state],
        }
        return {**asked, **told, "now_ns": time.monotonic_ns()}

    def _look_at(self, asked: Mapping[str, Any]) -> dict[bytes, Machine]:
        """By place."""
        here, wanted, there = places.pid_namespace(), _pages_of(asked), _servers_of_machines(asked)
        questions = {
            server["name"]: Question(server, "processes", ([list(page) for page in wanted.get(where, ())],))
            for where, server in there.items()
            if where != here and server["state"] == "running"
        }
        replies = self._machines.ask(questions, PATIENCE) if questions else {}
        machines = {where: _machine(server, wanted.get(where, ()), replies) for where, server in there.items()}
        name, state = (there[here]["host"], "running") if here in there else ("", "")
        machines[here] = Machine(name, state, len(os.sched_getaffinity(0)), _read_here(wanted.get(here, ())))
        return machines


def _processes_of(asked: Mapping[str, Any]) -> Iterator[Process]:
    for server in asked["servers"]:
        yield server
        yield from server["workers"]
    yield from asked["clients"]


def _pages_of(asked: Mapping[str, Any]) -> dict[bytes, list[Page]]:
    """Of those that there are, by place; each once, though a server may be its own worker."""
    found: dict[bytes, dict[Page, None]] = {}
    for process in _processes_of(asked):
        if process["where"]:
            found.setdefault(process["where"], {})[tuple(process["page"])] = None
    return {where: list(of_it) for where, of_it in found.items()}


def _servers_of_machines(asked: Mapping[str, Any]) -> dict[bytes, Mapping[str, Any]]:
    """By place: of several, one that runs."""
    found: dict[bytes, Mapping[str, Any]] = {}
    for server in asked["hosts"]:
        if server["where"] not in found or found[server["where"]]["state"] != "running":
            found[server["where"]] = server
    return found


def _read_here(wanted: Sequence[Page]) -> dict[Page, Process]:
    return {page: pages.read(page) | {"read_ns": time.monotonic_ns()} for page in wanted}


def _machine(server: Mapping[str, Any], wanted: Sequence[Page], replies: Mapping[str, Reply]) -> Machine:
    """From what has answered for it."""
    if server["state"] != "running":
        return Machine(server["host"], server["state"])
    reply = replies.get(server["name"])
    if reply is None:
        return Machine(server["host"], "unreachable")
    said = reply.value
    read = {
        page: {**process, "counters": _at_our_time(process["counters"], reply.at_ns - said["now_ns"])}
        for page, process in zip(wanted, said["processes"], strict=True)
    }
    return Machine(server["host"], "running", said["cores"], {p: r | {"read_ns": reply.at_ns} for p, r in read.items()})


def _at_our_time(counters: Mapping[str, Any], later: int) -> dict[str, Any]:
    """later: how far the clock here is ahead. What is 0 has not happened."""
    return {k: v + later if k.endswith("_ns") and v else v for k, v in counters.items()}


def _server(server: Mapping[str, Any], machines: Mapping[bytes, Machine]) -> Process:
    return _process(server, machines) | {"workers": [_process(w, machines) for w in server["workers"]]}


def _process(process: Mapping[str, Any], machines: Mapping[bytes, Machine]) -> Process:
    """With what is known of it."""
    machine = machines.get(process["where"])
    found = {**process, **pages.UNKNOWN, "read_ns": 0}
    if machine is None:
        return found
    found |= machine.read.get(tuple(process["page"]), {})
    if machine.state == "unreachable":
        found |= {"state": machine.state, "reason": f"{machine.name} does not answer"}
    elif found.pop("suspended", False):
        found["state"] = "suspended"
    return found


def _say_what_they_do(servers: list[Process], clients: list[Process]) -> None:
    queues = activity.queues_of(servers, clients)
    workers = [worker for server in servers for worker in server["workers"]]
    for process in (*servers, *clients, *workers):
        c = process["counters"]
        process["work"] = activity.describe(process, servers, queues, process["read_ns"]) if c else {"state": "unknown"}
        process["queue"] = c["backlog"] + c["queue_depth"] if c else None
    for server in servers:
        if server["counters"]:
            server["queue"] = queues[server["name"]]
    for process in (*servers, *clients, *workers):
        del process["where"], process["page"]
