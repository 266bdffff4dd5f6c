# SPDX-License-Identifier: BSD-3-Clause
"""Servers for tests that look at what processes do."""

import os

import palm


class Work(palm.Butterfly):
    @palm.function
    def twice(self, x):
        return 2 * x

    @palm.function
    def until(self, path):
        """Without letting go of the GIL for longer than it takes to look."""
        while not os.path.exists(path):
            sum(range(10000))
