# SPDX-License-Identifier: BSD-3-Clause
"""What can be sent arrives with its types; what cannot is refused at the sender, with its place (rule 1)."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import pathlib
import random
import struct
import sys
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from helpers_arrays import settle
from helpers_dtypes import mutant_of_dtype, random_dtype
from hypothesis import example, given, settings

import palm
from palm._core import decode, encode, node
from palm._core.frame import pack, unpack
from palm._core.space import LENT

SEED = int(os.environ.get("PALM_SEED", "1"))
Point = namedtuple("Point", "x y")


class Subclass(np.ndarray):
    pass


class Real(np.float64):
    pass


REFUSED = {
    "object array": lambda: np.array([None, 1]),
    "records with objects": lambda: np.zeros(2, "i4,O"),
    "scalar with objects": lambda: np.zeros(2, "i4,O")[0],
    "StringDType": lambda: np.array(["a", "bc"], np.dtypes.StringDType()),
    "record": lambda: np.rec.array([(1, 2.0)], dtype="i4,f8")[0],
    "scalar of a subclass": lambda: Real(1.5),
    "masked array": lambda: np.ma.masked_less(np.arange(3), 1),
    "matrix": lambda: np.eye(2).view(np.matrix),
    "recarray": lambda: np.rec.array([(1, 2.0)], dtype="i4,f8"),
    "subclass": lambda: np.zeros(3).view(Subclass),
    "set": lambda: {1, 2},
    "frozenset": lambda: frozenset((1,)),
    "bytearray": lambda: bytearray(b"x"),
    "memoryview": lambda: memoryview(b"x"),
    "datetime": lambda: datetime.datetime(2020, 1, 1),
    "Decimal": lambda: decimal.Decimal(1),
    "Path": lambda: pathlib.Path("x"),
    "function": lambda: len,
    "class": lambda: int,
    "exception": lambda: ValueError("x"),
    "range": lambda: range(3),
    "generator": lambda: (i for i in range(3)),
    "namedtuple": lambda: Point(1, 2),
    "OrderedDict": lambda: OrderedDict(a=1),
    "own object": object,
    "bool key": lambda: {True: 1},
    "float key": lambda: {1.0: 1},
    "tuple key": lambda: {(1,): 1},
    "None key": lambda: {None: 1},
    "numpy key": lambda: {np.int64(1): 1},
    "huge key": lambda: {1 << 64: 1},
    "half a surrogate": lambda: "a\ud800",
    "half a surrogate as a key": lambda: {"a\udfff": 1},
    "huge dtype": lambda: np.zeros(1, [(f"field {i:04}", "i4") for i in range(500)]),
}


class Mirror(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def give(self, name):
        return [0, 1, {"x": REFUSED[name]()}]

    @palm.function
    def give_alone(self, name):
        x = REFUSED[name]()
        return x if name != "generator" else [x]

    @palm.function
    def yields(self, name):
        yield 1
        yield (REFUSED[name](),)


@pytest.fixture(scope="module")
def client() -> Iterator[palm.Client]:
    with palm.Cluster() as cluster:
        cluster.start(Mirror)
        client = cluster.client()
        client.call("mirror.same", np.zeros(5000))
        settle()
        yield client


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_the_sender(name: str) -> None:
    batch = node.Batch()
    for place, wrap in {
        "payload": lambda x: x,
        "payload[2]['x']": lambda x: (0, 1, {"x": x}),
        "payload['a'][7][0]": lambda x: {"a": {7: [x]}},
    }.items():
        with pytest.raises(palm.PayloadError) as caught:
            batch.put(wrap(REFUSED[name]()), 0)
        said = str(caught.value)
        assert said.startswith((f"{place}: ", f"{place}, a key: "))
        assert len(batch) == 0 and batch.size() == 0
    assert issubclass(palm.PayloadError, TypeError)


def test_what_was_refused_takes_no_room() -> None:
    """Not for what an envelope holds once for all its messages either."""
    batch = node.Batch()
    for n in range(4):
        with pytest.raises(palm.PayloadError, match="more room"):
            batch.put([np.zeros(1, [(f"{n}_{i}_{'a' * 3900}", "u1")]) for i in range(150)], 0)
        assert not batch.full
    batch.put([np.zeros(1, [("a", "u1")]), np.zeros(1)], 0)
    again = node.Batch()
    assert again.add(batch, 0)


def test_refused_by_each_way_of_sending(client: palm.Client) -> None:
    place = r"payload\[2\]\['x'\]: builtins\.set|payload\[2\]\['x'\]: set"
    bad = [0, 1, {"x": {1}}]
    with pytest.raises(palm.PayloadError, match=place):
        client.call("mirror.same", bad)
    with pytest.raises(palm.PayloadError, match=place):
        client.submit("mirror.same", bad)
    with pytest.raises(palm.PayloadError, match=f"input 3: ({place})"):
        list(client.job("mirror.same", [1, 2, 3, bad, 5]))
    with pytest.raises(palm.PayloadError, match=r"payload\[1\]: dtype"):
        client.call("mirror.same", 1, np.array([None]))
    assert client.call("mirror.same", 5) == 5


@pytest.mark.parametrize("name", REFUSED)
def test_refused_when_returned(client: palm.Client, name: str) -> None:
    with pytest.raises(palm.RemoteError, match=r"payload\[2\]\['x'\]") as caught:
        client.call("mirror.give", name)
    assert (caught.value.type, caught.value.server, caught.value.function) == ("PayloadError", "mirror", "give")
    with pytest.raises(palm.RemoteError, match="payload") as caught:
        client.call("mirror.give_alone", name)
    assert caught.value.type == "PayloadError"


def test_refused_when_yielded(client: palm.Client) -> None:
    with pytest.raises(palm.RemoteError, match=r"payload\[0\]: .*StringDType") as caught:
        client.call("mirror.yields", "StringDType")
    assert caught.value.type == "PayloadError"
    assert client.call("mirror.same", "well") == "well"


def test_says_what_to_do() -> None:
    def said(x: Any) -> str:
        with pytest.raises(palm.PayloadError) as caught:
            node.Batch().put(x, 0)
        return str(caught.value)

    assert "strings of fixed width" in said(np.array(["a"], object))
    assert "np.asarray(x)" in said(np.eye(2).view(np.matrix))
    assert "x.view((np.void, x.dtype))" in said(REFUSED["record"]())
    assert "keys have to be str or int" in said({1.5: 1})
    assert "ndarray, numpy scalars, bytes" in said(object())


# ------------------------------------------------------------------------------------------------------------- trees


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, bit by bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.str_, np.bytes_)):
        return bool(a == b)
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    return bool(a == b)


SCALAR_DTYPES = st.one_of(
    hnp.scalar_dtypes().filter(lambda d: d.char not in "gG"),  # they have padding: see test_scalars
    hnp.byte_string_dtypes(max_len=9),
    hnp.unicode_string_dtypes(max_len=9),
)
scalars = SCALAR_DTYPES.flatmap(lambda d: hnp.arrays(d, ()).map(lambda a: a[()]))
arrays = st.one_of(SCALAR_DTYPES, hnp.array_dtypes(SCALAR_DTYPES, max_size=3)).flatmap(
    lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 200), 1 << 200),
    st.floats(),
    st.complex_numbers(),
    text,
    st.binary(max_size=40),
    scalars,
    arrays,
)
keys = st.one_of(text, st.integers(-(1 << 63), (1 << 64) - 1))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
).filter(lambda tree: tree is not None)  # as a whole, None is never sent


@settings(max_examples=300, deadline=None)
@given(trees)
@example(())
@example([])
@example({})
@example([(), [], {}, ([],), [()]])
@example({0: {"0": 0}, -1: -(1 << 63), (1 << 64) - 1: 1 << 64})
@example(["", b"", np.str_(""), np.bytes_(b""), np.bytes_(b"a\0"), np.str_("a\0"), "a\0", b"a\0"])
@example([-0.0, float("inf"), complex(-0.0, float("nan"))])
def test_trees(client: palm.Client, tree: Any) -> None:
    assert same(client.call("mirror.same", [tree]), [tree])
    assert same(client.call("mirror.same", tree), tree)


SCALARS = [
    *(t(1) for t in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)),
    *(np.bool(True), np.bool(False)),
    *(t(1.25) for t in (np.float16, np.float32, np.float64, np.longdouble)),
    *(t(1 - 2j) for t in (np.complex64, np.complex128, np.clongdouble)),
    *(np.str_("äß"), np.bytes_(b"ab"), np.void(b"abc")),
    *(np.datetime64("2020-02-29"), np.datetime64("NaT"), np.datetime64(1, "25s"), np.datetime64(5, "as")),
    *(np.timedelta64(3, "D"), np.timedelta64("NaT"), np.timedelta64(3)),
    np.zeros(1, "i4,f8")[0],
]


@pytest.mark.parametrize("value", SCALARS, ids=lambda v: f"{v.dtype}-{v}")
def test_scalars(client: palm.Client, value: np.generic) -> None:
    alone, (inside,) = client.call("mirror.same", value), client.call("mirror.same", (value,))
    for got in (alone, inside):
        assert type(got) is type(value)
        assert got.dtype == value.dtype
        assert got == value or np.isnat(got) and np.isnat(value)


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_depth(client: palm.Client, kind: type) -> None:
    def nested(depth: int, leaf: Any) -> Any:
        tree = leaf
        for _ in range(depth):
            tree = {"k": tree} if kind is dict else kind([tree])
        return tree

    for leaf in (1, b"x", np.arange(3), np.arange(5000), np.float32(2)):
        tree = nested(64, leaf)
        assert same(client.call("mirror.same", tree), tree)
        with pytest.raises(palm.PayloadError, match="nested deeper than 64"):
            client.call("mirror.same", nested(65, leaf))
    with pytest.raises(palm.PayloadError, match="nested deeper than 64"):
        client.call("mirror.same", nested(100_000, 1))


def test_tree_in_itself() -> None:
    tree: list[Any] = []
    tree.append(tree)
    with pytest.raises(palm.PayloadError, match="nested deeper than 64"):
        node.Batch().put(tree, 0)


@pytest.mark.parametrize("n", [0, 1, LENT - 1, LENT, 1 << 20])
def test_bytes(client: palm.Client, n: int) -> None:
    data = bytes(range(256)) * (n // 256) + bytes(n % 256)
    for value in (data, [data], {"data": (data, 1)}):
        assert same(client.call("mirror.same", value), value)


def test_long_text_and_wide_trees(client: palm.Client) -> None:
    for value in ("漢字" * 100_000, list(range(50_000)), {str(i): i for i in range(10_000)}, ((),) * 1000):
        assert same(client.call("mirror.same", value), value)


def test_many_arrays_in_one_message(client: palm.Client) -> None:
    tree = [np.full(3, i) for i in range(2000)]
    assert same(client.call("mirror.same", tree), tree)
    with pytest.raises(palm.PayloadError, match=r"payload\[8192\]: .*at most 8192 arrays"):
        client.call("mirror.same", [np.zeros(1)] * 20_000)
    assert client.call("mirror.same", 1) == 1


def test_same_array_twice(client: palm.Client) -> None:
    with palm.arena():
        a = np.arange(10_000.0)
    first, second = client.call("mirror.same", (a, a))
    assert same(first, a) and same(second, a)
    view, whole = client.call("mirror.same", [a[5:9000], a])
    assert same(view, a[5:9000]) and same(whole, a)


@pytest.mark.parametrize("kind", [list, dict])
def test_containers_that_change_while_they_are_sent(kind: type) -> None:
    """What arrives was there at one moment: copying an array that is not dense lets other threads run."""
    grid = np.zeros((64, 2000))
    tree: Any = kind()
    changes, stop = 0, threading.Event()

    def change() -> None:
        nonlocal changes
        while not stop.is_set():
            if kind is list:
                tree.append((changes, grid[:, ::7]))
            else:
                tree[changes] = changes, grid[:, ::7]
            if len(tree) > 20:
                tree.pop(0 if kind is list else changes - 20)
            changes += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            got = unpack(pack({"tree": tree}))["tree"]
            numbers = [n for n, _ in (got if kind is list else got.values())]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else len(got) == 0
            assert len(numbers) <= 21
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert changes > 200


# -------------------------------------------------------------------------------------------------------------- dtypes


LAYOUT = {"names": ["a"], "formats": ["<f8"], "shapes": [[]], "offsets": [0], "titles": [None], "itemsize": 8}
NOT_LAYOUTS = [
    {},
    {"names": 1},
    {"names": [], "formats": [], "shapes": [], "offsets": [], "titles": []},
    LAYOUT | {"more": 1},
    *(LAYOUT | {"names": names} for names in (["a", "b"], [1], [["a"]], {"a": 1})),
    *(LAYOUT | {"formats": formats} for formats in ([], [8], [["<f8"]], ["|O"], ["(2,)<f8"])),
    *(LAYOUT | {"shapes": shapes} for shapes in ([], [None], [8], [[-1]], [["x"]], [[1 << 31]], [[2]], [[1] * 65])),
    *(LAYOUT | {"offsets": offsets} for offsets in ([], [-1], [1], [True], [1.5], [1 << 70])),
    *(LAYOUT | {"titles": titles} for titles in ([], [1], [["t"]], ["a"])),
    *(LAYOUT | {"itemsize": size} for size in (7, -1, None, "8", True, 1.5, 1e400, 1 << 70)),
]
NO_DTYPES = [
    *("", "no", "O", "T", '"f8"', "f8", "=f8", "<f9", "<f8\n", " <f8", "<i4,<f8", "<f8[2]", "|b2", "<U-1", "<U03"),
    *("<U2147483647", "|V99999999999999999999", "|T16", "<M8[s/0]", "<M8[s/7]", "<M8[0s]", "<M8[]", "<M8[2147483648s]"),
    *("<M8[99999999999999999999s]", "<M8[generic]", "(1,,2)i4", "1 2i4", "08i4", "(2,)<f8", "()<f8", "{'a': 'O'}"),
    *("[", "[[[[[", "[" * 4000, "[1]", "[null]", "[[]]", '[["a"]]', '[["a",[[]]]]', '[["a","O"]]', '[["a","T"]]'),
    *('[["a","<f8",2]]', '[["a","<f8",[2],[2]]]', '[["a","<f8",["2"]]]', '[["a","<f8",[-1]]]', '[["a","<f8",[1e400]]]'),
    *('[["a","<f8",[true]]]', '[["a","<f8",[2147483648]]]', '[["a","|V2147483647",[2]]]', '[[1,"<f8"]]'),
    *('[["a","|V2147483647"],["b","|V2147483647"]]', '[[["t"],"<f8"]]', '[[["t","a","b"],"<f8"]]', '[[["t",5],"<f8"]]'),
    *('[["a","<f8"],["a","<f8"]]', '[["a","<f8"]] x', '[["a",{}]]', f'[["a","<f8",[{"1," * 64}1]]]', '[{"a":1}]'),
    *map(json.dumps, NOT_LAYOUTS),
]


def test_texts_that_are_no_dtypes() -> None:
    for text in (*(t.encode() for t in NO_DTYPES), b"\xff", b"[" * 10_000, b"|S" + b"1" * 5000):
        with pytest.raises(ValueError):
            decode.dtype_of_text(text)
            pytest.fail(f"{text!r} is a dtype")


def test_mutants_of_dtypes() -> None:
    """A dtype, or a ValueError; and what is a dtype can be used and sent."""
    chance, taken = random.Random(SEED), 0
    for _ in range(5000):
        text = mutant_of_dtype(chance)
        try:
            dtype = decode.dtype_of_text(text.encode())
        except ValueError:
            continue
        taken += 1
        assert not dtype.hasobject
        assert decode.dtype_of_text(encode.dtype_text(dtype)) == dtype
        if dtype.itemsize < 1 << 20:
            a = np.zeros(2, dtype)
            assert unpack(pack(a)).dtype == a.dtype
    assert 50 < taken < 4000


def test_dtypes_of_all_kinds_come_back() -> None:
    chance = random.Random(SEED)
    for n in range(5000):
        dtype = random_dtype(chance)
        text = encode.dtype_text(dtype)
        got = decode.dtype_of_text(text)
        assert got == dtype and got.fields == dtype.fields and got.itemsize == dtype.itemsize, text
        if n % 10 == 0:
            a = np.frombuffer(bytes(2 * dtype.itemsize) or b"x", dtype, 2) if dtype.itemsize else np.zeros(2, dtype)
            for x in (a, a[0]):
                got = unpack(pack(x))
                assert type(got) is type(x) and got.tobytes() == x.tobytes()


def test_metadata_is_no_obstacle(client: palm.Client, recwarn: pytest.WarningsRecorder) -> None:
    a = np.zeros(3, np.dtype("f4", metadata={"unit": "m"}))
    assert same(client.call("mirror.same", a), a)
    assert not recwarn.list
