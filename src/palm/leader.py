# SPDX-License-Identifier: BSD-3-Clause
"""The leader of a parallel server: a process that hands what it gets on to its workers, as each has room.

It runs no function of the user's. A worker sends on what it makes by itself, and reports to the leader how many
messages it has done. The death of a worker is a loss, of which the client of each job that it worked for is told, as of
any other (docs/delivery.md).
"""

from __future__ import annotations

import collections
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from palm._core import node as core
from palm._core import space as core_space
from palm.assignment import Assignment, JobHere
from palm.crew import Crew, Load, Worker
from palm.directory import pid_here
from palm.errors import PalmError
from palm.host import Host, key_of
from palm.suspects import Suspects
from palm.template import Server, function

if TYPE_CHECKING:
    from palm.capsule import Store
    from palm.membership import Membership
    from palm.tenure import Tenure

log = logging.getLogger("palm")
JOIN, LEAVE = "_join", "_leave"  # the leader's own functions
PATIENCE = 1.0  # seconds for the supervisor to find out of what a worker has died


@dataclass
class Waiting:
    """An event of which the records from `first` on are to be handed out."""

    event: core.Event
    assignment: Assignment
    first: int = 0

    def __len__(self) -> int:
        return len(self.event) - self.first


class Leading(Server):
    """What a leader has of a server of its own: its workers call it."""

    @function
    def _join(self, worker: dict[str, Any]) -> bool:
        """A worker is ready, or tells so again to a leader that has been started again."""
        self._host.joined(worker)
        return True

    @function
    def _leave(self, address: str) -> int:
        """A worker wants to go: it gets nothing more. Returns how many messages it still has."""
        return int(self._host.leaves(address))


class Leader(Host):
    """Of one parallel server, whose workers run `template`, the user's class."""

    def __init__(
        self,
        template: type[Server],
        name: str,
        endpoint: str,
        membership: Membership | None,
        capsules: Store | None,
        tenure: Tenure | None = None,
    ) -> None:
        super().__init__(Leading(), name, endpoint, membership, capsules=capsules)
        self._template = template
        self._crew = Crew()
        self._pages: dict[int, core_space.Page] = {}  # of workers, by link: they can be read after their deaths
        self._blamed = Suspects()
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._n_waiting = 0  # messages
        self.tenure = tenure  # of one that nobody watches

    # ----------------------------------------------------------------------------------------------- workers

    def joined(self, worker: dict[str, Any]) -> None:
        link = self.node.link(worker["address"], pid_here(worker), named=True)
        if link in self._crew:
            return
        self._crew.add(Worker(worker["worker"], link, worker["address"], worker["pid"]))
        try:
            self._pages[link] = core_space.Page(*worker["page"])
        except (OSError, core_space.CoreError, ValueError) as e:
            log.warning("%s: of what worker %d dies will not be known: %s", self.name, worker["worker"], e)

    def leaves(self, address: str) -> int:
        for worker in self._crew.all():
            if worker.endpoint == address:
                worker.is_leaving = True
                return worker.outstanding
        return 0

    def _gone(self, link: int) -> None:
        worker = self._crew.remove(link)
        if worker is not None:
            if self.tenure is not None:
                self.tenure.lost(worker.pid, worker.is_leaving)
            self._blame(worker, self._pages.pop(link, None))
        for a in self._assignments.values():
            a.workers.pop(link, None)
        super()._gone(link)

    def _blame(self, worker: Worker, page: core_space.Page | None) -> None:
        """The message in which a worker has died is not handed out more often than its function allows."""
        if page is None:
            return
        found, ended = page.at_work(), page.ended()
        page.close()
        if found is not None and found[4] == 1:
            job, hop, number, path, _, attempt, _ = found
            final = ended is not None and ended[0] == "overrun" and ended[1]
            reason = self._reason(worker)
            self._blamed.blame(self.name, (job, hop, number, path), reason, attempt, final)
            self._suspects = self._blamed.of(self.name)
            for a in self._assignments.values():
                self._find_refused(a)

    def _reason(self, worker: Worker) -> str:
        """Of its death, which the supervisor finds out."""
        assert self._membership is not None
        name, end = f"{self.name}/{worker.index}", time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(PalmError):
                if reason := self._membership.client._directory.ask("reason", name, worker.pid, timeout=PATIENCE):
                    return str(reason)
            time.sleep(0.002)
        return "its worker died"

    # ---------------------------------------------------------------------------------- what a handle means

    def _bind(self, a: Assignment) -> None:
        server, name = a.steps[0][:2]
        if server == self.name and name in (JOIN, LEAVE):
            super()._bind(a)
            return
        signature = self._template._exposed.get(name)
        if signature is None or server != self.name:
            a.refusal = self._no_function(server, name, list(self._template._exposed))
            return
        a.signature = signature
        self._find_refused(a)

    def _open(self, event: core.Event) -> None:
        super()._open(event)
        self._forget_stale()

    def _end(self, job: JobHere) -> None:
        super()._end(job)
        self._forget_stale()

    def _cancel(self, event: core.Event) -> None:
        super()._cancel(event)
        job = self._jobs.get(key_of(event) or b"")
        if job is not None:
            batch = core.Batch()
            batch.job(job.key, event.number(0), bool(event.children(0)))
            for link in job.downstream:
                if link in self._crew:
                    self.node.send_kept(link, core.CANCEL, 0, 0, batch)
        self._forget_stale()

    def _forget_what_was_early(self) -> None:
        if not self._waiting:  # else what was given up may be among it
            super()._forget_what_was_early()

    def _forget_stale(self) -> None:
        """What was handed out of jobs that are over, or have been repeated, comes back no more."""
        for worker in self._crew.all():
            worker.loads = {h: load for h, load in worker.loads.items() if not load.assignment.stale}
        kept = collections.deque(w for w in self._waiting if not w.assignment.stale)
        for w in self._waiting:
            if w.assignment.stale:
                self._n_waiting -= len(w)
                w.event.done()
        self._waiting = kept

    # ------------------------------------------------------------------------------------------- handing out

    def _data(self, event: core.Event) -> None:
        a = self._assignments.get((event.link, event.handle))
        if a is None or a.stale or a.function is not None or a.refusal is not None:
            super()._data(event)
            return
        self._waiting.append(Waiting(event, a))
        self._n_waiting += len(event)
        self._kept = event  # until all of it is handed out

    def _release(self, event: core.Event) -> None:
        worker = self._crew.of(event.link)
        if worker is None or event.handle not in worker.loads:
            super()._release(event)
            return
        for busy, _, _, done, _ in event.releases():
            worker.reported(event.handle, done, busy)

    def _go_on(self, others: bool) -> None:
        super()._go_on(others)
        if self.tenure is not None and self.tenure.is_over(
            time.monotonic(), len(self._crew), len(self._jobs), self._n_waiting
        ):
            self.node.stop()
        while self._waiting:
            found = self._crew.next(self._waiting[0].assignment.steps[0][1], self._n_waiting)
            if found is None:
                return
            self._hand_out(*found)

    def _has_more(self) -> bool:
        """One that nobody watches goes at once: what it has is repeated where its workers are led from then on."""
        return super()._has_more() or (self.tenure is None and (bool(self._waiting) or self._crew.outstanding() > 0))

    def _hand_out(self, worker: Worker, most: int) -> None:
        """So many of the messages that have waited for longest, as far as they are of one step of one job."""
        w = self._waiting[0]
        a = w.assignment
        outlet = a.workers.get(worker.link)
        if outlet is None:
            outlet = a.workers[worker.link] = self._outlets.to_worker(a, worker.link, worker.endpoint)
        load = worker.loads.setdefault(outlet.handle, Load(a, a.steps[0][1]))
        self._event, self._assignment, before = w.event, a, len(w)
        try:
            w.first = core.forward(w.event, w.first, most, outlet.batch, self, a.refused, a.job.given_up)
            load.sent += len(outlet.batch)
            self._outlets.flush(outlet)
            self._outlets.flush(a.job.report)
        finally:
            self._event = self._assignment = None
        self._n_waiting -= before - len(w)
        if not len(w):
            self._waiting.popleft()
            w.event.done()
