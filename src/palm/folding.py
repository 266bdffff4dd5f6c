# SPDX-License-Identifier: BSD-3-Clause
"""A worker of a Reduce: what it is given is not a message for its function, but several operands and the order in which
to combine them, two at a time (`palm.reduction.Task`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from palm.assignment import Assignment
from palm.host import Host
from palm.message import Message, places
from palm.reduction import PUSH
from palm.step import To

if TYPE_CHECKING:
    from palm.template import Signature


class Folder(Host):
    """Runs the functions of a Reduce, under the name of the right operand's lowest message."""

    _name: list[int] | None = None  # number and path of the combination at work
    _operands: tuple[Any, Any] | None = None

    def _bind_to(
        self, a: Assignment, signature: Signature, function: Callable[..., Any], constants: dict[str, Any], counted: str
    ) -> None:
        super()._bind_to(a, signature, function, constants, counted)
        if a.refusal is None:
            assert a.function is not None
            a.function, a.parameters = functools.partial(self._fold, a, a.function), 1

    def _fold(self, a: Assignment, combine: Callable[..., Any], task: tuple[Any, ...]) -> Any:
        program, names, *operands = task
        named, operand, stack = iter(names), iter(operands), []
        try:
            for code in program:
                if code == PUSH:
                    stack.append(next(operand))
                else:
                    right = stack.pop()
                    stack.append(self._combined(a, combine, stack.pop(), right, next(named)))
            return stack.pop()
        finally:
            self._name = None

    def _combined(self, a: Assignment, combine: Callable[..., Any], left: Any, right: Any, name: list[int]) -> Any:
        assert a.work is not None
        self._name, self._operands, self._message_cache = name, (left, right), None
        a.work.begin(self.node, name[0], tuple(name[1:]))
        result = combine(left, right)
        if result is None or isinstance(result, (GeneratorType, To)):
            raise TypeError(
                f"{self.name}.{a.steps[0][1]} has to return one value, made of two; it returned {type(result).__name__}"
            )
        self._operands = None
        return result

    def message(self) -> Message:
        """Of the message that is the right operand, or the first of those that went into it: no other one has this."""
        if self._name is None or self._assignment is None:
            return super().message()
        if self._message_cache is None:
            number, *path = self._name  # as users see them
            message = self._described(self._assignment, (number, ()), 0, 1)
            self._message_cache = self.at, replace(message, number=number, path=(number, *places(tuple(path))))
        return self._message_cache[1]

    def _capsule(self, i: int, error: Exception) -> str | None:
        """With the two operands that failed."""
        a, operands, self._operands = self._assignment, self._operands, None
        if a is None or operands is None or self._event is None:
            return None
        return self._outcomes.capsule(a, operands, self._describe(self._event, a, i), error)
