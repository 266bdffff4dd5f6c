# SPDX-License-Identifier: BSD-3-Clause
"""When another worker gets what one takes long for, in a time of its own."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from palm._core import node as core
from palm.crew import Crew, Load, Worker
from palm.stragglers import FACTOR, LONG_AGO, Stragglers

JOB = SimpleNamespace(key=b"a job")


def batch_of(*values: int) -> core.Batch:
    batch = core.Batch()
    for value in values:
        batch.put(value, value)
    return batch


@pytest.fixture
def crew() -> Crew:
    crew = Crew()
    for i in range(2):
        crew.add(Worker(i, i, f"w{i}", i, {"f": 0.001}))
    return crew


@pytest.fixture
def stragglers(crew: Crew) -> Stragglers:
    """Worker 0 has got messages 0, 1 and 2 in one envelope, 3 and 4 in another, at 10 s."""
    stragglers, load = Stragglers(), Load(SimpleNamespace(job=JOB), "f")
    crew.of(0).loads[7] = load
    for values in ((0, 1, 2), (3, 4)):
        crew.of(0).give(load, len(values))
        stragglers.add(crew.of(0), 7, batch_of(*values), 10.0)
    return stragglers


def given(stragglers: Stragglers, crew: Crew, now: float) -> tuple[int, int] | None:
    """Who gets how many."""
    found = stragglers.next(crew, now)
    return None if found is None else (found[1].index, len(found[2]))


def report(stragglers: Stragglers, crew: Crew, done: int, now: float) -> None:
    crew.of(0).reported(7, done, done * 1_000_000)
    stragglers.heard(0, 7, now)


def test_after_a_while_and_once(stragglers, crew):
    assert stragglers.due(crew, 10.0) == pytest.approx(LONG_AGO)
    assert given(stragglers, crew, 10.0 + LONG_AGO / 2) is None
    assert given(stragglers, crew, 10.01 + LONG_AGO) == (1, 5)
    assert given(stragglers, crew, 99.0) is None and stragglers.due(crew, 99.0) == math.inf


def test_what_is_done_is_not_given_again(stragglers, crew):
    report(stragglers, crew, 4, 11.0)
    assert given(stragglers, crew, 10.99 + LONG_AGO) is None
    assert given(stragglers, crew, 11.01 + LONG_AGO) == (1, 1)


def test_nothing_when_all_is_done(stragglers, crew):
    report(stragglers, crew, 5, 11.0)
    assert given(stragglers, crew, 99.0) is None and stragglers.due(crew, 99.0) == math.inf


def test_not_while_all_have_something_to_do(stragglers, crew):
    crew.of(1).give(Load(None, "g"), 1)
    assert given(stragglers, crew, 99.0) is None and stragglers.due(crew, 99.0) == math.inf


def test_what_takes_long_anyway_has_more_time(stragglers, crew):
    for worker in crew.all():
        worker.services["f"] = 5.0
    assert given(stragglers, crew, 9.9 + FACTOR * 5.0) is None
    crew.of(0).services["f"] = 3.0  # the quickest counts, whoever that is
    assert given(stragglers, crew, 9.9 + FACTOR * 3.0) is None and given(stragglers, crew, 10.1 + FACTOR * 3.0) == (
        1,
        5,
    )


def test_not_if_nobody_knows_how_long_it_takes(stragglers, crew):
    for worker in crew.all():
        worker.services.clear()
    assert stragglers.due(crew, 99.0) == math.inf and given(stragglers, crew, 99.0) is None


def test_what_is_given_up_is_not(stragglers, crew):
    stragglers.drop(SimpleNamespace(key=b"another"))
    assert stragglers.due(crew, 10.0) < math.inf
    stragglers.drop(JOB)
    assert given(stragglers, crew, 99.0) is None


def test_what_is_of_former_loads_is_not(stragglers, crew):
    stragglers.forget()
    assert stragglers.due(crew, 10.0) < math.inf
    crew.of(0).keep(lambda load: False)
    stragglers.forget()
    assert given(stragglers, crew, 99.0) is None
