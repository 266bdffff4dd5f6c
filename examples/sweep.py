# SPDX-License-Identifier: BSD-3-Clause
"""How large are the coins? A sweep over sizes, in a pipeline that visits one server twice.

    python sweep.py

An image that is opened (eroded, then dilated) by a square loses what is bright and smaller than the square. How much
light goes from one size to the next says how much of that size there is: much texture, and at 29 pixels the coins,
since a square of 29 fits into a circle of 41.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import grey_dilation, grey_erosion
from skimage.data import coins

import palm

SIZES = range(1, 62, 4)


class Morphology(palm.Butterfly):
    def setup(self) -> None:
        self.image = coins()

    @palm.function
    def erode(self, size: int) -> tuple[int, NDArray[np.uint8]]:
        return size, grey_erosion(self.image, size=(size, size))

    @palm.function
    def dilate(self, size: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return grey_dilation(image, size=(size, size))


class Measure(palm.Server):
    @palm.function
    def light(self, image: NDArray[np.uint8]) -> float:
        return float(image.mean())


def run(workers: int = 2) -> NDArray[np.float64]:
    """The light that is left, for each size."""
    with palm.Cluster() as cluster:
        cluster.start(Morphology, workers=workers)
        cluster.start(Measure)
        steps = ["morphology.erode", "morphology.dilate", "measure.light"]
        return cluster.client().job(steps, SIZES).into(np.empty(len(SIZES)))


if __name__ == "__main__":
    lost = -np.diff(run())
    for size, light in zip(SIZES[1:], lost, strict=True):
        print(f"{size:3} pixels {'#' * round(5 * light)}")
