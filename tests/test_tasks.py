# SPDX-License-Identifier: BSD-3-Clause
"""Which tasks of a leader wait, and which worker has which: no processes, no clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from palm._core import node as core
from palm.crew import AHEAD, MOST, Crew, Worker
from palm.outcomes import Outcomes
from palm.remote import NO_MESSAGE
from palm.suspects import Blame, Suspect, Suspects, of_job, together_of
from palm.task_leader import LOSSES, TaskLeader
from palm.tasks import Task, Tasks


def job(key: bytes) -> SimpleNamespace:
    return SimpleNamespace(job=SimpleNamespace(key=key))


A, B = job(b"a" * 16), job(b"b" * 16)


def task(number: int, of: SimpleNamespace = A) -> Task:
    return Task(of, (number, ()), 0, core.Batch(), lambda *outcome: None)


def numbers(tasks: list[Task]) -> list[int]:
    return [t.name[0] for t in tasks]


@pytest.fixture
def tasks() -> Tasks:
    """Of five, the first two are with worker 1, and the next one with worker 2."""
    tasks = Tasks()
    for n in range(5):
        tasks.add(task(n, B if n == 1 else A))
    for link in (1, 1, 2):
        tasks.give(link)
    return tasks


def test_they_are_given_in_order(tasks):
    assert len(tasks) == 2 and tasks.held() == 5
    assert [tasks.skip().name[0], tasks.skip().name[0]] == [3, 4]
    assert tasks.first() is None


def test_what_a_worker_tells_of_is_its_own(tasks):
    assert tasks.take(2, A.job.key, (0, ())) is None
    assert tasks.take(1, B.job.key, (0, ())) is None
    assert tasks.take(1, A.job.key, (0, ())).name == (0, ())
    assert tasks.take(1, A.job.key, (0, ())) is None, "the first outcome counts"


def test_what_is_lost_is_first_in_line(tasks):
    lost = tasks.lose(1)
    assert numbers(lost) == [0, 1] and tasks.lose(1) == []
    tasks.again(lost)
    assert numbers([tasks.give(3) for _ in range(4)]) == [0, 1, 3, 4]


def test_of_one_job_alone(tasks):
    assert numbers(tasks.lose(1, B.job.key)) == [1]
    assert numbers(tasks.lose(1)) == [0]


def test_nobody_hears_of_what_is_dropped(tasks):
    tasks.drop(lambda t: t.name[0] in (0, 3))
    assert tasks.take(1, A.job.key, (0, ())) is None
    assert tasks.held() == 3 and tasks.first().name == (4, ())


def test_appetite_is_what_workers_take_at_most():
    crew = Crew()
    for link, service in ((1, AHEAD / 9), (2, 1.0), (3, 1e-9)):
        crew.add(Worker(link, link, "", 0, {"f": service}))
    assert [crew.of(link).appetite("f") for link in (1, 2, 3)] == [10, 1, MOST]
    assert crew.appetite("f") == 11 + MOST and crew.appetite("g") == 3


def test_suspects_are_handed_on():
    first, other = Suspects(), Suspects()
    first.blame("s", (b"j", 0, 1, ()), "SIGSEGV", 2, final=True)
    first.suspect_together("s", (b"j", 0, 3, ()), (5, ()), "SIGABRT")
    for suspect in first.of("s"):
        assert isinstance(suspect, Suspect)
        other.recall("s", suspect)
    assert other.of("s") == first.of("s")
    assert of_job(other.of("s"), b"j", 0) == {(1, ()): Blame(2, "SIGSEGV", True)}
    assert together_of(other.of("s"), b"j", 0) == [((3, ()), (5, ()))]
    assert other.blame("s", (b"j", 0, 1, ()), "SIGSEGV") == 3


@pytest.fixture
def asking(tasks: Tasks) -> TaskLeader:
    """A leader without a node."""
    asking = TaskLeader.__new__(TaskLeader)
    asking._tasks, asking.name = tasks, "s"
    asking.node = SimpleNamespace(count=lambda *what: None)
    asking._outcomes = Outcomes(asking.node, "s", None, None)
    return asking


def test_what_could_not_be_taken_is_sent_again_but_not_for_ever(asking, tasks):
    told = []
    first = tasks.lose(1)[0]
    first.ended = lambda *outcome: told.append(outcome)
    first.assignment = SimpleNamespace(job=A.job, steps=[["s", "f"]])
    for _ in range(LOSSES + 1):
        assert not told
        tasks.again([first])
        tasks.give(1)
        asking._outcome(1, A.job.key, core.LOST, first.name, None)
        if not told:
            assert tasks.skip() is first
    [(_, value, error)] = told
    assert value is None and error["type"] == "BlockLost"


def test_when_something_did_not_arrive_all_that_a_worker_has_is_given_again(asking, tasks):
    asking._outcome(1, A.job.key, core.LOST, (NO_MESSAGE, ()), None)
    assert numbers([tasks.skip() for _ in range(3)]) == [0, 3, 4]
    assert numbers(tasks.lose(1)) == [1], "of another job"


def test_what_is_no_value_fails(asking, tasks):
    told = []
    task = tasks.lose(1)[0]
    task.ended = lambda *outcome: told.append(outcome)
    task.assignment = SimpleNamespace(job=A.job, steps=[["s", "f"]])
    for form in (core.CLOSE, core.ASK):
        tasks.again([task])
        tasks.give(1)
        asking._outcome(1, A.job.key, form, task.name, None)
    assert [error["type"] for _, _, error in told] == ["TypeError"] * 2
