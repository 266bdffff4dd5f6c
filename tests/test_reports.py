# SPDX-License-Identifier: BSD-3-Clause
"""Who waits until the registry has been told does not wait for ever."""

from __future__ import annotations

import threading

import pytest

import palm
from palm.reports import Reports

MOST = 10.0  # seconds, of which none are needed


def test_they_are_told_in_order():
    told: list[tuple[object, ...]] = []
    reports = Reports(lambda *report: told.append(report))
    waits = [reports.put("left", n) for n in range(100)]
    assert all(wait.wait(MOST) for wait in waits) and told == [("left", n) for n in range(100)]
    reports.close(MOST)


@pytest.mark.parametrize("error", [palm.Timeout("no answer"), OSError("gone"), ValueError("the node is closed")])
def test_one_that_cannot_be_told_holds_up_nobody(error):
    told = []

    def tell(function: str, n: int) -> None:
        if n == 0:
            raise error
        told.append(n)

    reports = Reports(tell)
    assert all(reports.put("left", n).wait(MOST) for n in range(3)) and told == [1, 2]
    reports.close(MOST)


def test_what_is_to_be_told_when_it_is_closed_is_not():
    begun, go_on, told = threading.Event(), threading.Event(), []

    def tell(function: str, n: int) -> None:
        begun.set()
        go_on.wait(MOST)
        told.append(n)

    reports = Reports(tell)
    first, second = reports.put("left", 0), reports.put("left", 1)
    assert begun.wait(MOST)
    reports.close(0)
    assert reports.put("left", 2).is_set(), "the thread is about to end"
    go_on.set()
    assert first.wait(MOST) and second.wait(MOST)
    reports.close(MOST)
    assert told == [0]
