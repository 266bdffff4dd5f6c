# SPDX-License-Identifier: BSD-3-Clause
"""What a process may have of the host: private memory and CPUs."""

from __future__ import annotations

import ctypes
import os
import signal

import numpy as np
import pytest
from conftest import eventually

import palm
from palm import applying, cpus, limits
from palm.config import Configuration
from palm.deaths import Memory, OomKills, reason_of
from palm.errors import ConfigError
from palm.limits import MIB

ALL = sorted(os.sched_getaffinity(0))
LIMIT = 96 * MIB


class Hungry(palm.Butterfly):
    def setup(self, mib=0):
        self.kept = [bytearray(mib * MIB)]

    @palm.function
    def take(self, mib):
        return len(bytearray(mib * MIB)) // MIB

    @palm.function
    def array(self, mib):
        return float(np.zeros(mib * MIB, np.uint8)[-1])

    @palm.function
    def fill(self, kib):
        """To the last byte, in pieces."""
        filled = []
        while kib:
            filled.append(bytearray(kib << 10))

    @palm.function
    def steps(self, mib):
        for i in range(2):
            yield len(bytearray(i * mib * MIB))

    @palm.function
    def native(self, mib):
        """As C++ does that gets no memory: std::bad_alloc, which nobody catches."""
        new = ctypes.CDLL("libstdc++.so.6")._Znwm
        new.argtypes, new.restype = [ctypes.c_size_t], ctypes.c_void_p
        return new(mib * MIB)

    @palm.function
    def abort(self, mib):
        self.kept.append(bytearray(mib * MIB))
        os.abort()

    @palm.function
    def pid(self):
        return os.getpid()

    @palm.function
    def cpus(self):
        return sorted({tuple(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")})

    @palm.function
    def threads(self):
        import threadpoolctl

        return max(library["num_threads"] for library in threadpoolctl.threadpool_info())


class Single(palm.Server):
    take, pid, native = Hungry.take, Hungry.pid, Hungry.native
