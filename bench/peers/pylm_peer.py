# SPDX-License-Identifier: BSD-3-Clause
"""pylm 0.14.4, in a virtual environment of its own, which is made at first use.

pylm sends results by PUB/SUB, which drops what a slow subscriber does not take: the stream keeps a window of messages
under way so that nothing is lost. Its generated protobuf code needs protobuf < 4, which is slow in Python 3.11; here a
current, faster protobuf makes the same message from the descriptor in that file.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import queue
import re
import statistics
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

import environment
import rounds

PINNED = ("pylm==0.14.4", "protobuf==6.33.5", "pyzmq==27.1.0", "requests==2.32.5")
WINDOW = 500  # below libzmq's high-water mark of 1000, at which PUB drops
SETTLE = 0.5  # seconds until a subscription has arrived
PATIENCE = 10.0  # seconds without a result after which one counts as dropped
ATTEMPTS = 3


def load_message() -> None:
    """Puts a working pylm.parts.messages_pb2 in the place of the generated one."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    found = util.find_spec("pylm")
    assert found is not None and found.submodule_search_locations
    text = (Path(found.submodule_search_locations[0]) / "parts" / "messages_pb2.py").read_text()
    serialized = re.search(r"serialized_pb=_b\('(.*)'\)", text)
    if serialized is None:
        raise rounds.Unavailable("no descriptor in pylm/parts/messages_pb2.py")
    raw = serialized[1].encode("latin1").decode("unicode_escape").encode("latin1")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(raw))
    module = types.ModuleType("pylm.parts.messages_pb2")
    module.PalmMessage = message_factory.GetMessageClass(pool.FindMessageTypeByName("PalmMessage"))  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module


# ------------------------------------------------------------------------------------------------------------ servers


def serve(template: str, *args: str, **kwargs: Any) -> None:
    load_message()
    import pylm.servers

    getattr(pylm.servers, template)(*args, log_level=logging.ERROR, **kwargs).start()


@contextlib.contextmanager
def running(*servers: Callable[[], None]) -> Iterator[None]:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=target, daemon=True) for target in servers]
    for p in processes:
        p.start()
    try:
        yield
    finally:
        for p in processes:
            p.kill()
            p.join()


def first(d: str, name: str, *, pipelined: bool = False) -> Callable[[], None]:
    ends = [f"ipc://{d}/{name}-{end}" for end in ("db", "pull", "pub")]
    return functools.partial(serve, "Server", name, *ends, pipelined=pipelined)


def following(d: str, name: str, previous: str, *, to_client: bool) -> Callable[[], None]:
    ends = [f"ipc://{d}/{end}" for end in (f"{name}-db", f"{previous}-pub", f"{name}-pub")]
    return functools.partial(serve, "Pipeline", name, *ends, previous=previous, to_client=to_client)


def client(d: str, entry: str, last: str) -> Any:
    from pylm.clients import Client

    return Client(entry, f"ipc://{d}/{entry}-db", sub_address=f"ipc://{d}/{last}-pub", logging_level=logging.ERROR)


# ------------------------------------------------------------------------------------------------------------- rounds


class Lost(Exception):
    """pylm has not delivered all results."""


def results(c: Any, steps: Any, inputs: Iterator[bytes], n: int) -> Iterator[bytes]:
    """`Client.job`, which waits for ever for what was dropped; here it raises Lost."""
    arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=lambda: [arrived.put(r) for r in c.job(steps, inputs, messages=n)], daemon=True).start()
    for _ in range(n):
        try:
            yield arrived.get(timeout=PATIENCE)
        except queue.Empty:
            raise Lost from None


def collect(c: Any, steps: Any, message: bytes, n: int, window: int) -> list[float]:
    """Seconds to each result, from its own message if they go one by one, else from the first."""
    room, began, times = threading.Semaphore(window), list[float](), list[float]()

    def inputs() -> Iterator[bytes]:
        time.sleep(SETTLE)
        for _ in range(n):
            room.acquire()
            began.append(time.perf_counter())
            yield message

    for _ in results(c, steps, inputs(), n):
        times.append(time.perf_counter() - began[len(times) if window == 1 else 0])
        room.release()
    return times


def measure(connect: Callable[[], Any], steps: Any, rates: bool, request: rounds.Request) -> dict[str, Any]:
    if request["case"] == "arrays":
        raise rounds.Unavailable("pylm carries bytes alone")
    many = rates or request["case"].startswith("rate")
    for _ in range(ATTEMPTS):
        with contextlib.suppress(Lost):
            times = collect(connect(), steps, bytes(request["size"]), request["n"], WINDOW if many else 1)
            return {"value": request["n"] / times[-1] if many else 1e6 * statistics.median(times)}
    raise rounds.Unavailable(f"pylm has lost messages in {ATTEMPTS} attempts")


@contextlib.contextmanager
def one_server(rates: bool) -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, running(first(d, "a")):
        yield functools.partial(measure, functools.partial(client, d, "a", "a"), "a.echo", rates)


@contextlib.contextmanager
def three_servers(rates: bool) -> Iterator[rounds.Measure]:
    with (
        tempfile.TemporaryDirectory() as d,
        running(
            first(d, "a", pipelined=True),
            following(d, "b", "a", to_client=False),
            following(d, "c", "b", to_client=True),
        ),
    ):
        connect = functools.partial(client, d, "a", "c")
        connect()
        time.sleep(1)  # b and c have subscribed
        yield functools.partial(measure, connect, ["a.echo", "b.echo", "c.echo"], rates)


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("pylm", "pyzmq", "protobuf")}


if __name__ == "__main__":
    try:
        environment.enter(environment.environment(f"pylm-{PINNED[0].partition('==')[2]}"), PINNED)
        load_message()
    except (rounds.Unavailable, OSError) as e:
        rounds.say({"unavailable": str(e)})
    else:
        setups = {
            "roundtrip": functools.partial(one_server, False),
            "stream": functools.partial(one_server, True),
            "chain": functools.partial(three_servers, True),
            "pipeline": functools.partial(three_servers, False),
        }
        rounds.main(setups, versions)
        sys.stdout.flush()
        os._exit(0)  # pylm's sockets linger for ever
