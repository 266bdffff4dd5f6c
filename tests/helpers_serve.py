# SPDX-License-Identifier: BSD-3-Clause
"""Serves what test_serve.py wants, in a process of its own: ``python helpers_serve.py ADDRESS CLASS NAME``."""

from __future__ import annotations

import sys

import helpers_butterfly
import helpers_impatient

import palm
import palm.process


class Other(palm.Butterfly):
    def setup(self):
        print("set up")

    @palm.function
    def down(self, x):
        return x - 1


class Unleadable(palm.Butterfly):
    """No other process can have it."""

    @palm.function
    def up(self, x):
        return x + 1

    def __reduce_ex__(self, protocol):
        return fail, ()


class Total(palm.Reduce):
    @palm.function
    def add(self, a, b):
        return a + b


class Halves(palm.ScatterGather):
    def scatter(self, x):
        yield x // 2
        yield x - x // 2

    @palm.function
    def double(self, x):
        return 2 * x

    def gather(self, parts):
        return sum(parts)


Unleadable.one = Unleadable()


def fail():
    raise ValueError("no such device")


if __name__ == "__main__":
    address, template, name = sys.argv[1:]
    found = vars(helpers_butterfly) | vars(helpers_impatient) | globals()
    palm.serve(found[template], name, address=address)
    print("done")
