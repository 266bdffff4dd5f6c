# SPDX-License-Identifier: BSD-3-Clause
"""Where the time of a job went, by step; which of them limits, and what one more worker there would gain.

The model: a job takes as long as its most occupied server, which has to do all that comes there, shared out evenly to
its workers; one more worker has it do that in w / (w + 1) of the time, until the next server is the most occupied, or
the cores are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palm import rates
from palm.delta import Delta, quantile
from palm.rates import OCCUPIED, ServerRow
from palm.step import Step

CORES_BUSY = 0.9  # share of all cores from which on one more worker has none


@dataclass(frozen=True)
class Load:
    """Of a server: shares of the time that its workers are occupied, on average, and its leader, if it has one."""

    server: str
    workers: int
    of_workers: float
    of_leader: float | None

    @property
    def most(self) -> float:
        return max(self.of_workers, self.of_leader or 0.0)


def between(steps: Sequence[Step], before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> dict[str, Any]:
    """What `palm.Job.stats` returns, but for the seconds: from one look (`palm.overview.Overview.look`) to the next;
    or, before None, from the start of each server."""
    found = rates.since_start(after) if before is None else rates.between(before, after)
    cores = sum(host["cores"] or 0 for host in after["hosts"])
    return of_steps(steps, found, cores or len(os.sched_getaffinity(0))) | {"unknown_hosts": dict(found.unknown)}


def of_steps(steps: Sequence[Step], found: rates.Interval, cores: int) -> dict[str, Any]:
    """The same, of an interval, on hosts with so many cores."""
    rows = {s.name: s for s in found.servers}
    loads = [load_of(rows[name]) for name in dict.fromkeys(s.server for s in steps) if name in rows]
    own = sum(_own_seconds(rows[load.server]) for load in loads)
    busy = sum(d.busy for load in loads if (d := rows[load.server].delta) is not None)
    limits = max(loads, key=lambda load: load.most, default=None)
    by_step = {str(s): _of_step(s, rows.get(s.server)) for s in steps}
    of_it = [str(s) for s in steps if limits is not None and s.server == limits.server] or list(by_step)
    return {
        "steps": by_step,
        "limits": max(of_it, key=lambda name: by_step[name]["seconds"]),
        "own": {"seconds": own, "share": own / (own + busy) if own + busy else 0.0},
        "one_more": one_more(loads, cores_in_use(found.servers), cores),
    }


def _of_step(s: Step, row: ServerRow | None) -> dict[str, Any]:
    delta = row.delta if row is not None and row.delta is not None else Delta()
    calls, seconds, times = delta.functions.get(s.function, (0, 0.0, ()))
    names = ("bytes_in", "bytes_out", "bytes_copied", "errors")
    return {
        "calls": calls,
        "seconds": seconds,
        "mean_seconds": seconds / max(1, calls),
        "median_seconds": quantile(times, 0.5),
        "p99_seconds": quantile(times, 0.99),
        "workers": n_workers(row) if row is not None else 0,
        "queue": row.queue if row is not None else 0,
        "busy": delta.utilisation,
        "own_seconds": _own_seconds(row) if row is not None else 0.0,
    } | {name: delta.counted.get(name, 0) for name in names}


def n_workers(row: ServerRow) -> int:
    """Processes that run its functions."""
    return max(1, len(row.processes) - 1)


def load_of(row: ServerRow) -> Load:
    workers = row.delta.occupied if row.delta is not None else 0.0
    leader = row.processes[0].delta if row.processes else None
    return Load(
        row.name, n_workers(row), workers, None if not row.processes else leader.occupied if leader is not None else 0.0
    )


def _own_seconds(row: ServerRow) -> float:
    """PALM's own, of all processes of a server."""
    deltas = [p.delta for p in row.processes] if row.processes else [row.delta]
    return sum(d.own * d.seconds for d in deltas if d is not None)


def cores_in_use(servers: Iterable[ServerRow]) -> float:
    """How many cores the processes of these servers have filled together."""
    processes = [p for s in servers for p in (s.processes or (s,))]
    return sum(p.delta.cores for p in processes if p.delta is not None)


def one_more(loads: Sequence[Load], in_use: float, cores: int) -> dict[str, Any]:
    """What one more worker of the server that limits would gain: ``gain``, a factor of the throughput, and ``why``."""
    if not loads:
        return {"gain": 1.0, "why": "nothing is known of the servers"}
    most = max(loads, key=lambda load: load.most)
    name = most.server
    if most.most < OCCUPIED:
        why = f"no server limits: {name}, the busiest, has {100 * (1 - most.most):.0f} % of its time left"
        return {"gain": 1.0, "why": f"{why}; what reads the inputs or takes the results does, or the window"}
    if most.of_leader is not None and most.of_leader >= most.of_workers:
        return {"gain": 1.0, "why": f"the leader of {name} limits, not its workers: larger messages relieve it"}
    if in_use >= CORES_BUSY * cores:
        return {"gain": 1.0, "why": f"{name} limits, but the cores of this machine are in use: {in_use:.1f} of {cores}"}
    relieved = most.of_workers * most.workers / (most.workers + 1)
    others = {load.server: load.most for load in loads if load is not most}
    others |= {} if most.of_leader is None else {f"the leader of {name}": most.of_leader}
    next_one = max(others, key=lambda server: others[server], default="")
    after = max(relieved, others.get(next_one, 0.0))
    then = f"then {next_one} limits" if next_one and others[next_one] >= relieved else "it still limits"
    how = f"{most.workers + 1} workers instead of {most.workers}"
    if most.of_leader is None:
        how = "2 workers, if it were a palm.Butterfly"
    return {"gain": most.of_workers / after, "why": f"{name} limits; with {how}, {then}"}
