# SPDX-License-Identifier: BSD-3-Clause
"""Payloads in words: what people see of them, however large they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from palm._core.decode import NOTHING
from palm.units import bytes_text

ENTRIES = 20  # of a list, tuple or dict
DEPTH = 4
WIDTH = 100  # characters of a single value
FEW = 8  # elements of an array that are shown themselves
MANY = 1 << 28  # elements of which there are no statistics: a broadcast array has as many as it says


def lines(value: Any, place: str = "payload", depth: int = 0) -> Iterator[str]:
    """One line for a value and each that it contains, as far as there are not too many: ``place: what is there``."""
    yield f"{place}: {one_line(value)}"
    if not isinstance(value, (list, tuple, dict)):
        return
    entries = list(value.items() if isinstance(value, dict) else enumerate(value))
    if depth < DEPTH:
        for key, entry in entries[:ENTRIES]:
            yield from lines(entry, f"{place}[{key!r}]", depth + 1)
    left = len(entries) - ENTRIES if depth < DEPTH else len(entries)
    if left > 0:
        yield f"{place}: {left} more"


def one_line(value: Any) -> str:
    """Type, shape, and what is typical."""
    if value is NOTHING:
        return "an empty message"
    if isinstance(value, np.ndarray):
        kind = f"ndarray {_cut(str(value.dtype))} {value.shape}, {bytes_text(value.nbytes)}"
        return f"{kind}{_content(value)}"
    if isinstance(value, (list, tuple, dict)):
        return f"{type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {_cut(repr(value))}"


def _content(a: np.ndarray[Any, Any]) -> str:
    if a.size <= FEW:
        return f": {_cut(np.array2string(a, separator=', ', threshold=FEW).replace(chr(10), ' '))}"
    if a.size > MANY:
        return ""
    if a.dtype.kind == "b":
        return f": {np.count_nonzero(a)} True"
    with np.errstate(all="ignore"):
        if a.dtype.kind in "mM":
            return f": {a.min()} to {a.max()}"
        if a.dtype.kind in "iuf":
            return f": {_spread(a)}"
        if a.dtype.kind == "c":
            return f": absolute {_spread(np.abs(a))}"
    return ""


def _spread(a: np.ndarray[Any, Any]) -> str:
    good = a[np.isfinite(a)] if a.dtype.kind == "f" else a
    bad = {"NaN": int(np.isnan(a).sum()), "infinite": int(np.isinf(a).sum())} if a.dtype.kind == "f" else {}
    words = [f"{n} {word}" for word, n in bad.items() if n]
    if good.size:
        mean = good.mean(dtype=np.float64) if a.dtype.itemsize <= 8 else good.mean()
        words = [f"min {good.min():.6g}, mean {mean:.6g}, max {good.max():.6g}", *words]
    return ", ".join(words)


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}... ({len(text)} characters)"
