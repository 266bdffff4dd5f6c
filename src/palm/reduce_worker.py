# SPDX-License-Identifier: BSD-3-Clause
"""A worker of a Reduce: what it is given is not a message for its function, but several operands and the order in which
to combine them, two at a time (`palm.reduce_state.Task`)."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from types import GeneratorType
from typing import TYPE_CHECKING, Any

import numpy as np

from palm._core import loop
from palm.assignment import Assignment
from palm.host import Host
from palm.message import Message, places
from palm.reduce_state import COMBINING, run_program
from palm.step import To

if TYPE_CHECKING:
    from palm.template import Signature


class Folder(Host):
    """Runs the functions of a Reduce, under the name of the right operand's lowest message."""

    _name: list[int] | None = None  # number and path of the combination at work
    _operands: tuple[Any, Any] | None = None
    _failed: tuple[Exception, Message, tuple[Any, Any]] | None = None  # of the last one, if its function has

    def _bind_to(
        self, a: Assignment, signature: Signature, function: Callable[..., Any], constants: dict[str, Any], counted: str
    ) -> None:
        super()._bind_to(a, signature, function, constants, counted)
        if a.refusal is None:
            assert a.function is not None
            a.function, a.parameters = functools.partial(self._fold, a, a.function), 1
            index = self._functions.index(counted)
            a.work = loop.Work(a.job.key, a.hop | COMBINING, index, a.job.report.link, signature.timeout)

    def _fold(self, a: Assignment, function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
        program, names, *operands = task
        self._failed = None
        try:
            return run_program(program, operands, names, functools.partial(self._combined, a, function))
        except Exception as e:
            if self._operands is not None:
                self._failed = e, self.message(), self._operands
            raise
        finally:
            self._name = self._operands = None

    def _combined(self, a: Assignment, function: Callable[..., Any], left: Any, right: Any, name: list[int]) -> Any:
        assert a.work is not None
        self._name, self._operands, self.place.message = name, (left, right), None
        a.work.begin(self.node, name[0], tuple(name[1:]))
        result = function(left, right)
        self._operands = None
        if result is None or isinstance(result, (GeneratorType, To)):
            raise TypeError(
                f"{self.name}.{a.steps[0][1]} has to return one value, made of two; it returned {type(result).__name__}"
            )
        if isinstance(result, np.ndarray) and sys.getrefcount(result) == 2 and result.base is None:
            return result  # the function has let go of it
        return result if result is left or result is right else _copied(result)

    def message(self) -> Message:
        """Of the message that is the right operand, or the first of those that went into it: no other one has this."""
        if self._name is None or self.place.assignment is None:
            return super().message()
        if self.place.message is None:
            number, *path = self._name  # as users see them
            message = self._described(self.place.assignment, (number, ()), 0, 1)
            self.place.message = self.at, replace(message, number=number, path=(number, *places(tuple(path))))
        described: Message = self.place.message[1]
        return described

    def _capsule(self, i: int, error: Exception) -> str | None:
        """With the two operands that failed."""
        a, failed, self._failed = self.place.assignment, self._failed, None
        if a is None or failed is None or failed[0] is not error:
            return None
        return self._outcomes.capsule(a, failed[2], failed[1], error)


def _copied(value: Any) -> Any:
    """What a function may write to when it is called again, as it is now."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (tuple, list)):
        return type(value)(_copied(v) for v in value)
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, dict) else value
