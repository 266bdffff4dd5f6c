# SPDX-License-Identifier: BSD-3-Clause
"""`palm.to`: constants go by their content."""

from __future__ import annotations

import numpy as np
import pytest

import palm


class Router(palm.Server):
    @palm.function
    def scale(self, gain):
        return palm.to(palm.step("target.scaled", gain=gain), 10)

    @palm.function
    def scale_each(self, gains):
        for gain in gains:
            yield palm.to(palm.step("target.scaled", gain=gain), 10)

    @palm.function
    def in_place(self, n):
        gain = np.empty(4)
        for i in range(n):
            gain[:] = i
            yield palm.to(palm.step("target.scaled", gain=gain), 10)


class Target(palm.Server):
    @palm.function
    def scaled(self, x, *, gain):
        return gain * x, len(self._host._assignments)


@pytest.fixture
def client(cluster):
    cluster.start(Router)
    cluster.start(Target)
    return cluster.client()


def test_constants_of_a_step_that_is_gone_are_not_anothers(client):
    """Each step dies before the next one is made, mostly at the same address."""
    found = client.job("router.scale", range(200), ordered=True)
    assert [x for x, _ in found] == [10 * n for n in range(200)]
    found = client.job("router.scale_each", [list(range(200))], ordered=True)
    assert [x for x, _ in found] == [10 * n for n in range(200)]


@pytest.mark.parametrize("of", ["router.scale", "router.scale_each"])
def test_equal_constants_share_a_handle(client, of):
    gains = [n % 3 for n in range(300)]
    found = list(client.job(of, gains if of == "router.scale" else [gains]))
    assert sorted(x for x, _ in found) == sorted(10 * gain for gain in gains)
    assert max(handles for _, handles in found) <= 3


def test_an_array_that_has_changed_is_another_constant(client):
    found = client.job("router.in_place", [20], ordered=True)
    assert [x.tolist() for x, _ in found] == [[10.0 * n] * 4 for n in range(20)]
