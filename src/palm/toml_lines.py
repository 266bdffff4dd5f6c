# SPDX-License-Identifier: BSD-3-Clause
"""Where in the text of a TOML file something stands, for those who have to correct it."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*([^=#]+?)\s*=")


def line_of(text: str, place: Sequence[str]) -> int:
    """Of a key, given with the tables that it is in; else of the innermost of these that can be found; else 1."""
    names = list(place)
    while names:
        if line := _line(text, ".".join(names)):
            return line
        names.pop()
    return 1


def _line(text: str, wanted: str) -> int:
    """Where a dotted name stands, as ``[a.b]`` or as ``b =`` below ``[a]``; 0: nowhere."""
    table, wanted = "", _plain(wanted)
    for number, line in enumerate(text.splitlines(), 1):
        if found := _HEADER.match(line):
            table = _plain(found[1])
            if table == wanted:
                return number
        elif (found := _KEY.match(line)) and f"{table}.{_plain(found[1])}".lstrip(".") == wanted:
            return number
    return 0


def _plain(name: str) -> str:
    """A dotted name without quotes and spaces."""
    return re.sub(r"[\s\"']", "", name)
