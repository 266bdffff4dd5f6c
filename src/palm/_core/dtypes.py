# SPDX-License-Identifier: BSD-3-Clause
"""Dtypes as text and back. docs/wire.md has the grammar.

Texts come from strangers, and numpy's own readers are not made for these: some texts have it divide by zero, others are
evaluated as Python. So it gets to see none that was not understood here first."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from palm._core.errors import PayloadError

_PLAIN = re.compile(
    r"[<>|](b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SUV](0|[1-9][0-9]{0,9})"
    r"|[mM]8(\[([1-9][0-9]{0,9})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)
_LAYOUT = {"names", "formats", "shapes", "offsets", "titles", "itemsize"}
_MOST = (1 << 31) - 1  # of what numpy keeps in a C int


def text_of(dtype: np.dtype[Any]) -> str:
    """`dtype.str`, or for structured ones the JSON of `dtype.descr`; where that does not say all, since fields overlap
    or are out of order, the JSON of an object that does.

    Raises
    ------
    PayloadError
        It holds pointers (object, StringDType), which have no meaning in another process (R21), or is not numpy's own.
    """
    if dtype.hasobject:
        raise PayloadError(
            f"dtype {dtype!r} holds pointers to Python objects, which cannot be sent; "
            "convert to a numeric dtype or to strings of fixed width"
        )
    for describe in (_plain_text, _descr_text, _layout_text):
        text = describe(dtype)
        if text is not None and _stands_for(text, dtype):
            return text
    raise PayloadError(f"dtype {dtype!r} is not one of numpy's own, and cannot be sent; convert to one that is")


def _plain_text(dtype: np.dtype[Any]) -> str | None:
    return dtype.str if dtype.names is None else None


def _descr_text(dtype: np.dtype[Any]) -> str | None:
    try:
        return json.dumps(dtype.descr) if dtype.names is not None else None
    except (ValueError, TypeError):  # numpy cannot describe it so, or JSON not what it says
        return None


def _layout_text(dtype: np.dtype[Any]) -> str | None:
    if dtype.names is None or dtype.fields is None:
        return None
    fields = [dtype.fields[name] for name in dtype.names]
    layout = {
        "names": list(dtype.names),
        "formats": [text_of(f[0].base) for f in fields],
        "shapes": [list(f[0].shape) for f in fields],
        "offsets": [f[1] for f in fields],
        "titles": [f[2] if len(f) == 3 else None for f in fields],
        "itemsize": dtype.itemsize,
    }
    try:
        return json.dumps(layout)
    except (ValueError, TypeError):
        return None


def _stands_for(text: str, dtype: np.dtype[Any]) -> bool:
    try:
        return of_text(text) == dtype
    except ValueError:
        return False


def of_text(text: str) -> np.dtype[Any]:
    """The inverse of `text_of`; ValueError if the text is of another form, or numpy knows no such dtype."""
    try:
        return _parse(text)
    except ValueError:
        raise
    except Exception as e:  # of numpy's or the JSON reader's, of whatever class
        raise ValueError(f"{text!r} is no dtype: {e!r}") from None


def _parse(text: str) -> np.dtype[Any]:
    if text[:1] == "{":
        return _of_layout(json.loads(text))
    if text[:1] == "[":
        return np.lib.format.descr_to_dtype(_descr(json.loads(text)))
    return np.dtype(_plain(text))


def _demand(fact: bool, what: str) -> None:
    if not fact:
        raise ValueError(f"no dtype: {what}")


def _plain(text: Any) -> str:
    _demand(type(text) is str and _PLAIN.fullmatch(text) is not None, f"{text!r}")
    return str(text)


def _descr(fields: Any) -> list[tuple[Any, ...]]:
    """What JSON has made of `dtype.descr`, with the tuples that numpy needs."""
    _demand(type(fields) is list, f"the fields {fields!r}")
    return [_field(f) for f in fields]


def _field(field: Any) -> tuple[Any, ...]:
    _demand(type(field) is list and len(field) in (2, 3), f"the field {field!r}")
    name, form, *shape = field
    if type(name) is list:
        _demand(len(name) == 2 and all(type(n) is str for n in name), f"the title and name {name!r}")
        name = tuple(name)
    else:
        _demand(type(name) is str, f"the name {name!r}")
    _demand(all(type(s) is list for s in shape), f"the shape of the field {field!r}")
    return name, _descr(form) if type(form) is list else _plain(form), *[_shape(s) for s in shape]


def _shape(shape: Any) -> tuple[int, ...]:
    return tuple(_natural(n) for n in shape)


def _natural(n: Any) -> int:
    _demand(type(n) is int and 0 <= n <= _MOST, f"the number {n!r}")
    return int(n)


def _of_layout(layout: dict[str, Any]) -> np.dtype[Any]:
    _demand(layout.keys() == _LAYOUT, f"the keys {sorted(layout)}")
    _demand(all(type(layout[k]) is list for k in _LAYOUT - {"itemsize"}), "no lists")
    names, formats, titles = layout["names"], layout["formats"], layout["titles"]
    _demand(all(type(n) is str for n in names), f"the names {names!r}")
    _demand(all(type(f) is str for f in formats), f"the formats {formats!r}")
    _demand(all(t is None or type(t) is str for t in titles), f"the titles {titles!r}")
    _demand(all(type(s) is list for s in layout["shapes"]), "a shape that is no list")
    # a dtype without length and an empty shape, numpy takes for something else
    shaped = [(of_text(f), _shape(s)) if s else of_text(f) for f, s in zip(formats, layout["shapes"], strict=True)]
    offsets = [_natural(n) for n in layout["offsets"]]
    numbers = {"offsets": offsets, "itemsize": _natural(layout["itemsize"])}
    whole: Any = {"names": names, "formats": shaped, "titles": titles, **numbers}
    dtype: np.dtype[Any] = np.dtype(whole)
    return dtype
