# SPDX-License-Identifier: BSD-3-Clause
"""Sends what goes along branches that hold up nobody, and tells the client what waits there and what was dropped.

What waits, and for how much there is room, is `palm.branch.Branch`'s to know.
"""

from __future__ import annotations

import time

from palm._core import node as core
from palm.assignment import Assignment, Name
from palm.branch import Branch, Queued
from palm.message import places
from palm.outcomes import Outcomes
from palm.outlets import Outlets
from palm.step import Step, To


class Branches:
    """Of one server."""

    def __init__(self, node: core.Node, outlets: Outlets, outcomes: Outcomes) -> None:
        self._node, self._outlets, self._outcomes = node, outlets, outcomes
        self._branches: dict[int, Branch] = {}  # by the handle of the outlet, under which the next server tells

    def __contains__(self, handle: int) -> bool:
        return handle in self._branches

    def put_out_of(self, a: Assignment, name: Name, to: To, deadline: int) -> None:
        """`to.value`, taken out of `to`, is sent when its turn comes, or dropped."""
        branch = self.of(a, to.route, to.slow)
        message = Queued(name, core.Batch())
        message.batch.put_out_of(to, name[0], deadline, name[1])
        self.put(branch, message)

    def of(self, a: Assignment, route: list[Step], slow: str) -> Branch:
        outlet = self._outlets.routed(a, route, slow)
        branch = self._branches.get(outlet.handle)
        if branch is None:
            branch = self._branches[outlet.handle] = Branch(a, outlet, slow == "drop-oldest")
        return branch

    def put(self, branch: Branch, message: Queued) -> None:
        a = branch.assignment
        if a.stale:
            return  # it will come again
        dropped = branch.put(message)
        if message not in dropped:
            self._outcomes.aside(a.job, message.name)
            if branch.outlet.waiting is not None:
                branch.outlet.waiting.names.append(message.name)
        for d in dropped:
            self._drop(branch, d.name)
        self._send(branch)

    def _drop(self, branch: Branch, name: Name) -> None:
        job, waiting = branch.assignment.job, branch.outlet.waiting
        if waiting is not None and name in waiting.names:
            waiting.names.remove(name)
        self._node.count("dropped")
        self._outcomes.dropped(job, name, core.DROP_SLOW)
        number, path = name
        m = job.making.get((number, path[:-1])) if path else None
        if m is not None:
            m.forget(*places(path[-1:]))

    def _send(self, branch: Branch) -> None:
        out, now = branch.outlet, time.monotonic()
        if out.waiting is not None:
            return  # its server is looked for
        while (message := branch.next(now)) is not None:
            self._outlets.add(out, message.batch, 0)
        self._outlets.flush(out)

    def told(self, event: core.Event) -> None:
        """The next server has begun some."""
        branch = self._branches[event.handle]
        if branch.outlet.link != event.link or branch.assignment.stale:
            return
        for _, _, _, count, _ in event.releases():
            branch.begun(count, time.monotonic())
        self._send(branch)

    def found(self) -> None:
        """Servers have been found, or cannot be: then what waited for them has failed."""
        for handle, branch in list(self._branches.items()):
            if all(branch.outlet is not outlet for outlet in branch.assignment.routed.values()):
                del self._branches[handle]
            elif len(branch):
                self._send(branch)

    def forget_stale(self) -> None:
        """What waits of jobs that are over, or have been repeated, is not wanted any more."""
        self._branches = {h: b for h, b in self._branches.items() if not b.assignment.stale}
