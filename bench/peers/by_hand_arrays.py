# SPDX-License-Identifier: BSD-3-Clause
"""Arrays through three processes, by pyzmq as one writes it by hand."""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import msgspec
import numpy as np
import rounds
import zmq
from processes import running, same
from sockets import socket, versions

pack = msgspec.msgpack.Encoder().encode
unpack_array = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], bytes | None]).decode
unpack_head = msgspec.msgpack.Decoder(tuple[str, str, tuple[int, ...]]).decode
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
            yield lambda request: pipeline_round(out, back, request)


def pipeline_round(out: zmq.Socket, back: zmq.Socket, request: rounds.Request) -> dict[str, Any]:
    x = np.arange(request["size"] / 8)
    return value_of(request, lambda: send_array(out, x), lambda: recv_array(back), x)


def value_of(
    request: rounds.Request, send: Callable[[], None], receive: Callable[[], np.ndarray], x: np.ndarray
) -> dict[str, Any]:
    assert np.array_equal(one_by_one(send, receive, 1)[1], x)
    if request["case"].startswith("rate"):
        return {"value": all_at_once(send, receive, request["n"])}
    return {"value": 1e6 * one_by_one(send, receive, request["n"])[0]}


def one_by_one(send: Callable[[], None], receive: Callable[[], np.ndarray], n: int) -> tuple[float, np.ndarray]:
    """Median seconds, and the last result."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        send()
        result = receive()
        times.append(time.perf_counter() - began)
    return statistics.median(times), result


def all_at_once(send: Callable[[], None], receive: Callable[[], np.ndarray], n: int) -> float:
    thread = threading.Thread(target=lambda: [send() for _ in range(n)])
    began = time.perf_counter()
    thread.start()
    for _ in range(n):
        receive()
    seconds = time.perf_counter() - began
    thread.join()
    return n / seconds


# ------------------------------------------------------------------------------------------------------ shared memory

attach = functools.cache(SharedMemory)


def head_of(block: SharedMemory, x: np.ndarray) -> bytes:
    return pack((block.name, x.dtype.str, x.shape))


def array_of(head: bytes) -> np.ndarray:
    name, dtype, shape = unpack_head(head)
    return np.ndarray(shape, dtype, attach(name).buf)


def hand_name_on(inbound: str, outbound: str) -> None:
    """What the function returns is known to be what it got: its name goes on."""
    context = zmq.Context()
    recv = socket(context, zmq.PULL, bind=inbound).recv
    send = socket(context, zmq.PUSH, connect=outbound).send
    while True:
        head = recv()
        same(array_of(head))
        send(head)


@contextlib.contextmanager
def shared() -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, zmq.Context() as context, contextlib.ExitStack() as blocks:
        ends = [f"ipc://{d}/{i}" for i in range(4)]
        with (
            running(*((hand_name_on, hop) for hop in itertools.pairwise(ends))),
            socket(context, zmq.PULL, bind=ends[-1]) as back,
            socket(context, zmq.PUSH, connect=ends[0]) as out,
        ):

            @functools.cache
            def block_of(size: int) -> SharedMemory:
                block = SharedMemory(create=True, size=size)
                blocks.callback(block.unlink)
                return block

            def measure(request: rounds.Request) -> dict[str, Any]:
                block = block_of(request["size"])
                x = np.ndarray(request["size"] // 8, float, block.buf)
                x[:] = np.arange(x.size)
                return value_of(request, lambda: out.send(head_of(block, x)), lambda: array_of(back.recv()), x)

            yield measure


if __name__ == "__main__":
    rounds.main({"pipeline": pipeline, "shared": shared}, versions)
