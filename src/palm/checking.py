# SPDX-License-Identifier: BSD-3-Clause
"""Values against the types that they have to be of, with errors for people: what was found, what it has to be, and the
nearest valid word. Knows nothing of what the types are for."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import inspect

Place = tuple[str, ...]


class Wrong(Exception):
    """The first thing that is.

    Attributes
    ----------
    place : tuple of str
        The key, after the tables that it is in; of a table that lacks something, the table.
    """

    def __init__(self, place: Place, text: str) -> None:
        self.place = place
        super().__init__(text)


def check(value: Any, kind: inspect.Type, place: Place = (), says: str = "") -> None:
    """Wrong, if `value` is not of this type; `says`: how it has to be, in words."""
    if isinstance(kind, inspect.Metadata):
        check(value, kind.type, place, (kind.extra or {}).get("is", says))
    elif isinstance(kind, inspect.UnionType):
        _check_choice(value, kind, place)
    elif isinstance(kind, inspect.StructType):
        _check_table(_table(value, kind, place), kind, place)
    elif isinstance(kind, inspect.DictType):
        _check_entries(_table(value, kind, place), kind, place)
    elif not isinstance(kind, inspect.AnyType):
        _check_single(value, kind, place, says)


def _check_choice(value: Any, kind: inspect.UnionType, place: Place) -> None:
    """Of which each takes another type of values."""
    kinds = [k for k in kind.types if not isinstance(k, inspect.NoneType)]
    for k in kinds:
        if _fits(value, k):
            return check(value, k, place)
    raise _wrong(value, place, _or([_what(k) for k in kinds]))


def _table(value: Any, kind: inspect.Type, place: Place) -> dict[str, Any]:
    if not _fits(value, kind):
        raise _wrong(value, place, f"a table: [{'.'.join(place)}]")
    assert isinstance(value, dict)
    return value


def _check_table(table: Mapping[str, Any], kind: inspect.StructType, place: Place) -> None:
    fields = {field.encode_name: field for field in kind.fields}
    where = f"[{'.'.join(place)}]" if place else "the file"
    for key, value in table.items():
        if key not in fields:
            raise Wrong((*place, key), f"{where} has no key {key!r}{near(key, fields)}")
        check(value, fields[key].type, (*place, key))
    for key, field in fields.items():
        if field.required and key not in table:
            raise Wrong(place, f"{where} needs a {key}: {key} = {json.dumps(_example(field.type))}")


def _check_entries(table: Mapping[str, Any], kind: inspect.DictType, place: Place) -> None:
    for key, value in table.items():
        try:
            check(key, kind.key_type, (*place, key))
        except Wrong as e:
            raise Wrong(e.place, f"in [{'.'.join(place)}], the name {str(e).partition(' = ')[2]}") from None
        check(value, kind.value_type, (*place, key))


def _check_single(value: Any, kind: inspect.Type, place: Place, says: str) -> None:
    if not _fits(value, kind):
        raise _wrong(value, place, f"{_what(kind)} ({says})" if says else _what(kind))
    if isinstance(kind, inspect.LiteralType):
        if value not in kind.values:
            raise _wrong(value, place, _what(kind), near(value, map(str, kind.values), others=False))
    elif isinstance(kind, inspect.StrType):
        if kind.pattern is not None and not re.fullmatch(kind.pattern, value):
            raise _wrong(value, place, says or f"as {kind.pattern}")
    elif isinstance(kind, (inspect.IntType, inspect.FloatType)):
        least, most = kind.ge, kind.le
        if least is not None and not value >= least:
            raise _wrong(value, place, f"at least {least}")
        if most is not None and not value <= most:
            raise _wrong(value, place, f"at most {most}")
    else:
        raise NotImplementedError(f"a type that files have had none of: {kind}")


def _fits(value: Any, kind: inspect.Type) -> bool:
    """It is of a Python type that can be of this kind, whatever its value."""
    if isinstance(kind, inspect.Metadata):
        return _fits(value, kind.type)
    if isinstance(kind, (inspect.StructType, inspect.DictType)):
        return isinstance(value, dict)
    if isinstance(kind, (inspect.StrType, inspect.LiteralType)):
        return isinstance(value, str)
    if isinstance(kind, inspect.FloatType):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(kind, inspect.IntType) and isinstance(value, int) and not isinstance(value, bool)


def _what(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata):
        says = (kind.extra or {}).get("is")
        return f"{_what(kind.type)} ({says})" if says else _what(kind.type)
    if isinstance(kind, inspect.LiteralType):
        return _or([f'"{value}"' for value in kind.values])
    if isinstance(kind, inspect.StrType):
        return "a string"
    if isinstance(kind, inspect.IntType):
        return "a whole number"
    return "a number" if isinstance(kind, inspect.FloatType) else "a table"


def _or(words: list[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _wrong(value: Any, place: Place, has_to_be: str, more: str = "") -> Wrong:
    return Wrong(place, f"{place[-1]} = {value!r} has to be {has_to_be}{more}")


def _example(kind: inspect.Type) -> Any:
    """Of the type's own; required keys have one."""
    while isinstance(kind, inspect.Metadata):
        if examples := (kind.extra_json_schema or {}).get("examples"):
            return examples[0]
        kind = kind.type
    return "..."


def near(word: str, words: Iterable[str], *, others: bool = True) -> str:
    """The end of a sentence about a word that there is not; `others`: all there are, where none is near."""
    words = list(words)
    close: Sequence[str] = difflib.get_close_matches(word, words, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are: {', '.join(words) or 'none'}" if others else ""
