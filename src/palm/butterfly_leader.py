# SPDX-License-Identifier: BSD-3-Clause
"""The leader of a `palm.Butterfly`: hands what it gets on to its workers, as each has room.

It runs no function of the user's. A worker sends on what it makes by itself. The death of a worker is a loss, of which
the client of each job that it worked for is told, as of any other (docs/delivery.md).
"""

from __future__ import annotations

import time
from typing import Any

from palm._core import loop
from palm._core import node as core
from palm.assignment import Assignment, JobHere, Outlet
from palm.crew import Load, Worker
from palm.execution import Post
from palm.leader import Leader
from palm.line import Line, Waiting
from palm.stragglers import Stragglers
from palm.suspects import AtWork
from palm.template import Server, Signature


class ButterflyLeader(Leader):
    def __init__(self, template: type[Server], post: Post) -> None:
        super().__init__(template, post)
        self._line = Line()
        self._stragglers = Stragglers()

    def _bind_step(self, a: Assignment, signature: Signature, constants: dict[str, Any]) -> None:
        a.signature = signature
        self._find_refused(a)

    def _forget_what_was_early(self) -> None:
        if not self._line:  # else what was given up may be among it
            super()._forget_what_was_early()

    def _forget_stale(self) -> None:
        super()._forget_stale()
        for w in self._line.drop(lambda w: w.assignment.stale):
            w.event.done()
        self._stragglers.forget()

    def _give_up(self, job: JobHere, number: int) -> None:
        super()._give_up(job, number)
        self._stragglers.drop(job)

    def _bereft(self, worker: Worker, blamed: AtWork | None) -> None:
        super()._bereft(worker, blamed)
        self._stragglers.forget()

    # ------------------------------------------------------------------------------------------- handing out

    def _data(self, event: core.Event) -> None:
        a = self._assignments.get((event.link, event.handle))
        if a is None or a.stale or a.function is not None or a.refusal is not None:
            super()._data(event)
            return
        self._line.add(Waiting(event, a))
        self._kept = event  # until all of it is handed out

    def _go_on(self, others: bool) -> None:
        super()._go_on(others)
        while self._line:
            w = self._line.first()
            found = self._crew.next(w.assignment.steps[0][1], self._line.n_messages)
            if found is None:
                return
            self._hand_out(w, *found)
        self._hand_out_again(time.monotonic())

    def _patience(self) -> float:
        patience = super()._patience()
        return patience if self._line else min(patience, self._stragglers.due(self._crew, time.monotonic()))

    def _n_waiting(self) -> int:
        return self._line.n_messages

    def _has_more(self) -> bool:
        return super()._has_more() or bool(self._line)

    def _hand_out(self, w: Waiting, worker: Worker, most: int) -> None:
        """So many of these messages, the first in the line."""
        a = w.assignment
        outlet, load = self._to_worker(a, worker)
        first = w.first
        self.place.begin(w.event, a)
        try:
            end = loop.forward(w.event, first, most, outlet.batch, self, a.refused, a.job.given_up)
            worker.give(load, len(outlet.batch))
            if len(outlet.batch) and _may_run_twice(a):
                self._send_kept(outlet, worker)
            self._outlets.flush(outlet)
            self._outlets.flush(a.job.report)
        finally:
            self.place.end()
        if a.tells:  # the sender has no more under way than it is told of
            a.begun += end - first
            self._outlets.tell_begun(w.event.link, w.event.handle, a.begun)
        if self._line.advance(end) is not None:
            w.event.done()

    def _to_worker(self, a: Assignment, worker: Worker) -> tuple[Outlet, Load]:
        outlet = a.workers.get(worker.link)
        if outlet is None:
            outlet = a.workers[worker.link] = self._outlets.to_worker(a, worker.link, worker.endpoint)
        return outlet, worker.loads.setdefault(outlet.handle, Load(a, a.steps[0][1]))

    def _send_kept(self, outlet: Outlet, worker: Worker) -> None:
        """It may have to be sent to another worker as well."""
        batch = outlet.batch.take()
        self._outlets.send_kept(outlet, batch)
        self._stragglers.add(worker, outlet.handle, batch, time.monotonic())

    def _hand_out_again(self, now: float) -> None:
        """What somebody takes long for, to who has nothing to do."""
        while (found := self._stragglers.next(self._crew, now)) is not None:
            load, worker, batch = found
            outlet, of_other = self._to_worker(load.assignment, worker)
            worker.give(of_other, len(batch))
            self.node.count("retries", len(batch))
            self._outlets.send_kept(outlet, batch)

    def _release(self, event: core.Event) -> None:
        super()._release(event)
        self._stragglers.heard(event.link, event.handle, time.monotonic())


def _may_run_twice(a: Assignment) -> bool:
    """Not so where messages go on from here: somebody might make children of both, and the client knows one keeper."""
    return a.signature is not None and a.signature.may_run_twice and len(a.steps) == 1
