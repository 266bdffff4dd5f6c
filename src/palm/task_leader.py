# SPDX-License-Identifier: BSD-3-Clause
"""A leader that gets back what its workers make: it is the client of each task that it gives them.

Work goes against credit (`palm.crew`). What a worker had when it died goes to others: nobody is told, and nothing
else is repeated.
"""

from __future__ import annotations

from typing import Any

from palm._core import node as core
from palm._core.decode import BlockLost, want_of_memory
from palm.assignment import Assignment, JobHere, Name, Outlet
from palm.crew import Load, Worker
from palm.errors import Crashed, RemoteError
from palm.execution import Post
from palm.leader import Leader
from palm.remote import NO_MESSAGE, died_in
from palm.suspects import AtWork, Blame
from palm.tasks import Task, Tasks
from palm.template import Server

LOSSES = 8  # of the block of one task: then it cannot be had


class TaskLeader(Leader):
    """A subclass makes tasks in `_go_on`, as late as `_room` lets it, and has `submit` give them to workers."""

    def __init__(self, template: type[Server], post: Post) -> None:
        super().__init__(template, post)
        self._tasks = Tasks()
        self._answers: dict[tuple[int, int], bytes] = {}  # the job, by link and handle of a worker

    def submit(self, task: Task) -> None:
        """Its `ended` is called in this process's loop, unless it is dropped: with its job, epoch or input, or by
        `_drop`."""
        self._tasks.add(task)

    def _drop(self, tasks: set[Task]) -> None:
        """Nobody wants these any more; those that are at work come to their end for nothing."""
        self._tasks.drop(tasks.__contains__)

    def _n_waiting(self) -> int:
        return len(self._tasks)

    def _room(self, function: str) -> int:
        """How many more tasks of this function may wait, so that no worker has to; best made as late as that."""
        return 2 * self._crew.appetite(function) - len(self._tasks)

    # ------------------------------------------------------------------------------------------------ giving

    def _go_on(self, others: bool) -> None:
        super()._go_on(others)
        self._give_out()

    def _give_out(self) -> None:
        while (task := self._tasks.first()) is not None:
            found = self._crew.next(task.assignment.steps[0][1], len(self._tasks))
            if found is None:
                return
            self._give(task.assignment, *found)

    def _give(self, a: Assignment, worker: Worker, most: int) -> None:
        """So many of the first tasks, as far as they are of one assignment."""
        outlet = a.workers.get(worker.link)
        if outlet is None:
            outlet = a.workers[worker.link] = self._to_worker(a, worker)
        load = worker.loads.setdefault(outlet.handle, Load(a, a.steps[0][1]))
        while len(outlet.batch) < most and not outlet.batch.full:
            task = self._tasks.first()
            if task is None or task.assignment is not a or (task.alone and len(outlet.batch)):
                break
            if (blame := self._blame_of(task)) is not None:
                self._refuse(self._tasks.skip(), blame)
                continue
            if not outlet.batch.add(task.batch, 0):
                break
            self._tasks.give(worker.link)
            if task.alone:
                break
        worker.give(load, len(outlet.batch))
        self._outlets.flush(outlet)

    def _to_worker(self, a: Assignment, worker: Worker) -> Outlet:
        _, function, _, key = a.steps[0]
        constants = self._template._exposed[function].own(a.constants[key] if key is not None else {})
        return self._outlets.to_asked(a, worker.link, worker.endpoint, constants, self._sender(a))

    def _sender(self, a: Assignment) -> str:
        """The step that tasks come from, as their contracts name it."""
        return a.sender

    # ---------------------------------------------------------------------------------------------- outcomes

    def _open(self, event: core.Event) -> None:
        if event.link not in self._crew:
            super()._open(event)
            return
        try:
            key = event.value(0)["job"]
        except (BlockLost, LookupError, TypeError) as e:
            self._complain(f"an OPEN of a worker that cannot be used: {e}")
            return
        if type(key) is bytes and key in self._jobs:
            self._answers[event.link, event.handle] = key

    def _data(self, event: core.Event) -> None:
        key = self._answers.get((event.link, event.handle))
        if key is None:
            super()._data(event)
            return
        for form, number, path, value, _ in event.outcomes():
            self._outcome(event.link, key, form, (number, path), value)

    def _outcome(self, link: int, job: bytes, form: int, name: Name, value: Any) -> None:
        if form == core.LOST and name[0] == NO_MESSAGE:  # of whatever it has sent, some did not arrive
            self._tasks.again(self._tasks.lose(link, job))
            return
        task = self._tasks.take(link, job, name)
        if task is None:
            return
        if form == core.LOST or isinstance(value, BlockLost):
            self._lost(task, value)
        elif form == core.ERROR:
            task.ended(task, None, value)
        elif form <= core.DROP:
            task.ended(task, None if form == core.DROP else value, None)
        else:
            self._fail(task, TypeError("its worker has sent what is no value"))

    def _lost(self, task: Task, why: Any) -> None:
        """Its block could not be taken."""
        if error := want_of_memory(why):
            self._fail(task, error)
            return
        task.losses += 1
        if task.losses <= LOSSES:
            self._tasks.again([task])
        else:
            self._fail(task, RemoteError(f"what was lent could not be taken, {LOSSES} times again: {why}"), "BlockLost")

    def _fail(self, task: Task, error: Exception, kind: str = "", capsule: str | None = None) -> None:
        self.node.count("errors")
        tree = self._outcomes.tree_of(task.assignment, error, capsule)
        task.ended(task, None, tree | ({"type": kind} if kind else {}))

    # ------------------------------------------------------------------------------------------------ deaths

    def _bereft(self, worker: Worker, blamed: AtWork | None) -> None:
        super()._bereft(worker, blamed)
        lost = self._tasks.lose(worker.link)
        for task in lost:
            task.alone |= blamed is not None and blamed.together > 1
        self._tasks.again(lost)
        self._answers = {k: job for k, job in self._answers.items() if k[0] != worker.link}

    def _missed(self, event: core.Event) -> None:
        worker = self._crew.of(event.link)
        if worker is not None and len(event) and event.form(0) == core.LOST:
            self._forget_handles(worker)
            self._tasks.again(self._tasks.lose(worker.link))
        super()._missed(event)

    def _blame_of(self, task: Task) -> Blame | None:
        """What is known of it, if it is not to be run again: what stood on the page of a worker that died, once too
        often, is one of the assignment's `refused`."""
        refused = task.assignment.refused
        return None if refused is None else refused.get(task.name)

    def _refuse(self, task: Task, blame: Blame) -> None:
        error, a = Crashed(died_in(*blame), reason=blame.reason), task.assignment
        message = self._described(a, task.name, task.deadline, blame.times)
        signature = self._template._exposed[a.steps[0][1]]
        capsule = self._outcomes.capsule(a, task.value, message, error, signature.name, signature.own)
        self._fail(task, error, capsule=capsule)

    # ------------------------------------------------------------------------------------------------ the end

    def _end(self, job: JobHere) -> None:
        super()._end(job)
        self._answers = {k: key for k, key in self._answers.items() if key != job.key}

    def _give_up(self, job: JobHere, number: int) -> None:
        super()._give_up(job, number)
        self._tasks.drop(lambda task: task.job is job and task.name[0] == number)

    def _forget_stale(self) -> None:
        super()._forget_stale()
        self._tasks.drop(lambda task: task.assignment.stale)

    def _has_more(self) -> bool:
        return super()._has_more() or self._tasks.held() > 0
