# SPDX-License-Identifier: BSD-3-Clause
"""The leader of a `palm.ScatterGather`: scatters messages, has workers compute the parts, and gathers these.

The user's `scatter` and `gather` are called by `palm._core.loop.run` as any function is, each with the record of the
message: so what is late, given up, or has killed too often is not begun, and deaths in them are the message's.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from palm._core import loop
from palm._core import node as core
from palm._core.decode import BlockLost
from palm.assignment import Assignment, JobHere, Name
from palm.errors import PalmError, PayloadError
from palm.execution import Post
from palm.line import Line, Waiting
from palm.message import child, places
from palm.scattergather import Hook, ScatterGather, parts_of
from palm.step import To
from palm.task_leader import TaskLeader
from palm.tasks import Task
from palm.template import Signature

log = logging.getLogger("palm")
SLICE = 0.001  # seconds of scattering and gathering before the leader looks what has come


@dataclass
class Box:
    value: Any = None


@dataclass(eq=False)
class Gathering:
    """A message, from `scatter` to `gather`."""

    event: core.Event  # its parts are views of it
    record: int
    assignment: Assignment
    name: Name
    tasks: list[Task] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)  # of the parts
    left: int = 0  # parts that are not there yet

    @property
    def unwanted(self) -> bool:
        return self.assignment.stale or self.name[0] in self.assignment.job.given_up


class ScatterLeader(TaskLeader):
    def __init__(self, user: ScatterGather, post: Post) -> None:
        super().__init__(type(user), post)
        self._user = user
        self._user._host, self._user.name = self, post.name
        self._scatter, self._gather = Hook(type(user), "scatter"), Hook(type(user), "gather")
        self._functions += [self._scatter.name, self._gather.name]
        self.node.name_functions(self._functions)
        self._line = Line()
        self._gatherings: dict[tuple[bytes, int, Name], Gathering] = {}
        self._ready: collections.deque[Gathering] = collections.deque()
        self._now: Gathering | None = None  # what is being gathered

    def _bind_step(self, a: Assignment, signature: Signature, constants: dict[str, Any]) -> None:
        own = self._scatter.own(constants)
        self._bind_to(
            a, signature, lambda *values: self._scattered(a, values, own), constants, counted=self._scatter.name
        )

    # --------------------------------------------------------------------------------------------- what waits

    def _data(self, event: core.Event) -> None:
        a = self._assignments.get((event.link, event.handle))
        if a is None or a.stale or a.refusal is not None or self._is_own(a):
            super()._data(event)
            return
        if len(event):
            self._line.add(Waiting(event, a))
            self._kept = event  # until nobody reads it any more

    def _go_on(self, others: bool) -> None:
        end = time.monotonic() + SLICE
        while self._can_work():
            if self._ready:
                self._gather_one(self._ready.popleft())
            else:
                self._scatter_one()
            self._give_out()
            if time.monotonic() > end:
                break
        super()._go_on(others)

    def _can_work(self) -> bool:
        return bool(self._ready) or (bool(self._line) and self._room(self._line.first().assignment.steps[0][1]) > 0)

    def _patience(self) -> float:
        return 0.0 if self._can_work() else super()._patience()

    def _run(self, event: core.Event, a: Assignment, first: int, end: int) -> None:
        if self._is_own(a):
            super()._run(event, a, first, end)
            return
        assert a.function is not None and a.work is not None
        function, work = a.function, a.work
        if self._now is not None:
            function, work = self._gathered(self._now), self._work_of_gather(a)
        loop.run(
            *(event, first, end, function, a.parameters, work, self._outlets.onward(a).batch, self),
            To if self._now is not None else Gathering,
            *(a.job.making, a.refused, a.tried, a.job.given_up),
        )

    # --------------------------------------------------------------------------------------------- scattering

    def _scatter_one(self) -> None:
        w = self._line.first()
        i = w.first
        self._line.advance(i + 1)
        if w.assignment.tells:
            w.assignment.begun += 1
            self._outlets.tell_begun(w.event.link, w.event.handle, w.assignment.begun)
        self._work(w.event, w.assignment, i, i + 1)

    def _scattered(self, a: Assignment, values: tuple[Any, ...], constants: dict[str, Any]) -> Gathering:
        """Called with the message: it is scattered, and its parts can be sent."""
        assert self.place.event is not None
        _, name = self._record(self.at)
        if len(name[1]) >= core.MAX_PATH:
            raise PalmError(f"more than {core.MAX_PATH} fan-outs on one way")
        g = Gathering(self.place.event, self.at, a, name)
        what = f"{type(self._user).__qualname__}.scatter"
        box = Box()  # what is in no variable nobody else has, unless `scatter` has kept it
        for box.value in parts_of(self._user.scatter(*values, **constants), what):
            if box.value is not None:
                self._add_part(g, box)
        return g

    def _add_part(self, g: Gathering, part: Box) -> None:
        k, deadline = len(g.tasks), g.event.deadline(g.record)
        name, batch = (g.name[0], child(g.name[1], g.assignment.hop, k)), core.Batch()
        try:
            batch.put_out_of(part, name[0], deadline, name[1], back=self._outcomes.keeps_inputs)
        except PayloadError as e:
            raise PayloadError(f"part {k + 1} of its scatter: {e}") from None
        g.tasks.append(Task(g.assignment, name, deadline, batch, self._part_ended, part.value))

    def make(self, i: int, result: Any) -> None:
        if type(result) is not Gathering:
            super().make(i, result)
        elif not result.unwanted and (key := self._key(result.assignment, result.name)) not in self._gatherings:
            self._gatherings[key] = result
            result.values, result.left = [None] * len(result.tasks), len(result.tasks)
            for task in result.tasks:
                self.submit(task)
            if not result.left:
                self._ready.append(result)

    @staticmethod
    def _key(a: Assignment, name: Name) -> tuple[bytes, int, Name]:
        return a.job.key, a.hop, name

    def _sender(self, a: Assignment) -> str:
        return f"{self.name}.{self._scatter.name}"

    # ---------------------------------------------------------------------------------------------- gathering

    def _part_ended(self, task: Task, value: Any, error: Any) -> None:
        number, path = task.name
        g, k = self._gatherings[self._key(task.assignment, (number, path[:-1]))], places(path)[-1]
        if error is not None:
            self._part_failed(g, k, error)
            return
        g.values[k], g.left = value, g.left - 1
        if not g.left:
            self._ready.append(g)

    def _part_failed(self, g: Gathering, k: int, error: Any) -> None:
        """So has the message, and the others need not be computed."""
        self._forget([g])
        tree = error if type(error) is dict else {"server": self.name, "function": g.assignment.steps[0][1]}
        tree |= {"message": f"part {k + 1} of {len(g.tasks)}: {tree.get('message', 'an error that cannot be read')}"}
        report = g.assignment.job.report
        report.batch.error(tree, *g.name)
        self._outlets.flush(report)

    def _gather_one(self, g: Gathering) -> None:
        del self._gatherings[self._key(g.assignment, g.name)]
        self._now = g
        try:
            self._work(g.event, g.assignment, g.record, g.record + 1)
        finally:
            self._now = None

    def _gathered(self, g: Gathering) -> Callable[..., Any]:
        """What is called with the message, when all of its parts are there."""
        a, key = g.assignment, g.assignment.steps[0][3]
        constants = self._gather.own(a.constants[key] if key is not None else {})

        def gather(*_: Any) -> Any:
            more = (g.event.value(g.record),) if self._gather.wants_message else ()
            return self._user.gather(g.values, *more, **constants)

        return gather

    def _work_of_gather(self, a: Assignment) -> loop.Work:
        index = self._functions.index(self._gather.name)
        return loop.Work(a.job.key, a.hop, index, a.job.report.link)

    def _capsule(self, i: int, error: Exception) -> str | None:
        """Of the method that has failed, which is what is replayed."""
        assert self.place.assignment is not None and self.place.event is not None
        a, g = self.place.assignment, self._now
        if self._is_own(a) or not self._outcomes.keeps_inputs:
            return None
        try:
            value = self.place.event.value(i)
        except BlockLost:
            return None
        hook = self._scatter
        if g is not None:
            hook, value = self._gather, (g.values, value) if self._gather.wants_message else g.values
        message = self._describe(self.place.event, a, i)
        return self._outcomes.capsule(a, value, message, error, hook.name, hook.own)

    # ------------------------------------------------------------------------------------------------ the end

    def _forget(self, gatherings: Sequence[Gathering]) -> None:
        """Nobody waits for these any more."""
        for g in gatherings:
            self._gatherings.pop(self._key(g.assignment, g.name), None)
        self._drop({task for g in gatherings for task in g.tasks})
        self._ready = collections.deque(g for g in self._ready if g not in gatherings)

    def _give_up(self, job: JobHere, number: int) -> None:
        super()._give_up(job, number)
        self._forget([g for g in self._gatherings.values() if g.assignment.job is job and g.name[0] == number])

    def _forget_what_was_early(self) -> None:
        if not self._line:  # else what was given up may be among it
            super()._forget_what_was_early()

    def _forget_stale(self) -> None:
        super()._forget_stale()
        self._line.drop(lambda w: w.assignment.stale)
        stale = [g for g in self._gatherings.values() if g.assignment.stale]
        if stale:
            self._forget(stale)

    def _has_more(self) -> bool:
        return super()._has_more() or bool(self._line) or bool(self._gatherings)

    def _teardown(self) -> None:
        self._user.teardown()

    def close(self, linger: float = 2.0) -> None:
        super().close(linger)
        self._user._host = None
