# SPDX-License-Identifier: BSD-3-Clause
"""Payloads as bytes and back, without a node."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from helpers_payload import exactly

import palm
from palm._core import space
from palm._core.decode import NOTHING
from palm._core.frame import pack, unpack

LARGE = 5 << 14
ARRAYS = [
    np.arange(5.0),
    np.zeros((0, 3), np.int8),
    np.full((), 3, np.float32),
    np.asfortranarray(np.arange(LARGE).reshape(32, -1)),
    np.arange(LARGE)[::-3],
    np.broadcast_to(np.arange(64.0), (1000, 64)),
    np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", ">f8")]),
    np.array(["2020-01-01"], "M8[D]"),
    np.array(["é", ""], "U3"),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")
@pytest.mark.parametrize("inside", [False, True])
def test_arrays_come_back_read_only(array, inside):
    found = unpack(pack({"x": [array]} if inside else array))
    found = found["x"][0] if inside else found
    assert type(found) is np.ndarray and found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable
    with pytest.raises(ValueError):
        found.flags.writeable = True


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1, -(1 << 200), 1 << 64, 0.1, 1 - 2j, "é", b"", b"x" * LARGE, NOTHING,
        np.float32(0.1), np.bool_(True), np.bytes_(b"a\0"), np.datetime64("2020-01-01"),
        (1, [2.0, (None, b"x")], {"a": (), 7: {"b": np.uint8(3)}}),
    ],
    ids=lambda v: repr(v)[:20],
)  # fmt: skip
def test_types_are_kept(value):
    assert exactly(unpack(pack(value))) == exactly(value)


def test_what_is_read_takes_its_own_memory_alone():
    frame = pack({"x": (bytes(100 * LARGE),)})
    tracemalloc.start()
    try:
        unpack(frame)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 100 * LARGE < most < 101 * LARGE


def test_arrays_outlive_the_frame_and_each_other():
    a, b = unpack(pack((np.arange(LARGE), np.ones(LARGE))))
    del b
    np.testing.assert_array_equal(a, np.arange(LARGE))


def test_no_shared_memory_is_used():
    with palm.arena():
        array = np.arange(LARGE)
    before = space.stats()
    frame = pack([array, {"x": array[::2]}, b"x" * LARGE])
    unpack(frame)
    after = space.stats()
    assert len(frame) > array.nbytes * 1.5 + LARGE  # it is all in there
    for what in ("blocks_held", "blocks_lent", "allocs"):
        assert after[what] == before[what]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (object(), "payload: object"),
        ({"a": [0, {1}]}, r"payload\['a'\]\[1\]: set"),
        (np.array([object()]), "payload: dtype"),
        ([np.ma.zeros(2)], r"payload\[0\]: .*subclass"),
    ],
)
def test_what_cannot_be_sent(value, place):
    with pytest.raises(palm.PayloadError, match=place):
        pack(value)


def test_damaged_frames():
    frame = pack({"x": np.arange(9.0), "y": "text"})
    for n in range(len(frame)):
        with pytest.raises(ValueError):
            unpack(frame[:n])
    for i in range(len(frame)):  # another value, or an error, but never a crash
        try:
            unpack(frame[:i] + bytes([frame[i] ^ 0xFF]) + frame[i + 1 :])
        except ValueError:
            pass
