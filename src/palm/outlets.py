# SPDX-License-Identifier: BSD-3-Clause
"""Where messages leave a server: opens handles for the rest of a route, and sends what their batches hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from palm import places
from palm._core import node as core
from palm.assignment import Assignment, JobHere, Outlet
from palm.errors import NotFound
from palm.remote import frozen, key_of, pid_of
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

    def report(self, job: bytes, client: str, pid: int) -> Outlet:
        """To the client of a job. pid: of its process, if that is known here; else 0."""
        return self._new(self._node.link(client, pid), 0, {"job": job})

    def onward(self, a: Assignment) -> Outlet:
        """To the next step, after the last one to the client."""
        if a.onward is None:
            a.onward = self._open(a, a.steps[1:], a.constants) if len(a.steps) > 1 else a.job.report
        return a.onward

    def routed(self, a: Assignment, route: Sequence[Step]) -> Outlet:
        """Along a route that `palm.to` has named."""
        name = tuple((str(s), key_of(s.constants) if s.constants else None) for s in route)
        if name not in a.routed:
            a.routed[name] = self._open_route(a, [frozen(s) for s in route], [key for _, key in name])
        return a.routed[name]

    def _open_route(self, a: Assignment, route: list[Step], keys: list[str | None]) -> Outlet:
        steps = [self._step(a, s, key) for s, key in zip(route, keys, strict=True)]
        constants = {key: s.constants for s, key in zip(route, keys, strict=True) if key is not None}
        outlet = self._open(a, steps, a.constants | constants)
        outlet.route = route
        return outlet

    def _step(self, a: Assignment, s: Step, key: str | None) -> list[Any]:
        """As an OPEN has it; a step of the job keeps its constants."""
        own: list[Any]
        for own in reversed(a.steps[1:]):
            if key is None and f"{own[0]}.{own[1]}" == s:
                return own
        return [s.server, s.function, self._endpoint(a, s.server), key]

    def _endpoint(self, a: Assignment, server: str) -> str:
        for s in a.steps:
            if s[0] == server:
                return str(s[2])
        if self._membership is None:
            raise NotFound(f"there is no server {server!r} to send to")
        endpoint, pid = self._membership.resolve(server)
        if a.where == places.pid_namespace():
            a.pids[endpoint] = pid
        return endpoint

    def link(self, a: Assignment, endpoint: str) -> int:
        """The number of the link to a server that the job is handed on to."""
        link = self._node.link(endpoint, pid_of(endpoint, a.pids, a.where))
        a.job.downstream.add(link)
        return link

    def _open(self, a: Assignment, steps: list[list[Any]], constants: dict[str, dict[str, Any]]) -> Outlet:
        keys = {s[3] for s in steps if s[3] is not None}
        endpoints = {a.client, *(s[2] for s in steps)}
        meaning = {
            "job": a.job.key,
            "epoch": a.epoch,
            "client": a.client,
            "seed": a.seed,
            "steps": steps,
            "pids": {e: p for e, p in a.pids.items() if e in endpoints},
            "where": a.where,
            "constants": {k: v for k, v in constants.items() if k in keys},
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
        over.put({"job": job.key}, 0)
        for link in job.downstream:
            self._node.send_kept(link, core.FORGET, 0, 0, over)
