# SPDX-License-Identifier: BSD-3-Clause
"""Payloads that are none: trees, blocks, dtypes and shapes by a hostile hand (R34)."""

from __future__ import annotations

import random

import pytest
import zmq
from helpers_dtypes import mutant_of_dtype
from helpers_hostile import MESSAGES, SEED, Stranger, Target, opened

pytest_plugins = "helpers_hostile"  # its fixtures
DEEP = b"\x91" * 100_000 + b"\xc0"
EXTENSIONS = [
    b"\xc7" + bytes([n, code]) + b"\xff" * n for code in (0, 1, 2, 3, 4, 5, 6, 127, 255) for n in (0, 1, 4, 16)
]


@pytest.mark.parametrize(
    "tree",
    [
        DEEP,
        b"\x81" + b"\xa1a\x81" * 50_000 + b"\xa1a\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff" + b"x" * 10,
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xc1",
        b"",
        b"\xc0\xc0\xc0",
        b"\x81\x91\x01\x01",
        b"\xc7\x00\x02" * 10,
        *EXTENSIONS,
    ],
    ids=lambda tree: f"{len(tree)}-{tree[:6].hex()}",
)
def test_trees_that_are_none(stranger, tree):
    opened(stranger)
    g = stranger.wire.golden
    stranger.say(tree, kind=g.DATA, handle=1, records=[g.record(form=g.TREE, body_size=len(tree))])
    assert stranger.server.answers()


def test_nested_tuples_in_extensions(stranger):
    """Each level is an extension of its own: the depth is counted through them too."""
    tree = b"\x90"
    for _ in range(3000):
        tree = ext_tuple(tree)
    opened(stranger)
    g = stranger.wire.golden
    stranger.say(tree, kind=g.DATA, handle=1, records=[g.record(form=g.TREE, body_size=len(tree))])
    assert stranger.server.answers()


def ext_tuple(inside: bytes) -> bytes:
    content = b"\x91" + inside
    return b"\xc9" + len(content).to_bytes(4, "big") + b"\x02" + content


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"pid": 1, "fd": 0},
        {"pid": -1, "fd": -1},
        {"pid": 0, "fd": 0},
        {"index": 2**32 - 1},
        {"generation": 2**64 - 1},
        {"at": 1 << 62, "size": 1 << 61},
        {"size": 2**63},
        {"arena_hi": 0, "arena_lo": 0},
    ],
)
def test_forged_blocks(stranger, block):
    """A block of nobody's memory, or of somebody's who never offered it, is an error of that message alone."""
    g = stranger.wire.golden
    opened(stranger)
    for own in (False, True):
        fields = {"size": 4096, "generation": 2, "at": 0} | block
        if own:  # the server's own arena, of which anybody may know
            pid, fd, hi, lo = stranger.server.page
            fields |= {"pid": pid, "fd": fd, "arena_hi": hi, "arena_lo": lo}
        stranger.say(
            kind=g.DATA,
            handle=1,
            dtypes=["|u1"],
            dims=[4000, 1],
            blocks=[g.block(**fields)],
            arrays=[g.array(size=4000, ndim=1, place=g.IN_BLOCK)],
            records=[g.record(form=g.ONE_ARRAY, array_count=1)],
        )
        assert stranger.server.answers()


NO_DTYPES = [
    *("|O", "O", "<f9", "", "[", "[[", '[["x", "|O"]]', "x" * 4000, "__import__('os')", "<U999999999", "\u2603"),
    *("[[]]", '[["a"]]', '[["a",[[]]]]', '[["a",[]],[]]', '[[[],"<f8"]]', '[[["a"],"<f8"]]', '[["a","<f8",3]]'),
    *("[null]", "<M8[s/0]", "<M8[0s]", "<m8[s/99999999999999]", "(1,,2)i4", "1 2i4", "08i4", "(01)i4", "f8,f8"),
    *('[["x","<f8",[1e400]]]', '[["x","<f8",[-1]]]', '[["x","|V2147483647",[2]]]', '[["x","<f8",' + "[" * 900),
    '{"names":["a"],"formats":["<f8"],"shapes":[[]],"offsets":[0],"titles":[null],"itemsize":1e400}',
    '{"names":["a"],"formats":[[]],"shapes":[[]],"offsets":[0],"titles":[null],"itemsize":8}',
    '{"names":["a"],"formats":["<f8"],"shapes":[[]],"offsets":[9],"titles":[null],"itemsize":8}',
    '{"names":[],"formats":[],"shapes":[],"offsets":[],"titles":[]}',
]


def say_array(
    stranger: Stranger, dtype: str, dims: list[int], form: int, kind: int | None = None, tree: bytes = b""
) -> None:
    """64 bytes as one array, and what names it."""
    g = stranger.wire.golden
    stranger.say(
        bytes(64) + tree,
        kind=kind or g.DATA,
        handle=1,
        dtypes=[dtype],
        dims=dims,
        arrays=[g.array(size=64, ndim=len(dims) // 2)],
        records=[g.record(form=form, array_count=1, body_at=64, body_size=len(tree))],
    )


def say_tree(stranger: Stranger, tree: bytes, kind: int) -> None:
    g = stranger.wire.golden
    stranger.say(tree, kind=kind, handle=1, records=[g.record(form=g.TREE, body_size=len(tree))])


def test_rows_that_reach_beyond_their_bytes(stranger):
    """The reader knows where elements begin, but not how long they are: the second of these is 1000 bytes too long."""
    g = stranger.wire.golden
    opened(stranger, steps=[["target", "stacked", stranger.server.address, None]])
    for n in range(3):
        stranger.say(
            bytes(1002),
            kind=g.DATA,
            handle=1,
            dtypes=["|V1000"],
            dims=[2, 1000],
            arrays=[g.array(size=1002, origin=1, ndim=1)],
            records=[g.record(number=2 * n, count=2, form=g.ONE_ARRAY, array_count=1)],
        )
    assert stranger.server.answers()
    assert stranger.server.client.call("target.rows") == 3, "the first of each"


@pytest.mark.parametrize(
    ("form", "record", "array"),
    [
        ("BYTES", {"count": 4096}, {}),
        ("BYTES", {"count": 3, "body_size": 64}, {}),
        ("TREE", {"count": 2**32 - 1, "body_size": 64}, {}),
        ("BYTES", {"count": 2, "body_size": 64, "path_count": 1}, {}),
        ("BYTES", {"count": 64, "body_size": 64, "number": 2**64 - 2}, {}),
        ("ONE_ARRAY", {"count": 5, "array_count": 1}, {"size": 64, "ndim": 1}),
        ("ONE_ARRAY", {"count": 8, "array_count": 1}, {"size": 64, "ndim": 0}),
        ("ONE_ARRAY", {"count": 8, "array_count": 1}, {"size": 64, "ndim": 1, "flags": 1 << 31}),
    ],
)
def test_runs_that_are_none(stranger, form, record, array):
    g = stranger.wire.golden
    opened(stranger)
    rejected = stranger.server.counter("rejected")
    arrays = {"dtypes": ["<f8"], "dims": [8, 8], "arrays": [g.array(**array)]} if array else {}
    records = [g.record(form=getattr(g, form), **record)]
    stranger.say(bytes(64), kind=g.DATA, handle=1, paths=[5], records=records, **arrays)
    assert stranger.server.settled("rejected", rejected + 1) and stranger.server.answers()


def scalar(dtype: str) -> bytes:
    """A tree that is one scalar."""
    content = dtype.encode() + bytes(9)
    return b"\xc9" + len(content).to_bytes(4, "big") + b"\x03" + content


@pytest.mark.parametrize("dtype", NO_DTYPES, ids=lambda dtype: dtype[:40])
def test_dtypes_that_are_none(stranger, dtype):
    """Neither of an array nor of a scalar, in a message or in what says what messages mean."""
    g = stranger.wire.golden
    opened(stranger)
    say_array(stranger, dtype, [8, 8], g.ONE_ARRAY)
    for kind in (g.DATA, g.OPEN, g.CANCEL, g.FORGET):
        say_tree(stranger, scalar(dtype), kind)
    assert stranger.server.answers()


def test_mutants_of_dtypes(stranger):
    chance = random.Random(SEED)
    opened(stranger)
    for _ in range(MESSAGES // 10):
        say_tree(stranger, scalar(mutant_of_dtype(chance)), stranger.wire.golden.DATA)
    assert stranger.server.answers()


def test_the_registry_is_no_softer(cluster, wire):
    cluster.start(Target)
    client = cluster.client()
    pid = client.status()["registry"]["pid"]
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.connect(client.address)
        stranger = Stranger(None, push, wire)
        for dtype in NO_DTYPES:
            say_tree(stranger, scalar(dtype), wire.golden.OPEN)
        stranger.close()
    assert client.call("target.same", 1, timeout=30) == 1
    assert client.status()["registry"]["pid"] == pid


def test_bytes_that_are_not_one_after_the_other(stranger):
    """Neither much out of a stride of zero, nor what is no bytes at all."""
    g = stranger.wire.golden
    opened(stranger)
    for kind in (g.DATA, g.OPEN, g.CANCEL, g.FORGET):
        for dtype, dims in (
            *(("|u1", [1 << 46, 0]), ("|u1", [32, 2]), ("|u1", [64, -1]), ("|u1", [8, 8, 8, 1]), ("|u1", [])),
            *(("|i1", [64, 1]), ("<f8", [8, 8])),
        ):
            say_array(stranger, dtype, dims, g.BYTES, kind)
            say_array(stranger, dtype, dims, g.TREE, kind, b"\xd6\x06" + bytes(4))
    assert stranger.server.answers()


def test_shapes_beyond_all_bounds(stranger):
    """A stride of zero makes much out of one byte: it is a view, and costs nothing until somebody copies it."""
    g = stranger.wire.golden
    opened(stranger)
    for dims in ([2**62, 0], [2**40, 2**40, 0, 0], [0, 2**63 - 1, 8, 8]):
        stranger.say(
            bytes(8),
            kind=g.DATA,
            handle=1,
            dtypes=["<f8"],
            dims=dims,
            arrays=[g.array(size=8, ndim=len(dims) // 2)],
            records=[g.record(form=g.ONE_ARRAY, array_count=1)],
        )
        assert stranger.server.answers()
