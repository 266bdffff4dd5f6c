# SPDX-License-Identifier: BSD-3-Clause
"""A running server: takes events from its node, and does what each is about.

The loop is `serve`. A message's way through here: `_message` finds what its handle means (`Assignment`), and
`palm.execution` runs the function. One that comes alone under a handle of which nothing is to be asked any more goes
through `palm._core.lane` instead, and is not seen here.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from palm import memory_limit, waits
from palm._core import loop
from palm._core import node as core
from palm._core import space as core_space
from palm._core.decode import BlockLost
from palm._core.lane import Lane, Way
from palm.assignment import Assignment, JobHere, Name
from palm.cache import Cache
from palm.errors import NotFound, PayloadError
from palm.execution import Execution, Post
from palm.pace import Pace
from palm.remote import NO_MESSAGE, check_meaning, pid_of
from palm.step import To
from palm.suspects import Blame, of_job, together_of
from palm.template import Server

if TYPE_CHECKING:
    from palm.faults import Faults
    from palm.template import Signature

log = logging.getLogger("palm")
LAST = 1.0  # seconds for which a server that is to stop takes what still comes
IDLE = 2.0  # seconds between two looks at what no event announces
REJECTED_EVERY = 10.0  # seconds between two lines about rejected messages


class Host(Execution):
    """Runs one server object in this process.

    Parameters
    ----------
    server : Server
        Already set up.
    post : Post
    """

    def __init__(self, server: Server, post: Post) -> None:
        super().__init__(server, post)
        self._membership, self._suspects = post.membership, post.suspects
        self._functions = list(type(server)._exposed)
        self.node.name_functions(self._functions)
        self._assignments: dict[tuple[int, int], Assignment] = {}
        self._jobs: dict[bytes, JobHere] = {}
        self._reports: dict[int, JobHere] = {}  # by the handle under which its client hears from here
        self._lane = Lane(self.node, self.place, self, To)
        self._waits = False  # for room, as the page shows
        self._cancelled_early: set[bytes] = set()  # jobs whose OPEN may still be in the backlog
        self._given_up_early: dict[bytes, set[int]] = {}  # inputs, by such a job
        self._given_up_in: list[JobHere] = []
        self._stopped_early: set[bytes] = set()  # likewise
        self._taken_until = math.inf  # monotonic, while it stops: what comes later is not worked on
        self._rejected = 0
        self._rejected_said = -REJECTED_EVERY
        self.on_gone: Callable[[list[str]], None] | None = None  # called when a peer has gone, with clients that it was
        self.faults: Faults | None = None  # of `palm.testing.chaos`
        self.cache_bound = 0  # bytes; 0: what caches have where nobody says more
        self._cache: Cache | None = None

    # ----------------------------------------------------------------------------------------------------- the loop

    def serve(self) -> None:
        """Until the node is stopped, and what has come by then is done; generators are closed."""
        with core_space.arena(shared=False):
            while (event := self._next_event()) is not None or self._holds_out() or not self.stopping:
                if event is not None:
                    self._dispatch(event)
                self._go_on(others=event is not None)
                memory_limit.settle()
                if self.node.rejections != self._rejected:
                    self._report_rejected()

    def _holds_out(self) -> bool:
        """It is not to end yet, though nothing comes."""
        return self._has_more()

    def _has_more(self) -> bool:
        """There is something to be done here."""
        return bool(self._retries)

    def _go_on(self, others: bool) -> None:
        """With what waits here. `others`: there may be other messages."""
        if self._retries:
            self._retry()
        self._generators.make_more(others)

    def _next_event(self) -> core.Event | None:
        patience = 0.0
        if not self._lane.has_backlog:
            self._forget_what_was_early()
            patience = self._patience()
            self._show_wait(self._generators.waits_for() if patience else None)
        if self.stopping:
            return self._next_before_the_end(patience)
        if self._due() != math.inf:
            self._lane.shut()
        return self._lane.next(patience, self._rejected)

    def _next_before_the_end(self, patience: float) -> core.Event | None:
        """After a while what has come by then is all that is worked on: who is called all the time would never end."""
        self._lane.shut()
        if not self._lane.has_the_rest and time.monotonic() > self._taken_until:
            self._lane.take_the_rest()
        comes_late = self._lane.has_the_rest and not self._lane.has_backlog
        if comes_late and not self._holds_out():
            return None
        event = self._lane.next(patience, self._rejected)
        if comes_late and event is not None and self._is_of_others(event):
            event.done()
        return event

    def _is_of_others(self, event: core.Event) -> bool:
        """It brings messages that nobody here waits for."""
        return event.is_data()

    def _stop(self) -> None:
        if not self.stopping:
            self._taken_until = time.monotonic() + LAST
        self.stopping = True

    def _patience(self) -> float:
        """Seconds until there is something to do, if nothing comes."""
        most = 0.0 if self.stopping and not self._holds_out() else IDLE
        due = self._due()
        return most if due == math.inf else min(most, max(0.0, due - time.monotonic()))

    def _due(self) -> float:
        """When there is something to do here, monotonic; never, if nothing is."""
        due = self._generators.due()
        return min(due, self._retries.due()) if self._retries else due

    def _forget_what_was_early(self) -> None:
        """All that had come before it has been worked on."""
        if not (self._given_up_in or self._given_up_early or self._cancelled_early or self._stopped_early):
            return
        self._given_up_early.clear()
        self._cancelled_early.clear()
        self._stopped_early.clear()
        for job in self._given_up_in:
            job.given_up.clear()
        self._given_up_in.clear()

    def _show_wait(self, full: list[str] | None) -> None:
        """That generators wait for room in one of these servers, until they do not any more."""
        if full is not None:
            waits.begin(self, full)
        elif self._waits:
            waits.end(self)
        self._waits = full is not None

    def _dispatch(self, event: core.Event) -> None:
        if event.kind and not event.is_data():
            self._lane.shut()  # a handle may mean something else, or nothing, after it
        if event.kind == core.MESSAGE:
            self._message(event)
        elif event.kind == core.GONE:
            self._gone(event.link)
        elif event.kind == core.WAKE:
            self._found()
        elif event.kind == core.STOP:
            self._stop()

    def _message(self, event: core.Event) -> None:
        if event.says == core.DATA:
            self._data(event)
        elif event.says == core.OPEN:
            self._open(event)
        elif event.says == core.RELEASE:
            self._release(event)
        elif event.says == core.FORGET:
            self._over(event)
        elif event.says == core.CANCEL:
            self._cancel(event)
        self._let_go(event)

    def _let_go(self, event: core.Event) -> None:
        """Unless somebody has kept it."""
        if self._kept is event:
            self._kept = None
        else:
            event.done()

    def complete(self, event: core.Event, a: Assignment) -> None:
        """What came by the lane has not simply given a result, and what there was instead goes now."""
        self._reporting = a.reports
        self._send_off(event, a, len(event))
        self._reporting = False
        self._let_go(event)
        memory_limit.settle()

    def _report_rejected(self) -> None:
        if time.monotonic() - self._rejected_said > REJECTED_EVERY:
            self._rejected, why = self.node.rejected
            self._rejected_said = time.monotonic()
            log.warning("%s: %d messages rejected so far, the last one: %s", self.name, self._rejected, why)

    # ------------------------------------------------------------------------------------------ what a handle means

    def _open(self, event: core.Event) -> None:
        if self.faults is not None and self.faults.look():
            for a in self._assignments.values():
                self._bind(a)
        try:
            meaning = check_meaning(event.value(0), event.hop)
            if not event.hop and not self.node.stands(event.link):
                return  # its client has closed its node while this lay in the queue
            a = self._assigned(meaning, event.hop)
            job = a.job
            if not self.node.stands(job.report.link):
                self._end(job)  # its client has died while this lay in the queue
                return
            if a.epoch < job.epoch:
                return  # what comes under this handle has been repeated, or will be
            self._bind(a)
            for step in a.steps[1:2]:
                self._outlets.link(a, step[2])  # while one can still say that it is none
        except (BlockLost, TypeError, ValueError, OSError, core_space.CoreError) as e:
            self._complain(f"an OPEN that cannot be used: {e}")
            return
        if a.epoch > job.epoch:
            job.epoch = a.epoch
            job.handed = {meaning: workers for meaning, workers in job.handed.items() if meaning[0] == a.epoch}
            self._assignments = {k: b for k, b in self._assignments.items() if b.job is not job}
            self._branches.forget_stale()
        job.cancelled |= job.key in self._cancelled_early
        job.stopped |= meaning["stopped"] or job.key in self._stopped_early
        self._assignments[event.link, event.handle] = a
        for number in self._given_up_early.pop(job.key, ()):
            self._give_up(job, number)
        if job.stopped:
            self._generators.stop(job)

    def _assigned(self, meaning: dict[str, Any], hop: int) -> Assignment:
        key, client = meaning["job"], meaning["client"]
        job = self._jobs.get(key)
        if job is None:
            pid = pid_of(client, meaning["pids"], meaning["where"])
            job = JobHere(key, self._outlets.report(key, client, pid), client)
            self._jobs[key] = self._reports[job.report.handle] = job
        names = "epoch client seed steps pids where constants owed tells reports asks calls start".split()
        return Assignment(job=job, hop=hop, sender=meaning["from"], **{name: meaning[name] for name in names})

    def _bind(self, a: Assignment) -> None:
        server, name, _, key = a.steps[0]
        signature = type(self.server)._exposed.get(name)
        if signature is None or server != self.name:
            a.refusal = self._no_function(server, name, self._functions)
            return
        method = getattr(self.server, name)
        constants = a.constants[key] if key is not None else {}
        function = (lambda *values: method(*values, **constants)) if constants else method
        self._bind_to(a, signature, function, constants, name)

    def _bind_to(
        self, a: Assignment, signature: Signature, function: Callable[..., Any], constants: dict[str, Any], counted: str
    ) -> None:
        """counted: the name under which its calls are counted."""
        a.function = function
        try:
            sender = a.sender or ("" if a.hop else "the client")
            a.function = signature.fitting(self.name, constants, sender).around(a.function)
        except PayloadError as e:
            a.refusal = e
            return
        if self.faults is not None:
            a.function = self.faults.around(a.function, a.job.key, a.hop, self._names_at_work)
        a.signature, a.parameters = signature, len(signature.parameters)
        a.work = loop.Work(a.job.key, a.hop, self._functions.index(counted), a.job.report.link, signature.timeout)
        a.tried = a.job.tried.setdefault(a.hop, {})
        a.alone, a.pace = together_of(self._suspects, a.job.key, a.hop), Pace(signature.batch, signature.timeout)
        for suspect, blame in self._find_refused(a).items():
            a.tried[suspect] = max(a.tried.get(suspect, 0), blame.times)

    def _no_function(self, server: str, name: str, functions: list[str]) -> NotFound:
        return NotFound(
            f"the server {self.name!r} has no exposed function {server}.{name}; it has: "
            f"{', '.join(functions) or 'none'}"
        )

    def _find_refused(self, a: Assignment) -> dict[Name, Blame]:
        """Messages of which too many processes have died; returns all of which some have."""
        assert a.signature is not None
        attempts, suspects = a.signature.attempts, of_job(self._suspects, a.job.key, a.hop)
        a.refused = {k: b for k, b in suspects.items() if b.final or b.times >= attempts} or None
        return suspects

    def _over(self, event: core.Event) -> None:
        key = key_of(event)
        if key in self._jobs:
            self._end(self._jobs[key])

    def _end(self, job: JobHere) -> None:
        """Forgets the job, and tells those to whom it was handed on; each does so once."""
        job.cancelled = True
        del self._jobs[job.key], self._reports[job.report.handle]
        self._assignments = {k: a for k, a in self._assignments.items() if a.job is not job}
        self._generators.drop_all(job)
        self._branches.forget_stale()
        self._retries.drop_stale()
        self._outlets.forget(job)

    def _cancel(self, event: core.Event) -> None:
        key = key_of(event)
        if key is None:
            return
        job, number, softly = self._jobs.get(key), event.number(0), event.children(0)
        if job is None and self._lane.has_backlog and number == NO_MESSAGE:
            (self._stopped_early if softly else self._cancelled_early).add(key)
        elif job is None and self._lane.has_backlog:
            self._given_up_early.setdefault(key, set()).add(number)
        if job is None:
            return
        if softly:
            self._generators.stop(job)
        elif number != NO_MESSAGE:
            self._give_up(job, number)
        else:
            job.cancelled = True
            self._generators.drop_all(job)
            self._branches.forget_stale()
            self._retries.drop_stale()

    def _give_up(self, job: JobHere, number: int) -> None:
        """Nobody waits for this input any more. It came over the same link, and so before this: it is in the backlog,
        at work, or here as a generator or to be run again."""
        job.given_up.add(number)
        self._given_up_in.append(job)
        self._generators.drop_all(job, number)
        self._retries.drop(job, number)

    def _gone(self, link: int) -> None:
        """A client that is gone wants nothing more. Of others the client is told, since what was under way there is
        lost: it has everything unfinished repeated."""
        clients = []
        for job in list(self._jobs.values()):
            if job.report.link == link:
                clients.append(job.client)
                self._end(job)
            elif link in job.downstream:
                job.downstream.remove(link)
                self._outcomes.lost(job)
        if self.on_gone is not None:
            self.on_gone(clients)

    def _missed(self, event: core.Event) -> None:
        """Not all that was sent over a link has arrived there."""
        if len(event) and event.form(0) == core.LOST:
            for job in self._jobs.values():
                if event.link == job.report.link or event.link in job.downstream:
                    self._outcomes.lost(job)

    def _release(self, event: core.Event) -> None:
        if event.handle in self._branches:
            self._branches.told(event)
            return
        job = self._reports.get(event.handle)
        if job is None or job.report.link != event.link:
            return
        for number, path, ranges, granted, over in event.releases():
            m = job.making.get((number, path))
            if m is not None and over:
                self._generators.drop(m)
            elif m is not None:
                self._generators.release(m, ranges, granted)

    # ----------------------------------------------------------------------------------------------------- messages

    def _data(self, event: core.Event) -> None:
        a = self._assignments.get((event.link, event.handle))
        if len(event) > 1:
            self.look()  # it may have been cancelled while it lay in the queue
        if a is None and not event.handle:
            self._missed(event)
        if a is not None and not a.stale:
            if a.tells:
                a.begun += len(event)
                self._outlets.tell_begun(event.link, event.handle, a.begun)
            if a.reports:
                a.tally.begin(time.monotonic_ns())
            self._reporting = a.reports
            self._work(event, a, 0, len(event))
            self._reporting = False
            if len(event) == 1:
                self._open_way(event, a)

    def _open_way(self, event: core.Event, a: Assignment) -> None:
        """What comes alone under this handle need not be seen here from now on, if nothing is to be asked of it."""
        if a.function is None or a.signature is None or a.signature.batch or a.onward is None:
            return
        if not (a.stale or a.tells or a.refusal is not None or a.refused is not None or self._due() != math.inf):
            self._lane.open(event.link, event.handle, Way(a, a.onward))

    def _found(self) -> None:
        """Servers to which messages wait to be sent."""
        for a, name, error in self._outlets.found():
            self._outcomes.failed(a, name, error)
            self._outlets.flush(a.job.report)
        self._branches.found()

    def look(self) -> None:
        self._lane.look()

    def notice(self, event: core.Event) -> None:
        """It brings no messages, and has come while there is work, which it may end; else it waits its turn."""
        if event.kind == core.STOP:
            self._stop()
        elif event.kind == core.GONE:
            self._gone(event.link)
        elif event.kind == core.MESSAGE and event.says == core.CANCEL:
            self._cancel(event)
            event.done()
        elif event.kind == core.MESSAGE and event.says == core.RELEASE and event.handle in self._branches:
            self._message(event)  # somebody has nothing to do until it is dealt with
        else:
            if event.kind == core.MESSAGE and event.says == core.FORGET:
                self._cancel(event)  # and all is forgotten when what came before it has had its turn
            self._lane.keep(event)

    # ------------------------------------------------------------------------------ what functions ask the template

    def cache(self) -> Cache | None:
        """That of the server, which all its processes have in common; None: it has no cluster."""
        if self._cache is None and self._membership is not None:
            self._cache = Cache._shared(self._membership.client, self.name, self.cache_bound)
        return self._cache

    def client(self) -> Any:
        if self._membership is None:
            raise RuntimeError("this server has no cluster to call")
        return self._membership.client

    def count(self, name: str, n: float) -> None:
        core_space.count_own(name, n)

    def observe(self, name: str, value: float) -> None:
        core_space.observe_own(name, value)

    # ------------------------------------------------------------------------------------------------------ the end

    def why_it_ends(self) -> str:
        """What others are told if it is more than that somebody has stopped it."""
        return ""

    def _teardown(self) -> None:
        """Of what `setup` was called of in this process."""
        self.server.teardown()

    def close(self, linger: float = 2.0) -> None:
        self._generators.close()
        waits.end(self)
        try:
            self._teardown()
        except Exception:
            log.exception("%s: teardown raised", self.name)
        self.node.close(int(linger * 1000))
        self.server._host = None


def key_of(event: core.Event) -> bytes | None:
    """The job that a CANCEL or FORGET names; None: it names none."""
    try:
        key = event.value(0)
    except (BlockLost, IndexError):
        return None
    return key if type(key) is bytes and len(key) == 16 else None
