# SPDX-License-Identifier: BSD-3-Clause
"""Where messages leave a server: opens handles for the rest of a route, and sends what their batches hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from palm import places
from palm._core import node as core
from palm.assignment import Assignment, JobHere, Name, Outlet, Waiting
from palm.errors import NotFound
from palm.remote import frozen, key_of, pid_of
from palm.seeking import Place, Seeking
from palm.step import Step

if TYPE_CHECKING:
    from palm.membership import Membership

LITTLE = 16  # messages, at most, that are copied to share an envelope, whose way costs as much as many messages


class Outlets:
    """Of one server; `Outlet` is one of them.

    Parameters
    ----------
    node : Node
    membership : Membership, optional
        By which `palm.to` finds servers that the job has not named.
    """

    def __init__(self, node: core.Node, membership: Membership | None) -> None:
        self._node = node
        self._seeking = Seeking(node, membership.resolve) if membership is not None else None
        self._sought: dict[str, list[tuple[Assignment, Outlet]]] = {}  # by server
        self._next_handle = 0

    def report(self, job: bytes, client: str, pid: int) -> Outlet:
        """To the client of a job. pid: of its process, if that is known here; else 0."""
        return self._new(self._node.link(client, pid, named=True), 0, {"job": job})

    def onward(self, a: Assignment) -> Outlet:
        """To the next step, after the last one to the client."""
        if a.onward is None:
            a.onward = self._next(a) if len(a.steps) > 1 else a.job.report
        return a.onward

    def _next(self, a: Assignment) -> Outlet:
        steps = a.steps[1:]
        return self._new(self.link(a, steps[0][2]), a.hop + 1, self._meaning(a, steps, a.constants))

    def routed(self, a: Assignment, route: Sequence[Step], slow: str = "block") -> Outlet:
        """Along a route that `palm.to` has named; while one of its servers is looked for, what goes there waits. Other
        than "block": the next server tells what it has begun."""
        name = slow, tuple((str(s), key_of(s.constants) if s.constants else None) for s in route)
        outlet = a.routed.get(name)
        if outlet is None:
            self._next_handle += 1
            outlet = Outlet(0, self._next_handle, a.hop + 1, route=[frozen(s) for s in route], waiting=Waiting())
            outlet.is_told = slow != "block"
            self._open_route(a, outlet)
            a.routed[name] = outlet
        return outlet

    def _open_route(self, a: Assignment, outlet: Outlet) -> None:
        """Or has a server looked for that is not known."""
        steps, constants = [], dict(a.constants)
        for s in outlet.route:
            step = self._step(a, s)
            if step is None:
                self._seek(a, outlet, s.server)
                return
            if s.constants:
                constants[step[3]] = s.constants
            steps.append(step)
        outlet.link = self.link(a, steps[0][2])
        self._say(outlet, self._meaning(a, steps, constants) | {"tells": outlet.is_told})
        waiting, outlet.waiting = outlet.waiting, None
        for batch in waiting.batches if waiting is not None else ():
            self.send_kept(outlet, batch)

    def _step(self, a: Assignment, s: Step) -> list[Any] | None:
        """As an OPEN has it; None: its server is not known. A step of the job keeps its constants."""
        own: list[Any]
        for own in reversed(a.steps[1:]):
            if not s.constants and f"{own[0]}.{own[1]}" == s:
                return own
        endpoint = next((own[2] for own in a.steps if own[0] == s.server), None) or a.found.get(s.server)
        key = key_of(s.constants) if s.constants else None
        return None if endpoint is None else [s.server, s.function, endpoint, key]

    def _seek(self, a: Assignment, outlet: Outlet, server: str) -> None:
        if self._seeking is None:
            raise NotFound(f"there is no server {server!r} to send to")
        self._sought.setdefault(server, []).append((a, outlet))
        self._seeking.seek(server)

    def found(self) -> list[tuple[Assignment, Name, Exception]]:
        """Sends on what has waited for servers that have been found; returns the messages that cannot go anywhere."""
        failed: list[tuple[Assignment, Name, Exception]] = []
        for server, place in self._seeking.found().items() if self._seeking is not None else ():
            for a, outlet in self._sought.pop(server, []):
                if not a.stale:
                    failed += self._found(a, outlet, server, place)
        return failed

    def _found(
        self, a: Assignment, outlet: Outlet, server: str, place: Place | Exception
    ) -> list[tuple[Assignment, Name, Exception]]:
        assert outlet.waiting is not None
        names = outlet.waiting.names
        try:
            if isinstance(place, Exception):
                raise place
            a.found[server] = place[0]
            if a.where == places.pid_namespace():
                a.pids[place[0]] = place[1]
            self._open_route(a, outlet)
        except Exception as e:
            a.routed = {name: other for name, other in a.routed.items() if other is not outlet}
            return [(a, name, e) for name in names]
        return []

    def link(self, a: Assignment, endpoint: str) -> int:
        """The number of the link to a server that the job is handed on to."""
        link = self._node.link(endpoint, pid_of(endpoint, a.pids, a.where), named=True)
        a.job.downstream.add(link)
        return link

    def to_worker(self, a: Assignment, link: int, endpoint: str) -> Outlet:
        """The same step at a worker, who reports what it has done."""
        a.job.downstream.add(link)
        server, function, _, key = a.steps[0]
        steps = [[server, function, endpoint, key], *a.steps[1:]]
        meaning = self._meaning(a, steps, a.constants) | {"reports": True, "stopped": a.job.stopped, "owed": a.owed}
        return self._new(link, a.hop, meaning | {"from": a.sender})

    def to_asked(self, a: Assignment, link: int, endpoint: str, constants: dict[str, Any], sender: str) -> Outlet:
        """This step alone, with these constants, at a worker whose results come here. sender: the step, for errors."""
        a.job.asked.add(link)
        server, function = a.steps[0][:2]
        meaning = self._meaning(a, [[server, function, endpoint, "0"]], {"0": constants})
        meaning |= {"client": self._node.endpoint, "pids": {self._node.endpoint: os.getpid()}}
        meaning |= {"where": places.pid_namespace(), "from": sender, "reports": True, "asks": True}
        return self._new(link, a.hop, meaning)

    def _meaning(self, a: Assignment, steps: list[list[Any]], constants: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Of a handle for the rest of a route, at its next server."""
        keys = {s[3] for s in steps if s[3] is not None}
        endpoints = {a.client, *(s[2] for s in steps)}
        return {
            "job": a.job.key,
            "epoch": a.epoch,
            "client": a.client,
            "seed": a.seed,
            "steps": steps,
            "pids": {e: p for e, p in a.pids.items() if e in endpoints},
            "where": a.where,
            "constants": {k: v for k, v in constants.items() if k in keys},
            "calls": a.calls,
            "start": a.start,
            "from": f"{a.steps[0][0]}.{a.steps[0][1]}",
        }

    def _new(self, link: int, hop: int, meaning: dict[str, Any]) -> Outlet:
        self._next_handle += 1
        outlet = Outlet(link, self._next_handle, hop)
        self._say(outlet, meaning)
        return outlet

    def _say(self, outlet: Outlet, meaning: dict[str, Any]) -> None:
        opening = core.Batch()
        opening.put(meaning, 0)
        self._node.send(outlet.link, core.OPEN, outlet.handle, outlet.hop, opening)

    def flush(self, outlet: Outlet) -> None:
        """What cannot be sent since the peer is dead, the client has repeated: `Host._gone` tells it."""
        if not len(outlet.batch):
            return
        if outlet.waiting is not None:
            outlet.waiting.batches.append(outlet.batch.take())
        else:
            self._node.send(outlet.link, core.DATA, outlet.handle, outlet.hop, outlet.batch)

    def flush_all(self, a: Assignment) -> None:
        """Results first, then what the client is told."""
        if a.onward is not None:
            self.flush(a.onward)
        if a.onward is not a.job.report:
            self.flush(a.job.report)
        for outlet in a.routed.values():
            self.flush(outlet)

    def add_kept(self, outlet: Outlet, batch: core.Batch) -> None:
        """Goes with what is there already, if it is little; the batch stays as it is."""
        if len(batch) > LITTLE or batch.full or outlet.waiting is not None:
            self.send_kept(outlet, batch)
            return
        for i in range(len(batch)):
            self.add(outlet, batch, i)

    def add(self, outlet: Outlet, batch: core.Batch, i: int) -> None:
        """Message i of the batch, which stays as it is, goes with what is there already if there is room for both."""
        if outlet.batch.full or not outlet.batch.add(batch, i):
            self.flush(outlet)
            outlet.batch.add(batch, i)

    def send_kept(self, outlet: Outlet, batch: core.Batch) -> None:
        """After what is there already; the batch stays as it is."""
        self.flush(outlet)
        if outlet.waiting is not None:
            outlet.waiting.batches.append(batch)
        else:
            self._node.send_kept(outlet.link, core.DATA, outlet.handle, outlet.hop, batch)

    def tell_begun(self, link: int, handle: int, count: int) -> None:
        """To who sends along a branch that holds up nobody: how many messages under its handle have been begun."""
        self._node.tell(link, handle, 0, count & 0xFFFFFFFF)

    def forget(self, job: JobHere) -> None:
        """Tells those to whom the job was handed on that it is over; each does so once."""
        over = core.Batch()
        over.job(job.key)
        for link in job.downstream | job.asked:
            self._node.send_kept(link, core.FORGET, 0, 0, over)
