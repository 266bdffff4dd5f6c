# SPDX-License-Identifier: BSD-3-Clause
"""Tasks of two lengths; what they cost is what their sleep took, not what it should have taken."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

SHORT, LONG = 0.001, 0.02  # seconds


def durations(case: str, n: int) -> list[float]:
    """Each tenth is long; "adversarial": just so, which gives one of two who take turns all of them."""
    found = [LONG if i % 10 == 0 else SHORT for i in range(n)]
    if case == "random":
        random.Random(1).shuffle(found)
    return found


def work(seconds: float) -> float:
    """The seconds that it took."""
    began = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - began


def over_ideal(seconds: float, measured: Sequence[float], workers: int = 2) -> float:
    return seconds / (sum(measured) / workers)
