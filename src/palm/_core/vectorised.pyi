# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol

from palm._core.loop import Work, _Host
from palm._core.node import Batch, Event

_Name = tuple[int, tuple[int, ...]]

class _Pace(Protocol):
    @property
    def size(self) -> int: ...
    def tell(self, n: int, seconds: float) -> None: ...

class _HostOfSeveral(_Host, Protocol):
    members: Sequence[int]

def run_stacked(
    event: Event,
    first: int,
    end: int,
    function: Callable[..., Any],
    parameters: int,
    spread: Callable[[Any], tuple[Any, ...]],
    what: str,
    work: Work,
    out: Batch,
    host: _HostOfSeveral,
    special: type[Any],
    kept: Container[_Name],
    refused: dict[_Name, Any] | None,
    tried: dict[_Name, int] | None,
    given_up: Container[int],
    alone: list[tuple[_Name, _Name]],
    pace: _Pace,
) -> None: ...
