# SPDX-License-Identifier: BSD-3-Clause
"""The servers of test_storms.py: what they make of a number depends on it and on the message's name alone."""

from __future__ import annotations

import time

import numpy as np

import palm

P = (1 << 31) - 1


def mix(*numbers: int) -> int:
    found = 17
    for n in numbers:
        found = (found * 1_000_003 + int(n) % P * 8_191 + 5) % P
    return found


class Steps(palm.Butterfly):
    """`fails`: what fails raises; else it is not there at all, as for a job that skips errors."""

    def setup(self, fails: bool = True) -> None:
        self.fails = fails

    def _named(self, x: int) -> int:
        message = self.message
        return mix(x, message.number, *message.path, message.stage)

    @palm.function
    def where(self, x, *, salt=0):
        return mix(self._named(x), salt)

    @palm.function
    def drawn(self, x):
        return mix(x, self.rng.integers(P))

    @palm.function
    def sleeps(self, x):
        time.sleep(x % 5 / 2000)
        return x

    @palm.function(batch=True)
    def many(self, x):
        return np.asarray([mix(n) for n in x], np.int64)

    @palm.function
    def drops(self, x):
        return None if x % 3 == 0 else self._named(x)

    @palm.function
    def breaks(self, x):
        if x % 5 == 0:
            if self.fails:
                raise ValueError(f"not {x}")
            return None
        return mix(x)

    @palm.function
    def split(self, x):
        for i in range(x % 4):
            yield None if (x + i) % 6 == 0 else mix(self._named(x), i)

    @palm.function
    def breaks_off(self, x):
        """After one or two of three."""
        for i in range(3):
            if i and (x + i) % 4 == 0:
                if self.fails:
                    raise ValueError(f"not {x}")
                return
            yield mix(x, i)

    @palm.function
    def fork(self, x, *, by=""):
        by = by or self.name
        rest = self.message.rest  # all after as many steps: a Reduce has one stage (docs/decisions/open.md)
        yield palm.to([f"{by}.where", *rest], x)
        yield palm.to([palm.step(f"{by}.where", salt=3), *rest], mix(x))
        yield palm.to([f"{by}.split", *rest], self._named(x))

    @palm.function
    def on(self, x):
        """Some have more to go than others, or not the same."""
        rest = self.message.rest
        if x % 3 == 0:
            return palm.to([*rest, "steps.where"], x)
        if x % 3 == 1 and len(rest) > 1:
            return palm.to(["steps.where", *rest[1:]], x)
        return x


class One(Steps, palm.Server):
    """In one process."""


class Source(palm.Source):
    @palm.function
    def numbers(self, *, n):
        for i in range(n):
            yield mix(i, self.message.number)


class Plain(palm.Reduce):
    @palm.function
    def add(self, a, b):
        return (a + b) % P


class Keyed(palm.Reduce):
    deterministic = True

    def key(self, x):
        return (x % 3, "even" if x % 2 else None)

    @palm.function
    def add(self, a, b, *, salt=0):
        return mix(a, b, *self.message.path, self.rng.integers(P), salt)

    def finish(self, key, total, count):
        return None if key[0] == 2 and count % 2 else mix(key[0], total, count, *self.message.path)


class Each(Plain):
    per_input = True


class EachKeyed(Keyed):
    per_input = True


class Parts(palm.ScatterGather):
    def scatter(self, x):
        yield from ((x + i) % P for i in range(x % 5))

    @palm.function
    def part(self, x):
        return None if x % 4 == 0 else mix(x, *self.message.path, self.rng.integers(P))

    def gather(self, parts):
        return mix(*(p or 1 for p in parts))
