# SPDX-License-Identifier: BSD-3-Clause
"""The pipeline of ``palm demo`` and of ``examples/image_pipeline``: photographs are denoised, transformed, measured.

`Denoise` needs scipy, the photographs need scikit-image: ``pip install '.[examples]'`` in the source tree.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

import palm

Image = Annotated[NDArray[np.float64], "rows columns"]

PIPELINE = ("denoise.median", "spectrum.power", "features.radial")
# Those that the wheel of scikit-image carries: all others are downloaded.
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "moon",
    "page",
    "rocket",
    "text",
)


class Denoise(palm.Server):
    """Filters against noise, of 2-D images."""

    def setup(self) -> None:
        self.filters = _needed("scipy.ndimage")

    @palm.function
    def median(self, image: Image, *, size: int = 3) -> Image:
        """The median of `size` by `size` pixels: takes away single bright or dark ones, and keeps edges."""
        return np.asarray(self.filters.median_filter(image, size=size))

    @palm.function
    def gaussian(self, image: Image, *, sigma: float = 1.0) -> Image:
        """A Gaussian mean; `sigma` in pixels."""
        return np.asarray(self.filters.gaussian_filter(image, sigma))


class Spectrum(palm.Server):
    """Power spectra of 2-D images."""

    def setup(self) -> None:
        self.windows: dict[tuple[int, ...], Image] = {}

    @palm.function
    def power(self, image: Image, *, gain: float = 1.0) -> Image:
        """Power at each frequency, in the order of `numpy.fft.fft2`; its sum is the windowed image's variance.

        A Hann window keeps the border, where the image does not continue on the opposite side, from spreading over all
        frequencies; the mean is taken away first, else it leaks through the window.
        """
        window = self.window(image.shape)
        mean = np.average(image, weights=window)
        amplitude = np.fft.fft2((image - mean) * window)
        return (amplitude.real**2 + amplitude.imag**2) * (gain / (image.size * np.sum(window**2)))

    def window(self, shape: tuple[int, ...]) -> Image:
        if shape not in self.windows:
            self.windows[shape] = np.outer(np.hanning(shape[0]), np.hanning(shape[1]))
        return self.windows[shape]


class Features(palm.Server):
    """What a power spectrum says about its image."""

    @palm.function
    def radial(self, power: Image) -> dict[str, Any]:
        """The spectrum averaged over all directions, and two numbers of it.

        Returns
        -------
        dict
            ``radial``: (N,) mean power in N rings up to 0.5 cycles a pixel, where N is half the shorter side.
            ``slope``: of log power over log frequency; 0 in white noise, about -2 in photographs (D. J. Field,
            "Relations between the statistics of natural images and the response properties of cortical cells", J. Opt.
            Soc. Am. A 4, 1987), less in smoothed ones. ``centroid``: mean frequency, weighted by power, in cycles a
            pixel.
        """
        rings = min(power.shape) // 2
        frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, power.shape), indexing="ij"))
        ring = np.rint(frequency * 2 * rings).astype(np.intp)
        inside = (ring >= 1) & (ring <= rings)
        count = np.bincount(ring[inside], minlength=rings + 1)[1:]
        radial = np.bincount(ring[inside], power[inside], minlength=rings + 1)[1:] / count
        return {"radial": radial, "slope": slope(radial), "centroid": float(np.average(frequency, weights=power))}


def slope(radial: NDArray[np.float64]) -> float:
    """Slope of log power over log frequency, without the rings that window and pixel grid distort."""
    ring = np.arange(1, len(radial) + 1)
    fit = (ring >= 4) & (ring <= 0.8 * len(radial)) & (radial > 0)
    return float(np.polyfit(np.log(ring[fit]), np.log(radial[fit]), 1)[0])


def photograph(name: str) -> Image:
    """One of `PHOTOGRAPHS` in grey.

    Returns
    -------
    image : (M, N) ndarray of float64
        From 0 to 1.
    """
    image = getattr(_needed("skimage.data"), name)()
    grey: Image = _needed("skimage.color").rgb2gray(image) if image.ndim == 3 else image / 255.0
    return grey


def tiles() -> Iterator[Image]:
    """Each photograph, and its four quarters."""
    for name in PHOTOGRAPHS:
        image = photograph(name)
        rows, columns = (n // 2 for n in image.shape)
        # copies that nobody else has: a view of `image` would be of an array that is kept
        yield image.copy()
        for row, column in itertools.product((0, rows), (0, columns)):
            yield image[row : row + rows, column : column + columns].copy()


class Tiles:
    """`tiles`, with a length for the progress bar."""

    def __len__(self) -> int:
        return 5 * len(PHOTOGRAPHS)

    def __iter__(self) -> Iterator[Image]:
        return tiles()


def run(progress: bool = True) -> dict[str, Any]:
    """Send all tiles through the pipeline in a cluster of its own.

    Returns
    -------
    dict
        ``slopes``: of all tiles; ``servers``: as in `Client.status`, after the last message; ``client``: counters of
        this process.
    """
    from palm._core import space

    for module in ("scipy.ndimage", "skimage.data"):
        _needed(module)
    with palm.Cluster() as cluster:
        for template in (Denoise, Spectrum, Features):
            cluster.start(template)
        with cluster.client() as client:
            slopes = [found["slope"] for found in client.job(PIPELINE, Tiles(), ordered=True, progress=progress)]
            return {"slopes": slopes, "servers": client.status()["servers"], "client": space.read_counters()}


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            f"the demo needs {e.name}: pip install '.[examples]' in the source tree", name=e.name
        ) from None
