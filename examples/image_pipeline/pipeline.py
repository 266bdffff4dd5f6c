# SPDX-License-Identifier: BSD-3-Clause
"""A server of one's own, to put before those of palm.demo."""

import numpy as np
from numpy.typing import NDArray

import palm


class Noise(palm.Butterfly):
    """Spoils images, to see what the next server can mend."""

    def setup(self, bright: float = 1.0) -> None:
        self.bright = bright

    @palm.function
    def salt(self, image: NDArray[np.float64], *, share: float = 0.01) -> NDArray[np.float64]:
        """Makes a share of the pixels bright: the same ones in each run of a job with the same seed."""
        return np.where(self.rng.random(image.shape) < share, self.bright, image)
