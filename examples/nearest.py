# SPDX-License-Identifier: BSD-3-Clause
"""A server with state: it learns handwritten digits while it runs, and says which one a new image is most like.

    python nearest.py

What a function leaves in `self` is there when the next one runs. It dies with the process, and after a death a function
may run again for the same message: so each lesson is also in `self.cache`, where a successor finds it, and has a name
under which it is set, not added.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import palm

Array = NDArray[np.float64]


class Nearest(palm.Server):
    def setup(self) -> None:
        self.lessons = dict(self.cache)

    @palm.function
    def learn(self, name: str, vectors: Array, labels: NDArray[np.int64]) -> int:
        """How many lessons there are now."""
        self.lessons[name] = self.cache[name] = vectors, labels
        return len(self.lessons)

    @palm.function
    def label(self, vector: Array) -> int:
        """Of what is nearest."""
        vectors, labels = map(np.concatenate, zip(*self.lessons.values(), strict=True))
        return int(labels[((vectors - vector) ** 2).sum(axis=1).argmin()])


def teach(client: palm.Client, vectors: Array, labels: NDArray[np.int64]) -> None:
    for n in range(0, len(vectors), 100):
        client.call("nearest.learn", f"lesson {n}", vectors[n : n + 100], labels[n : n + 100])


def run() -> NDArray[np.int64]:
    """What it says of the digits that it has not been taught."""
    digits = load_digits()
    with palm.Cluster() as cluster:
        cluster.start(Nearest)
        client = cluster.client()
        teach(client, digits.data[:1400], digits.target[:1400])
        return client.job("nearest.label", digits.data[1400:]).into(np.empty(len(digits.data) - 1400, np.int64))


if __name__ == "__main__":
    right = run() == load_digits().target[1400:]
    print(f"{right.sum()} of {right.size} are right")
