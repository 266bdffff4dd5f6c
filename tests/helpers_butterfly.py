# SPDX-License-Identifier: BSD-3-Clause
"""The servers of test_butterfly.py; they import little, since they are often started again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

import palm


class Work(palm.Butterfly):
    def setup(self, dawdle: dict[int, float] | None = None, told: str = "") -> None:
        """dawdle: seconds that a worker takes for a nap of one, by its number."""
        self.dawdle = dawdle or {}
        if told:
            with open(told, "a") as f:
                f.write(f"{self.worker}\n")

    @palm.function
    def up(self, x):
        return x + 1

    @palm.function
    def who(self, x):
        return self.worker, os.getpid()

    @palm.function
    def nap(self, seconds):
        """Returns how long it took, as if this worker were as quick as others."""
        began, times = time.monotonic(), self.dawdle.get(self.worker, 1.0)
        time.sleep(seconds * times)
        return self.worker, (time.monotonic() - began) / times

    @palm.function
    def long(self, x):
        time.sleep(0.02)
        return os.getpid()

    @palm.function
    def pair(self, x):
        yield x
        yield -x

    @palm.function
    def odd(self, x):
        return x if x % 2 else None

    @palm.function
    def twice(self, x):
        return x * 2

    @palm.function
    def elsewhere(self, x):
        return palm.to("plain.down", x) if x % 2 else x

    @palm.function
    def drawn(self, n):
        return self.rng.standard_normal(n)

    @palm.function(attempts=2)
    def kills_at(self, x, *, n, told):
        if x == n:
            with open(told, "a") as f:
                f.write("x")
            os.kill(os.getpid(), signal.SIGSEGV)
        return x

    @palm.function
    def fails(self, x):
        raise ValueError(f"not {x}")

    @palm.function(retry_on=(OSError,))
    def fickle(self, path):
        if not Path(path).exists():
            Path(path).touch()
            raise OSError("not yet")
        return self.message.attempt

    @palm.function(pure=True)
    def stuck_once(self, x, *, path):
        """Who gets 0 first works until the path is there."""
        return self.stuck_once_impure(x, path=path)

    @palm.function
    def stuck_once_impure(self, x, *, path):
        if x == 0:
            with open(path + ".who", "a+") as f:
                f.write(f"{os.getpid()}\n")
                f.seek(0)
                first = f.readline()
            if int(first) == os.getpid():
                self.until(path)
        return x

    @palm.function
    def until(self, path):
        """Works until the path is there, or nobody wants it any more."""
        Path(path + ".begun").touch()
        while not Path(path).exists() and not self.cancelled:
            time.sleep(0.002)
        Path(path + ".ended").touch()
        return 1


class Plain(palm.Server):
    @palm.function
    def down(self, x):
        return x - 1

    @palm.function
    def aside(self, n):
        for i in range(n):
            yield palm.to(["work.up"], i, slow="reject")
            time.sleep(0.0005)

    @palm.function
    def total(self, x):
        return float(np.sum(x))
