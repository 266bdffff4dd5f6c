# SPDX-License-Identifier: BSD-3-Clause
"""Forged introductions: HELLOs from nowhere, with absurd fields, without end (R34)."""

from __future__ import annotations

import os
import secrets

import pytest
from helpers_hostile import boot_and_namespace, exposed, hello

pytest_plugins = "helpers_hostile"  # its fixtures


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
    here = boot_and_namespace() | {"pid": os.getpid(), "fd": 0, "arena_hi": 1, "arena_lo": 2}
    for fd in (1, 7):
        fields_ = here | {"fd": fd} | fields
        push.send(hello(wire, secrets.randbits(63) | 1, f"ipc://{tmp_path}/{fd}", **fields_))
    assert server.answers()


def test_hello_that_names_any_file_as_an_arena(server, push, wire, tmp_path):
    """The fd of a file that is no arena, of a pipe, of a device: it is opened by nobody who cannot stop looking."""
    files = [tmp_path / "empty", tmp_path / "full"]
    files[0].write_bytes(b"")
    files[1].write_bytes(secrets.token_bytes(1 << 20))
    fds = [os.open(f, os.O_RDWR) for f in (*files, "/dev/zero", "/dev/null")]
    fds += [*os.pipe(), os.memfd_create("palm")]
    try:
        for fd in fds:
            who = {"pid": os.getpid(), "fd": fd, "arena_hi": 3, "arena_lo": fd, "bell": fd, "wake": fd, "ring": fd}
            push.send(hello(wire, secrets.randbits(63) | 1, f"ipc://{tmp_path}/{fd}", **boot_and_namespace(), **who))
            assert server.answers()
    finally:
        for fd in fds:
            os.close(fd)
    assert all(f.exists() for f in files) and files[1].stat().st_size == 1 << 20


def test_hello_without_end(cluster, wire, tmp_path):
    """Each from another sender at another address: those who come after them are served all the same."""
    with exposed(cluster) as (server, push):
        for n in range(1200):
            push.send(hello(wire, 2 * n + 1, f"ipc://{tmp_path}/{n}"))
        assert server.serves_who_comes_now()
