# SPDX-License-Identifier: BSD-3-Clause
"""pyzmq as one writes it by hand: no names, no errors, no lost peers, no bounds; each program for one job alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import rounds
import zmq

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(list[bytes]).decode
unpack_array = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], bytes | None]).decode
IN_A_FRAME = 64  # messages that the batched stream packs into one frame
SMALL = 1 << 16  # bytes of an array that goes in one frame with its head


def same(x: Any) -> Any:
    return x


def socket(context: zmq.Context, kind: int, *, bind: str = "", connect: str = "") -> zmq.Socket:
    s = context.socket(kind)
    s.sndhwm = s.rcvhwm = 0
    s.linger = 0
    if bind:
        s.bind(bind)
    else:
        s.connect(connect)
    return s


@contextlib.contextmanager
def running(*servers: tuple[Callable[..., None], tuple[str, ...]]) -> Iterator[None]:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=target, args=args, daemon=True) for target, args in servers]
    for p in processes:
        p.start()
    try:
        yield
    finally:
        for p in processes:
            p.terminate()
            p.join()


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
def sending(out: zmq.Socket, messages: Any) -> Iterator[None]:
    def send_all() -> None:
        send = out.send
        for m in messages:
            send(m)

    thread = threading.Thread(target=send_all)
    thread.start()
    yield
    thread.join()


@contextlib.contextmanager
def stream_client(server: Callable[..., None], method: str) -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, zmq.Context() as context:
        ends = f"ipc://{d}/in", f"ipc://{d}/out"
        with (
            running((server, ends)),
            socket(context, zmq.PULL, bind=ends[1]) as back,
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


# ----------------------------------------------------------------------------------------------------------- pipeline


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


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "numpy": np.__version__,
        "msgspec": msgspec.__version__,
    }


if __name__ == "__main__":
    rounds.main({"roundtrip": roundtrip, "stream": stream, "batched": batched, "pipeline": pipeline}, versions)
