# SPDX-License-Identifier: BSD-3-Clause
"""Type hints of exposed functions, read as contracts (`palm.contracts`). What says nothing about payloads is none."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import numpy as np

from palm import shapes
from palm.contracts import Alternative, Array, Contract, Hint, Nothing, Scalar, Tuple, name_of

_PYTHON: dict[Any, str] = {bool: "bool", int: "int", float: "float", complex: "complex", str: "str", bytes: "bytes"}
_YIELDED = (collections.abc.Iterator, collections.abc.Generator)
_UNIONS = (typing.Union, types.UnionType)


def contract_of(method: Callable[..., Any]) -> Contract:
    """Of a method; TypeError if a hint has a text that is no shape.

    Hints may be strings. One that names what is not there when a program runs, as under ``if TYPE_CHECKING:``, says
    nothing.
    """
    hints = _resolved(method)
    parameters = list(inspect.signature(method).parameters.values())[1:]
    takes = {p.name: _hint(hints.get(p.name)) for p in parameters if p.kind != p.KEYWORD_ONLY}
    constants = {p.name: _hint(hints.get(p.name)) for p in parameters if p.kind == p.KEYWORD_ONLY}
    gives = _hint(_sent(hints.get("return"), inspect.isgeneratorfunction(method)))
    return Contract(takes, {name: hint for name, hint in constants.items() if hint}, gives)


def _resolved(method: Callable[..., Any]) -> dict[str, Any]:
    """Each by itself: what is wrong with one says nothing about others."""
    written = inspect.unwrap(method)
    found: dict[str, Any] = {}
    for name, hint in getattr(written, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: hint})
        try:
            found |= typing.get_type_hints(alone, getattr(written, "__globals__", {}), include_extras=True)
        except Exception:  # hints are expressions of the user, and may raise anything
            continue
    return found


def _sent(hint: Any, yields: bool) -> Any:
    """What is sent by a function that returns this: of a generator, what it yields."""
    origin = typing.get_origin(hint)
    if origin in _YIELDED or (yields and origin is collections.abc.Iterable):
        return typing.get_args(hint)[0]
    return None if yields else hint


def _hint(hint: Any) -> Hint:
    hint = _unfolded(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _with_shape(_hint(arguments[0]), next((m for m in hint.__metadata__ if isinstance(m, str)), None))
    if origin in _UNIONS:
        some = [_hint(argument) for argument in arguments]
        return _merged([one for each in some for one in each]) if all(some) else ()
    one = _alternative(hint, origin, arguments)
    return () if one is None else (one,)


def _merged(some: list[Alternative]) -> Hint:
    """Each once; arrays of any shape are one, since a test of dtypes takes as long for several."""
    kinds = [one.dtypes for one in some if isinstance(one, Array) and one.shape is None]
    others = [one for one in some if not (isinstance(one, Array) and one.shape is None)]
    dtypes = () if () in kinds else tuple(dict.fromkeys(name for each in kinds for name in each))
    return tuple(dict.fromkeys([Array(dtypes), *others] if kinds else others))


def _unfolded(hint: Any) -> Any:
    """What stands behind a name: `type X = ...` of Python 3.12, with or without arguments, and NewType."""
    while True:
        origin = typing.get_origin(hint)
        if hasattr(origin, "__value__"):
            hint = origin.__value__[typing.get_args(hint)]
        elif hasattr(hint, "__value__"):
            hint = hint.__value__
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        else:
            return hint


def _alternative(hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Alternative | None:
    if hint is np.ndarray:
        return Array()
    if origin is np.ndarray:
        return _array(*arguments)
    if origin is tuple and Ellipsis not in arguments:
        return Tuple(tuple(_hint(argument) for argument in arguments))
    if hint is type(None):
        return Nothing()
    kind = hint if origin is None else origin
    if isinstance(kind, type) and issubclass(kind, np.generic):
        return Scalar(name_of(kind), of_numpy=True)
    return Scalar(_PYTHON[hint]) if isinstance(hint, type) and hint in _PYTHON else None


def _array(shape: Any, dtype: Any = None) -> Array:
    """Of ``np.ndarray[shape, dtype]``, which `NDArray` is short for."""
    return Array(_dtypes(dtype), _shape(shape))


def _shape(hint: Any) -> str | None:
    sizes = typing.get_args(hint)
    if typing.get_origin(hint) is not tuple or Ellipsis in sizes:
        return None
    return " ".join(str(typing.get_args(s)[0]) if typing.get_origin(s) is typing.Literal else "_" for s in sizes)


def _dtypes(hint: Any) -> tuple[str, ...]:
    """The names; none, if it may be any."""
    if isinstance(hint, type) and issubclass(hint, np.dtype):
        kinds: list[Any] = [getattr(hint, "type", None)]  # np.dtypes.Float64DType
    elif typing.get_origin(hint) is np.dtype:
        kinds = _each(typing.get_args(hint)[0])
    else:
        return ()
    if not all(isinstance(k, type) and issubclass(k, np.generic) for k in kinds) or np.generic in kinds:
        return ()
    return tuple(dict.fromkeys(map(name_of, kinds)))


def _each(hint: Any) -> list[Any]:
    """The classes that an argument of `np.dtype` may be."""
    hint = _unfolded(hint)
    origin = typing.get_origin(hint)
    if origin in _UNIONS:
        return [kind for argument in typing.get_args(hint) for kind in _each(argument)]
    if isinstance(hint, typing.TypeVar):
        some = hint.__constraints__ or (hint.__bound__,)
        return [kind for one in some for kind in ([None] if one is None else _each(one))]
    return [hint if origin is None else origin]


def _with_shape(hint: Hint, text: str | None) -> Hint:
    """A text at an array is its shape; at anything else it is nothing of ours."""
    if text is None or not any(isinstance(one, Array) for one in hint):
        return hint
    try:
        shapes.parse(text)
    except ValueError as e:
        raise TypeError(str(e)) from None
    return tuple(Array(one.dtypes, text) if isinstance(one, Array) else one for one in hint)
