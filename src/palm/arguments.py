# SPDX-License-Identifier: BSD-3-Clause
"""Checks of what users pass: the error says what was asked for, what was found, and what to do."""

from __future__ import annotations

import math
import operator
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any

import numpy as np

AGES = 1e9  # seconds, some 30 years: what is longer does not fit into what waits


def whole(name: str, value: Any, least: int) -> int:
    """An int, numpy's too; TypeError or ValueError if it is none, or less than `least`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a whole number, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} is at least {least}, not {number}")
    return number


def seconds(name: str, value: Any) -> float | None:
    """A time to wait, or None for ever, which infinity is too."""
    if value is None:
        return None
    try:
        number = float(value) if not isinstance(value, (str, bytes, bool)) else None
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} is a number of seconds, or None, not {value!r}")
    if not number >= 0:
        raise ValueError(f"{name} is a number of seconds from 0 on, or None for ever, not {value!r}")
    return None if number == math.inf else min(number, AGES)


def probability(name: str, value: Any) -> float:
    """From 0 to 1."""
    try:
        number = float(value) if not isinstance(value, (str, bytes, bool)) else None
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} is a probability, a number from 0 to 1, not {value!r}")
    if not 0 <= number <= 1:
        raise ValueError(f"{name} is a probability, from 0 to 1, not {value!r}")
    return number


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A dict by names; {} for None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f'{name} is a dict of names and values, as {{"size": 8}}, not {value!r}')
    return dict(value)


def inputs(value: Any) -> Iterable[Any] | AsyncIterable[Any] | None:
    """What a job reads."""
    if isinstance(value, np.ndarray) and not value.ndim:
        raise TypeError("inputs are an iterable of messages, not an array of no dimension: one message is [array]")
    if value is None or (isinstance(value, (Iterable, AsyncIterable)) and not isinstance(value, (str, bytes, Mapping))):
        return value
    if hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, Mapping, np.generic)):
        return value  # type: ignore[no-any-return]  # `iter` takes it
    raise TypeError(
        f"inputs are an iterable of messages, not one {type(value).__name__}: a single message is [message], "
        "or use client.call"
    )
