# SPDX-License-Identifier: BSD-3-Clause
"""What happened in a cluster between two looks at it: rates, service times, how busy whom was, and which server limits.

Pure: no I/O, no clock. Looks are what `palm.pages.observed` returns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Counters = Mapping[str, Any]
OCCUPIED = 0.5  # who is less so limits nobody, though something may wait for it in this moment
RATES = ("messages_in", "messages_out", "bytes_in", "bytes_out", "bytes_copied", "errors", "retries")
COUNTED = (
    *RATES,
    *("sent_arena", "sent_inline", "sent_frames", "by_ring", "by_socket", "dropped", "rejected"),
    *("copied_kept", "copied_foreign", "copied_thread"),
)
_NEWBORN: Mapping[str, Any] = {  # a process as it begins
    "counters": {"busy_seconds": 0.0, "functions": {}},
    "work": {"state": "idle"},
    "cpu_seconds": 0.0,
}


@dataclass(frozen=True)
class Delta:
    """What a process has done between two looks, or several processes together.

    Attributes
    ----------
    seconds : float
        Between the looks; less, if it has begun in between.
    summed : float
        The seconds of all the processes.
    calls : int
        Of functions, that came to their end.
    busy, idle : float
        Seconds in functions, those that have not come to their end included; and waiting for messages. What is left of
        their seconds is PALM's own: taking messages in, sending, and waiting for a core.
    cpu : float
        Seconds of cores.
    counted : dict
        Increments of the counters of these names.
    times : tuple of int
        How many calls took less than 2^i ns, and no less than half of that.
    functions : dict
        By function: calls, busy seconds and `times` of it alone.
    """

    seconds: float = 0.0
    summed: float = 0.0
    calls: int = 0
    busy: float = 0.0
    idle: float = 0.0
    cpu: float = 0.0
    counted: Mapping[str, int] = field(default_factory=dict)
    times: tuple[int, ...] = ()
    functions: Mapping[str, tuple[int, float, tuple[int, ...]]] = field(default_factory=dict)

    def rate(self, name: str) -> float:
        """A second; `calls` too."""
        if name == "calls":
            return self.calls / self.seconds if self.seconds else 0.0
        return self.counted.get(name, 0) / self.seconds if self.seconds else 0.0

    @property
    def utilisation(self) -> float:
        """Share of the time in functions."""
        return _share(self.busy, self.summed)

    @property
    def own(self) -> float:
        """Share of the time that is PALM's own."""
        idle = _share(self.idle, self.summed)
        return max(0.0, 1.0 - self.utilisation - idle) if self.seconds else 0.0

    @property
    def cores(self) -> float:
        """How many it has filled, of several processes together."""
        return self.cpu / self.seconds if self.seconds else 0.0

    @property
    def occupied(self) -> float:
        return self.utilisation + self.own


@dataclass(frozen=True)
class Row:
    """A process, or a server with all of its.

    Attributes
    ----------
    delta : Delta or None
        None: it cannot be read, or nobody knew of it at the look before.
    queue, in_flight : int
        Messages that lie before it, and that its workers have.
    """

    name: str
    state: str
    work: Mapping[str, Any]
    pid: int
    delta: Delta | None
    queue: int
    in_flight: int
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


def plain(found: Interval) -> dict[str, Any]:
    """As ``palm top --json`` prints it: rates are by second, times in seconds, None where they are not known."""
    return {
        "seconds": found.seconds,
        "limits": found.limits,
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
    return Interval(span.seconds, servers, limiting(servers, {name: s["queue"] for name, s in were.items()}))


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
        if was is not None and was["pid"] == p["pid"] and was["counters"]:
            return _delta(was, p, self.seconds)
        began = c.get("serves_since_ns", 0)
        if 0 < began < self.after_ns and began >= self.before_ns:
            return _delta(_NEWBORN, p, (self.after_ns - began) / 1e9)
        return None


def limiting(servers: Sequence[ServerRow], queues: Mapping[str, int] | None = None) -> str:
    """The one before which messages wait and that has the least time left, or is suspended; "": there is none.

    queues: what lay before them at the beginning; one of the two has to be more than nothing.
    """

    def pressed(s: ServerRow) -> tuple[bool, float, int]:
        return s.state == "suspended", most_occupied(s), s.queue

    waited_for = [s for s in servers if s.queue or (queues or {}).get(s.name)]
    most = max(waited_for, key=pressed, default=None)
    if most is None or not (most.state == "suspended" or most_occupied(most) >= OCCUPIED):
        return ""
    return most.name


def most_occupied(server: ServerRow) -> float:
    """Of its leader and its workers together, the one that has less time left."""
    leader = [p for p in server.processes if p.pid == server.pid and len(server.processes) > 1]
    return max((row.delta.occupied for row in (server, *leader) if row.delta is not None), default=0.0)


def _server(was: Mapping[str, Any] | None, s: Mapping[str, Any], span: _Span) -> ServerRow:
    were = {w["number"]: w for w in was["workers"]} if was is not None else {}
    workers = [_row(f"{s['name']}/{w['number']}", were.get(w["number"]), w, span) for w in s["workers"]]
    itself = _row(s["name"], was, s, span)
    is_leader = bool(s["pid"]) and all(w["pid"] != s["pid"] for w in s["workers"])
    if not (is_leader and workers):
        return ServerRow(**vars(itself), processes=())
    processes = (_renamed(itself, f"{s['name']}/leader"), *workers)
    return ServerRow(
        s["name"],
        s["state"],
        s["work"],
        s["pid"],
        _of_server(itself.delta, [w.delta for w in workers if w.delta is not None]),
        sum(p.queue for p in processes),
        itself.in_flight,
        {k: sum(p.memory.get(k, 0) for p in processes) for k in sorted({k for p in processes for k in p.memory})},
        processes,
    )


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
    flight = p["counters"].get("in_flight", 0)
    return Row(name, p["state"], p["work"], p["pid"], span.delta(was, p), p["queue"], flight, p["memory"])


def _delta(was: Mapping[str, Any], p: Mapping[str, Any], seconds: float) -> Delta:
    a, b = was["counters"], p["counters"]
    functions = {name: _of_function(a["functions"].get(name), f) for name, f in b["functions"].items()}
    return Delta(
        seconds,
        seconds,
        sum(calls for calls, _, _ in functions.values()),
        _grown(_busy(was), _busy(p)),
        _grown(a.get("idle_seconds", 0.0), b.get("idle_seconds", 0.0)),
        _grown(was["cpu_seconds"], p["cpu_seconds"]),
        {name: _grown(a.get(name, 0), b.get(name, 0)) for name in COUNTED},
        _sums(times for _, _, times in functions.values()),
        functions,
    )


def _busy(p: Mapping[str, Any]) -> float:
    """Seconds in functions, the one that runs included."""
    running = p["work"]["seconds"] if p["work"]["state"] == "running" else 0.0
    return float(p["counters"]["busy_seconds"] + running)


def _of_function(a: Mapping[str, Any] | None, b: Mapping[str, Any]) -> tuple[int, float, tuple[int, ...]]:
    if a is None:
        a = {"calls": 0, "busy_seconds": 0.0, "service_time": {"counts": [0] * len(b["service_time"]["counts"])}}
    counts = zip(a["service_time"]["counts"], b["service_time"]["counts"], strict=True)
    times = tuple(_grown(x, y) for x, y in counts)
    return _grown(a["calls"], b["calls"]), _grown(a["busy_seconds"], b["busy_seconds"]), times


def _grown(a: Any, b: Any) -> Any:
    """Counters are read while they are written to, one after the other: never less than nothing."""
    return max(b - a, type(b)(0))


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole else 0.0


def total(deltas: Iterable[Delta]) -> Delta:
    """Of several processes."""
    deltas = list(deltas)
    names = sorted({name for d in deltas for name in d.counted})
    functions = sorted({name for d in deltas for name in d.functions})
    return Delta(
        max((d.seconds for d in deltas), default=0.0),
        sum(d.summed for d in deltas),
        sum(d.calls for d in deltas),
        sum(d.busy for d in deltas),
        sum(d.idle for d in deltas),
        sum(d.cpu for d in deltas),
        {name: sum(d.counted.get(name, 0) for d in deltas) for name in names},
        _sums(d.times for d in deltas),
        {name: _together([d.functions[name] for d in deltas if name in d.functions]) for name in functions},
    )


def _together(functions: list[tuple[int, float, tuple[int, ...]]]) -> tuple[int, float, tuple[int, ...]]:
    calls, busy, times = zip(*functions, strict=True)
    return sum(calls), sum(busy), _sums(times)


def _sums(histograms: Iterable[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(sum, itertools.zip_longest(*histograms, fillvalue=0)))


def quantile(times: Sequence[int], q: float) -> float | None:
    """Seconds that the share `q` of calls did not exceed, to within the buckets' factor of two; None: there were no
    calls."""
    wanted, below = q * sum(times), 0
    if not wanted:
        return None
    for i, n in enumerate(times):
        if n and below + n >= wanted:
            return float(2.0 ** (i - 1 + (wanted - below) / n) / 1e9)
        below += n
    return None
