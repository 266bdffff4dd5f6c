# SPDX-License-Identifier: BSD-3-Clause
"""A running server: takes batches from its node, runs the functions, and sends on what they make.

The loop is `serve`; the calls themselves are in `palm._core.loop.run`, once a batch. A message's way through here:
`_message` finds what its handle means (`Assignment`), `run` calls the function, and the result goes into the batch of
the next step's `Outlet` (`palm.outlets`). What has no result is told to the client (`palm.outcomes`); what functions
yield is made by `palm.generators`.
"""

from __future__ import annotations

import collections
import functools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from palm import limits, waits, ways
from palm._core import loop
from palm._core import node as core
from palm._core import space as core_space
from palm._core.payload import BlockLost
from palm._core.vectorised import run_stacked
from palm.assignment import Assignment, JobHere, Name
from palm.branches import Branches
from palm.cache import Cache
from palm.errors import Crashed, NotFound, PalmError, PayloadError, Timeout
from palm.generators import Generators
from palm.making import Making
from palm.message import NO_ONE_MESSAGE, Message, input_of, places
from palm.outcomes import Outcomes
from palm.outlets import Outlets
from palm.pace import Pace
from palm.remote import NO_MESSAGE, check_meaning, died_in, pid_of
from palm.retries import Retries, Retry, pause
from palm.step import To
from palm.suspects import Blame, Suspect, of_job, together_of
from palm.template import Server

if TYPE_CHECKING:
    from palm.capsule import Store
    from palm.faults import Faults
    from palm.membership import Membership
    from palm.template import Signature

log = logging.getLogger("palm")
LOOK_AHEAD = 64  # envelopes taken off the queue while a batch is worked on
IDLE = 2.0  # seconds between two looks at what no event announces
REJECTED_EVERY = 10.0  # seconds between two lines about rejected messages


@dataclass(frozen=True)
class Post:
    """What a host is given, whatever it runs.

    Attributes
    ----------
    name : str
        Of the server.
    endpoint : str
        Where it receives.
    membership : Membership, optional
        By which it finds other servers; the registry has none.
    suspects : sequence of Suspect
        Messages in which processes of this server have died before.
    capsules : Store, optional
        Where the inputs of failed calls are kept.
    """

    name: str
    endpoint: str
    membership: Membership | None
    suspects: Sequence[Suspect]
    capsules: Store | None


class Host:
    """Runs one server object in this process.

    Parameters
    ----------
    server : Server
        Already set up.
    post : Post
    """

    def __init__(self, server: Server, post: Post) -> None:
        self.server, self.name, self._membership, self._suspects = server, post.name, post.membership, post.suspects
        self.node = ways.open_node(post.endpoint, post.name, serves=True)
        self._functions = list(type(server)._exposed)
        self.node.name_functions(self._functions)
        self._outlets = Outlets(self.node, post.membership)
        self._outcomes = Outcomes(self.node, post.name, self._outlets, post.capsules)
        self._branches = Branches(self.node, self._outlets, self._outcomes)
        self._generators = Generators(self.node, self._outlets, self._outcomes, self._branches, self._call)
        self._retries = Retries()
        self._kept: core.Event | None = None  # for a retry: the event at work, or one below it
        self._assignments: dict[tuple[int, int], Assignment] = {}
        self._jobs: dict[bytes, JobHere] = {}
        self._reports: dict[int, JobHere] = {}  # by the handle under which its client hears from here
        self._backlog: collections.deque[core.Event] = collections.deque()
        self._in_backlog = 0  # messages
        self._waits = False  # for room, as the page shows
        self._cancelled_early: set[bytes] = set()  # jobs whose OPEN may still be in the backlog
        self._given_up_in: list[JobHere] = []
        self._stopped_early: set[bytes] = set()  # likewise
        self._event: core.Event | None = None
        self._assignment: Assignment | None = None
        self._message_cache: tuple[int, Message] | None = None
        self.place = loop.Place()
        self.members: Sequence[int] = ()  # of the batch function that runs
        self._reporting = False  # a leader is told how far the envelope at work has got
        self._rejected = 0
        self._rejected_said = -REJECTED_EVERY
        self._complained = -REJECTED_EVERY
        self.stopping = False
        self.on_gone: Callable[[list[str]], None] | None = None  # called when a peer has gone, with clients that it was
        self.faults: Faults | None = None  # of `palm.testing.chaos`
        self.cache_bound = 0  # bytes; 0: what caches have where nobody says more
        self._cache: Cache | None = None
        server._host = self
        server.name = post.name

    # ----------------------------------------------------------------------------------------------- the loop

    def serve(self) -> None:
        """Until the node is stopped, and what has come by then is done; generators are closed."""
        with core_space.arena(shared=False):
            while (event := self._next_event()) is not None or self._holds_out() or not self.stopping:
                if event is not None:
                    self._dispatch(event)
                self._go_on(others=event is not None)
                limits.settle()
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
        if self._backlog:
            event = self._backlog.popleft()
            self._count_backlog(-len(event))
            return event
        self._forget_what_was_early()
        patience = self._patience()
        self._show_wait(self._generators.waits_for() if patience else None)
        return self.node.next(patience)

    def _patience(self) -> float:
        """Seconds until there is something to do, if nothing comes."""
        most = 0.0 if self.stopping and not self._holds_out() else IDLE
        due = self._generators.due()
        if self._retries:
            due = min(due, self._retries.due())
        return most if due == math.inf else min(most, max(0.0, due - time.monotonic()))

    def _forget_what_was_early(self) -> None:
        """All that had come before it has been worked on."""
        if not (self._given_up_in or self._cancelled_early or self._stopped_early):
            return
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
        if event.kind == core.MESSAGE:
            self._message(event)
        elif event.kind == core.GONE:
            self._gone(event.link)
        elif event.kind == core.WAKE:
            self._found()
        elif event.kind == core.STOP:
            self.stopping = True

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
        if self._kept is event:
            self._kept = None
        else:
            event.done()

    def _report_rejected(self) -> None:
        if time.monotonic() - self._rejected_said > REJECTED_EVERY:
            self._rejected, why = self.node.rejected
            self._rejected_said = time.monotonic()
            log.warning("%s: %d messages rejected so far, the last one: %s", self.name, self._rejected, why)

    def _complain(self, what: str) -> None:
        """A line in the log, but no flood."""
        if time.monotonic() - self._complained > REJECTED_EVERY:
            log.warning("%s: %s", self.name, what)
            self._complained = time.monotonic()

    # ---------------------------------------------------------------------------------- what a handle means

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
            self._assignments = {k: b for k, b in self._assignments.items() if b.job is not job}
            self._branches.forget_stale()
        job.cancelled |= job.key in self._cancelled_early
        job.stopped |= meaning["stopped"] or job.key in self._stopped_early
        self._assignments[event.link, event.handle] = a
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
        if job is None and self._backlog and number == NO_MESSAGE:
            (self._stopped_early if softly else self._cancelled_early).add(key)
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

    # ----------------------------------------------------------------------------------------------- messages

    def _data(self, event: core.Event) -> None:
        a = self._assignments.get((event.link, event.handle))
        if len(event) > 1:
            self._look()  # it may have been cancelled while it lay in the queue
        if a is None and not event.handle:
            self._missed(event)
        if a is not None and not a.stale:
            if a.tells:
                a.begun += len(event)
                self._outlets.tell_begun(event.link, event.handle, a.begun)
            if a.reports:
                self._reporting = not a.asks  # else it learns by the results, and is to have them first
                a.tally.begin(time.monotonic_ns())
            self._work(event, a, 0, len(event))
            if a.reports:
                self._reporting = False
                self._report_done(event, a, len(event))

    def _report_done(self, event: core.Event, a: Assignment, end: int) -> None:
        """To the leader of this worker: what comes before that record."""
        if a.tally.end(end, time.monotonic_ns()):
            self._outlets.report_done(event.link, a, event.handle)

    def _work(self, event: core.Event, a: Assignment, first: int, end: int) -> None:
        """The records `first` to `end` - 1."""
        self._event, self._assignment = event, a
        try:
            if a.refusal is not None:
                for i in range(first, end):
                    self._outcomes.failed(a, (event.number(i), event.path(i)), a.refusal)
            else:
                self._run(event, a, first, end)
            self._outlets.flush_all(a)
        finally:
            self._event = self._assignment = self._message_cache = None
            self.place.at = -1

    @property
    def at(self) -> int:
        """The record whose function runs, or that is dealt with; -1: none."""
        return self.place.at

    def _run(self, event: core.Event, a: Assignment, first: int, end: int) -> None:
        assert a.function is not None and a.work is not None and a.signature is not None
        out, job = self._outlets.onward(a).batch, a.job
        if not a.signature.batch:
            told = job.making, a.refused, a.tried, job.given_up
            loop.run(event, first, end, a.function, a.parameters, a.work, out, self, To, *told)
            return
        spread = functools.partial(a.signature.spread, self.name)
        run_stacked(
            *(event, first, end, a.function, a.parameters, spread, a.signature.what(self.name), a.work, out, self, To),
            *(job.making, a.refused, a.tried, job.given_up, a.alone, a.pace),
        )

    def _retry(self) -> None:
        """One message that is due to be run again; then others have their turn."""
        retry = self._retries.take(time.monotonic())
        if retry is None or retry.assignment.stale:
            return
        a, name = retry.assignment, retry.name
        self.node.count("retries")
        self._work(retry.event, a, retry.record, retry.record + 1)
        if self._kept is retry.event:
            self._kept = None
        elif name not in a.job.making:  # else it is a generator, which may fail as well
            a.tried.pop(name, None)

    def spread(self, function: Callable[..., Any], parameters: int, value: Any) -> Any:
        """Calls a function that does not have exactly one parameter, or with an empty message."""
        assert self._assignment is not None and self._assignment.signature is not None
        return function(*self._assignment.signature.spread(self.name, value))

    def _call(self, a: Assignment, value: Any) -> Any:
        assert a.function is not None and a.signature is not None
        return a.function(*a.signature.spread(self.name, value))

    def flush(self) -> bool:
        """Sends what is there; False: the rest of the batch is not wanted any more."""
        a = self._assignment
        assert a is not None and self._event is not None
        if self._reporting and self.at >= 0:  # first of all: the way there and back is the longer one
            self._report_done(self._event, a, self.at + 1)
        self._outlets.flush_all(a)
        self._look()
        return not a.stale

    # ----------------------------------------------------------------- what `run` leaves to us, about record i

    def drop(self, i: int) -> None:
        a, name = self._record(i)
        self._outcomes.dropped(a.job, name)

    def fail(self, i: int, error: Exception) -> None:
        with limits.room_to_tell(error):
            self._tell_failure(i, error)

    def _tell_failure(self, i: int, error: Exception) -> None:
        a, name = self._record(i)
        if isinstance(error, BlockLost):  # who lent it is dead, or the block stale: it is not the message's fault
            self._outcomes.lost(a.job, name)
        elif a.signature is not None and a.tries_again(name, error):
            tried = a.tried[name]
            assert self._event is not None
            self._kept = self._event
            self._retries.add(time.monotonic() + pause(tried), Retry(self._event, i, a))
            self._complain(f"{a.steps[0][1]}, input {name[0]}: {error!r}; it is run again, attempt {tried + 1}")
        else:
            self._outcomes.failed(a, name, error, capsule=self._capsule(i, error))

    def late(self, i: int) -> None:
        a, name = self._record(i)
        self._outcomes.failed(a, name, Timeout("its deadline had passed before it was begun"))

    def refuse(self, i: int) -> None:
        """Processes have died in this message as often as its function allows: it is set aside."""
        a, name = self._record(i)
        assert a.refused is not None
        blame = a.refused[name]
        self.fail(i, Crashed(died_in(*blame), reason=blame.reason))
        self._outlets.flush_all(a)  # the next message may kill too

    def make(self, i: int, result: Any) -> None:
        """A function has returned a generator, or `palm.to`."""
        a, name = self._record(i)
        assert self._event is not None
        if a.asks:
            error = TypeError(f"{self.name}.{a.steps[0][1]} has to return one value: no generator, no palm.to")
            self._outcomes.failed(a, name, error, capsule=self._capsule(i, error))
        elif isinstance(result, To):
            self._send_to(a, name, result, self._event.deadline(i))
        elif len(name[1]) >= core.MAX_PATH:
            self._outcomes.failed(a, name, PalmError(f"more than {core.MAX_PATH} fan-outs on one way"))
        else:
            assert a.signature is not None
            try:
                value = self._event.value(i) if self._outcomes.keeps_inputs or a.signature.retry_on else None
            except BlockLost as e:
                self.fail(i, e)
                return
            made = Making(result, a, *name, self._event.deadline(i), self.message(), value, owed=a.owed)
            self._generators.add(made)

    def again(self, i: int) -> bool:
        """A message has come again, of which many were made here already. False: that was at another step."""
        a, name = self._record(i)
        m = a.job.making[name]
        if m.message.stage != a.hop:
            return False
        self._generators.repeat(m, a)
        return True

    def _record(self, i: int) -> tuple[Assignment, Name]:
        assert self._assignment is not None and self._event is not None
        return self._assignment, (self._event.number(i), self._event.path(i))

    def _names_at_work(self) -> list[Name]:
        m = self._generators.running  # its function is called once more
        return [m.name] if m is not None else [self._record(i)[1] for i in self.members or (self.at,)]

    def _send_to(self, a: Assignment, name: Name, result: To, deadline: int) -> None:
        number, path = name
        try:
            if result.slow != "block":
                self._branches.put_out_of(a, name, result, deadline)
                return
            outlet = self._outlets.routed(a, result.route)
            outlet.batch.put_out_of(result, number, deadline, path)
        except Exception as e:
            self._outcomes.failed(a, name, e)
            return
        if outlet.waiting is not None:
            outlet.waiting.names.append(name)

    def _found(self) -> None:
        """Servers to which messages wait to be sent."""
        for a, name, error in self._outlets.found():
            self._outcomes.failed(a, name, error)
            self._outlets.flush(a.job.report)
        self._branches.found()

    def _capsule(self, i: int, error: Exception) -> str | None:
        """The file in which record i is kept for `palm replay` (B7)."""
        assert self._assignment is not None and self._event is not None
        if not self._outcomes.keeps_inputs:
            return None
        try:
            value = self._event.value(i)
        except (BlockLost, MemoryError):
            return None
        message = self._describe(self._event, self._assignment, i)
        return self._outcomes.capsule(self._assignment, value, message, error)

    # -------------------------------------------------------------------------- what functions ask the template

    def message(self) -> Message:
        if self._generators.running is not None:
            return self._generators.running.message
        if self.members:
            raise RuntimeError(NO_ONE_MESSAGE)
        if self._event is None or self._assignment is None or self.at < 0:
            raise RuntimeError("there is a message in functions alone, while they work on one")
        if self._message_cache is None or self._message_cache[0] != self.at:
            self._message_cache = self.at, self._describe(self._event, self._assignment, self.at)
        return self._message_cache[1]

    def message_at_work(self) -> tuple[str, tuple[int, ...]]:
        """Its job's id and its path, for the log. Both empty: there is none; the path alone: there are several."""
        if self._generators.running is None and self.members:
            return (self._assignment.job.key.hex() if self._assignment else ""), ()
        if self._generators.running is None and (self._event is None or self._assignment is None or self.at < 0):
            return "", ()
        message = self.message()
        return message.job, message.path

    def _describe(self, event: core.Event, a: Assignment, i: int) -> Message:
        name = event.number(i), event.path(i)
        return self._described(a, name, event.deadline(i), a.tried.get(name, 0) + 1)

    def _described(self, a: Assignment, name: Name, deadline: int, attempt: int) -> Message:
        number, path = input_of(*name, a.start)
        return Message(
            job=a.job.key.hex(),
            number=number,
            path=(number, *places(path)),
            stage=a.hop,
            step=f"{a.steps[0][0]}.{a.steps[0][1]}",
            rest=tuple(f"{s[0]}.{s[1]}" for s in a.steps[1:]),
            client=a.client,
            deadline=deadline / 1e9 or None,
            attempt=attempt,
            seed=a.seed,
        )

    def cancelled(self) -> bool:
        a = self._generators.running.assignment if self._generators.running else self._assignment
        if a is None:
            return False
        self._look()
        at_work = self._at_work()
        if a.job.cancelled or all(number in a.job.given_up for number, _ in at_work):
            self.node.give_up()
        late = all(deadline and time.time() > deadline for _, deadline in at_work)
        return late or self.stopping or self.node.unwanted()

    def _at_work(self) -> list[tuple[int, float | None]]:
        """Number and deadline of each message."""
        if not self.members:
            message = self.message()
            return [(message.number, message.deadline)]
        assert self._event is not None
        return [(self._event.number(i), self._event.deadline(i) / 1e9) for i in self.members]

    def _look(self) -> None:
        """At what has come while a batch is worked on: what ends work is done at once, the rest waits its turn."""
        while len(self._backlog) < LOOK_AHEAD and (event := self.node.next(0.0)) is not None:
            if event.kind == core.STOP:
                self.stopping = True
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
                self._backlog.append(event)
                self._count_backlog(len(event))

    def _count_backlog(self, n: int) -> None:
        self._in_backlog += n
        self.node.count("backlog", self._in_backlog)

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

    # ---------------------------------------------------------------------------------------------- the end

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
