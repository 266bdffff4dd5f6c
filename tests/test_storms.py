# SPDX-License-Identifier: BSD-3-Clause
"""Pipelines that are drawn by a seed give in a cluster, also while its processes are killed, what `palm.testing.run`
gives in one thread (PALM_STORMS: how many; PALM_SEED: the first)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from helpers_storms import Each, EachKeyed, Keyed, One, Parts, Plain, Source, Steps
from unrest import Unrest

import palm

STORMS = int(os.environ.get("PALM_STORMS", "12"))
FIRST = int(os.environ.get("PALM_SEED", "1"))
SERVERS = {
    "steps": Steps,
    "one": One,
    "source": Source,
    "plain": Plain,
    "keyed": Keyed,
    "each": Each,
    "each_keyed": EachKeyed,
    "parts": Parts,
}
FUNCTIONS = ["where", "drawn", "sleeps", "many", "drops", "breaks", "split", "breaks_off", "fork", "on"]
REDUCTIONS = ["plain.add", "keyed.add", "each.add", "each_keyed.add"]


@pytest.fixture
def storm() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        for name, cls in SERVERS.items():
            cluster.start(cls, name, **({} if name in ("one", "source") else {"workers": 2}))
        yield cluster


def pipeline(chance: random.Random) -> list[str]:
    steps = []
    functions = [f for f in FUNCTIONS if f != chance.choice(["fork", "on"])]  # both: stages that meet differ (open.md)
    for _ in range(chance.randint(1, 6)):
        kind = chance.random()
        if kind < 0.4:
            steps.append(chance.choice(REDUCTIONS))
        elif kind < 0.5:
            steps.append("parts.part")
        else:
            steps.append(f"{chance.choice(['steps', 'one'])}.{chance.choice(functions)}")
    salted = {"keyed.add", "each_keyed.add", "steps.where", "one.where"}
    return [palm.step(s, salt=chance.randint(1, 3)) if s in salted and chance.random() < 0.3 else s for s in steps]


def drawn(seed: int) -> tuple[list[str], list[int] | None, dict[str, object]]:
    """Steps, inputs, options."""
    chance = random.Random(seed)
    steps, n = pipeline(chance), chance.choice([0, 1, 2, 5, 17, 60, 200])
    options = {"window": chance.choice([None, None, 1, 2, 7])}
    if chance.random() < 0.2:
        return [palm.step("source.numbers", n=n), *steps], None, options
    return steps, [chance.randrange(1 << 31) for _ in range(n)], options


def expected(steps, inputs, seed: int) -> list[object]:
    objects = {name: cls() for name, cls in SERVERS.items()}
    for name in ("steps", "one"):
        objects[name].setup(fails=False)
    return palm.testing.run(objects, steps, inputs, seed=seed)


def check(client: palm.Client, seed: int) -> None:
    steps, inputs, options = drawn(seed)
    job = client.job(steps, inputs, seed=seed, ordered=True, on_error="skip", timeout=120.0, **options)
    found = list(job)
    assert found == expected(steps, inputs, seed), (seed, steps, options)
    assert {error.type for error in job.errors} <= {"ValueError"}


@pytest.mark.timeout(300)
def test_as_in_one_thread(storm):
    with storm.client() as client:
        for seed in range(FIRST, FIRST + STORMS):
            check(client, seed)


@pytest.mark.timeout(300)
def test_as_in_one_thread_while_they_die(storm):
    with storm.client() as client, Unrest(storm, 0.15, *SERVERS) as unrest:
        seed = FIRST
        while seed < FIRST + STORMS or unrest.killed < 5:
            check(client, seed)
            seed += 1
