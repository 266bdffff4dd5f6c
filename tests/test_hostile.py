# SPDX-License-Identifier: BSD-3-Clause
"""What is thrown at a live server's socket by who knows the address: it answers, counts, and does not grow (R34)."""

from __future__ import annotations

import random
import socket
import threading
import time

from conftest import eventually
from helpers_hostile import MESSAGES, SCHEMA, SEED

pytest_plugins = "helpers_hostile"  # its fixtures
MAX_PARTS = 1024  # palm_limits.h


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
