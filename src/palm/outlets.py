# SPDX-License-Identifier: BSD-3-Clause
"""Where messages leave a server: opens handles for the rest of a route, and sends what their batches hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from palm._core import node as core
from palm.assignment import Assignment, JobHere, Outlet
from palm.errors import NotFound
from palm.step import Step

if TYPE_CHECKING:
    from palm.membership import Membership


class Outlets:
    """Of one server; `Outlet` is one of them.

    Parameters
    ----------
    node : Node
    membership : Membership, optional
        By which `palm.to` finds servers that the job has not named.
    """

    def __init__(self, node: core.Node, membership: Membership | None) -> None:
        self._node, self._membership = node, membership
        self._next_handle = 1

    def report(self, job: bytes, client: str) -> Outlet:
        """To the client of a job."""
        return self._new(self._node.link(client), 0, {"job": job})

    def onward(self, a: Assignment) -> Outlet:
        """To the next step, after the last one to the client."""
        if a.onward is None:
            a.onward = self._open(a, a.steps[1:]) if len(a.steps) > 1 else a.job.report
        return a.onward

    def routed(self, a: Assignment, route: Sequence[Step]) -> Outlet:
        """Along a route that `palm.to` has named."""
        steps = []
        known = {s[0]: s[2] for s in a.steps}
        rest = {f"{s[0]}.{s[1]}": s for s in a.steps[1:]}
        constants = {}
        for s in route:
            if not s.constants and str(s) in rest:  # a step of the job keeps its constants
                steps.append(rest[str(s)])
                continue
            endpoint = known.get(s.server)
            if endpoint is None:
                if self._membership is None:
                    raise NotFound(f"there is no server {s.server!r} to send to")
                endpoint, a.pids[endpoint] = self._membership.resolve(s.server)
            key = f"{a.job.key.hex()[:8]}-{id(s):x}" if s.constants else None
            if key:
                constants[key] = s.constants
            steps.append([s.server, s.function, endpoint, key])
        name = tuple((s[0], s[1], s[3]) for s in steps)
        if name not in a.routed:
            a.constants = a.constants | constants
            a.routed[name] = self._open(a, steps)
        return a.routed[name]

    def link(self, a: Assignment, endpoint: str) -> int:
        """The number of the link to a server that the job is handed on to."""
        link = self._node.link(endpoint, a.pids.get(endpoint, 0))
        a.job.downstream.add(link)
        return link

    def _open(self, a: Assignment, steps: list[list[Any]]) -> Outlet:
        keys = {s[3] for s in steps if s[3] is not None}
        endpoints = {s[2] for s in steps}
        meaning = {
            "job": a.job.key,
            "epoch": a.epoch,
            "client": a.client,
            "seed": a.seed,
            "steps": steps,
            "pids": {e: p for e, p in a.pids.items() if e in endpoints},
            "constants": {k: v for k, v in a.constants.items() if k in keys},
        }
        return self._new(self.link(a, steps[0][2]), a.hop + 1, meaning)

    def _new(self, link: int, hop: int, meaning: dict[str, Any]) -> Outlet:
        outlet = Outlet(link, self._next_handle, hop)
        self._next_handle += 1
        outlet.batch.put(meaning, 0)
        self._node.send(outlet.link, core.OPEN, outlet.handle, outlet.hop, outlet.batch)
        return outlet

    def flush(self, outlet: Outlet) -> None:
        """What cannot be sent since the peer is dead, the client has repeated: `Host._gone` tells it."""
        if len(outlet.batch):
            self._node.send(outlet.link, core.DATA, outlet.handle, outlet.hop, outlet.batch)

    def flush_all(self, a: Assignment) -> None:
        for outlet in a.outlets():
            self.flush(outlet)

    def send_kept(self, outlet: Outlet, batch: core.Batch) -> None:
        """After what is there already; the batch stays as it is."""
        self.flush(outlet)
        self._node.send_kept(outlet.link, core.DATA, outlet.handle, outlet.hop, batch)

    def forget(self, job: JobHere) -> None:
        """Tells those to whom the job was handed on that it is over; each does so once."""
        over = core.Batch()
        over.job(job.key)
        for link in job.downstream:
            self._node.send_kept(link, core.FORGET, 0, 0, over)
