# SPDX-License-Identifier: BSD-3-Clause
"""The servers of test_scattergather.py; they import little, since they are often started again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

import palm
from palm._core import node as core
from palm._core import space
from palm.remote import NO_MESSAGE


def note(path: str, what: object) -> None:
    with open(path, "a") as f:
        f.write(f"{what}\n")


class Sums(palm.ScatterGather):
    """Of lists of numbers: each number is a part."""

    def setup(self, told: str = "") -> None:
        self.told = told
        if told:
            note(told, "setup")

    def teardown(self) -> None:
        if self.told:
            note(self.told, "teardown")

    def scatter(self, numbers, *, dies=""):
        if dies == "scatter":
            os.kill(os.getpid(), signal.SIGSEGV)
        yield from numbers

    def gather(self, parts, *, dies=""):
        if dies == "gather":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.message.step.endswith(".left"):
            h = self._host
            jobs = {a.job.key for a in h._assignments.values() if not h._is_own(a)}
            return [h._tasks.held(), len(h._gatherings) + len(h._ready), len(set(h._answers.values()) | jobs)]
        return parts

    @palm.function
    def double(self, x):
        return 2 * x

    @palm.function
    def odd(self, x):
        return x if x % 2 else None

    @palm.function
    def who(self, x):
        return os.getpid()

    @palm.function
    def seen(self, x):
        m = self.message
        return m.number, m.path, m.stage, m.step, m.rest, float(self.rng.random())

    @palm.function
    def fails(self, x, *, at, told=""):
        if told:
            note(told, x)
        if x == at:
            raise ValueError(f"not {x}")
        return x

    @palm.function(attempts=2)
    def kills(self, x, *, at, told=""):
        if told:
            note(told, x)
        if x == at:
            os.kill(os.getpid(), signal.SIGSEGV)
        return x

    @palm.function(retry_on=(OSError,))
    def fickle(self, path):
        if not Path(path).exists():
            Path(path).touch()
            raise OSError("not yet")
        return self.message.attempt

    @palm.function(timeout=0.3)
    def long(self, x):
        while x:
            time.sleep(0.01)
        return x

    @palm.function(batch=4)
    def stacked(self, x):
        return x * 10

    @palm.function(batch=8, attempts=2)
    def stacked_kills(self, x, *, at, told):
        if at in x:
            note(told, len(x))
            os.kill(os.getpid(), signal.SIGSEGV)
        return x

    @palm.function
    def misses(self, what):
        """The next event of this kind, of which the sender is told as by the core (docs/wire.md, 8)."""
        hears = getattr(self._host, what, None)
        if hears is None:
            return what

        def missed(event):
            setattr(self._host, what, hears)
            said = core.Batch()
            said.event(core.LOST, NO_MESSAGE)
            self._host.node.send(event.link, core.DATA, 0, 0, said)

        setattr(self._host, what, missed)
        return what

    @palm.function
    def elsewhere(self, x):
        return palm.to("plain.down", x) if x == 1 else (y for y in [x]) if x == 2 else x

    @palm.function
    def until(self, x, *, gate, told=""):
        """Part 0 waits until the path `gate` is there, or nobody wants it any more."""
        if told:
            note(told, x)
        if x == 0:
            Path(gate + ".begun").touch()
            while not Path(gate).exists() and not self.cancelled:
                time.sleep(0.002)
            Path(gate + ".ended").touch()
        return x

    @palm.function
    def waits(self, path):
        """For this path, or until nobody wants it any more."""
        return self.until(0, gate=path)

    @palm.function
    def held(self, x):
        """What there is in this worker, when it has to do with nothing else: jobs, assignments, shared memory."""
        stats = space.stats()
        return len(self._host._jobs), len(self._host._assignments), stats["arena_in_use"] + stats["mapped"]

    @palm.function
    def left(self, x):
        """In the leader, whose `gather` has that."""
        return x


class Blur(palm.ScatterGather):
    """Of arrays; parts are views of them."""

    def scatter(self, image: Annotated[NDArray[np.float64], "rows columns"], *, tiles: int = 4):
        return np.array_split(image, tiles)

    def gather(self, parts, *, drop=False) -> NDArray[np.float64]:
        return None if drop else np.concatenate(parts)

    @palm.function
    def add(self, tile: NDArray[np.float64], *, by: float):
        return tile + by

    @palm.function
    def same(self, tile):
        return tile


class Odds(palm.ScatterGather):
    """Hooks of all kinds."""

    def scatter(self, a, b, *, how="list"):
        self.count("scattered")
        if how == "raise":
            raise ValueError("no parts")
        if how == "no payload":
            return [a, object()]
        if how == "no iterable":
            return 7
        if how == "fresh":
            return [np.full(1 << 16, float(i)) for i in range(b)]
        if how == "kept":
            self.kept = [np.full(1 << 16, float(i)) for i in range(b)]
            return self.kept
        if how == "many":
            return ([i] for i in range(b))
        return [] if how == "none" else [(a, b), None, (b, a)]

    def gather(self, parts, message, *, then="both"):
        if then == "raise":
            raise ValueError("nothing to gather")
        if then == "to":
            return palm.to("plain.down", len(parts))
        if then == "many":
            return self._many(parts)
        if then == "lazy":
            return sum(map(bool, parts))
        return parts, message, float(self.rng.random()), self.message.path

    def _many(self, parts):
        for part in parts:
            yield len(part)

    @palm.function
    def part(self, x):
        return x

    @palm.function
    def total(self, x):
        return float(np.sum(x))


class Plain(palm.Server):
    @palm.function
    def down(self, x):
        return x - 1

    @palm.function
    def up(self, x):
        return [i + 1 for i in x] if isinstance(x, list) else x + 1

    @palm.function
    def spread(self, n):
        for i in range(n):
            yield [i, i + 1]

    @palm.function
    def total(self, x):
        return float(np.sum(x))

    @palm.function
    def aside(self, n):
        for i in range(n):
            yield palm.to(["sums.double"], [i], slow="reject")
            time.sleep(0.0005)

    @palm.function
    def gate(self, x, *, path):
        while not Path(path).exists() and not self.cancelled:
            time.sleep(0.002)
        return x
