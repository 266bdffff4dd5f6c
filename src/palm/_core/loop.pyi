# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable, Generator
from typing import Any, Literal, Protocol, Self

from palm._core.node import Batch, Event, Node

class Place:
    at: int
    event: Event | None
    assignment: Any
    message: tuple[int, Any] | None
    def begin(self, event: Event, assignment: Any) -> None: ...
    def end(self) -> None: ...

class Work:
    def __new__(cls, job: bytes, hop: int, index: int, client: int = 0, limit: float = 0) -> Self: ...
    def begin(self, node: Node, number: int, path: tuple[int, ...]) -> None: ...

class _Host(Protocol):
    place: Place
    def spread(self, function: Callable[..., Any], value: Any, /) -> Any: ...
    def make(self, i: int, result: Any, /) -> None: ...
    def drop(self, i: int, /) -> None: ...
    def fail(self, i: int, error: Exception, /) -> None: ...
    def again(self, i: int, /) -> bool: ...
    def late(self, i: int, /) -> None: ...
    def refuse(self, i: int, /) -> None: ...
    def flush(self) -> Any: ...

def run(
    event: Event,
    first: int,
    end: int,
    function: Callable[..., Any],
    parameters: int,
    work: Work,
    out: Batch,
    host: _Host,
    special: type[Any],
    kept: dict[tuple[int, tuple[int, ...]], Any],
    refused: dict[tuple[int, tuple[int, ...]], Any] | None,
    tried: dict[tuple[int, tuple[int, ...]], int] | None,
    given_up: set[int],
) -> bool: ...
def forward(
    event: Event,
    first: int,
    most: int,
    out: Batch,
    host: Any,
    refused: dict[tuple[int, tuple[int, ...]], Any] | None,
    given_up: set[int],
) -> int: ...
def advance(
    generator: Generator[Any, Any, Any],
    out: Batch,
    number: int,
    path: tuple[int, ...],
    deadline: int,
    special: type[Any],
    node: Node,
    work: Work,
    attempt: int,
    spent_ns: int,
) -> Literal[True] | Any: ...
