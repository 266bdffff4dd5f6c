# SPDX-License-Identifier: BSD-3-Clause
"""Arrays through three processes, by pyzmq as one writes it by hand."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import rounds
import zmq
from processes import running, same
from sockets import socket, versions

pack = msgspec.msgpack.Encoder().encode
unpack_array = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], bytes | None]).decode
SMALL = 1 << 16  # bytes of an array that goes in one frame with its head


def send_array(s: zmq.Socket, x: np.ndarray) -> None:
    """Small ones in one frame: a second one costs more than the copy (pyzmq's own copy_threshold is 64 KiB too)."""
    if x.nbytes < SMALL:
        s.send(pack((x.dtype.str, x.shape, x.data)))
    else:
        s.send(pack((x.dtype.str, x.shape, None)), zmq.SNDMORE)
        s.send(x, copy=False)


def recv_array(s: zmq.Socket) -> np.ndarray:
    dtype, shape, body = unpack_array(s.recv())
    return np.frombuffer(s.recv(copy=False).buffer if body is None else body, dtype).reshape(shape)


def hand_on(inbound: str, outbound: str) -> None:
    context = zmq.Context()
    taken = socket(context, zmq.PULL, bind=inbound)
    given = socket(context, zmq.PUSH, connect=outbound)
    while True:
        send_array(given, same(recv_array(taken)))


@contextlib.contextmanager
def pipeline() -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, zmq.Context() as context:
        a, b, c, end = (f"ipc://{d}/{name}" for name in ("a", "b", "c", "end"))
        with (
            running((hand_on, (a, b)), (hand_on, (b, c)), (hand_on, (c, end))),
            socket(context, zmq.PULL, bind=end) as back,
            socket(context, zmq.PUSH, connect=a) as out,
        ):
            one_by_one(out, back, np.zeros(8), 10)
            yield lambda request: pipeline_round(out, back, request)


def pipeline_round(out: zmq.Socket, back: zmq.Socket, request: rounds.Request) -> dict[str, Any]:
    x = np.arange(request["size"] / 8)
    if request["case"].startswith("rate"):
        return {"value": all_at_once(out, back, x, request["n"])}
    return {"value": 1e6 * one_by_one(out, back, x, request["n"])}


def one_by_one(out: zmq.Socket, back: zmq.Socket, x: np.ndarray, n: int) -> float:
    times = []
    for _ in range(n):
        began = time.perf_counter()
        send_array(out, x)
        recv_array(back)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def all_at_once(out: zmq.Socket, back: zmq.Socket, x: np.ndarray, n: int) -> float:
    thread = threading.Thread(target=lambda: [send_array(out, x) for _ in range(n)])
    began = time.perf_counter()
    thread.start()
    for _ in range(n):
        recv_array(back)
    seconds = time.perf_counter() - began
    thread.join()
    return n / seconds


if __name__ == "__main__":
    rounds.main({"pipeline": pipeline}, versions)
