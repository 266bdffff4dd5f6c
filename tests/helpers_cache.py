# SPDX-License-Identifier: BSD-3-Clause
"""The servers of test_cache.py."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

import palm


class Blur(palm.Server):
    @palm.function
    def blur(self, image, *, sigma):
        return image * sigma


class Model(palm.Butterfly):
    def setup(self):
        self.cache.append("pids", os.getpid())

    @palm.function(batch=True)
    def predict(self, x):
        return x.mean(axis=2) @ self.cache["weights"]

    @palm.function
    def tally(self, times):
        for _ in range(times):
            self.cache.add("tally")
        return self.worker

    @palm.function
    def running(self, n):
        for i in range(n):
            yield self.cache.append("made", i)

    @palm.function
    def total(self, key):
        found = self.cache[key]
        return float(found.sum()), found.flags.writeable

    @palm.function
    def keep(self, key, size):
        self.cache[key] = np.arange(float(size))
        return os.getpid()

    @palm.function
    def until(self, path):
        """Computes until the path is there."""
        Path(path + ".begun").touch()
        while not Path(path).exists():
            time.sleep(0.002)
        return 1

    @palm.function
    def dies(self, x):
        if not self.cache.setdefault("died", False):
            self.cache["died"] = True
            os.kill(os.getpid(), signal.SIGKILL)
        return x


class Plain(palm.Server):
    def setup(self):
        self.cache.add("starts")

    @palm.function
    def get(self, key):
        return self.cache[key]
