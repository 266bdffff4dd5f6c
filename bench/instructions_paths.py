# SPDX-License-Identifier: BSD-3-Clause
"""What `instructions.py` counts: a server and its client in one thread, which takes the turns of both.

    LD_PRELOAD=clock.so python bench/instructions_paths.py OUT.json

writes how many bytecodes of PALM's Python each path takes, by function, and which shared objects are PALM's. clock.so
is ``instructions_clock.c``. Without OUT.json, under callgrind, each path leaves two profiles instead, named ``PATH 1``
and ``PATH 2``: of so many messages and of twice as many, so that what is not a message's cancels out.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import palm
from palm import memory_limit, work
from palm._core import node as core
from palm._core import space
from palm._core.book import Book
from palm._core.lock import Lock
from palm._core.results import ResultQueue
from palm.client import Client
from palm.connection import Connection
from palm.host import Host, Post
from palm.remote import Route
from palm.step import Step

PACKAGE = str(Path(palm.__file__).parent)
ENVELOPE = 64  # messages
ARENA = 64 << 20  # bytes, which valgrind can map


class Same(palm.Server):
    @palm.function
    def same(self, x: Any) -> Any:
        return x


class Driven(Connection):
    """Before it waits for an answer, the server makes it."""

    host: Any = None

    def _pump(self, timeout: float) -> None:
        turn(self.host)
        super()._pump(timeout)


def turn(host: Host) -> None:
    """One of `Host.serve`: the next envelope, and those behind it that go by the lane; without any, nothing."""
    event = host._next_event()
    if event is not None:
        host._dispatch(event)
        host._go_on(others=True)
        memory_limit.settle()
        if host.node.rejections != host._rejected:
            raise RuntimeError(host.node.rejected[1])


class Known:
    """A directory in which one server stands."""

    def __init__(self, connection: Connection, endpoint: str) -> None:
        link = connection.node.link(endpoint, os.getpid())
        server = {"name": "same", "address": endpoint, "pid": os.getpid(), "functions": {"same": {"text": "(x)"}}}
        self._route = Route([Step("same.same")], {"same": server}, link, {"same": link}, {endpoint: os.getpid()})

    def route(self, steps: list[Step], patience: float | None = None) -> Route:
        return self._route

    def explain(self, error: BaseException) -> BaseException:
        return error


class Pair:
    """A server and its client, past their hand-shake."""

    def __init__(self, directory: str) -> None:
        self.host = Host(Same(), Post("same", f"ipc://{directory}/server", None, (), None))
        self.host._patience = lambda: 0.0  # type: ignore[method-assign]  # it waits for nothing
        self.connection = Driven(f"ipc://{directory}/client", "client")
        self.connection.host = self.host
        self.client = Client.__new__(Client)
        known = Known(self.connection, self.host.node.endpoint)
        self.client._connection, self.client._directory = self.connection, known
        self.client._calls, self.client._lock, self.client.timeout = {}, Lock(), 10.0
        self._join(known.route([]).link)

    def _join(self, link: int) -> None:
        nodes = self.host.node, self.connection.node
        while not self.connection.node.ready(link) or any([node.next(0.1) for node in nodes]):
            for node in nodes:
                node.next(0.01)

    def close(self) -> None:
        self.connection.close(0)
        self.host.close(0)


class Envelopes:
    """The core alone at the client's side: envelopes of 64 messages, one at a time."""

    def __init__(self, pair: Pair, values: list[Any]) -> None:
        self.node, self.host, self.values = pair.connection.node, pair.host, values
        route = pair.client._directory.route([])
        self.link, self.handle = route.link, pair.connection.handle()
        meaning = route.meaning(os.urandom(16), 0, self.node.endpoint, 0)
        opening = core.Batch()
        opening.put(meaning, 0)
        self.book, self.lock, self.batch, self.number = Book(), Lock(), core.Batch(), 0
        self.node.send(self.link, core.OPEN, self.handle, 0, opening)
        turn(self.host)
        self.results = ResultQueue()

    def run(self, n: int) -> None:
        for _ in range(n // len(self.values)):
            self.once()

    def once(self) -> None:
        book, batch, k = self.book, self.batch, len(self.values)
        book.begin(self.number, k)
        added, _ = batch.fill(iter(self.values), self.number, k, 0, book, self.lock)
        assert added == k, added
        self.number += k
        self.node.send(self.link, core.DATA, self.handle, 0, batch)
        turn(self.host)
        while len(self.results) < k:
            event = self.node.next(1.0)
            if event.says == core.DATA:
                event.take_plain(book, self.results)
            event.done()
        self.results.clear()


@contextlib.contextmanager
def feeding_here() -> Iterator[list[Callable[[], None]]]:
    """Threads that jobs would start to read their inputs, to be run in this one."""
    started: list[Callable[[], None]] = []
    original = work.start_thread
    work.start_thread = lambda target, name, *args: started.append(lambda: target(*args))
    try:
        yield started
    finally:
        work.start_thread = original


def run_job(pair: Pair, n: int, value: bytes) -> None:
    with feeding_here() as started:
        job = pair.client.job("same.same", (value for _ in range(n)))
    started.pop()()
    assert sum(1 for _ in job) == n
    turn(pair.host)  # it hears of the end


def run_calls(pair: Pair, n: int, value: bytes) -> None:
    call = pair.client.call
    for _ in range(n):
        call("same.same", value)


def paths(pair: Pair) -> dict[str, tuple[Callable[[int], None], int]]:
    """By name: what takes so many messages there and back, and how many are enough."""
    text, arrays = bytes(64), list(np.zeros((ENVELOPE, 8)))
    return {
        "bytes": (Envelopes(pair, [text] * ENVELOPE).run, 4 * ENVELOPE),
        "arrays": (Envelopes(pair, arrays).run, 4 * ENVELOPE),
        "lone": (Envelopes(pair, [text]).run, 48),
        "job": (lambda n: run_job(pair, n, text), 8 * ENVELOPE),
        "call": (lambda n: run_calls(pair, n, text), 48),
    }


class Bytecodes:
    """How many PALM's Python takes, by function; what Cython has compiled is not among them."""

    def __init__(self) -> None:
        self.found: collections.Counter[str] = collections.Counter()

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if event == "opcode":
            self.found[f"{Path(code.co_filename).stem}.{code.co_qualname}"] += 1
        elif event == "call":
            if not code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._trace

    def of(self, run: Callable[[int], None], n: int) -> collections.Counter[str]:
        self.found.clear()
        sys.settrace(self._trace)
        try:
            run(n)
        finally:
            sys.settrace(None)
        return self.found.copy()


def count_bytecodes(run: Callable[[int], None], n: int) -> dict[str, float]:
    """For a message."""
    once, twice = (Bytecodes().of(run, times * n) for times in (1, 2))
    return {name: (k - once[name]) / n for name, k in twice.items() if k != once[name]}


def mark_instructions(marks: ctypes.CDLL, name: str, run: Callable[[int], None], n: int) -> None:
    gc.collect()
    gc.disable()  # when it comes depends on what else there is
    for times in (1, 2):
        marks.counts_begin()
        run(times * n)
        marks.counts_end(f"{name} {times}".encode())
    gc.enable()


def own_objects() -> list[str]:
    modules = [getattr(m, "__file__", None) or "" for name, m in sys.modules.items() if name.startswith("palm")]
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libpalmcore" in line]
    return sorted({os.path.realpath(f) for f in modules + mapped if ".so" in f})


def main(out: str = "") -> None:
    marks = ctypes.CDLL(None)
    space.open_space(ARENA)
    bytecodes, messages = {}, {}
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Pair(directory)) as pair:
        marks.counts_clock(True)
        with space.arena(shared=False):
            for name, (run, n) in paths(pair).items():
                run(n)  # caches fill, batches are kept for the next time
                messages[name] = n
                if out:
                    bytecodes[name] = count_bytecodes(run, n)
                else:
                    mark_instructions(marks, name, run, n)
        marks.counts_clock(False)
    if out:
        found = {"bytecodes": bytecodes, "messages": messages, "objects": own_objects()}
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
