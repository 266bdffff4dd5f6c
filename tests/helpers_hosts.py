"""Servers that stand on several hosts, and a job through them."""

import json
import sys
import time
from collections.abc import Iterator

import numpy as np

import palm

STEPS = ["first.scaled", "second.spectrum", "third.total"]
N, SIZE = 300, 20_000  # arrays, and the numbers in each


class First(palm.Server):
    @palm.function
    def scaled(self, x):
        return x * 2.0


class Second(palm.Butterfly):
    @palm.function
    def spectrum(self, x):
        time.sleep(0.01)  # so that a job takes as long as something that befalls it
        return np.abs(np.fft.rfft(x))


class Third(palm.Server):
    @palm.function
    def total(self, x):
        return x.sum(), x.shape

    @palm.function
    def ones(self, n):
        return np.ones(n)


class Sums(palm.Reduce):
    @palm.function
    def total(self, a, b):
        return a + b


class Talk(palm.Server):
    @palm.function
    def say(self, text):
        print("printed", text, flush=True)
        self.log.warning("logged %s", text)
        return text


class Chat(Talk):
    """Another one, on another host."""


def inputs(n: int = N) -> Iterator[np.ndarray]:
    for i in range(n):
        yield np.random.default_rng(i).standard_normal(SIZE)


def main() -> None:
    """Runs the job at the cluster of this address; says "half" when half of it is done, and then what came out."""
    address, n = sys.argv[1], int(sys.argv[2])
    with palm.Client(address) as client:
        client.wait_for("first", "second", "third")
        found = []
        for number, (total, shape) in client.job(STEPS, inputs(n)).items():
            found.append((number, total, shape))
            if len(found) == n // 2:
                print("half", flush=True)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
