# SPDX-License-Identifier: BSD-3-Clause
"""A running server: takes batches from its node, runs the functions, and sends on what they make.

The loop is `serve`; the calls themselves are in `palm._core.node.run`, once a batch. A message's way through here:
`_message` finds what its handle means (`Assignment`), `run` calls the function, and the result goes into the batch of
the next step's `Outlet`, or of the client's.
"""

from __future__ import annotations

import collections
import logging
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from palm._core import node as core
from palm._core import space as core_space
from palm._core.payload import BlockLost
from palm.errors import NotFound, PalmError
from palm.message import Message, child, places
from palm.remote import check_meaning, tree_of_error
from palm.step import To
from palm.template import Server

if TYPE_CHECKING:
    from palm.membership import Membership

log = logging.getLogger("palm")
SLICE = 0.001  # seconds that a generator runs before other messages have their turn
BACKLOG = 64  # envelopes that the next step has not taken yet: then a generator waits
GENERATED = 64  # messages of a generator in an envelope: then others have their turn
LOOK_AHEAD = 64  # envelopes taken off the queue while a batch is worked on
IDLE = 0.5  # seconds between two looks at what no event announces
REJECTED_EVERY = 10.0  # seconds between two lines about rejected messages


@dataclass
class Outlet:
    """Where messages leave: a handle on a link, and the batch that goes there next."""

    link: int
    handle: int
    hop: int
    batch: core.Batch = field(default_factory=core.Batch)


@dataclass
class Assignment:
    """What a handle on a link means: a job, from this step on."""

    job: bytes
    client: str  # endpoint
    seed: int
    steps: list[list[Any]]  # [server, function, endpoint, key of constants], this step first
    constants: dict[str, dict[str, Any]]
    hop: int
    function: Callable[..., Any] | None = None
    index: int = 0
    parameters: int = 1
    refusal: PalmError | None = None
    onward: Outlet | None = None
    to_client: Outlet | None = None
    routed: dict[tuple[Any, ...], Outlet] = field(default_factory=dict)
    cancelled: bool = False
    paused: bool = False

    def outlets(self) -> list[Outlet]:
        return [o for o in (self.onward, self.to_client, *self.routed.values()) if o is not None]


@dataclass
class Making:
    """A generator that has not ended."""

    generator: Generator[Any, Any, Any]
    assignment: Assignment
    number: int
    path: tuple[int, ...]
    deadline: int
    message: Message
    made: int = 0


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
    """

    def __init__(self, server: Server, name: str, endpoint: str, membership: Membership | None = None) -> None:
        self.server, self.name, self._membership = server, name, membership
        self.node = core.Node(endpoint, name, frames=os.environ.get("PALM_FRAMES") == "1")
        self._functions = list(type(server)._exposed)
        self.node.name_functions(self._functions)
        self._assignments: dict[tuple[int, int], Assignment] = {}
        self._backlog: collections.deque[core.Event] = collections.deque()
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
        elif event.says == core.FORGET:
            self._forget((event.link, event.handle))
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
            meaning = check_meaning(event.value(0))
            a = Assignment(
                meaning["job"], meaning["client"], meaning["seed"], meaning["steps"], meaning["constants"], event.hop
            )
            self._bind(a)
            for endpoint in [a.client, *(s[2] for s in a.steps[1:2])]:
                self.node.link(endpoint)  # while one can still say that it is none
        except (BlockLost, TypeError, ValueError, OSError, core_space.CoreError) as e:
            self._complain(f"an OPEN that cannot be used: {e}")
            return
        self._assignments[event.link, event.handle] = a

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

    def _forget(self, key: tuple[int, int]) -> None:
        a = self._assignments.pop(key, None)
        if a is None:
            return
        for m in [m for m in self._making if m.assignment is a]:
            self._drop_generator(m)
        for outlet in a.outlets():
            self.node.send(outlet.link, core.FORGET, outlet.handle, 0, core.Batch())

    def _drop_generator(self, m: Making) -> None:
        self._making.remove(m)
        try:
            m.generator.close()
        except Exception:
            log.exception("%s: a generator raised when it was closed", self.name)

    def _cancel(self, event: core.Event) -> None:
        try:
            meaning = event.value(0)
            job, softly, pause = meaning["job"], meaning.get("stop"), meaning.get("pause")
        except (BlockLost, LookupError, TypeError, AttributeError):
            return
        if softly:
            self._stop_generators(job)
        elif pause is not None:
            self._pause(job, bool(pause))
        else:
            self._cancel_job(job)

    def _cancel_job(self, job: bytes) -> None:
        for a in self._assignments.values():
            if a.job == job:
                a.cancelled = True
        for m in [m for m in self._making if m.assignment.job == job]:
            self._drop_generator(m)

    def _pause(self, job: bytes, pause: bool) -> None:
        """The client has more results than it wants to hold: its generators wait, until it says that they may go on."""
        for a in self._assignments.values():
            if a.job == job:
                a.paused = pause

    def _stop_generators(self, job: bytes) -> None:
        """Those of the first step end where they are, as if they had come to their end."""
        for m in [m for m in self._making if m.assignment.job == job and not m.assignment.hop]:
            self._drop_generator(m)
            self._client_outlet(m.assignment).batch.event(core.CLOSE, m.number, m.path, m.made)
            self._flush(m.assignment)

    def _gone(self, link: int) -> None:
        """Who sent jobs from there, or was to receive from here, is gone. Its client knows: it has a link there too."""
        for key in [k for k in self._assignments if k[0] == link]:
            self._forget(key)
        for a in self._assignments.values():
            if any(o.link == link for o in a.outlets()):
                a.cancelled = True
        if self.on_gone is not None:
            self.on_gone()

    # ----------------------------------------------------------------------------------------------- messages

    def _data(self, event: core.Event) -> None:
        a = self._assignments.get((event.link, event.handle))
        if len(event) > 1:
            self._look()  # it may have been cancelled while it lay in the queue
        if a is None or a.cancelled:
            return
        self._event, self._assignment = event, a
        try:
            if a.refusal is not None:
                for i in range(len(event)):
                    self.at = i
                    self.fail(i, a.refusal)
            else:
                assert a.function is not None
                core.run(event, a.function, a.parameters, a.index, self._onward(a).batch, self, To)
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
            a.onward = self._outlet(a, a.steps[1:]) if len(a.steps) > 1 else self._client_outlet(a)
        return a.onward

    def _client_outlet(self, a: Assignment) -> Outlet:
        if a.to_client is None:
            a.to_client = self._outlet(a, [])
        return a.to_client

    def _outlet(self, a: Assignment, steps: list[list[Any]]) -> Outlet:
        """Opens a handle for the rest of a route at its next server, or at the client."""
        outlet = Outlet(self.node.link(steps[0][2] if steps else a.client), self._next_handle, a.hop + 1)
        self._next_handle += 1
        meaning: dict[str, Any] = {"job": a.job}
        if steps:
            keys = {s[3] for s in steps if s[3] is not None}
            meaning |= {
                "client": a.client,
                "seed": a.seed,
                "steps": steps,
                "constants": {k: v for k, v in a.constants.items() if k in keys},
            }
        outlet.batch.put(meaning, 0)
        self.node.send(outlet.link, core.OPEN, outlet.handle, outlet.hop, outlet.batch)
        return outlet

    def _routed(self, a: Assignment, to: To) -> Outlet:
        steps = []
        known = {s[0]: s[2] for s in a.steps}
        rest = {f"{s[0]}.{s[1]}": s for s in a.steps[1:]}
        constants = {}
        for s in to.route:
            if not s.constants and str(s) in rest:  # a step of the job keeps its constants
                steps.append(rest[str(s)])
                continue
            endpoint = known.get(s.server) or (self._membership.resolve(s.server) if self._membership else None)
            if endpoint is None:
                raise NotFound(f"there is no server {s.server!r} to send to")
            key = f"{a.job.hex()[:8]}-{id(s):x}" if s.constants else None
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
        return not a.cancelled

    def _flush(self, a: Assignment) -> None:
        for outlet in a.outlets():
            if len(outlet.batch) and not self.node.send(
                outlet.link, core.DATA, outlet.handle, outlet.hop, outlet.batch
            ):
                outlet.batch.clear()
                a.cancelled = True  # the client has lost the same peer, or is lost itself

    # ----------------------------------------------------------------- what `run` leaves to us, about record i

    def drop(self, i: int) -> None:
        a, event = self._assignment, self._event
        assert a is not None and event is not None
        self._client_outlet(a).batch.event(core.DROP, event.number(i), event.path(i))

    def fail(self, i: int, error: Exception) -> None:
        assert self._assignment is not None and self._event is not None
        self._fail(self._assignment, self._event.number(i), self._event.path(i), error)

    def _fail(self, a: Assignment, number: int, path: tuple[int, ...], error: BaseException, made: int = 0) -> None:
        self.node.count("errors")
        if error.__traceback__ is not None and not isinstance(error, (BlockLost,)):
            error.__traceback__ = error.__traceback__.tb_next or error.__traceback__
        self._client_outlet(a).batch.error(tree_of_error(error, self.name, a.steps[0][1]), number, path, made)

    def make(self, i: int, result: Any) -> None:
        """A function has returned a generator, or `palm.to`."""
        a, event = self._assignment, self._event
        assert a is not None and event is not None
        number, path = event.number(i), event.path(i)
        if isinstance(result, To):
            try:
                self._routed(a, result).batch.put_out_of(result, number, event.deadline(i), path)
            except Exception as e:
                self._fail(a, number, path, e)
            return
        if len(path) >= core.MAX_PATH:
            self._fail(a, number, path, PalmError(f"more than {core.MAX_PATH} fan-outs on one way"))
            return
        self._making.append(Making(result, a, number, path, event.deadline(i), self.message()))

    # --------------------------------------------------------------------------------------------- generators

    def _can_make(self) -> bool:
        return bool(self._making) and any(self._has_room(m.assignment) for m in self._making)

    def _has_room(self, a: Assignment) -> bool:
        return not a.paused and all(self.node.backlog(o.link) < BACKLOG for o in a.outlets())

    def _make_more(self) -> None:
        """Each generator for a slice of time, those that have room."""
        for _ in range(len(self._making)):
            m = self._making[0]
            self._making.rotate(-1)
            if not self._has_room(m.assignment):
                continue
            self._now_making = m
            try:
                if self._run_generator(m):
                    self._making.remove(m)
            finally:
                self._now_making = None
            self._flush(m.assignment)

    def _run_generator(self, m: Making) -> bool:
        """True: it has ended."""
        a = m.assignment
        out = self._onward(a).batch
        end = time.monotonic() + SLICE
        while time.monotonic() < end and len(out) < GENERATED and not out.full:
            path = child(m.path, m.message.stage, m.made)
            try:
                value = core.advance(m.generator, out, m.number, path, m.deadline, To)
                if value is None:
                    continue  # never sent, in any position
                if value is not True:
                    self._routed(a, value).batch.put_out_of(value, m.number, m.deadline, path)
            except StopIteration:
                self._client_outlet(a).batch.event(core.CLOSE, m.number, m.path, m.made)
                return True
            except Exception as e:
                m.generator.close()
                self._fail(a, m.number, m.path, e, m.made)
                return True
            m.made += 1
        return False

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
        number = event.number(i)
        return Message(
            job=a.job.hex(),
            number=number,
            path=(number, *places(event.path(i))),
            stage=a.hop,
            step=f"{a.steps[0][0]}.{a.steps[0][1]}",
            rest=tuple(f"{s[0]}.{s[1]}" for s in a.steps[1:]),
            client=a.client,
            deadline=event.deadline(i) / 1e9 or None,
            attempt=1,
            seed=a.seed,
        )

    def cancelled(self) -> bool:
        a = self._now_making.assignment if self._now_making else self._assignment
        if a is None:
            return False
        self._look()
        deadline = self.message().deadline
        return a.cancelled or self.stopping or (deadline is not None and time.time() > deadline)

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
            self._drop_generator(m)
        try:
            self.server.teardown()
        except Exception:
            log.exception("%s: teardown raised", self.name)
        self.node.close(int(linger * 1000))
        self.server._host = None
