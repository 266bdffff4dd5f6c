# SPDX-License-Identifier: BSD-3-Clause
"""Payloads in a form that `==` compares to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np


def exactly(value: Any, flags: bool = False) -> Any:
    """With the types of all that is in it; flags: arrays with whether they can be written."""
    if isinstance(value, np.ndarray):
        more = (value.flags.writeable,) if flags else ()
        return "array", value.dtype.str, repr(value.dtype), value.shape, value.tobytes(), *more
    if isinstance(value, (list, tuple)):
        return type(value), [exactly(v, flags) for v in value]
    if isinstance(value, dict):
        return dict, [(exactly(k), exactly(v, flags)) for k, v in value.items()]
    return type(value), value
