# SPDX-License-Identifier: BSD-3-Clause
"""Steps and routes, as users write them."""

from __future__ import annotations

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
    """
    made = Step(name, constants)
    if not made.server or not made.function:
        raise ValueError(f'a step is "server.function", not {name!r}')
    return made


def route_of(route: str | Sequence[str]) -> list[Step]:
    """One or several steps, as a list; ValueError if one is none."""
    names = [route] if isinstance(route, str) else list(route)
    if not 0 < len(names) <= MAX_STEPS:
        raise ValueError(f"a route has 1 to {MAX_STEPS} steps, not {len(names)}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f'a step is a str, as "server.function", or palm.step(...), not {type(name).__name__}')
    return [name if isinstance(name, Step) else step(name) for name in names]


class To:
    """What `to` returns: a value and the route it takes."""

    __slots__ = ("route", "slow", "value")

    def __init__(self, route: list[Step], value: Any, slow: str) -> None:
        self.route, self.value, self.slow = route, value, slow


def to(route: str | Sequence[str], value: Any, *, slow: Literal["block", "drop-oldest", "reject"] = "block") -> To:
    """To return or yield from a function: `value` takes this route instead of the rest of the pipeline.

    What leaves its last step is a result of the job.

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
    """
    if slow not in SLOW:
        raise ValueError(f'slow is "block", "drop-oldest" or "reject", not {slow!r}')
    return To(route_of(route), value, slow)
