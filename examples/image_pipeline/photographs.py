# SPDX-License-Identifier: BSD-3-Clause
"""Writes the photographs of palm.demo into files: in/astronaut.npy, in/brick.npy, ..."""

from pathlib import Path

import numpy as np

from palm.demo import PHOTOGRAPHS, photograph

if __name__ == "__main__":
    directory = Path("in")
    directory.mkdir(exist_ok=True)
    for name in PHOTOGRAPHS:
        np.save(directory / f"{name}.npy", photograph(name))
