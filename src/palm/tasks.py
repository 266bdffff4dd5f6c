# SPDX-License-Identifier: BSD-3-Clause
"""What a leader has its workers do, and gets the outcomes of: which of it waits, and who has which.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from palm._core import node as core
from palm.assignment import Assignment, JobHere, Name


class Ended(Protocol):
    """Called in the leader's loop, once, with what a task has come to."""

    def __call__(self, task: Task, value: Any, error: Any, /) -> None:
        """value: None, if there is none. error: the tree of an error, or None."""


@dataclass(eq=False)
class Task:
    """One message for one worker, of which it gives back one value.

    Attributes
    ----------
    assignment : Assignment
        The step that it is of; a task of a stale one is dropped.
    name : (int, tuple of int)
        Number and path, as the function sees them. Of all tasks of a job that a worker may have at the same time no two
        have the same; one that has been used in a former epoch stands for the same value.
    batch : Batch
        The one record, which may be sent again.
    value : object
        What is in it, for a capsule.
    """

    assignment: Assignment
    name: Name
    deadline: int
    batch: core.Batch
    ended: Ended
    value: Any = None
    alone: bool = False  # in its envelope, since a worker has died in one of several
    losses: int = 0  # how often what was lent to it could not be taken

    @property
    def job(self) -> JobHere:
        return self.assignment.job


class Tasks:
    """Of one leader; those that wait are in a line."""

    def __init__(self) -> None:
        self._waiting: collections.deque[Task] = collections.deque()
        self._given: dict[int, dict[tuple[bytes, Name], Task]] = {}  # by link

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def first(self) -> Task | None:
        return self._waiting[0] if self._waiting else None

    def add(self, task: Task) -> None:
        self._waiting.append(task)

    def again(self, tasks: Iterable[Task]) -> None:
        """Before all others, in this order."""
        self._waiting.extendleft(reversed(list(tasks)))

    def skip(self) -> Task:
        """The first one, which is done with."""
        return self._waiting.popleft()

    def give(self, link: int) -> Task:
        """The first one has been sent to the worker at this link."""
        task = self._waiting.popleft()
        self._given.setdefault(link, {})[task.job.key, task.name] = task
        return task

    def take(self, link: int, job: bytes, name: Name) -> Task | None:
        """What the worker has told of, which it has no longer; None: nobody waits for that."""
        return self._given.get(link, {}).pop((job, name), None)

    def lose(self, link: int, job: bytes | None = None) -> list[Task]:
        """What the worker has, which has it no longer; `job`: of this one alone."""
        given = self._given.pop(link, {})
        if job is not None:
            self._given[link] = {key: task for key, task in given.items() if key[0] != job}
        return [task for key, task in given.items() if job is None or key[0] == job]

    def drop(self, unwanted: Callable[[Task], bool]) -> None:
        """These have no outcome any more."""
        self._waiting = collections.deque(task for task in self._waiting if not unwanted(task))
        for link, given in self._given.items():
            self._given[link] = {key: task for key, task in given.items() if not unwanted(task)}

    def held(self) -> int:
        """How many there are."""
        return len(self._waiting) + sum(map(len, self._given.values()))
