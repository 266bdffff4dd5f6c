# SPDX-License-Identifier: BSD-3-Clause
"""Servers that say something, and what tests of the log ask; fixtures `as_users_have_it` and `talk`."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually

import palm
from palm.log_files import Page, look_on
from palm.log_record import Record, Wanted, decoded, encoded

FLOOD = 100_000


class Talk(palm.Server):
    def setup(self, level=None, configure=False):
        if level:
            self.log.setLevel(level)
        if configure:
            handler = logging.StreamHandler()
            text = "their own: %(server)s %(worker)s %(path)s %(message)s"
            handler.setFormatter(logging.Formatter(text, defaults={"server": "", "worker": "", "path": ""}))
            logging.basicConfig(level=logging.DEBUG, handlers=[handler])
        self.log.info("in setup")

    def teardown(self):
        print("torn down")

    @palm.function
    def say(self, x):
        self.log.debug("debug %s", x, extra={"job": "of a user's own"})
        self.log.info("info %s", x)
        self.log.warning("warning %s", x)
        logging.getLogger("others.library").warning("of another logger %s", x)
        logging.getLogger("others.library").info("not wanted")
        return x

    @palm.function
    def show(self, x):
        print("by print", x)
        print("unended", x, end="", flush=True)
        os.write(1, b", by os\n")
        ctypes.CDLL(None).printf(b"by C %d\n", x)
        os.write(2, b"\xffno text\x1b[2J\n")
        subprocess.run(["echo", "by a child"], check=True)
        return x

    @palm.function
    def fail(self, x):
        try:
            raise ValueError("no such film")
        except ValueError:
            self.log.exception("it failed %s", x)
        return x

    @palm.function
    def by_thread(self, x):
        thread = threading.Thread(target=self.log.info, args=("of a thread",))
        thread.start()
        thread.join()
        return x

    @palm.function
    def each(self, x):
        for k in range(2):
            self.log.info("before %s", k)
            yield x + k

    @palm.function(batch=True)
    def together(self, x):
        self.log.info("a batch")
        return x

    @palm.function
    def many(self, n):
        """Returns how often it had to wait, so that others ran."""
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for k in range(n):
            self.log.info("record %s", k)
        for k in range(n):
            print("line", k)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    @palm.function
    def go_on(self, path):
        """Until there is such a file; says something ten times a second."""
        k = 0
        while not Path(path).exists():
            self.log.info("go on %s", k)
            k += 1
            time.sleep(0.02)
        return k

    @palm.function
    def die(self, how):
        self.log.info("a last record")
        print("a last line")
        ctypes.CDLL(None).printf(b"the last of C\n")
        if how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        ctypes.string_at(0)


class Crew(palm.Butterfly):
    def setup(self):
        self.log.info("in setup")

    @palm.function
    def say(self, x):
        self.log.info("info %s", x)
        print("printed", x)
        return x


class Halves(palm.ScatterGather):
    def scatter(self, x):
        self.log.info("scattered")
        print("scattered too")
        yield from (x // 2, x - x // 2)

    @palm.function
    def same(self, x):
        return x

    def gather(self, parts):
        return sum(parts)


def records(cluster: palm.Cluster, server: str = "", **wanted: Any) -> list[Record]:
    """All of them so far, as the registry shows them."""
    ask, found, cursor, over = cluster._own_client()._directory.ask, [], "", False
    while not over:
        page = Page(*ask("log_on", cursor, tuple(Wanted(server, **wanted))))
        cursor, over = page.cursor, page.over
        found += [decoded(line) for line in page.lines.splitlines()]
    return found


def said(cluster: palm.Cluster, text: str, server: str = "") -> list[Record]:
    """Waits until somebody has said it; all such records, in order."""
    return eventually(lambda: [r for r in records(cluster, server) if text in r.text])


@pytest.fixture
def as_users_have_it(monkeypatch):
    """Python buffers what goes into a pipe."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture(params=[{}, {"MINE": "yes"}], ids=["born", "executed"])
def talk(cluster: palm.Cluster, request: pytest.FixtureRequest) -> palm.Client:
    cluster.start(Talk, env=request.param)
    return cluster.client()


def everything(path: Path) -> list[Record]:
    """All that is in a log on disk."""
    found, cursor, over = [], "", False
    while not over:
        lines, cursor, over, _ = look_on(path, cursor, Wanted())
        found += [decoded(line) for line in lines.splitlines()]
    return found


@contextlib.contextmanager
def killed(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()


def record(text: str, **more: Any) -> bytes:
    fields = {"time": 1.0, "level": "INFO", "number": 20, "server": "a", "pid": 1, **more}
    return encoded(Record(text=text, **fields))


def lines(n: int, size: int = 10) -> bytes:
    return b"".join(b"%0*d\n" % (size, k) for k in range(n))
