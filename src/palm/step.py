# SPDX-License-Identifier: BSD-3-Clause
"""Steps and routes, as users write them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

from palm._core.node import MAX_STEPS

SLOW = ("block", "drop-oldest", "reject")


class Step(str):
    """``"server.function"``, with constants."""

    __slots__ = ("constants",)
    constants: dict[str, Any]

    def __new__(cls, name: str, constants: dict[str, Any] | None = None) -> Step:
        self = super().__new__(cls, name)
        self.constants = constants or {}
        return self

    def __repr__(self) -> str:
        return f"palm.step({', '.join([str.__repr__(self), *(f'{k}={v!r}' for k, v in self.constants.items())])})"

    @property
    def server(self) -> str:
        return self.rpartition(".")[0]

    @property
    def function(self) -> str:
        return self.rpartition(".")[2]


def step(name: str, /, **constants: Any) -> Step:
    """A step with constants, which are sent once a job to each process.

    Parameters
    ----------
    name : str
        ``"server.function"``.
    **constants
        Payloads, passed to the function as its keyword-only parameters.

    Returns
    -------
    Step
        A `str`.

    Raises
    ------
    ValueError
        `name` is no ``"server.function"``. Whether there is such a function, and whether it takes these constants, is
        known when a job or a call is made: `NotFound`, `PayloadError`.
    """
    made = Step(name, constants)
    if not made.server or not made.function:
        raise ValueError(f'a step is "server.function", not {name!r}')
    if ":" in name and "=" in name:
        raise ValueError(
            f'{name!r} is how the shell writes constants: palm.step("{name.partition(":")[0]}", name=value)'
        )
    if any(between in name for between in ("->", ",", " ")):
        raise ValueError(f'{name!r} is no step: a route of several is a list, as ["denoise.median", "spectrum.power"]')
    return made


def route_of(route: str | Sequence[str]) -> list[Step]:
    """One or several steps, as a list; ValueError if one is none."""
    if not isinstance(route, (str, Sequence)):
        raise TypeError(f'a route is a list of steps, as ["server.function", ...], not {_kind(route)}')
    names = [route] if isinstance(route, str) else list(route)
    if not 0 < len(names) <= MAX_STEPS:
        raise ValueError(f"a route has 1 to {MAX_STEPS} steps, not {len(names)}")
    return [one_step(name) for name in names]


def one_step(name: object) -> Step:
    """A step as users write it; TypeError or ValueError if it is none."""
    if isinstance(name, Step):
        return name
    if isinstance(name, str):
        return step(name)
    if isinstance(name, Sequence) and not isinstance(name, (bytes, bytearray)):
        raise TypeError(f"this takes one step, not a list of {len(name)}: pipelines are for client.job")
    raise TypeError(f'a step is a str, as "server.function", or palm.step(...), not {_kind(name)}')


def _kind(value: object) -> str:
    return f"the function {value.__qualname__}" if inspect.isroutine(value) else type(value).__name__


class To:
    """What `to` returns: a value and the route it takes."""

    __slots__ = ("route", "slow", "value")

    def __init__(self, route: list[Step], value: Any, slow: str) -> None:
        self.route, self.value, self.slow = route, value, slow


def to(route: str | Sequence[str], value: Any, *, slow: Literal["block", "drop-oldest", "reject"] = "block") -> To:
    """To return or yield from a function: `value` takes this route instead of the rest of the pipeline.

    What leaves its last step is a result of the job. Constants of its steps are compared by content, each time, and
    sent once a job to each process: that takes a few us where they are small, and more than 1 ms a MiB. What can be
    known only when the value is sent fails the message at work: a value that cannot be sent, a server or function that
    is not there, constants that do not fit.

    Parameters
    ----------
    route : str or sequence of str
        The steps.
    value : object
        The message.
    slow : {"block", "drop-oldest", "reject"}
        What becomes of it when the first step of the route does not keep up. "block": it holds up the job, like any
        message. Else the branch holds up nobody: 64 messages, or 64 MiB, may wait for it here, beside the job's window,
        and when one more comes, the oldest of them is dropped, or the new one. What was dropped is counted, in
        `Job.progress` and in the server's counters. A job waits for what it has there at its end alone: with
        ``ordered`` too, results of such a branch come when they are there.

    Returns
    -------
    To
        For PALM alone.

    Raises
    ------
    TypeError
        `route` is no step and no list of steps.
    ValueError
        A step of it is no ``"server.function"``, it has none or more than 256, or `slow` is none of the three.
    """
    if slow not in SLOW:
        raise ValueError(f'slow is "block", "drop-oldest" or "reject", not {slow!r}')
    return To(route_of(route), value, slow)
