# SPDX-License-Identifier: BSD-3-Clause
"""Messages and constants against contracts: tests that are made once and asked for each message, and the words where
one does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from palm import shapes
from palm.contracts import (
    PYTHON,
    Alternative,
    Array,
    Contract,
    Hint,
    Scalar,
    Tuple,
    as_type,
    dtypes_of,
    names_in,
    scalars_of,
    text,
)
from palm.errors import PayloadError

Sizes = dict[str, Any]  # of this message, by name
Test = Callable[[Any, Sizes], bool]
Function = Callable[..., Any]


class Fitting:
    """The tests for what a function takes at one step.

    Parameters
    ----------
    where : str
        The function and its signature, for errors.
    contract : Contract
    constants : mapping of str to payload
        Of the step: names of sizes that their arrays have are bound to these.
    sender : str
        Who sends the messages; empty: nobody knows.

    Raises
    ------
    PayloadError
        A constant does not fit.
    """

    def __init__(self, where: str, contract: Contract, constants: Mapping[str, Any], sender: str = "") -> None:
        self._where, self._hints, self._sender = where, contract.takes, sender
        self._bound: Sizes = {}
        given = {name: hint for name, hint in contract.constants.items() if name in constants}
        names = names_in([*contract.takes.values(), *given.values()])
        shared = {name for name in names if names.count(name) > 1}
        for name, hint in given.items():
            before = dict(self._bound)
            if not _test(hint, shared)(constants[name], self._bound):
                what = _refusal(name, hint, constants[name], before)
                raise PayloadError(f"{where}: the constant {what}")
        self._tests = [_test(hint, shared) if hint else None for hint in contract.takes.values()]
        self._shares = bool(shared)

    def around(self, function: Function) -> Function:
        """What to call for a message; `function` itself, if it takes anything."""
        if not any(self._tests):
            return function
        if len(self._tests) == 1:
            return self._around_one(function, self._tests[0])
        bound, tests = self._bound, [(i, test) for i, test in enumerate(self._tests) if test is not None]

        def checked(*values: Any) -> Any:
            sizes = dict(bound)
            for i, test in tests:
                if not test(values[i], sizes):
                    self.check(values)
            return function(*values)

        return checked

    def _around_one(self, function: Function, test: Test | None) -> Function:
        assert test is not None
        bound, shares = self._bound, self._shares

        def checked(value: Any) -> Any:
            if not test(value, dict(bound) if shares else bound):
                self.check((value,))
            return function(value)

        return checked

    def check(self, values: Sequence[Any]) -> None:
        """PayloadError if a message, spread over the parameters, does not fit."""
        sizes = dict(self._bound)
        for test, value, name in zip(self._tests, values, self._hints, strict=True):
            before = dict(sizes)
            if test is not None and not test(value, sizes):
                who = f" from {self._sender}" if self._sender else ""
                what = _refusal(name, self._hints[name], value, before)
                raise PayloadError(f"{self._where}: in a message{who}, {what}")


def _refusal(name: str, hint: Hint, value: Any, sizes: Sizes) -> str:
    known = [f"{n} is {sizes[n]}" for n in dict.fromkeys(names_in([hint])) if n in sizes]
    here = f" (here {', '.join(known)})" if known else ""
    return f"`{name}` is {found(value)}, not {text(hint)}{here}: {_advice(hint, value)}"


def found(value: Any) -> str:
    """A payload in few words."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name} of shape {value.shape}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "None" if value is None else f"of type {'np.' * isinstance(value, np.generic)}{type(value).__name__}"


def _advice(hint: Hint, value: Any) -> str:
    wanted = hint[0]
    if len(hint) > 1 or not isinstance(wanted, Array):
        what = f"send {'one of these' if len(hint) > 1 else 'that'}"
    elif isinstance(value, (list, int, float, complex, np.generic)):
        what = "send np.asarray(x)"
    elif isinstance(value, tuple):
        what = "send one value, an array"
    elif not isinstance(value, np.ndarray):
        what = "send an array"
    elif wanted.dtypes and value.dtype.type not in dtypes_of(wanted):
        what = as_type(wanted)
    else:
        what = "reshape it"
    return f"{what}, or correct the type hint"


# -------------------------------------------------------------------------------------------------------- tests


def _test(hint: Hint, shared: set[str]) -> Test:
    tests = [_test_of(one, shared) for one in hint]
    if len(tests) == 1:
        return tests[0]
    return _any_that_binds(tests) if shared.intersection(names_in([hint])) else _any_of(tests)


def _any_of(tests: Sequence[Test]) -> Test:
    def fits(value: Any, sizes: Sizes) -> bool:
        for test in tests:
            if test(value, sizes):
                return True
        return False

    return fits


def _any_that_binds(tests: Sequence[Test]) -> Test:
    """What a test that fails has bound is not bound."""

    def fits(value: Any, sizes: Sizes) -> bool:
        for test in tests:
            tried = dict(sizes)
            if test(value, tried):
                sizes.update(tried)
                return True
        return False

    return fits


def _test_of(one: Alternative, shared: set[str]) -> Test:
    if isinstance(one, Array):
        return _test_of_array(one, shared)
    if isinstance(one, Tuple):
        return _test_of_tuple(one, shared)
    if isinstance(one, Scalar):
        classes = tuple(scalars_of(one.name)) if one.of_numpy else PYTHON[one.name]
        return lambda value, sizes: isinstance(value, classes)
    return lambda value, sizes: value is None


def _test_of_tuple(one: Tuple, shared: set[str]) -> Test:
    count = len(one.items)
    tests = [(i, _test(item, shared)) for i, item in enumerate(one.items) if item]

    def fits(value: Any, sizes: Sizes) -> bool:
        return isinstance(value, tuple) and len(value) == count and all(test(value[i], sizes) for i, test in tests)

    return fits


def _test_of_array(one: Array, shared: set[str]) -> Test:
    ndarray = np.ndarray
    dtypes = dtypes_of(one)
    test = None if one.shape is None else _test_of_shape(shapes.parse(one.shape), shared)
    if not dtypes:
        return lambda value, sizes: isinstance(value, ndarray) and (test is None or test(value.shape, sizes))
    if test is None:
        return lambda value, sizes: isinstance(value, ndarray) and value.dtype.type in dtypes
    return lambda value, sizes: isinstance(value, ndarray) and value.dtype.type in dtypes and test(value.shape, sizes)


def _test_of_shape(shape: shapes.Shape, shared: set[str]) -> Test:
    """Of tuples of int. Names that are not shared with other arrays need no place where they are bound."""
    least, ends, begins = shape.least, shape.rest is None, len(shape.before)
    behind = len(shape.after)
    at = [*enumerate(shape.before), *((i - behind, size) for i, size in enumerate(shape.after))]
    firm = [(i, size) for i, size in at if isinstance(size, int)]
    named = [(i, size) for i, size in at if isinstance(size, str) and size in shared]
    first = {size: i for i, size in reversed(at) if isinstance(size, str)}
    same = [(i, first[size]) for i, size in at if isinstance(size, str) and size not in shared and i != first[size]]
    rest = f"*{shape.rest}" if f"*{shape.rest}" in shared else None

    def fits(value: tuple[int, ...], sizes: Sizes) -> bool:
        if len(value) != least if ends else len(value) < least:
            return False
        for i, size in firm:
            if value[i] != size:
                return False
        for i, other in same:
            if value[i] != value[other]:
                return False
        for i, name in named:
            if sizes.setdefault(name, value[i]) != value[i]:
                return False
        if rest is None:
            return True
        sizes_there = value[begins : len(value) - behind]
        return bool(sizes.setdefault(rest, sizes_there) == sizes_there)

    return fits
