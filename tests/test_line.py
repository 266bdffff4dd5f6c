# SPDX-License-Identifier: BSD-3-Clause
"""In which order a leader hands out what waits: jobs by turns, of a job what has come furthest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from palm.line import Line, Waiting


def waiting(job: bytes, hop: int, n: int = 1, stale: bool = False) -> Any:
    return Waiting([None] * n, SimpleNamespace(job=SimpleNamespace(key=job), hop=hop, stale=stale))


def handed_out(line: Line, most: int = 1) -> list[tuple[bytes, int, int]]:
    """Job, hop and how many, until nothing waits."""
    found = []
    while line:
        w = line.first()
        n = min(most, len(w))
        found.append((w.assignment.job.key, w.assignment.hop, n))
        assert (line.advance(w.first + n) is w) == (len(w) == 0)
    assert line.n_messages == 0
    return found


def test_what_has_come_furthest_is_first_and_else_what_came_first():
    line = Line()
    first, second = waiting(b"a", 0, 2), waiting(b"a", 0, 3)
    for w in (first, waiting(b"a", 2), second, waiting(b"a", 1)):
        line.add(w)
    assert line.n_messages == 7 and line.first().assignment.hop == 2
    assert handed_out(line, 2) == [(b"a", 2, 1), (b"a", 1, 1), (b"a", 0, 2), (b"a", 0, 2), (b"a", 0, 1)]


def test_what_comes_later_and_has_come_further_goes_between():
    line = Line()
    line.add(waiting(b"a", 0, 3))
    assert line.advance(1) is None and line.n_messages == 2
    line.add(waiting(b"a", 1))
    assert [hop for _, hop, _ in handed_out(line)] == [1, 0, 0]


def test_jobs_have_their_turns_however_far_they_have_come():
    line = Line()
    for _ in range(3):
        line.add(waiting(b"far", 9))
    line.add(waiting(b"new", 0, 2))
    assert [job for job, *_ in handed_out(line)] == [b"far", b"new", b"far", b"new", b"far"]


def test_what_is_dropped_is_not_handed_out():
    line = Line()
    line.add(waiting(b"a", 0, 2))
    line.add(stale := waiting(b"a", 1, 3, stale=True))
    line.add(gone := waiting(b"b", 0, 5, stale=True))
    assert line.drop(lambda w: w.assignment.stale) == [stale, gone] and line.n_messages == 2
    assert handed_out(line) == [(b"a", 0, 1), (b"a", 0, 1)]


def test_an_envelope_of_nothing_is_done_at_once():
    line = Line()
    line.add(nothing := waiting(b"a", 0, 0))
    assert line.advance(0) is nothing and not line
