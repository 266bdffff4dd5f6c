# SPDX-License-Identifier: BSD-3-Clause
"""Dtypes as text and back. docs/wire.md has the grammar.

Texts come from strangers, and numpy's own readers are not made for these: some texts have it divide by zero, others are
evaluated as Python. So it gets to see none that was not understood here first. To read one, nothing is called that is
written in Python, since no signal's handler may run where that is done (docs/decisions/signals.md)."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import numpy as np

from palm._core.errors import PayloadError

_PLAIN = re.compile(
    r"[<>|](b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SUV](0|[1-9][0-9]{0,9})"
    r"|[mM]8(\[([1-9][0-9]{0,9})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)
_LISTS = ("names", "formats", "shapes", "offsets", "titles")
_LAYOUT = {*_LISTS, "itemsize"}
_NONE = type(None)
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
        return _of_layout(msgspec.json.decode(text))
    if text[:1] == "[":
        return _of_descr(msgspec.json.decode(text))
    return _of_plain(text)


def _of_plain(text: Any) -> np.dtype[Any]:
    if type(text) is not str or _PLAIN.fullmatch(text) is None:
        raise ValueError(f"no dtype: {text!r}")
    return np.dtype(text)


def _of_descr(fields: Any) -> np.dtype[Any]:
    """What JSON has made of `dtype.descr`: fields one behind the other. Those without a name and a type are padding."""
    if type(fields) is not list:
        raise ValueError(f"no dtype: the fields {fields!r}")
    names, formats, titles, offsets, at = [], [], [], [], 0
    for field in fields:
        name, title, dtype = _field(field)
        if name or dtype.names is not None or dtype.kind != "V":
            names.append(name)
            titles.append(title)
            formats.append(dtype)
            offsets.append(at)
        at += dtype.itemsize
    return _made(names, formats, titles, offsets, at)


def _field(field: Any) -> tuple[str, str | None, np.dtype[Any]]:
    if type(field) is not list or len(field) not in (2, 3):
        raise ValueError(f"no dtype: the field {field!r}")
    name, form = field[0], field[1]
    title = None
    if type(name) is list and len(name) == 2:
        title, name = name
    if type(name) is not str or type(title) not in (str, _NONE):
        raise ValueError(f"no dtype: the name {field[0]!r}")
    dtype = _of_descr(form) if type(form) is list else _of_plain(form)
    return name, title, _shaped(dtype, field[2] if len(field) == 3 else [])


def _shaped(dtype: np.dtype[Any], shape: Any) -> np.dtype[Any]:
    if type(shape) is not list:
        raise ValueError(f"no dtype: the shape {shape!r}")
    sizes = tuple([_natural(n) for n in shape])
    # a dtype without length and an empty shape, numpy takes for something else
    return np.dtype((dtype, sizes)) if sizes else dtype


def _natural(n: Any) -> int:
    if type(n) is not int or not 0 <= n <= _MOST:
        raise ValueError(f"no dtype: the number {n!r}")
    return n


def _of_layout(layout: dict[str, Any]) -> np.dtype[Any]:
    if layout.keys() != _LAYOUT:
        raise ValueError(f"no dtype: the keys {sorted(layout)}")
    for key in _LISTS:
        if type(layout[key]) is not list:
            raise ValueError(f"no dtype: {key} that are no list")
    for name in layout["names"]:
        if type(name) is not str:
            raise ValueError(f"no dtype: the name {name!r}")
    for title in layout["titles"]:
        if type(title) not in (str, _NONE):
            raise ValueError(f"no dtype: the title {title!r}")
    for text in layout["formats"]:
        if type(text) is not str:
            raise ValueError(f"no dtype: the format {text!r}")
    formats = [_shaped(of_text(f), s) for f, s in zip(layout["formats"], layout["shapes"], strict=True)]
    offsets = [_natural(n) for n in layout["offsets"]]
    return _made(layout["names"], formats, layout["titles"], offsets, _natural(layout["itemsize"]))


def _made(
    names: list[str], formats: list[np.dtype[Any]], titles: list[str | None], offsets: list[int], itemsize: int
) -> np.dtype[Any]:
    whole: Any = {"names": names, "formats": formats, "titles": titles, "offsets": offsets, "itemsize": itemsize}
    dtype: np.dtype[Any] = np.dtype(whole)
    return dtype
