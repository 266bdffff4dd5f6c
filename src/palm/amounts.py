# SPDX-License-Identifier: BSD-3-Clause
"""Amounts of memory as people write them."""

from __future__ import annotations

import re

AMOUNT = r"\s*[0-9]+(\.[0-9]*)?\s*([kKmMgGtT][iI]?)?[bB]?\s*"
_PARTS = re.compile(r"\s*([0-9.]+)\s*([kmgt]?)(i?)", re.IGNORECASE)


def parse_memory(text: str | None) -> int:
    """Bytes of ``"512MiB"``, ``"2GB"``, ``"1048576"``; 0 for None."""
    if text is None:
        return 0
    if not isinstance(text, str):
        raise TypeError(f'memory is text with a unit, as "512MiB" or "2GB", not {text!r}')
    found = _PARTS.match(text)
    if found is None or not re.fullmatch(AMOUNT, text):
        raise ValueError(f'{text!r} is no amount of memory: write it as "512MiB" or "2GB"')
    number, letter, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(letter.lower() or " "))
