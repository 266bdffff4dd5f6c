# SPDX-License-Identifier: BSD-3-Clause
"""Dtypes at random, and texts that are nearly the text of one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from palm._core import encode

SIMPLE = [
    *("|b1", "|i1", "|u1", "<i2", ">i4", "<i8", ">u8", "<f2", "<f4", ">f8", "<f16", ">c8", "<c16", "<c32"),
    *("<M8", "<M8[ns]", ">M8[25s]", "<m8", "<m8[7D]", ">m8[as]", "S5", "S0", "U3", ">U2", "U0", "V7", "V0"),
]
SEEDS = [
    *(
        "<f8",
        "|S5",
        "<M8[25s]",
        '[["x", "<f4"], ["y", "<i2", [2, 3]]]',
        '[[["tit", "x"], [["y", "|b1"]]], ["", "|V4"]]',
    ),
    '{"names": ["a", "b"], "formats": ["<f8", "[[\\"x\\", \\"<i2\\"]]"], "shapes": [[], [2]], "offsets": [0, 3], '
    '"titles": [null, "t"], "itemsize": 12}',
]
LETTERS = "()[]{},0123456789<>|=?biufcmMSUVOT :.'\"\\/smDa-+eE#*_"


def random_dtype(chance: random.Random, depth: int = 0) -> np.dtype[Any]:
    """Any that numpy can make: fields in order or out of it, overlapping, nested, with shapes, titles, padding."""
    if depth > 2 or chance.random() < 0.4:
        return np.dtype(chance.choice(SIMPLE))
    names = [chance.choice("abcé\U0001f600 x\"'\\\n[{") + str(i) for i in range(chance.randrange(4))]
    formats: list[Any] = [random_dtype(chance, depth + 1) for _ in names]
    formats = [(f, chance.choice([(2,), (2, 3), (0,)])) if f.itemsize and chance.random() < 0.3 else f for f in formats]
    titles = ["T" + name if chance.random() < 0.2 else None for name in names]
    fields: dict[str, Any] = {"names": names, "formats": formats, "titles": titles}
    if chance.random() < 0.5:
        return np.dtype(fields, align=chance.random() < 0.3)  # type: ignore[call-overload]
    fields["offsets"] = [chance.randrange(20) for _ in names]
    ends = [o + np.dtype(f).itemsize for o, f in zip(fields["offsets"], formats, strict=True)]
    return np.dtype(fields | {"itemsize": max(ends, default=0) + chance.randrange(5)})


def mutant_of_dtype(chance: random.Random) -> str:
    """The text of a dtype with a few letters more, less or other; now and then a piece twice."""
    text = list(chance.choice(SEEDS) if chance.random() < 0.5 else encode.dtype_text(random_dtype(chance)).decode())
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(text) + 1)
        what = chance.randrange(4)
        if what == 0:
            text.insert(at, chance.choice(LETTERS))
        elif what == 1:
            text[at : at + 1] = chance.choice(LETTERS)
        elif what == 2:
            del text[at : at + chance.randrange(1, 6)]
        else:
            text[at:at] = text[chance.randrange(at + 1) : at] * chance.randrange(1, 3)
    return "".join(text)
