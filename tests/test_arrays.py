# SPDX-License-Identifier: BSD-3-Clause
"""Any array arrives as it was sent: dtypes x layouts x byte orders x sizes x transports (R21, R22, R23)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers_arrays import moved, place, settle

import palm
from palm._core.space import LENT

SMALL, LARGE = 8, 2100  # rows of 8 elements: below and above the 8 KiB from which arrays lie in the arena


def lowest(a: np.ndarray) -> int:
    """Address of its first byte in memory."""
    return np.lib.array_utils.byte_bounds(a)[0]


def digest(a: np.ndarray) -> bytes:
    return hashlib.blake2b(a.tobytes()).digest()


class Mirror(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def saw(self, x):
        return x, {
            "dtype": repr(x.dtype),
            "shape": x.shape,
            "strides": x.strides,
            "writeable": x.flags.writeable,
            "lowest": lowest(x),
            "place": place(x),
            "digest": digest(x),
        }


@pytest.fixture(scope="module", params=["arena", "sockets", "frames"])
def mirror(request) -> Iterator[tuple[palm.Client, str]]:
    with palm.Cluster() as cluster:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PALM_LINK", {"arena": ""}.get(request.param, request.param))
            cluster.start(Mirror)
            client = cluster.client()
        client.call("mirror.saw", np.zeros(1 << 20))  # both arenas are mapped from here on
        settle()
        yield client, request.param


PLAIN = [
    *("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "q", "Q"),
    *("f2", "f4", "f8", "g", "c8", "c16", "G"),
    *("M8[ns]", "M8[D]", "M8[25s]", "M8", "m8[us]", "m8[7m]"),
    *("S1", "S13", "U1", "U7", "V1", "V24"),
]
STRUCTURED = {
    "packed": [("x", "f8"), ("y", "i2")],
    "aligned": np.dtype("i1,f8,u2", align=True),
    "nested": [("a", [("b", ">i4"), ("c", "S3")]), ("d", "M8[s]")],
    "subarray": [("image", "f4", (2, 3)), ("n", "i4")],
    "subarray of records": [("pairs", [("p", "i2"), ("q", "<c8")], (2,))],
    "titles": [(("the title", "x"), "f8"), ("y", "U3")],
    "both orders": [("big", ">f8"), ("little", "<f8")],
    "out of order": np.dtype({"names": ["a", "b"], "formats": ["f4", "i4"], "offsets": [4, 0]}),
    "overlapping": np.dtype({"names": ["a", "b"], "formats": ["u4", "u2"], "offsets": [0, 2], "titles": ["A", None]}),
    "padded, out of order, nested": np.dtype(
        {
            "names": ["a", "b"],
            "formats": [("i2", (3,)), np.dtype({"names": ["c", "d"], "formats": ["u1", ">u2"], "offsets": [2, 0]})],
            "offsets": [8, 1],
            "itemsize": 20,
        }
    ),
}


def values(dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Some of them not a number, not a time, signed zeros, or whatever the bits say."""
    out = np.empty(shape, dtype)
    n = out.size
    rng = np.random.default_rng(n)
    if dtype.names:
        for name in dtype.names:
            out[name] = values(dtype[name].base, out[name].shape)
        return out
    if dtype.kind == "b":
        some = rng.integers(0, 2, n)
    elif dtype.kind in "fc":
        some = rng.normal(size=n) * (1 if dtype.kind == "f" else 1 - 2j)
        some[:4] = [np.nan, np.inf, -np.inf, -0.0][:n]
    elif dtype.kind == "U":
        letters = np.array([*"aßΩ漢😀z"])
        some = ["".join(rng.choice(letters, dtype.itemsize // 4)) for _ in range(min(n, 97))]
        some = np.resize(np.array(some, f"U{dtype.itemsize // 4}"), n)
    else:
        some = np.frombuffer(rng.bytes(n * dtype.itemsize), dtype)
    out[...] = np.asarray(some).astype(dtype).reshape(shape)
    return out


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit by bit, padding left aside."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.names:
        return all(same(a[name], b[name]) for name in a.dtype.names)
    if a.dtype.char in "gG":  # they have padding too
        return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a.real), np.signbit(b.real))
    return a.tobytes() == b.tobytes()


Make = Callable[[tuple[int, ...]], np.ndarray]
WHOLE: dict[str, Callable[[Make, int], np.ndarray]] = {
    "C": lambda make, n: make((n, 8)),
    "F": lambda make, n: np.asfortranarray(make((n, 8))),
    "transposed": lambda make, n: make((n, 4, 2)).transpose(1, 2, 0),
    "reversed": lambda make, n: make((n, 8))[::-1, ::-1],
    "0-d": lambda make, n: make(()),
    "empty": lambda make, n: make((0, n)),
    "one axis of 1": lambda make, n: make((n * 8,))[:, np.newaxis],
}
PARTS: dict[str, Callable[[Make, int], np.ndarray]] = {
    "strided": lambda make, n: make((2 * n, 8))[::2],
    "strided in both": lambda make, n: make((n, 24))[::-1, ::-3],
    "offset": lambda make, n: make((n + 3, 9))[3:, 1:],
    "empty part": lambda make, n: make((n, 8))[n:],
    "diagonal": lambda make, n: make((n, 8)).ravel()[: n * 8 // 9 * 9].reshape(-1, 9)[:, ::4],
}
OTHERS: dict[str, Callable[[Make, int], np.ndarray]] = {
    "broadcast row": lambda make, n: np.broadcast_to(make((8,)), (n, 8)),
    "broadcast": lambda make, n: np.broadcast_to(make((n, 1, 8)), (n, 3, 8)),
    "windows": lambda make, n: np.lib.stride_tricks.sliding_window_view(make((n * 8,)), 5),
}
LAYOUTS = WHOLE | PARTS | OTHERS


def cases(dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """(what it is, array); those that are born in the arena, and those that are not."""
    layouts = {
        k: v for k, v in LAYOUTS.items() if k != "windows" or not dtype.names
    }  # numpy makes none of padded records
    orders = [dtype] if dtype.names else [dtype, dtype.newbyteorder()]
    for order in orders if dtype.newbyteorder() != dtype else [dtype]:
        for n in (SMALL, LARGE):
            for layout, make in layouts.items():
                yield f"heap {layout}", make(lambda shape, d=order: values(d, shape), n)
                with palm.arena():
                    yield f"arena {layout}", make(lambda shape, d=order: values(d, shape), n)


def check_array(got: np.ndarray, sent: np.ndarray) -> None:
    assert type(got) is np.ndarray
    assert repr(got.dtype) == repr(sent.dtype) or got.dtype == sent.dtype
    assert got.dtype.isnative == sent.dtype.isnative
    assert same(got, sent)
    assert not got.flags.writeable


def check_seen(seen: dict[str, Any], got: np.ndarray, sent: np.ndarray, what: str, transport: str) -> None:
    born, layout = what.split(" ", 1)
    assert seen["shape"] == sent.shape
    assert not seen["writeable"]
    if not sent.dtype.names and sent.dtype.char not in "gG":
        assert seen["digest"] == digest(sent)
    if not sent.size:
        return
    large = np.subtract(*np.lib.array_utils.byte_bounds(sent)[::-1]) >= LENT
    in_place = born == "arena" and large and sent.nbytes >= LENT
    if layout in WHOLE or not in_place:
        assert seen["lowest"] % 64 == 0 and lowest(got) % 64 == 0
    if in_place or layout in WHOLE:
        assert seen["strides"] == sent.strides == got.strides
    if in_place and transport != "frames":
        assert seen["place"] == place(sent) == place(got)


@pytest.mark.parametrize("dtype", [*PLAIN, *STRUCTURED])
def test_matrix(mirror: tuple[palm.Client, str], dtype: str) -> None:
    client, transport = mirror
    sent = list(cases(np.dtype(STRUCTURED.get(dtype, dtype))))
    results = client.job("mirror.saw", [a for _, a in sent], ordered=True)
    for (what, a), (got, seen) in zip(sent, results, strict=True):
        try:
            check_array(got, a)
            check_seen(seen, got, a, what, transport)
        except AssertionError as e:
            raise AssertionError(f"{what}, {a.dtype}, {a.shape}: {e}") from e


@pytest.mark.parametrize("part", ["real", "imag"])
@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_part_of_complex(mirror: tuple[palm.Client, str], part: str, n: int) -> None:
    client, transport = mirror
    with palm.arena():
        a = getattr(values(np.dtype("c16"), (n, 8)), part)
    got, seen = client.call("mirror.saw", a)
    check_array(got, a)
    if n == LARGE:
        assert seen["strides"] == (128, 16)
        if transport != "frames":
            assert seen["place"] == place(a)


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_field_of_records(mirror: tuple[palm.Client, str], name: str, n: int) -> None:
    """Elements that are not aligned to their own size."""
    with palm.arena():
        a = values(np.dtype(STRUCTURED["packed"]), (n, 8))[name]
    got, seen = mirror[0].call("mirror.saw", a)
    check_array(got, a)
    assert seen["strides"] == ((80, 10) if n == LARGE else (a.itemsize * 8, a.itemsize))


def test_several_fields(mirror: tuple[palm.Client, str]) -> None:
    a = values(np.dtype(STRUCTURED["packed"]), (LARGE,))[["y", "x"]]
    check_array(mirror[0].call("mirror.same", a), a)


@pytest.mark.parametrize(
    ("n", "in_frames"), [(LENT, "sent_inline"), (1 << 15, "sent_inline"), (1 << 16, "sent_frames")]
)
def test_what_has_come_goes_on_as_it_came(mirror: tuple[palm.Client, str], n: int, in_frames: str) -> None:
    """A little one, to who does not map our memory, goes in the body: a frame for each would cost more."""
    client, transport = mirror
    with palm.arena():
        x = values(np.dtype("u1"), (n,))
    with moved() as here, moved(client, "mirror") as there:
        check_array(client.call("mirror.same", x), x)
    assert here["bytes_copied"] == there["bytes_copied"] == 0
    assert here[in_frames if transport == "frames" else "sent_arena"] == 1
    assert there[in_frames if transport == "frames" else "sent_arena"] == 1


@pytest.mark.parametrize("n", [0, 1, LENT - 1, LENT, LENT + 1, 65536, 65537, 3 << 20])
def test_sizes_around_the_borders(mirror: tuple[palm.Client, str], n: int) -> None:
    with palm.arena():
        a = values(np.dtype("u1"), (n,))
        b = values(np.dtype("u1"), (16 * n,))[n // 2 : n // 2 + n]
    for x in (a, b):
        got, seen = mirror[0].call("mirror.saw", x)
        check_array(got, x)
        assert seen["digest"] == digest(x)


def test_dimensions(mirror: tuple[palm.Client, str]) -> None:
    a = values(np.dtype("i2"), (2, 3) + (1,) * 62)
    check_array(mirror[0].call("mirror.same", a), a)


def test_memory_is_shared_with_the_owner() -> None:
    """What the owner writes, on its own word, is seen in the view that came back: they are the same memory."""
    with palm.Cluster() as cluster:
        cluster.start(Mirror)
        with palm.arena():
            a = np.zeros((512, 512))
        got = cluster.client().call("mirror.same", a[::2, 1:])
        a[2, 1] = 7.0
        assert got[1, 0] == 7.0
        assert place(got) == place(a[::2, 1:])


def test_write_to_a_view(mirror: tuple[palm.Client, str]) -> None:
    got = mirror[0].call("mirror.same", np.zeros(10_000))
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        got.flags.writeable = True
    copy = got.copy()
    copy[0] = 1
    assert got[0] == 0
