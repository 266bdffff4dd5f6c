# SPDX-License-Identifier: BSD-3-Clause
"""The leader of a parallel server: what it knows of its workers, whatever it has them do.

Workers tell it that they are there, and report how many messages they have done. Those of a `palm.Butterfly` send on
what they make by themselves (`palm.butterfly_leader`); others give their results back (`palm.task_leader`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from palm._core import node as core
from palm._core import space as core_space
from palm.assignment import Assignment, JobHere
from palm.crew import Crew, Worker
from palm.directory import pid_here
from palm.errors import PalmError
from palm.execution import Post
from palm.host import Host, key_of
from palm.suspects import AtWork, Suspects
from palm.template import Server, Signature, function

if TYPE_CHECKING:
    from palm.tenure import Tenure

log = logging.getLogger("palm")
JOIN, LEAVE = "_join", "_leave"  # the leader's own functions
SHOW_EVERY = 0.05  # seconds between two looks at what waits, for the page
PATIENCE = 1.0  # seconds for the supervisor to find out of what a worker has died


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
    """Of one parallel server, whose workers run `template`, the user's class.

    Parameters
    ----------
    template : type
    post : Post
    """

    def __init__(self, template: type[Server], post: Post) -> None:
        super().__init__(Leading(), post)
        self._template = template
        self._crew = Crew()
        self._pages: dict[int, core_space.Page] = {}  # of workers, by link: they can be read after their deaths
        self._shown = 0.0  # when the page was last told what waits
        self._blamed = Suspects()
        for suspect in post.suspects:
            self._blamed.recall(post.name, suspect)
        self.tenure: Tenure | None = None  # of one that nobody watches

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
            self._bereft(worker, self._blame(worker, self._pages.pop(link, None)))
        super()._gone(link)

    def _bereft(self, worker: Worker, blamed: AtWork | None) -> None:
        """A worker is gone; `blamed`: what it was at, if it has died of that. Of several nobody is to blame yet."""
        self._forget_handles(worker)

    def _forget_handles(self, worker: Worker) -> None:
        """What it is sent from now on goes under new ones."""
        worker.keep(lambda load: False)
        for a in self._assignments.values():
            a.workers.pop(worker.link, None)

    def _blame(self, worker: Worker, page: core_space.Page | None) -> AtWork | None:
        """The message in which a worker has died is not handed out more often than its function allows. Returns what it
        was at."""
        if page is None:
            return None
        at_work, ended = page.at_work(), page.ended()
        page.close()
        if at_work is None:
            return None
        found = AtWork(*at_work)
        if found.together == 1:
            final = ended is not None and ended[0] == "overrun" and ended[1]
            self._blamed.blame(self.name, found.name, self._reason(worker), found.attempt, final)
            self._suspects = self._blamed.of(self.name)
            for a in self._assignments.values():
                if a.signature is not None:
                    self._find_refused(a)
        return found

    def _reason(self, worker: Worker) -> str:
        """Of its death, which the supervisor finds out."""
        assert self._membership is not None
        name, end = f"{self.name}/{worker.index}", time.monotonic() + PATIENCE
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(PalmError):
                if reason := self._membership.client._directory.ask("reason", name, worker.pid, timeout=left):
                    return str(reason)
            time.sleep(0.002)
        return "its worker died"

    # ------------------------------------------------------------------------------------------------- jobs

    def _is_own(self, a: Assignment) -> bool:
        """True of the leader's own functions, which workers call."""
        return a.steps[0][0] == self.name and a.steps[0][1] in (JOIN, LEAVE)

    def _bind(self, a: Assignment) -> None:
        if self._is_own(a):
            super()._bind(a)
            return
        server, name, _, key = a.steps[0]
        signature = self._template._step(name)
        if signature is None or server != self.name:
            a.refusal = self._no_function(server, name, list(self._template._exposed))
            return
        # One handle at each worker for all that means the same, or handles would multiply from leader to leader. Steps
        # name their constants by content.
        a.workers = a.job.handed.setdefault((a.epoch, a.hop, a.sender, *map(tuple, a.steps)), a.workers)
        self._bind_step(a, signature, a.constants[key] if key is not None else {})

    def _bind_step(self, a: Assignment, signature: Signature, constants: dict[str, Any]) -> None:
        """A step of the template, which messages are for."""
        raise NotImplementedError

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
            for link in job.downstream | job.asked:
                if link in self._crew:
                    self.node.send_kept(link, core.CANCEL, 0, 0, batch)
        self._forget_stale()

    def _forget_stale(self) -> None:
        """What workers have of jobs that are over, or have been repeated, comes back no more."""
        for worker in self._crew.all():
            worker.keep(lambda load: not load.assignment.stale)

    def _release(self, event: core.Event) -> None:
        worker = self._crew.of(event.link)
        if worker is None or event.handle not in worker.loads:
            super()._release(event)
            return
        for busy, _, _, done, _ in event.releases():
            worker.reported(event.handle, done, busy)

    def _next_event(self) -> core.Event | None:
        now = time.monotonic()
        if now >= self._shown + SHOW_EVERY:
            self._shown = now
            self.node.count("queue_depth", self._n_waiting())
            self.node.count("in_flight", self._crew.outstanding())
        return super()._next_event()

    def _is_of_others(self, event: core.Event) -> bool:
        return super()._is_of_others(event) and event.link not in self._crew

    def _open_way(self, event: core.Event, a: Assignment) -> None:
        """None: who leads looks at each message."""

    def _n_waiting(self) -> int:
        """How many messages wait here for a worker."""
        return 0

    def _go_on(self, others: bool) -> None:
        super()._go_on(others)
        if self.tenure is not None and self.tenure.is_over(
            time.monotonic(), len(self._crew), len(self._jobs), self._has_more()
        ):
            self.node.stop()

    def _holds_out(self) -> bool:
        """One that nobody watches goes at once: what it has is repeated where its workers are led from then on."""
        return self.tenure is None and super()._holds_out()

    def why_it_ends(self) -> str:
        return self.tenure.reason if self.tenure is not None else ""

    def _has_more(self) -> bool:
        return super()._has_more() or self._crew.outstanding() > 0
