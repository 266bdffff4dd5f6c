# SPDX-License-Identifier: BSD-3-Clause
"""A reduction without a cluster, for `palm.testing.run`: the same tree, the same names, in one thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import GeneratorType
from typing import Any

from palm.local import LocalHost, arrived
from palm.message import Message
from palm.names import Name
from palm.reduce_state import Group, Reduction, Task, checked_key, run_program
from palm.step import To
from palm.template import Reduce


class LocalReduction:
    """Of one step, with one route still to go.

    Parameters
    ----------
    host : LocalHost
        Of a `palm.Reduce`.
    function : str
    constants : mapping
    message : Message
        The first one that came: what they all have in common is taken from it.
    sender : str
        The step before, for errors.
    """

    def __init__(
        self, host: LocalHost, function: str, constants: Mapping[str, Any], message: Message, sender: str
    ) -> None:
        assert isinstance(host.server, Reduce)
        self._host, self._reduce, self._function, self._constants = host, host.server, function, constants
        self._message, self.rest = message, message.rest
        self.per_input = host.server.per_input
        signature = type(host.server)._exposed[function]
        self._fitting = signature.fitting(host.name, constants, sender)
        self._reduction = Reduction(host.server.deterministic, self.per_input)
        self._lowest: dict[int | None, Name] = {}  # by input, if it is per input

    @property
    def route(self) -> tuple[str, ...]:
        return (self._message.step, *self.rest)

    def absorb(self, message: Message, value: Any) -> None:
        self._fitting.check((value, value))
        name, instance = message.path, message.number if self.per_input else None
        with self._host.at_work_on(message):
            key = checked_key(self._reduce.key(value))
        self._reduction.absorb(name, key, value)
        self._lowest[instance] = min(name, self._lowest.get(instance, name))

    def inputs(self) -> list[int | None]:
        """Of which something came that has not come out yet; None: of the job."""
        return list(self._lowest)

    def flush(self, instance: int | None, number: int) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Paths and values of the totals. `number`: by which the reduction of a whole job goes."""
        lowest = self._lowest.pop(instance)
        self._reduction.end(instance)
        while (task := self._reduction.task()) is not None:
            self._reduction.done(task, self._combined(task))
        path = lowest if self.per_input else (number,)
        yield from self._totals(self._reduction.take(instance), path)

    def _totals(self, group: Group, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
        for place, row in enumerate(group.in_order()):
            item = row.total
            with self._at_work_on(path):
                value = self._reduce.finish(row.key, item.value, item.count)
            yield (*path, place), value
        self._reduction.drop(group)

    def _combined(self, task: Task) -> Any:
        return run_program(task.program, [item.value for item in task.items], task.names, self._combine)

    def _combine(self, left: Any, right: Any, name: Name) -> Any:
        with self._at_work_on(name):
            value = getattr(self._reduce, self._function)(left, right, **self._constants)
        return arrived(self._checked(value), self._message.step)

    def _checked(self, value: Any) -> Any:
        if value is None or isinstance(value, (GeneratorType, To)):
            what = type(value).__name__
            raise TypeError(f"{self._message.step} has to return one value, made of two; it returned {what}")
        return value

    def _at_work_on(self, path: tuple[int, ...]) -> Any:
        return self._host.at_work_on(dataclasses.replace(self._message, number=path[0], path=path))
