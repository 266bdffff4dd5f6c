# SPDX-License-Identifier: BSD-3-Clause
"""The servers of test_delivery.py. They import little: a server is there again as soon as it has imported its module,
and pytest alone takes longer than there is between two kills of a storm."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

import palm
from palm._core import node as core
from palm._core import space
from palm.remote import NO_MESSAGE


class Holder(palm.Server):
    @palm.function
    def held(self):
        """Bytes of shared memory, its own and others'."""
        stats = space.stats()
        return stats["arena_in_use"] + stats["mapped"]


class A(Holder):
    @palm.function
    def up(self, x):
        return x + 1

    @palm.function
    def split(self, n):
        yield from range(n)

    @palm.function
    def rows(self, n):
        for i in range(n):
            yield np.full(8192, i)

    @palm.function
    def numbers(self):
        n = 0
        while True:
            yield n
            n += 1

    @palm.function
    def once(self, path):
        """Counts its executions in a file, then yields as many children each time."""
        with open(path, "a") as f:
            f.write("x")
        yield from range(300)

    @palm.function
    def fickle(self, path):
        """Not the same number of children each time."""
        n = 5 if not Path(path).exists() else 3
        Path(path).touch()
        yield from range(n)
        while n == 5 and not self.cancelled:
            yield None  # what was made goes on its way
            time.sleep(0.002)

    @palm.function
    def forever(self, closed):
        try:
            while True:
                yield 1
        finally:
            Path(closed).touch()


class B(Holder):
    @palm.function
    def mark(self, path):
        Path(path).touch()

    @palm.function
    def twice(self, x):
        return x * 2

    @palm.function
    def pair(self, x):
        yield x
        yield -x

    @palm.function
    def odd(self, x):
        return x if x % 2 else None

    @palm.function
    def weigh(self, x):
        return float(x.sum())

    @palm.function
    def slow(self, x):
        if x % 1000 == 0:
            time.sleep(0.002)
        return x

    @palm.function
    def gate(self, x, *, path):
        """Lets the first fifty through, the others when the path is there."""
        if x == 49:
            time.sleep(0.005)  # longer than what is quick: what has been made goes on its way
        while x >= 50 and not Path(path).exists() and not self.cancelled:
            time.sleep(0.002)
        return x


class C(palm.Server):
    @palm.function
    def down(self, x):
        return x - 1

    @palm.function
    def elsewhere(self, x):
        return palm.to("b.twice", x) if x % 2 else x

    @palm.function
    def segfault_at(self, x, *, n):
        if x[0] == n:
            os.kill(os.getpid(), signal.SIGSEGV)
        return float(x[0])


class Deaf(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def many(self, n):
        yield from range(n)

    @palm.function
    def misses(self, what):
        """The next event of this kind, of which the sender is told as by the core (docs/wire.md, 8)."""
        hears = getattr(self._host, what)

        def missed(event):
            setattr(self._host, what, hears)
            said = core.Batch()
            said.event(core.LOST, NO_MESSAGE)
            self._host.node.send(event.link, core.DATA, 0, 0, said)

        setattr(self._host, what, missed)
