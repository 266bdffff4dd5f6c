# SPDX-License-Identifier: BSD-3-Clause
"""What the processes of a cluster do, read off their pages: idle, running a function, or waiting for room, and in which
server that is (R19). Pure: no I/O, no clock.

Where a window is full, its messages lie in front of one server: those that it has taken in advance, and those that
others have sent there and it has not taken. If there are none, it is the server that has been running for longest. One
that is suspended comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Counters = Mapping[str, Any]
BRIEF = 0.2  # seconds: who waits no longer is on the point of going on
HELD = 1.0  # seconds for which nobody gets the GIL: with threads that compute, or on a busy machine, some may pass


def describe(
    server: Mapping[str, Any], servers: Iterable[Mapping[str, Any]], queues: Counters, now_ns: int
) -> dict[str, Any]:
    """What a process does.

    Parameters
    ----------
    server : mapping
        Of a process: its ``"counters"``.
    servers : iterable of mapping
        All there are, with ``"name"``, ``"state"`` and ``"counters"``.
    queues : mapping
        What `queues_of` returns.
    now_ns : int
        CLOCK_MONOTONIC.

    Returns
    -------
    dict
        ``state``: "running", "waiting" or "idle"; unless idle, ``seconds``, for how long; ``function`` that is running,
        the ``number`` of the input it works on, and ``holds_gil`` (bool), known after 2 s;
        ``room_in``, what is waited for: a server, or "" if the results wait to be taken.
    """
    c = server["counters"]
    if c["running_since_ns"]:
        seconds = max(0.0, (now_ns - c["running_since_ns"]) / 1e9)
        number = c["running_number"]
        function, held = c.get("running", ""), seconds_held(c, now_ns) > HELD
        return {"state": "running", "function": function, "number": number, "seconds": seconds, "holds_gil": held}
    if seconds_waiting(c, now_ns) < BRIEF:
        return {"state": "idle"}
    among = [s for s in servers if s["name"] in c["waiting_for"]]
    return {"state": "waiting", "room_in": fullest(among, queues, now_ns), "seconds": seconds_waiting(c, now_ns)}


def seconds_waiting(c: Counters, now_ns: int) -> float:
    """Of the process that has these counters; 0: it does not wait for room."""
    since = c.get("waiting_since_ns", 0)
    return max(0.0, (now_ns - since) / 1e9) if since else 0.0


def seconds_held(c: Counters, now_ns: int) -> float:
    """For how long somebody has asked for the GIL of the process that has these counters; 0: it was had."""
    asked = c["gil_asked_ns"]
    return max(0.0, (now_ns - asked) / 1e9) if asked > c["gil_had_ns"] else 0.0


def queues_of(servers: Iterable[Mapping[str, Any]], clients: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """By server: what lies in front of it, as far as known."""
    servers = list(servers)
    names = {(s["where"], s["pid"]): s["name"] for s in servers if s["pid"]}  # others are not there
    queues = {s["name"]: s["counters"].get("backlog", 0) + s["counters"].get("queue_depth", 0) for s in servers}
    for process in [*servers, *clients]:
        name = names.get((process["where"], process["counters"].get("unread_pid", 0)))
        if name is not None:
            queues[name] += process["counters"]["unread"]
    return queues


def fullest(servers: Iterable[Mapping[str, Any]], queues: Counters, now_ns: int) -> str:
    """The name of the one in front of which the most lies; "": all have nothing to do."""

    def busy(server: Mapping[str, Any]) -> tuple[bool, int, int]:
        since = server["counters"].get("running_since_ns", 0)
        return server["state"] == "suspended", queues[server["name"]], now_ns - since if since else 0

    most = max(servers, key=busy, default=None)
    return str(most["name"]) if most is not None and any(busy(most)) else ""


def text_of(work: Mapping[str, Any]) -> str:
    """``"waiting for room in spectrum 3.1 s"``."""
    if work["state"] == "running":
        held = ", holds the GIL" if work["holds_gil"] else ""
        return f"running {work['function']}, message {work['number']}, {work['seconds']:.1f} s{held}"
    if work["state"] == "waiting":
        what = f"room in {work['room_in']}" if work["room_in"] else "its results to be taken"
        return f"waiting for {what} {work['seconds']:.1f} s"
    return str(work["state"])
