# SPDX-License-Identifier: BSD-3-Clause
"""What happened in a cluster between two looks at it: rates, service times, how busy whom was, and which server limits.

Pure: no I/O, no clock. Looks are what `palm.overview.Overview.look` returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from palm.delta import NEWBORN, RATES, Delta, grown, quantile, total

OCCUPIED = 0.5  # who is less so limits nobody, though something may wait for it in this moment


@dataclass(frozen=True)
class Row:
    """A process, or a server with all of its.

    Attributes
    ----------
    delta : Delta or None
        None: it cannot be read, or nobody knew of it at the look before.
    queue, in_flight : int or None
        Messages that lie before it, and that its workers have; None: that is not known.
    """

    name: str
    state: str
    work: Mapping[str, Any]
    pid: int
    delta: Delta | None
    queue: int | None
    in_flight: int | None
    memory: Mapping[str, int]


@dataclass(frozen=True)
class ServerRow(Row):
    """`processes`: its leader and its workers, where these are processes of their own; else none. Rates are those of
    the whole server: of its functions, and messages as they come to these."""

    processes: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Interval:
    """Between two looks."""

    seconds: float
    servers: tuple[ServerRow, ...]
    limits: str  # the server that does; "": none
    unknown: Mapping[str, str] = field(default_factory=dict)  # hosts of which nothing is known, and their states


def plain(found: Interval) -> dict[str, Any]:
    """As ``palm top --json`` prints it: rates are by second, times in seconds, None where they are not known."""
    return {
        "seconds": found.seconds,
        "limits": found.limits,
        "unknown_hosts": dict(found.unknown),
        "servers": [_plain(s) | {"processes": [_plain(p) for p in s.processes]} for s in found.servers],
    }


def _plain(row: Row) -> dict[str, Any]:
    d, names = row.delta, ("name", "state", "work", "pid", "queue", "in_flight", "memory")
    return {name: getattr(row, name) for name in names} | {
        "rates": None if d is None else {name: d.rate(name) for name in ("calls", *RATES)},
        "busy": None if d is None else d.utilisation,
        "own": None if d is None else d.own,
        "cores": None if d is None else d.cores,
        "median_seconds": None if d is None else quantile(d.times, 0.5),
        "p99_seconds": None if d is None else quantile(d.times, 0.99),
    }


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> Interval:
    """What happened from one look to the next."""
    span = _Span(before["now_ns"], after["now_ns"])
    were = {s["name"]: s for s in before["servers"]}
    servers = tuple(_server(were.get(s["name"]), s, span) for s in after["servers"])
    queues = {name: s["queue"] or 0 for name, s in were.items()}
    unknown = {h["host"]: h["state"] for h in after["hosts"] if h["state"] != "running"}
    return Interval(span.seconds, servers, limiting(servers, queues), unknown)


def since_start(after: Mapping[str, Any]) -> Interval:
    """What happened from the start of each process on."""
    found = between({"now_ns": 0, "servers": []}, after)
    return replace(found, seconds=max((s.delta.seconds for s in found.servers if s.delta is not None), default=0.0))


@dataclass(frozen=True)
class _Span:
    """Between two looks, by CLOCK_MONOTONIC."""

    before_ns: int
    after_ns: int

    @property
    def seconds(self) -> float:
        return max(0.0, (self.after_ns - self.before_ns) / 1e9)

    def delta(self, was: Mapping[str, Any] | None, p: Mapping[str, Any]) -> Delta | None:
        """What a process has done; of one that has begun in between, since then. None: that is not known."""
        c = p["counters"]
        if not c or not self.seconds:
            return None
        if was is not None and (was["host"], was["pid"]) == (p["host"], p["pid"]) and was["counters"]:
            return grown(was, p, (p["read_ns"] - was["read_ns"]) / 1e9)
        began, read_ns = c["serves_since_ns"], p["read_ns"]
        if 0 < began < read_ns and began >= self.before_ns:
            return grown(NEWBORN, p, (read_ns - began) / 1e9)
        return None


def limiting(servers: Sequence[ServerRow], queues: Mapping[str, int] | None = None) -> str:
    """The one before which messages wait and that has the least time left, or is suspended; "": there is none.

    queues: what lay before them at the beginning; one of the two has to be more than nothing.
    """

    def pressed(s: ServerRow) -> tuple[bool, float, int]:
        return s.state == "suspended", most_occupied(s), s.queue or 0

    waited_for = [s for s in servers if s.queue or (queues or {}).get(s.name)]
    most = max(waited_for, key=pressed, default=None)
    if most is None or not (most.state == "suspended" or most_occupied(most) >= OCCUPIED):
        return ""
    return most.name


def most_occupied(server: ServerRow) -> float:
    """Of its leader and its workers together, the one that has less time left."""
    leader = server.processes[:1]
    return max((row.delta.occupied for row in (server, *leader) if row.delta is not None), default=0.0)


def _server(was: Mapping[str, Any] | None, s: Mapping[str, Any], span: _Span) -> ServerRow:
    were = {w["number"]: w for w in was["workers"]} if was is not None else {}
    workers = [_row(f"{s['name']}/{w['number']}", were.get(w["number"]), w, span) for w in s["workers"]]
    itself = _row(s["name"], was, s, span)
    if not (s["pid"] and s["leads"] and workers):
        return ServerRow(**vars(itself), processes=())
    processes = (_renamed(itself, f"{s['name']}/leader"), *workers)
    return ServerRow(
        s["name"],
        s["state"],
        s["work"],
        s["pid"],
        _of_server(itself.delta, [w.delta for w in workers if w.delta is not None]),
        _sum([p.queue for p in processes]),
        itself.in_flight,
        {k: sum(p.memory.get(k, 0) for p in processes) for k in sorted({k for p in processes for k in p.memory})},
        processes,
    )


def _sum(known: Sequence[int | None]) -> int | None:
    """Of those that are known."""
    numbers = [n for n in known if n is not None]
    return sum(numbers) if numbers else None


def _renamed(row: Row, name: str) -> Row:
    return replace(row, name=name)


def _of_server(leader: Delta | None, workers: list[Delta]) -> Delta | None:
    """Copies and errors of the leader are the server's too; messages pass it on their way to the workers."""
    if not workers:
        return None
    together = total(workers)
    counted = dict(together.counted)
    for name in ("bytes_copied", "errors", "retries") if leader is not None else ():
        assert leader is not None
        counted[name] = counted.get(name, 0) + leader.counted.get(name, 0)
    return replace(together, counted=counted)


def _row(name: str, was: Mapping[str, Any] | None, p: Mapping[str, Any], span: _Span) -> Row:
    flight = p["counters"]["in_flight"] if p["counters"] else None
    return Row(name, p["state"], p["work"], p["pid"], span.delta(was, p), p["queue"], flight, p["memory"])
