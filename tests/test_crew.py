# SPDX-License-Identifier: BSD-3-Clause
"""How work is shared out among workers (R4, R5; DESIGN 5.8), in a time of its own: no processes, no clock."""

from __future__ import annotations

import heapq
import random

import pytest

from palm._core.lane import Tally
from palm.crew import LITTLE, MOST, Crew, Load, Worker

HANDOVER = 100e-6  # seconds from when a worker has done something until it has more


def makespan(tasks: list[float], speeds: list[float]) -> tuple[float, list[int]]:
    """Seconds until all are done, and how many each worker has done. A worker does one after the other, and reports
    what it got in one envelope when it has done all of that."""
    crew, now, first = Crew(), 0.0, 0
    workers = [Worker(i, i, f"w{i}", i) for i in range(len(speeds))]
    for worker in workers:
        worker.loads[1] = Load(None, "f")
        crew.add(worker)
    free_at = [0.0] * len(speeds)
    reports: list[tuple[float, int, int, float]] = []  # when, worker, how many, seconds
    counts = [0] * len(speeds)
    while first < len(tasks) or reports:
        while first < len(tasks) and (found := crew.next("f", len(tasks) - first)) is not None:
            worker, n = found
            part = tasks[first : first + n]
            first += len(part)
            assert part and n <= MOST
            took = sum(part) / speeds[worker.index]
            worker.give(worker.loads[1], len(part))
            free_at[worker.index] = max(now + HANDOVER / 2, free_at[worker.index]) + took
            heapq.heappush(reports, (free_at[worker.index] + HANDOVER / 2, worker.index, len(part), took))
        now, index, n, took = heapq.heappop(reports)
        load = workers[index].loads[1]
        workers[index].reported(1, load.done + n, load.busy + int(took * 1e9))
        counts[index] += n
    return max(free_at), counts


def uneven(order: str) -> list[float]:
    """400 tasks, a tenth of which takes 20 ms and the others 1 ms."""
    tasks = [0.020] * 40 + [0.001] * 360
    if order == "long last":
        tasks.reverse()
    elif order == "by turns":
        tasks = [0.020 if i % 10 == 9 else 0.001 for i in range(400)]
    elif order == "random":
        random.Random(1).shuffle(tasks)
    return tasks


@pytest.mark.parametrize("order", ["long first", "long last", "by turns", "random"])
@pytest.mark.parametrize(("speeds", "most"), [([1.0, 1.0], 1.05), ([1.0, 0.25], 1.1), ([1.0] * 7, 1.15)])
def test_the_makespan_is_near_the_ideal(order, speeds, most):
    tasks = uneven(order)
    found, counts = makespan(tasks, speeds)
    assert sum(counts) == 400
    assert found <= most * sum(tasks) / sum(speeds), f"{found / (sum(tasks) / sum(speeds)):.3f}"


def test_workers_get_work_in_proportion_to_their_speed():
    _, counts = makespan([0.0005] * 4000, [1.0, 0.25, 2.0])
    for count, share in zip(counts, (4 / 13, 1 / 13, 8 / 13), strict=True):
        assert count == pytest.approx(4000 * share, rel=0.1)


def test_short_ones_travel_in_batches_and_long_ones_alone():
    crew = Crew()
    worker = Worker(0, 0, "w", 1)
    worker.loads[1] = Load(None, "f")
    crew.add(worker)
    assert crew.next("f", 10_000) == (worker, 1)  # nobody knows yet
    for service, most in ((1e-7, MOST // 2), (1e-4, 5), (1e-3, 1), (1.0, 1)):
        worker.services["f"] = service
        assert crew.next("f", 10_000) == (worker, most)
    worker.give(worker.loads[1], 1)
    assert crew.next("f", 10_000) is None  # a long one is at work


def test_who_is_leaving_gets_nothing_more():
    crew = Crew()
    for i in range(2):
        crew.add(Worker(i, i, "w", i, {"f": 1e-6}))
    crew.all()[0].is_leaving = True
    assert {found[0].index for _ in range(3) if (found := crew.next("f", 16))} == {1}
    crew.all()[1].is_leaving = True
    assert crew.next("f", 16) is None


@pytest.mark.parametrize(("service", "n"), [(0.6 * LITTLE, 1), (LITTLE / 100, 2)])
def test_the_last_ones_are_for_who_is_free_first(service, n):
    """Half of an equal share each, in two envelopes; all of it, if it is little work."""
    crew = Crew()
    for i in range(4):
        crew.add(Worker(i, i, "w", i, {"f": service}))
    for _ in range(8):
        found = crew.next("f", 16)
        assert found is not None and found[1] == n
        found[0].give(found[0].loads.setdefault(1, Load(None, "f")), n)
    assert crew.next("f", 16) is None


def test_one_envelope_is_ahead_while_another_is_worked_on():
    crew = Crew()
    worker = Worker(0, 0, "w", 1, {"f": 1e-3})
    worker.loads[1] = Load(None, "f")
    crew.add(worker)
    for _ in range(2):
        assert crew.next("f", 1000) == (worker, 1)
        worker.give(worker.loads[1], 1)
    assert crew.next("f", 1000) is None
    worker.reported(1, 1, 1_000_000)
    assert crew.next("f", 1000) == (worker, 1)


def test_one_is_ahead_of_what_takes_long_while_many_wait():
    crew = Crew()
    worker = Worker(0, 0, "w", 1, {"f": 0.02, "g": 0.02, "hours": 5.0})
    worker.loads = {1: Load(None, "f"), 2: Load(None, "g"), 3: Load(None, "hours")}
    crew.add(worker)
    assert crew.next("f", 1) == (worker, 1) and crew.next("f", 1000) == (worker, 2)
    assert crew.next("hours", 1000) == (worker, 1) and crew.next("not known", 1000) == (worker, 1)

    worker.give(worker.loads[1], 1)
    assert crew.next("f", 1000) is None, "nobody knows for how long it has been at it"
    worker.give(worker.loads[1], 1)
    worker.reported(1, 1, 20_000_000)
    assert crew.next("f", 1000) == (worker, 1) and crew.next("g", 1000) == (worker, 1), "it has just begun"
    assert crew.next("f", 3) is None, "somebody else may be free sooner"
    assert crew.next("hours", 1000) is None and crew.next("not known", 1000) is None
    worker.give(worker.loads[1], 1)
    assert crew.next("f", 1000) is None


def test_what_is_reported_is_believed_if_it_can_be():
    worker = Worker(0, 0, "w", 1)
    worker.loads[7] = Load(None, "f", sent=1 << 32, done=1 << 32)
    worker.give(worker.loads[7], 3)
    worker.reported(7, 2, 2_000)
    assert worker.outstanding == 1 and worker.services["f"] == pytest.approx(1e-6)
    for handle, done, busy in ((8, 3, 3_000), (7, 2, 3_000), (7, 9, 3_000), (7, 3, 1_000)):
        worker.reported(handle, done, busy)
        assert worker.outstanding == 1
    worker.reported(7, 3, 3_000)
    assert worker.outstanding == 0


def test_a_short_one_does_not_wait_behind_what_is_long_or_not_known():
    crew = Crew()
    worker = Worker(0, 0, "w", 1, {"short": 1e-3, "long": 5.0})
    crew.add(worker)
    for other in ("long", "not known"):
        worker.loads = {1: Load(None, other, sent=1), 2: Load(None, "short")}
        worker.keep(lambda load: True)
        assert crew.next("short", 1000) is None
    worker.loads[2].sent = 1
    worker.keep(lambda load: load.function == "short")
    assert crew.next("short", 1000) == (worker, 1)
    assert crew.next("long", 1000) is None and crew.next("not known", 1000) is None


def test_what_a_worker_has_done_is_counted_within_an_envelope():
    tally = Tally()
    tally.begin(100)
    assert tally.end(2, 105) and (tally.done, tally.busy) == (2, 5)
    assert not tally.end(2, 109)  # that has been said; what has passed since belongs to the next one
    assert tally.end(3, 111) and (tally.done, tally.busy) == (3, 11)
    tally.begin(200)
    assert tally.end(4, 201) and (tally.done, tally.busy) == (7, 12)
