# SPDX-License-Identifier: BSD-3-Clause
"""A running server: takes batches from its node, runs the functions, and sends on what they make.

The loop is `serve`; the calls themselves are in `palm._core.node.run`, once a batch. A message's way through here:
`_message` finds what its handle means (`Assignment`), `run` calls the function, and the result goes into the batch of
the next step's `Outlet`, or of the client's. What functions yield is made, kept and repeated as `Making` decides.
"""

from __future__ import annotations

import collections
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from palm._core import node as core
from palm._core import space as core_space
from palm._core.payload import BlockLost
from palm.assignment import Assignment, JobHere, Outlet
from palm.errors import Crashed, NotFound, PalmError, Timeout
from palm.making import Kept, Making
from palm.message import Message, child, places
from palm.remote import NO_MESSAGE, check_meaning, died_in, tree_of_error
from palm.step import Step, To
from palm.suspects import Suspect, of_job
from palm.template import Server

if TYPE_CHECKING:
    from palm.capsule import Store
    from palm.membership import Membership

log = logging.getLogger("palm")
SLICE = 0.001  # seconds that a generator runs before other messages have their turn
GENERATED = 64  # messages of a generator in an envelope: then others have their turn
LOOK_AHEAD = 64  # envelopes taken off the queue while a batch is worked on
IDLE = 0.5  # seconds between two looks at what no event announces
_OWN_FRAMES = ("palm/host.py", "palm/_core/node.pyx")
REJECTED_EVERY = 10.0  # seconds between two lines about rejected messages


class Host:
    """Runs one server object in this process.

    Parameters
    ----------
    server : Server
        Already set up.
    name : str
    endpoint : str
        Where it receives.
    membership : Membership, optional
        By which it finds other servers; the registry has none.
    suspects : list of Suspect
        Messages in which processes of this server have died before.
    """

    def __init__(
        self,
        server: Server,
        name: str,
        endpoint: str,
        membership: Membership | None = None,
        suspects: Sequence[Suspect] = (),
        capsules: Store | None = None,
    ) -> None:
        self.server, self.name, self._membership, self._suspects = server, name, membership, suspects
        self._capsules = capsules
        self.node = core.Node(endpoint, name, frames=os.environ.get("PALM_FRAMES") == "1")
        self._functions = list(type(server)._exposed)
        self.node.name_functions(self._functions)
        self._assignments: dict[tuple[int, int], Assignment] = {}
        self._jobs: dict[bytes, JobHere] = {}
        self._reports: dict[int, JobHere] = {}  # by the handle under which its client hears from here
        self._backlog: collections.deque[core.Event] = collections.deque()
        self._cancelled_early: set[bytes] = set()  # jobs whose OPEN may still be in the backlog
        self._making: collections.deque[Making] = collections.deque()
        self._next_handle = 1
        self._event: core.Event | None = None
        self._assignment: Assignment | None = None
        self._now_making: Making | None = None
        self._message_cache: tuple[int, Message] | None = None
        self.at = -1
        self._rejected = 0
        self._rejected_said = -REJECTED_EVERY
        self._complained = -REJECTED_EVERY
        self.counts: collections.Counter[str] = collections.Counter()
        self.observed: dict[str, list[float]] = {}
        self.stopping = False
        self.on_gone: Callable[[], None] | None = None  # called when a peer has gone
        server._host = self
        server.name = name

    # ----------------------------------------------------------------------------------------------- the loop

    def serve(self) -> None:
        """Until the node is stopped, and what has come by then is done; generators are closed."""
        with core_space.arena(shared=False):
            while (event := self._next_event()) is not None or not self.stopping:
                if event is not None:
                    self._dispatch(event)
                if self._making:
                    self._make_more()
                if self.node.rejections != self._rejected:
                    self._report_rejected()

    def _next_event(self) -> core.Event | None:
        if self._backlog:
            return self._backlog.popleft()
        self._cancelled_early.clear()
        return self.node.next(0.0 if self.stopping or self._can_make() else IDLE)

    def _dispatch(self, event: core.Event) -> None:
        if event.kind == core.MESSAGE:
            self._message(event)
        elif event.kind == core.GONE:
            self._gone(event.link)
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
        try:
            meaning = check_meaning(event.value(0), event.hop)
            job = self._job(meaning["job"], meaning["client"])
            if meaning["epoch"] < job.epoch:
                return  # what comes under this handle has been repeated, or will be
            a = Assignment(
                job,
                meaning["epoch"],
                meaning["client"],
                meaning["seed"],
                meaning["steps"],
                meaning["pids"],
                meaning["constants"],
                event.hop,
            )
            self._bind(a)
            for step in a.steps[1:2]:
                self._link(a, step[2])  # while one can still say that it is none
        except (BlockLost, TypeError, ValueError, OSError, core_space.CoreError) as e:
            self._complain(f"an OPEN that cannot be used: {e}")
            return
        if a.epoch > job.epoch:
            job.epoch = a.epoch
            self._assignments = {k: b for k, b in self._assignments.items() if b.job is not job}
        job.cancelled |= a.job.key in self._cancelled_early
        self._assignments[event.link, event.handle] = a

    def _job(self, key: bytes, client: str) -> JobHere:
        job = self._jobs.get(key)
        if job is None:
            job = JobHere(key, self._new_outlet(self.node.link(client), 0, {"job": key}))
            self._jobs[key] = self._reports[job.report.handle] = job
        return job

    def _link(self, a: Assignment, endpoint: str) -> int:
        link = self.node.link(endpoint, a.pids.get(endpoint, 0))
        a.job.downstream.add(link)
        return link

    def _bind(self, a: Assignment) -> None:
        server, name, _, key = a.steps[0]
        signature = type(self.server)._exposed.get(name)
        if signature is None or server != self.name:
            a.refusal = NotFound(
                f"the server {self.name!r} has no exposed function {server}.{name}; it has: "
                f"{', '.join(self._functions) or 'none'}"
            )
            return
        method = getattr(self.server, name)
        constants = a.constants[key] if key is not None else {}
        a.function = (lambda *values: method(*values, **constants)) if constants else method
        a.index = self._functions.index(name)
        a.parameters = len(signature.parameters)
        a.suspects = of_job(self._suspects, a.job.key, a.hop)
        a.refused = {k: s for k, s in a.suspects.items() if s[0] >= signature.attempts} or None

    def _over(self, event: core.Event) -> None:
        try:
            job = self._jobs.get(event.value(0)["job"])
        except (BlockLost, LookupError, TypeError, ValueError):
            return
        if job is not None:
            self._end(job)

    def _end(self, job: JobHere) -> None:
        """Forgets the job, and tells those to whom it was handed on; each does so once."""
        job.cancelled = True
        del self._jobs[job.key], self._reports[job.report.handle]
        self._assignments = {k: a for k, a in self._assignments.items() if a.job is not job}
        for m in list(job.making.values()):
            self._drop(m)
        over = core.Batch()
        over.put({"job": job.key}, 0)
        for link in job.downstream:
            self.node.send_kept(link, core.FORGET, 0, 0, over)

    def _drop(self, m: Making) -> None:
        """What it keeps is not wanted any more, nor what it would make."""
        m.assignment.job.making.pop(m.name, None)
        m.unwanted = True
        if m is not self._now_making:
            self._close(m)

    def _close(self, m: Making) -> None:
        m.ended, m.value = True, None
        if m in self._making:
            self._making.remove(m)
        try:
            m.generator.close()
        except Exception:
            log.exception("%s: a generator raised when it was closed", self.name)

    def _cancel(self, event: core.Event) -> None:
        try:
            meaning = event.value(0)
            key, softly = meaning["job"], meaning.get("stop") is True
            job = self._jobs.get(key)
        except (BlockLost, LookupError, TypeError, AttributeError, ValueError):
            return
        if job is None and self._backlog and not softly and type(key) is bytes:
            self._cancelled_early.add(key)
        if job is not None and softly:
            self._stop_generators(job)
        elif job is not None:
            job.cancelled = True
            for m in list(job.making.values()):
                self._drop(m)

    def _stop_generators(self, job: JobHere) -> None:
        """Those of the first step end where they are, as if they had come to their end."""
        for m in [m for m in job.making.values() if not m.assignment.hop and not m.ended]:
            if m is self._now_making:  # it is running, and has just looked
                m.stopped = True
            else:
                self._stop(m)
        self._flush_outlet(job.report)

    def _stop(self, m: Making) -> None:
        self._close(m)
        m.assignment.job.report.batch.event(core.CLOSE, m.number, m.path, m.made)

    def _gone(self, link: int) -> None:
        """A client that is gone wants nothing more. Of others the client is told, since what was under way there is
        lost: it has everything unfinished repeated."""
        for job in list(self._jobs.values()):
            if job.report.link == link:
                self._end(job)
            elif link in job.downstream:
                job.downstream.remove(link)
                self._report_loss(job)
        if self.on_gone is not None:
            self.on_gone()

    def _report_loss(self, job: JobHere, number: int = NO_MESSAGE, path: tuple[int, ...] = ()) -> None:
        job.report.batch.event(core.LOST, number, path, job.epoch)
        self._flush_outlet(job.report)

    def _release(self, event: core.Event) -> None:
        job = self._reports.get(event.handle)
        if job is None or job.report.link != event.link:
            return
        for number, path, ranges, granted, over in event.releases():
            m = job.making.get((number, path))
            if m is not None and over:
                self._drop(m)
            elif m is not None:
                m.release(ranges, granted)

    # ----------------------------------------------------------------------------------------------- messages

    def _data(self, event: core.Event) -> None:
        a = self._assignments.get((event.link, event.handle))
        if len(event) > 1:
            self._look()  # it may have been cancelled while it lay in the queue
        if a is None or a.stale:
            return
        self._event, self._assignment = event, a
        try:
            if a.refusal is not None:
                for i in range(len(event)):
                    self._fail(a, event.number(i), event.path(i), a.refusal)
            else:
                assert a.function is not None
                out = self._onward(a).batch
                job = a.job
                core.run(event, a.function, a.parameters, a.index, out, self, To, job.key, a.hop, job.making, a.refused)
            self._flush(a)
        finally:
            self._event = self._assignment = self._message_cache = None
            self.at = -1

    def spread(self, function: Callable[..., Any], parameters: int, value: Any) -> Any:
        """Calls a function that does not have exactly one parameter, or with an empty message."""
        assert self._assignment is not None
        signature = type(self.server)._exposed[self._assignment.steps[0][1]]
        return function(*signature.spread(self.name, value))

    def _onward(self, a: Assignment) -> Outlet:
        if a.onward is None:
            a.onward = self._outlet(a, a.steps[1:]) if len(a.steps) > 1 else a.job.report
        return a.onward

    def _outlet(self, a: Assignment, steps: list[list[Any]]) -> Outlet:
        """Opens a handle for the rest of a route at its next server."""
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
        return self._new_outlet(self._link(a, steps[0][2]), a.hop + 1, meaning)

    def _new_outlet(self, link: int, hop: int, meaning: dict[str, Any]) -> Outlet:
        outlet = Outlet(link, self._next_handle, hop)
        self._next_handle += 1
        outlet.batch.put(meaning, 0)
        self.node.send(outlet.link, core.OPEN, outlet.handle, outlet.hop, outlet.batch)
        return outlet

    def _routed(self, a: Assignment, route: Sequence[Step]) -> Outlet:
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
            a.routed[name] = self._outlet(a, steps)
        return a.routed[name]

    def flush(self) -> bool:
        """Sends what is there; False: the rest of the batch is not wanted any more."""
        a = self._assignment
        assert a is not None
        self._flush(a)
        self._look()
        return not a.stale

    def _flush(self, a: Assignment) -> None:
        for outlet in a.outlets():
            self._flush_outlet(outlet)

    def _flush_outlet(self, outlet: Outlet) -> None:
        """What cannot be sent since the peer is dead, the client has repeated: `_gone` tells it."""
        if len(outlet.batch):
            self.node.send(outlet.link, core.DATA, outlet.handle, outlet.hop, outlet.batch)

    # ----------------------------------------------------------------- what `run` leaves to us, about record i

    def drop(self, i: int) -> None:
        a, event = self._assignment, self._event
        assert a is not None and event is not None
        a.job.report.batch.event(core.DROP, event.number(i), event.path(i))

    def fail(self, i: int, error: Exception) -> None:
        assert self._assignment is not None and self._event is not None
        number, path = self._event.number(i), self._event.path(i)
        if isinstance(error, BlockLost):  # who lent it is dead, or the block stale: it is not the message's fault
            self._report_loss(self._assignment.job, number, path)
        else:
            self._fail(self._assignment, number, path, error, capsule=self._capsule(i, error))

    def late(self, i: int) -> None:
        assert self._assignment is not None and self._event is not None
        late = Timeout("its deadline had passed before it was begun")
        self._fail(self._assignment, self._event.number(i), self._event.path(i), late)

    def _fail(
        self,
        a: Assignment,
        number: int,
        path: tuple[int, ...],
        error: BaseException,
        made: int = 0,
        capsule: str | None = None,
    ) -> None:
        self.node.count("errors")
        a.job.report.batch.error(tree_of_error(_trimmed(error), self.name, a.steps[0][1], capsule), number, path, made)

    def _capsule(self, i: int, error: Exception) -> str | None:
        """The file in which record i is kept for `palm replay` (B7)."""
        assert self._assignment is not None and self._event is not None
        if self._capsules is None:
            return None
        try:
            value = self._event.value(i)
        except BlockLost:
            return None
        return self._write_capsule(self._assignment, value, self._describe(self._event, self._assignment, i), error)

    def _write_capsule(self, a: Assignment, value: Any, message: Message, error: Exception) -> str | None:
        if self._capsules is None:
            return None
        function, key = a.steps[0][1], a.steps[0][3]
        constants = a.constants[key] if key is not None else {}
        return self._capsules.write(
            server=self.name,
            function=function,
            value=value,
            constants=constants,
            message=message,
            error=None if isinstance(error, Crashed) else _trimmed(error),
            reason=error.reason if isinstance(error, Crashed) else "",
        )

    def refuse(self, i: int) -> None:
        """Processes have died in this message as often as its function allows: it is set aside."""
        a, event = self._assignment, self._event
        assert a is not None and event is not None and a.refused is not None
        times, reason = a.refused[event.number(i), event.path(i)]
        self.fail(i, Crashed(died_in(times, reason), reason=reason))
        self._flush(a)  # the next message may kill too

    def make(self, i: int, result: Any) -> None:
        """A function has returned a generator, or `palm.to`."""
        a, event = self._assignment, self._event
        assert a is not None and event is not None
        number, path = event.number(i), event.path(i)
        if isinstance(result, To):
            try:
                self._routed(a, result.route).batch.put_out_of(result, number, event.deadline(i), path)
            except Exception as e:
                self._fail(a, number, path, e)
            return
        if len(path) >= core.MAX_PATH:
            self._fail(a, number, path, PalmError(f"more than {core.MAX_PATH} fan-outs on one way"))
            return
        value = event.value(i) if self._capsules is not None else None
        m = Making(result, a, number, path, event.deadline(i), self.message(), value)
        a.job.making[m.name] = m
        self._making.append(m)
        self._ask(m)

    def again(self, i: int) -> bool:
        """A message has come again, of which many were made here already: what they have become may be lost. False:
        that was at another step."""
        a, event = self._assignment, self._event
        assert a is not None and event is not None
        m = a.job.making[event.number(i), event.path(i)]
        if m.message.stage != a.hop:
            return False
        if m.assignment.epoch != a.epoch:
            m.assignment = a
            try:
                for kept in m.kept:
                    self._send_kept(m, kept)
            except Exception as e:  # where `palm.to` sent them cannot be found any more
                self._fail(a, m.number, m.path, e, m.made)
                return True
            if m.ended:
                a.job.report.batch.event(core.CLOSE, m.number, m.path, m.made)
        return True

    # --------------------------------------------------------------------------------------------- generators

    def _can_make(self) -> bool:
        return any(m.has_room() for m in self._making)

    def _make_more(self) -> None:
        """Each generator for a slice of time, those that have room."""
        for _ in range(len(self._making)):
            if not self._making:
                return
            m = self._making[0]
            self._making.rotate(-1)
            if not m.has_room():
                continue
            self._now_making = m
            try:
                self._run_generator(m)
            finally:
                self._now_making = None
            if m.unwanted or m.ended:
                self._close(m)
            elif m.stopped:
                self._stop(m)
            elif m.wants():
                self._ask(m)
            self._flush_outlet(m.assignment.job.report)

    def _ask(self, m: Making) -> None:
        """For room: the client answers with a RELEASE."""
        m.asked = True
        m.assignment.job.report.batch.event(core.ASK, m.number, m.path, m.granted)

    def _run_generator(self, m: Making) -> None:
        a = m.assignment
        made: dict[tuple[Any, ...] | None, Kept] = {None: Kept(None, [], core.Batch())}  # by route
        end, most = time.monotonic() + SLICE, m.made + GENERATED
        try:
            while time.monotonic() < end and m.made < most and m.has_room() and not (m.unwanted or m.stopped):
                self._make_one(m, made)
                if any(kept.batch.full for kept in made.values()):
                    break
        except StopIteration:
            m.ended = True
            a.job.report.batch.event(core.CLOSE, m.number, m.path, m.made)
        except Exception as e:
            m.ended = True
            self._fail(a, m.number, m.path, e, m.made, self._write_capsule(a, m.value, m.message, e))
        if not m.unwanted:
            for kept in made.values():
                self._send_children(m, kept)

    def _make_one(self, m: Making, made: dict[tuple[Any, ...] | None, Kept]) -> None:
        """The next child, into what goes along its route; one that was settled before is only counted."""
        a, kept = m.assignment, made[None]
        known = m.is_settled(m.made)
        out = core.Batch() if known else kept.batch
        path = child(m.path, m.message.stage, m.made)
        value = core.advance(
            m.generator, out, m.number, path, m.deadline, To, self.node, a.job.key, m.message.stage, a.index
        )
        if value is None:
            return  # never sent, in any position
        if known:
            m.made += 1
            return
        if value is not True:
            name = tuple(id(s) if s.constants else str(s) for s in value.route)
            self._routed(a, value.route)  # while its failure is the function's
            kept = made.setdefault(name, Kept(value.route, [], core.Batch()))
            kept.batch.put_out_of(value, m.number, m.deadline, path)
        kept.indices.append(m.made)
        m.made += 1

    def _send_children(self, m: Making, kept: Kept) -> None:
        if kept.indices:
            m.kept.append(kept)
            self._send_kept(m, kept)

    def _send_kept(self, m: Making, kept: Kept) -> None:
        outlet = self._onward(m.assignment) if kept.route is None else self._routed(m.assignment, kept.route)
        self._flush_outlet(outlet)
        self.node.send_kept(outlet.link, core.DATA, outlet.handle, outlet.hop, kept.batch)

    # -------------------------------------------------------------------------- what functions ask the template

    def message(self) -> Message:
        if self._now_making is not None:
            return self._now_making.message
        if self._event is None or self._assignment is None or self.at < 0:
            raise RuntimeError("there is a message in functions alone, while they work on one")
        if self._message_cache is None or self._message_cache[0] != self.at:
            self._message_cache = self.at, self._describe(self._event, self._assignment, self.at)
        return self._message_cache[1]

    def _describe(self, event: core.Event, a: Assignment, i: int) -> Message:
        number, path = event.number(i), event.path(i)
        return Message(
            job=a.job.key.hex(),
            number=number,
            path=(number, *places(path)),
            stage=a.hop,
            step=f"{a.steps[0][0]}.{a.steps[0][1]}",
            rest=tuple(f"{s[0]}.{s[1]}" for s in a.steps[1:]),
            client=a.client,
            deadline=event.deadline(i) / 1e9 or None,
            attempt=a.suspects.get((number, path), (0, ""))[0] + 1,
            seed=a.seed,
        )

    def cancelled(self) -> bool:
        a = self._now_making.assignment if self._now_making else self._assignment
        if a is None:
            return False
        self._look()
        deadline = self.message().deadline
        return a.job.cancelled or self.stopping or (deadline is not None and time.time() > deadline)

    def _look(self) -> None:
        """At what has come while a batch is worked on: what ends work is done at once, the rest waits its turn."""
        while len(self._backlog) < LOOK_AHEAD and (event := self.node.next(0.0)) is not None:
            if event.kind == core.STOP:
                self.stopping = True
            elif event.kind == core.GONE:
                self._gone(event.link)
            elif event.kind == core.MESSAGE and event.says == core.CANCEL:
                self._message(event)
            else:
                self._backlog.append(event)

    def client(self) -> Any:
        if self._membership is None:
            raise RuntimeError("this server has no cluster to call")
        return self._membership.client

    def count(self, name: str, n: float) -> None:
        self.counts[name] += n  # type: ignore[assignment]

    def observe(self, name: str, value: float) -> None:
        self.observed.setdefault(name, []).append(value)

    # ---------------------------------------------------------------------------------------------- the end

    def close(self, linger: float = 2.0) -> None:
        for m in list(self._making):
            self._drop(m)
        try:
            self.server.teardown()
        except Exception:
            log.exception("%s: teardown raised", self.name)
        self.node.close(int(linger * 1000))
        self.server._host = None


def _trimmed(error: BaseException) -> BaseException:
    """Without our own frames, the outermost of its traceback."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None and at.tb_frame.f_code.co_filename.endswith(_OWN_FRAMES):
        at = at.tb_next
    error.__traceback__ = at
    return error
