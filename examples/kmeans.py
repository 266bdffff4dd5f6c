# SPDX-License-Identifier: BSD-3-Clause
"""k-means of the handwritten digits that scikit-learn carries, on many workers, beside scikit-learn's own.

    python kmeans.py

The points stay where they are, in shared memory: what travels is where each part of them lies, and sums that come back.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

import palm

Array = NDArray[np.float64]


class Clusters(palm.Butterfly):
    @palm.function
    def sums(self, points: Array, *, centers: Array) -> Array:
        """For each center the sum of the points that are nearest to it, and how many they are."""
        nearest = ((points[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
        member = np.eye(len(centers))[nearest]
        return np.column_stack([member.T @ points, member.sum(axis=0)])


class Sum(palm.Reduce):
    deterministic = True

    @palm.function
    def add(self, a: Array, b: Array) -> Array:
        return a + b


def k_means(client: palm.Client, points: Array, centers: Array) -> Array:
    """Lloyd's algorithm, until nothing changes: each round is a job, whose constants are the centers."""
    while True:
        steps = [palm.step("clusters.sums", centers=centers), "sum.add"]
        [total] = client.job(steps, np.array_split(points, 16))
        before, centers = centers, total[:, :-1] / total[:, -1:]
        if np.array_equal(before, centers):
            return centers


def run(workers: int = 2) -> Array:
    with palm.arena():
        points = np.array(load_digits().data)
    with palm.Cluster() as cluster:
        cluster.start(Clusters, workers=workers)
        cluster.start(Sum)
        return k_means(cluster.client(), points, points[:10])


if __name__ == "__main__":
    points = load_digits().data
    theirs = KMeans(10, init=points[:10], n_init=1, tol=0, algorithm="lloyd").fit(points).cluster_centers_
    print(f"largest difference to scikit-learn's centers: {abs(run() - theirs).max():.1e}")
