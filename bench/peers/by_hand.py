# SPDX-License-Identifier: BSD-3-Clause
"""Small messages by pyzmq as one writes it by hand: there and back, through one process, through three."""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import rounds
import zmq
from processes import running, same
from sockets import sending, socket, versions

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(list[bytes]).decode
IN_A_FRAME = 64  # messages that the batched stream packs into one frame


# ---------------------------------------------------------------------------------------------------------- roundtrip


def reply(endpoint: str) -> None:
    s = socket(zmq.Context(), zmq.PAIR, connect=endpoint)
    while True:
        s.send(same(s.recv()))


@contextlib.contextmanager
def roundtrip() -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, zmq.Context() as context, running((reply, (f"ipc://{d}/pair",))):
        s = socket(context, zmq.PAIR, bind=f"ipc://{d}/pair")
        with s:
            yield lambda request: {"value": 1e6 * median_of_calls(s, bytes(request["size"]), request["n"])}


def median_of_calls(s: zmq.Socket, message: bytes, n: int) -> float:
    times = []
    for _ in range(n):
        began = time.perf_counter()
        s.send(message)
        s.recv()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


# ------------------------------------------------------------------------------------------------------------- stream


def stream_bytes(inbound: str, outbound: str) -> None:
    context = zmq.Context()
    recv = socket(context, zmq.PULL, bind=inbound).recv
    send = socket(context, zmq.PUSH, connect=outbound).send
    while True:
        send(same(recv()))


def stream_arrays(inbound: str, outbound: str) -> None:
    context = zmq.Context()
    recv = socket(context, zmq.PULL, bind=inbound).recv
    send = socket(context, zmq.PUSH, connect=outbound).send
    while True:
        send(same(np.frombuffer(recv())))


def stream_packed(inbound: str, outbound: str) -> None:
    context = zmq.Context()
    recv = socket(context, zmq.PULL, bind=inbound).recv
    send = socket(context, zmq.PUSH, connect=outbound).send
    while True:
        send(pack([same(m) for m in unpack(recv())]))


class Client:
    """One thread sends, the one that asks receives."""

    def __init__(self, out: zmq.Socket, back: zmq.Socket) -> None:
        self.out, self.back = out, back

    def bytes(self, messages: Sequence[Any]) -> list[Any]:
        with sending(self.out, messages):
            recv = self.back.recv
            return [recv() for _ in range(len(messages))]

    def arrays(self, messages: Sequence[Any]) -> list[Any]:
        with sending(self.out, messages):
            recv, frombuffer = self.back.recv, np.frombuffer
            return [frombuffer(recv()) for _ in range(len(messages))]

    def packed(self, messages: Sequence[Any]) -> list[Any]:
        results: list[Any] = []
        with sending(self.out, (pack(messages[i : i + IN_A_FRAME]) for i in range(0, len(messages), IN_A_FRAME))):
            while len(results) < len(messages):
                results += unpack(self.back.recv())
        return results


@contextlib.contextmanager
def stream_client(server: Callable[..., None], method: str, processes: int = 1) -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, zmq.Context() as context:
        ends = [f"ipc://{d}/{i}" for i in range(processes + 1)]
        with (
            running(*((server, hop) for hop in itertools.pairwise(ends))),
            socket(context, zmq.PULL, bind=ends[-1]) as back,
            socket(context, zmq.PUSH, connect=ends[0]) as out,
        ):
            collect = getattr(Client(out, back), method)
            collect(inputs("arrays" if method == "arrays" else "bytes", 64, 64))

            def measure(request: rounds.Request) -> dict[str, Any]:
                messages = inputs(request["case"], request["n"], request["size"])
                began = time.perf_counter()
                results = collect(messages)
                seconds = time.perf_counter() - began
                assert len(results) == len(messages)
                return {"value": len(messages) / seconds}

            yield measure


def inputs(case: str, n: int, size: int) -> Sequence[Any]:
    return np.arange(n * size / 8).reshape(n, -1) if case == "arrays" else [bytes(size) for _ in range(n)]


@contextlib.contextmanager
def stream() -> Iterator[rounds.Measure]:
    with stream_client(stream_bytes, "bytes") as of_bytes, stream_client(stream_arrays, "arrays") as of_arrays:
        yield lambda request: (of_arrays if request["case"] == "arrays" else of_bytes)(request)


@contextlib.contextmanager
def batched() -> Iterator[rounds.Measure]:
    with stream_client(stream_packed, "packed") as of_bytes:

        def measure(request: rounds.Request) -> dict[str, Any]:
            if request["case"] == "arrays":
                raise rounds.Unavailable("batched by hand for bytes alone")
            return of_bytes(request)

        yield measure


if __name__ == "__main__":
    setups = {
        "roundtrip": roundtrip,
        "stream": stream,
        "batched": batched,
        "chain": functools.partial(stream_client, stream_bytes, "bytes", 3),
        "chain batched": functools.partial(stream_client, stream_packed, "packed", 3),
    }
    rounds.main(setups, versions)
