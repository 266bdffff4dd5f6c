# SPDX-License-Identifier: BSD-3-Clause
"""Tasks for two processes by pyzmq as one writes it by hand: dealt out in turn, and for credit."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import rounds
import zmq
from processes import running, same
from sockets import sending, socket, versions
from uneven import durations, over_ideal, work

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder().decode
CREDIT = 2  # tasks that a worker has at most: one that it works on, one that waits
HELLO = b""

# -------------------------------------------------------------------------------------------------------------- tasks


def take_turns(inbound: str, outbound: str) -> None:
    context = zmq.Context()
    recv = socket(context, zmq.PULL, bind=inbound).recv
    send = socket(context, zmq.PUSH, connect=outbound).send
    while True:
        send(pack(same(unpack(recv()))))


@contextlib.contextmanager
def tasks() -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, zmq.Context() as context:
        one, two, end = (f"ipc://{d}/{name}" for name in ("one", "two", "end"))
        with (
            running((take_turns, (one, end)), (take_turns, (two, end))),
            socket(context, zmq.PULL, bind=end) as back,
            socket(context, zmq.PUSH, connect=one) as out,
        ):
            out.connect(two)

            def collect(n: int) -> list[Any]:
                with sending(out, map(pack, range(n))):
                    return [unpack(back.recv()) for _ in range(n)]

            collect(64)
            yield lambda request: rounds.rate_of(collect, request["n"])


# ----------------------------------------------------------------------------------------------------------- makespan


def earn(endpoint: str) -> None:
    s = socket(zmq.Context(), zmq.DEALER, connect=endpoint)
    s.send(HELLO)
    while True:
        s.send(pack(work(unpack(s.recv()))))


@contextlib.contextmanager
def makespan() -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, zmq.Context() as context:
        end = f"ipc://{d}/router"
        with running((earn, (end,)), (earn, (end,))), socket(context, zmq.ROUTER, bind=end) as router:
            workers = [router.recv_multipart()[0] for _ in range(2)]

            def measure(request: rounds.Request) -> dict[str, Any]:
                each = durations(request["case"], request["n"])
                began = time.perf_counter()
                measured = hand_out(router, workers, each)
                return {"value": over_ideal(time.perf_counter() - began, measured)}

            yield measure


def hand_out(router: zmq.Socket, workers: Sequence[bytes], each: Sequence[float]) -> list[float]:
    waiting = map(pack, each)
    for worker in [*workers] * CREDIT:
        router.send_multipart([worker, next(waiting)])
    measured = []
    while len(measured) < len(each):
        worker, answer = router.recv_multipart()
        measured.append(unpack(answer))
        if (task := next(waiting, None)) is not None:
            router.send_multipart([worker, task])
    return measured


if __name__ == "__main__":
    rounds.main({"tasks": tasks, "makespan": makespan}, versions)
