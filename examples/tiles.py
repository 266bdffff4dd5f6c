# SPDX-License-Identifier: BSD-3-Clause
"""A photograph goes through a filter in tiles, and is put together again, as if the filter had seen it whole.

    python tiles.py

A `Source` yields the tiles, each with a margin as wide as the filter needs; a `Butterfly` filters them on its workers;
a `Reduce` collects them and makes the image.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from skimage.data import camera

import palm

Image = NDArray[np.uint8]
Tile = tuple[int, int, Image]  # y and x of the upper left corner, in pixels
MARGIN = 3  # pixels that a median of 7 by 7 looks at beside its own


class Photograph(palm.Source):
    def setup(self) -> None:
        self.image = camera()

    @palm.function
    def tiles(self, *, size: int = 128) -> Iterator[Tile]:
        padded = np.pad(self.image, MARGIN, mode="symmetric")  # what scipy calls "reflect"
        for y in range(0, self.image.shape[0], size):
            for x in range(0, self.image.shape[1], size):
                yield y, x, padded[y : y + size + 2 * MARGIN, x : x + size + 2 * MARGIN]


class Filter(palm.Butterfly):
    @palm.function
    def median(self, y: int, x: int, tile: Image) -> list[Tile]:
        found = median_filter(tile, size=2 * MARGIN + 1)
        return [(y, x, found[MARGIN:-MARGIN, MARGIN:-MARGIN])]


class Mosaic(palm.Reduce):
    @palm.function
    def join(self, a: list[Tile], b: list[Tile]) -> list[Tile]:
        return a + b  # tiles in lists travel without a copy, as any arrays

    def finish(self, key: None, total: list[Tile], count: int) -> Image:
        height = max(y + tile.shape[0] for y, x, tile in total)
        width = max(x + tile.shape[1] for y, x, tile in total)
        image = np.empty((height, width), np.uint8)
        for y, x, tile in total:
            image[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        return image


def run(workers: int = 2, size: int = 128) -> Image:
    with palm.Cluster() as cluster:
        cluster.start(Photograph)
        cluster.start(Filter, workers=workers)
        cluster.start(Mosaic)
        [image] = cluster.client().job([palm.step("photograph.tiles", size=size), "filter.median", "mosaic.join"])
        return image


if __name__ == "__main__":
    same = np.array_equal(run(), median_filter(camera(), size=2 * MARGIN + 1))
    print("the same as of the whole photograph" if same else "not the same")
