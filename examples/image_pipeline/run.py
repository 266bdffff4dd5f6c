# SPDX-License-Identifier: BSD-3-Clause
"""How well does a median filter bring back the spectrum of a photograph with bright pixels?"""

from pipeline import Noise

import palm
from palm.demo import PHOTOGRAPHS, Denoise, Features, Spectrum, photograph


def main() -> None:
    spoil = palm.step("noise.salt", share=0.02)
    measure = ["spectrum.power", "features.radial"]
    pipelines = {
        "original": measure,
        "spoilt": [spoil, *measure],
        "mended": [spoil, "denoise.median", *measure],
    }
    with palm.Cluster() as cluster:
        for template in (Noise, Denoise, Spectrum, Features):
            cluster.start(template)
        client = cluster.client()
        slopes = {}
        for name, steps in pipelines.items():
            job = client.job(steps, (photograph(p) for p in PHOTOGRAPHS), ordered=True, seed=1)
            slopes[name] = [found["slope"] for found in job]
    print(f"{'slope of the spectrum':24}", *(f"{name:>10}" for name in slopes))
    for photo, *row in zip(PHOTOGRAPHS, *slopes.values(), strict=True):
        print(f"{photo:24}", *(f"{slope:10.2f}" for slope in row))


if __name__ == "__main__":
    main()
