# SPDX-License-Identifier: BSD-3-Clause
"""The servers of test_reduce.py; they import little, since they are often started again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

import palm
from palm._core import space


class Sum(palm.Reduce):
    @palm.function
    def add(self, a, b):
        return a + b

    @palm.function
    def kept(self, a, b):
        """In memory that it uses again."""
        if not hasattr(self, "buffer"):
            self.buffer = np.empty(8)
        return np.add(a, b, out=self.buffer)

    @palm.function
    def view(self, a, b):
        return self.kept(a, b)[:4]


class Exact(palm.Reduce):
    deterministic = True

    @palm.function
    def add(self, a, b):
        return a + b

    @palm.function
    def drawn(self, a, b):
        return a + b + self.rng.standard_normal(3)

    @palm.function
    def tree(self, a, b):
        return f"({a}+{b})"


class Mod(palm.Reduce):
    """Numbers by what is left when divided by 10."""

    def setup(self, told: str = "") -> None:
        self.told = told

    def key(self, x):
        if x < 0:
            raise ValueError(f"{x} is below 0")
        return x % 10

    @palm.function
    def add(self, a, b):
        return a + b

    @palm.function
    def fails(self, a, b):
        if self.message.number % 10 == 7:
            raise ValueError(f"no sum of {a} and {b}")
        return a + b

    @palm.function(attempts=2)
    def kills(self, a, b):
        if self.message.number % 10 == 7:
            with open(self.told, "a") as f:
                f.write("x")
            os.kill(os.getpid(), signal.SIGSEGV)
        return a + b

    @palm.function
    def slowly(self, a, b):
        time.sleep(0.002)
        return a + b

    def finish(self, key, total, count):
        if key == 4 and Path(self.told or "/nowhere").is_dir():
            raise KeyError("four")
        if key == 6 and self.told.endswith("kills"):
            with open(self.told, "a") as f:
                f.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return None if key == 3 else (key, total, count)


class Words(palm.Reduce):
    deterministic = True

    def key(self, word_count):
        return word_count[0]

    @palm.function
    def add(self, a, b):
        return a[0], a[1] + b[1]


class Join(palm.Reduce):
    per_input = True

    @palm.function
    def merge(self, a, b):
        return a | b


class Meet(palm.Reduce):
    per_input = True
    deterministic = True

    @palm.function
    def add(self, a, b):
        return a + b


class Work(palm.Butterfly):
    @palm.function
    def up(self, x):
        return x + 1

    @palm.function
    def first(self, x):
        return x[1]

    @palm.function
    def odd(self, x):
        return x if x % 2 else None

    @palm.function
    def split(self, n):
        yield from range(n)

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def fork(self, x):
        for branch in ("work.left", "work.right"):
            yield palm.to([branch, *self.message.rest], x)

    @palm.function
    def left(self, x):
        return {"left": x}

    @palm.function
    def right(self, x):
        return {"right": -x}

    @palm.function
    def words(self, line):
        for word in line.split():
            yield word, 1

    @palm.function
    def array(self, n):
        return np.random.default_rng(n).standard_normal(4096)

    @palm.function
    def where(self, x):
        return self.message.number, self.message.path, x

    @palm.function
    def held(self):
        stats = space.stats()
        return stats["arena_in_use"] + stats["mapped"]


class Unsendable(palm.Reduce):
    """Keys, and totals, some of which are nothing that can be sent."""

    def key(self, x):
        return "\ud800" if x == 3 else x % 4

    @palm.function
    def add(self, a, b):
        return a + b

    def finish(self, key, total, count):
        return {total} if key == 1 else (key, total)
