# SPDX-License-Identifier: BSD-3-Clause
"""What a server has at work: it calls its function with the records of an event, and sees to each of them.

The calls are in `palm._core.loop.run`, once a batch; a result goes into the batch of the next step's `Outlet`
(`palm.outlets`). What `run` leaves to us is here: what has no result is told to the client (`palm.outcomes`), what is
to be run again waits for that (`palm.retries`), and what functions yield is made by `palm.generators`.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from palm import memory_limit, ways
from palm._core import loop
from palm._core import node as core
from palm._core.decode import BlockLost, want_of_memory
from palm._core.vectorised import run_stacked
from palm.assignment import Assignment, Name
from palm.branches import Branches
from palm.errors import Crashed, PalmError, Timeout
from palm.generators import Generators
from palm.making import Making
from palm.message import NO_ONE_MESSAGE, Message, input_of, places
from palm.outcomes import Outcomes
from palm.outlets import Outlets
from palm.remote import died_in
from palm.retries import Retries, Retry, pause
from palm.step import To
from palm.suspects import Suspect
from palm.template import Server

if TYPE_CHECKING:
    from palm.capsule import Store
    from palm.membership import Membership

log = logging.getLogger("palm")
LONG = 0.001  # seconds of work, after which it is looked whether what waits is still wanted
COMPLAINS_EVERY = 10.0  # seconds between two lines about what peers or functions do wrong


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


class Execution:
    """Runs the functions of one server object, on one event at a time. It is the `host` of `palm._core.loop`, which
    calls `spread`, `flush`, `drop`, `fail`, `late`, `refuse`, `make` and `again`; functions ask their template, and so
    this, for `message` and `cancelled`, the log for `message_at_work`.

    Parameters
    ----------
    server : Server
        Already set up.
    post : Post
    """

    def __init__(self, server: Server, post: Post) -> None:
        self.server, self.name = server, post.name
        self.node = ways.open_node(post.endpoint, post.name, serves=True)
        self._outlets = Outlets(self.node, post.membership)
        self._outcomes = Outcomes(self.node, post.name, self._outlets, post.capsules)
        self._branches = Branches(self.node, self._outlets, self._outcomes)
        self._generators = Generators(self.node, self._outlets, self._outcomes, self._branches, self._call)
        self._retries = Retries()
        self._kept: core.Event | None = None  # for a retry: the event at work, or one below it
        self.place = loop.Place()
        self.members: Sequence[int] = ()  # of the batch function that runs
        self._reporting = False  # a leader is told how far the envelope at work has got
        self._complained = -COMPLAINS_EVERY
        self.stopping = False
        server._host = self
        server.name = post.name

    def look(self) -> None:
        """At what has come while a batch is worked on, which may end that."""
        raise NotImplementedError

    def _work(self, event: core.Event, a: Assignment, first: int, end: int) -> None:
        """The records `first` to `end` - 1."""
        self.place.begin(event, a)
        began = time.monotonic()
        try:
            if a.refusal is not None:
                for i in range(first, end):
                    self._outcomes.failed(a, (event.number(i), event.path(i)), a.refusal)
            else:
                self._run(event, a, first, end)
            self._send_off(event, a, end)
        finally:
            self.place.end()
        if time.monotonic() - began > LONG:
            memory_limit.settle()  # what comes needs memory too
            self.look()

    def _send_off(self, event: core.Event, a: Assignment, end: int) -> None:
        """What has become of the records before that one. The leader of this worker hears of it first, since the way
        there and back is the longer one; but not where results go to it, by which it learns what has failed."""
        if self._reporting and not a.asks:
            self._report_done(event, a, end)
        self._outlets.flush_all(a)
        if self._reporting:
            self._report_done(event, a, end)

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

    def spread(self, function: Callable[..., Any], value: Any) -> Any:
        """Calls a function that does not have exactly one parameter, or with an empty message."""
        assert self.place.assignment is not None and self.place.assignment.signature is not None
        return function(*self.place.assignment.signature.spread(self.name, value))

    def _call(self, a: Assignment, value: Any) -> Any:
        assert a.function is not None and a.signature is not None
        return a.function(*a.signature.spread(self.name, value))

    def flush(self) -> bool:
        """Sends what is there; False: the rest of the batch is not wanted any more."""
        a = self.place.assignment
        assert a is not None and self.place.event is not None
        if self._reporting and not a.asks and self.at >= 0:
            self._report_done(self.place.event, a, self.at + 1)
        self._outlets.flush_all(a)
        self.look()
        return not a.stale

    def _report_done(self, event: core.Event, a: Assignment, end: int) -> None:
        """To the leader of this worker, unless that has been said: what comes before that record."""
        if a.tally.end(end, time.monotonic_ns()):
            a.tally.tell(self.node, event.link, event.handle)

    # ---------------------------------------------------------------------- what `run` leaves to us, about record i

    def drop(self, i: int) -> None:
        a, name = self._record(i)
        self._outcomes.dropped(a.job, name)

    def fail(self, i: int, error: Exception) -> None:
        error = want_of_memory(error) or error
        with memory_limit.room_to_tell(error):
            self._tell_failure(i, error)

    def _tell_failure(self, i: int, error: Exception) -> None:
        a, name = self._record(i)
        if isinstance(error, BlockLost):  # who lent it is dead, or the block stale: it is not the message's fault
            self._outcomes.lost(a.job, name)
        elif a.signature is not None and a.tries_again(name, error):
            tried = a.tried[name]
            assert self.place.event is not None
            self._kept = self.place.event
            self._retries.add(time.monotonic() + pause(tried), Retry(self.place.event, i, a))
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
        assert self.place.event is not None
        if a.asks:
            error = TypeError(f"{self.name}.{a.steps[0][1]} has to return one value: no generator, no palm.to")
            self._outcomes.failed(a, name, error, capsule=self._capsule(i, error))
        elif isinstance(result, To):
            self._send_to(a, name, result, self.place.event.deadline(i))
        elif len(name[1]) >= core.MAX_PATH:
            self._outcomes.failed(a, name, PalmError(f"more than {core.MAX_PATH} fan-outs on one way"))
        else:
            assert a.signature is not None
            try:
                value = self.place.event.value(i) if self._outcomes.keeps_inputs or a.signature.retry_on else None
            except BlockLost as e:
                self.fail(i, e)
                return
            made = Making(result, a, *name, self.place.event.deadline(i), self.message(), value, owed=a.owed)
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
        assert self.place.assignment is not None and self.place.event is not None
        return self.place.assignment, (self.place.event.number(i), self.place.event.path(i))

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

    def _capsule(self, i: int, error: Exception) -> str | None:
        """The file in which record i is kept for `palm replay` (B7)."""
        assert self.place.assignment is not None and self.place.event is not None
        if not self._outcomes.keeps_inputs:
            return None
        try:
            value = self.place.event.value(i)
        except (BlockLost, MemoryError):
            return None
        message = self._describe(self.place.event, self.place.assignment, i)
        return self._outcomes.capsule(self.place.assignment, value, message, error)

    def _complain(self, what: str) -> None:
        """A line in the log, but no flood."""
        if time.monotonic() - self._complained > COMPLAINS_EVERY:
            log.warning("%s: %s", self.name, what)
            self._complained = time.monotonic()

    # ------------------------------------------------------------------------------ what functions ask the template

    def message(self) -> Message:
        if self._generators.running is not None:
            return self._generators.running.message
        if self.members:
            raise RuntimeError(NO_ONE_MESSAGE)
        if self.place.event is None or self.place.assignment is None or self.at < 0:
            raise RuntimeError("there is a message in functions alone, while they work on one")
        if self.place.message is None or self.place.message[0] != self.at:
            self.place.message = self.at, self._describe(self.place.event, self.place.assignment, self.at)
        described: Message = self.place.message[1]
        return described

    def message_at_work(self) -> tuple[str, tuple[int, ...]]:
        """Its job's id and its path, for the log. Both empty: there is none; the path alone: there are several."""
        if self._generators.running is None and self.members:
            return (self.place.assignment.job.key.hex() if self.place.assignment else ""), ()
        if self._generators.running is None and (
            self.place.event is None or self.place.assignment is None or self.at < 0
        ):
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
        a = self._generators.running.assignment if self._generators.running else self.place.assignment
        if a is None:
            return False
        self.look()
        at_work = self._at_work()
        if a.job.cancelled or all(number in a.job.given_up for number, _ in at_work):
            self.node.give_up()
        late = all(deadline and time.time() > deadline for _, deadline in at_work)
        return late or self.stopping or self.node.unwanted()

    def seconds_left(self) -> float:
        """Until nobody waits any more for what the function asks others for; infinite: there is no such time, or
        another thread asks."""
        is_running = self._generators.running is not None or (self.place.assignment is not None and self.at >= 0)
        if threading.current_thread() is not threading.main_thread() or not (self.members or is_running):
            return math.inf
        deadlines = [deadline or math.inf for _, deadline in self._at_work()]
        return max(0.0, max(deadlines) - time.time())

    def _at_work(self) -> list[tuple[int, float | None]]:
        """Number and deadline of each message."""
        if not self.members:
            message = self.message()
            return [(message.number, message.deadline)]
        assert self.place.event is not None
        return [(self.place.event.number(i), self.place.event.deadline(i) / 1e9) for i in self.members]
