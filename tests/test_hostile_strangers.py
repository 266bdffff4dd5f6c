# SPDX-License-Identifier: BSD-3-Clause
"""Strangers that say strange things: what they open, or have not opened (R34)."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from helpers_hostile import Stranger, exposed, meaning, opened

pytest_plugins = "helpers_hostile"  # its fixtures


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
    value = msgspec.msgpack.encode([1, 2, 3])
    stranger.say_tree(GARBAGE[n], kind=g.OPEN, handle=n + 1)
    for number in range(3):
        record = g.record(number=number, form=g.TREE, body_size=len(value))
        stranger.say(value, kind=g.DATA, handle=n + 1, records=[record])
    stranger.say(kind=g.CANCEL, records=[g.record()])
    stranger.say_tree(GARBAGE[n], kind=g.CANCEL)
    for size in (0, 15, 16, 17):
        for number in (0, (1 << 64) - 1):
            end = g.record(number=number, form=g.BYTES, body_size=size)
            stranger.say(bytes(size), kind=g.CANCEL, records=[end])
            stranger.say(bytes(size), kind=g.FORGET, records=[end])
    stranger.say(kind=g.FORGET, handle=n + 1)
    assert stranger.server.answers()


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
            stranger.say_tree(meaning(stranger) | fields, kind=kind)
        assert stranger.server.answers(), fields


def test_opens_that_name_endpoints_without_end(cluster, wire, tmp_path):
    """Each names a client and a next server where nobody is: those who come after it are served all the same."""
    with exposed(cluster) as (server, push), contextlib.closing(Stranger(server, push, wire)) as stranger:
        for n in range(1200):
            steps = [["target", "same", server.address, None], ["x", "y", f"ipc://{tmp_path}/{n}.next", None]]
            opened(stranger, n + 1, job=n.to_bytes(16, "big"), client=f"ipc://{tmp_path}/{n}", steps=steps)
        assert server.serves_who_comes_now()


def hears_of_loss(stranger: Stranger, handle: int) -> bool:
    """handle: of a job, or 0: of the link."""
    wire = stranger.wire.golden.generated()
    while True:
        assert stranger.pull.poll(10_000), "nothing said"
        e = wire.Envelope.GetRootAs(stranger.pull.recv_multipart()[0], 4)
        is_of_it = e.Kind() == stranger.wire.golden.DATA and e.Handle() == handle
        if is_of_it and e.RecordsLength() and e.Records(0).Form() == wire.Form.Lost:  # a beat has no records
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
