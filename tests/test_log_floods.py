# SPDX-License-Identifier: BSD-3-Clause
"""A flood costs nobody anything but lines, which are counted."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from helpers_logs import FLOOD, Talk, everything, lines, record, records, said

import palm
from palm import log_echo, log_files, places
from palm.log_flood import BURST, LAST, LAST_BYTES, LINE, RATE, Flood
from palm.log_handler import Handler, installed
from palm.log_record import MARK, Record, Wanted, decoded, level_of
from palm.logs import MOST_LINE
from palm.process import Order

pytest_plugins = "helpers_logs"  # its fixtures
pytestmark = pytest.mark.usefixtures("as_users_have_it")


def test_a_flood_is_summarised_and_holds_up_nobody(cluster):
    cluster.start(Talk)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waited = cluster.client().call("talk.many", FLOOD)
    assert waited < FLOOD / 20, "records never wait, lines hardly"

    def count(of: Callable[[Record], bool]) -> int:
        return sum(1 for r in records(cluster, "talk") if of(r))

    def told() -> int:
        return sum(r.dropped for r in records(cluster, "talk"))

    def kept() -> int:
        return count(lambda r: r.text.startswith(("record ", "line ")) and not r.dropped)

    eventually(lambda: kept() + told() == 2 * FLOOD, 20)
    assert BURST // 500 < kept() < FLOOD / 2
    assert count(lambda r: r.text == f"line {FLOOD - 1}") == 1, "what was said last is there"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "KiB"
    pid = cluster.status()["registry"]["pid"]
    peak = next(s for s in Path(f"/proc/{pid}/status").read_text().splitlines() if s.startswith("VmHWM"))
    assert int(peak.split()[1]) < 200 << 10, "KiB"


def test_a_flood_of_one_server_leaves_room_for_others(cluster):
    cluster.start(Talk, "loud")
    cluster.start(Talk, "quiet")
    client = cluster.client()
    loud = client.submit("loud.many", FLOOD // 5)
    for x in range(20):
        client.call("quiet.say", x)
    loud.result(60)
    assert said(cluster, "info 19", "quiet") and not sum(r.dropped for r in records(cluster, "quiet"))


OWNER = """
import sys
sys.path.insert(0, {tests!r})
from helpers_logs import *

if __name__ == "__main__":
    with palm.Cluster({name!r}) as cluster:
        cluster.start(Talk)
        client = cluster.client()
        client.call("talk.say", 1)  # after it, what is sent arrives though this process be stopped
        future = client.submit("talk.many", int(sys.argv[1]))
        print("began", flush=True)
        print("over", future.result(), flush=True)
"""


@contextlib.contextmanager
def owner(name: str, *args: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A script with a cluster, whose only server talks much."""
    code = OWNER.format(tests=str(Path(__file__).parent), name=name)
    options = {"stdout": subprocess.PIPE, "text": True, **options}
    process = subprocess.Popen([sys.executable, "-c", code, *args], **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
        eventually(lambda: name not in places.clusters() and not (places.base() / name).exists())


def test_an_owner_that_does_not_read_holds_up_nobody_for_ever():
    """A pipe that stays full is emptied by who writes into it, and what that cost is counted."""
    with owner("stopped", "30000") as process:
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGSTOP)
        client = palm.Client("stopped")

        def calls() -> int:
            return client.status()["servers"][0]["counters"].get("functions", {}).get("many", {}).get("calls", 0)

        assert eventually(calls, 60) == 1, "it has run to its end, once, while nobody read"
        client.close()
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=60)
        assert "over" in out
    found = everything(log_files.of("stopped"))
    lines = [r for r in found if r.text.startswith(("record ", "line ")) and not r.dropped]
    assert len(lines) + sum(r.dropped for r in found) == 60_000


def test_a_terminal_that_stands_still_holds_up_nobody():
    """Our standard output is a pipe that nobody reads; what was left out is told."""
    with owner("still", "20000", stderr=subprocess.PIPE) as process:
        client = eventually(lambda: "still" in places.clusters() and connected("still"))
        eventually(lambda: client.status()["servers"], 20)
        eventually(lambda: sum(s["counters"]["messages_out"] for s in client.status()["servers"]), 60)
        client.close()
        out, _ = process.communicate(timeout=60)
        assert "over" in out


def connected(name: str) -> palm.Client | None:
    with contextlib.suppress(palm.Disconnected):
        return palm.Client(name, timeout=1.0)
    return None


# ---------------------------------------------------------------------------------------------------------- decisions


def test_floods():
    flood = Flood(0.0)
    kept = flood.admit("stdout", lines(20_000), 0.0)
    assert BURST // (LINE + 11) < len(kept) < BURST // LINE and kept[-1] == b"%010d" % (len(kept) - 1)
    assert flood.due() == 1.0
    dropped, last = flood.tell()
    assert dropped == 20_000 - len(kept) - LAST and last[-1] == ("stdout", b"%010d" % 19_999) and len(last) == LAST
    assert flood.due() is None and flood.tell() == (0, [])
    assert not flood.admit("stderr", lines(5), 0.0) and flood.tell() == (
        0,
        [("stderr", b"%010d" % k) for k in range(5)],
    )
    kept = flood.admit("stdout", lines(20_000), 2.0)
    assert 2 * RATE // (LINE + 11) <= len(kept) <= 2 * RATE // LINE


def test_floods_of_long_lines():
    flood = Flood(0.0)
    assert len(flood.admit("stdout", lines(100, BURST), 0.0)) == 1
    assert flood.tell() == (99, [])
    flood.admit("stdout", lines(100, LAST_BYTES // 4), 0.0)
    dropped, last = flood.tell()
    assert dropped + len(last) == 100 and all(len(line) == LAST_BYTES // 4 for _, line in last) and len(last) == 3


def test_lines_that_were_lost_before_they_came():
    flood = Flood(0.0)
    flood.left_out(7, 3.0)
    assert flood.due() == 4.0 and flood.tell() == (7, [])


def test_levels_in_words():
    assert [level_of(t) for t in ("debug", "WARNING", "warn", "35")] == [10, 30, 30, 35]
    for text in ("loud", "", "-1", "1e3"):
        with pytest.raises(ValueError, match="no level"):
            level_of(text)


@pytest.mark.parametrize("server", ["", "a", "a/1", "ab", "a/"])
def test_who_is_wanted(server):
    processes = [("a", None), ("a", 1), ("a", 11), ("ab", None)]
    found = [p for p in processes if Wanted(server).has(decoded(record("x", server=p[0], worker=p[1])))]
    assert found == {"": processes, "a": processes[:3], "a/1": processes[1:2], "ab": processes[3:], "a/": []}[server]


def test_a_handler_never_waits(capsys, monkeypatch):
    """It counts what finds no room, tells of it as soon as there is some, and of nobody when nobody reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    logger = logging.getLogger("palm.some")
    monkeypatch.setattr(logging.getLogger("palm"), "propagate", False)
    handler = Handler(write, Order(Talk, "some", "", ""))
    with installed(handler):
        for k in range(2000):
            logger.info("%s %s", k, "x" * 300)
        assert "palm-log" in {t.name for t in threading.enumerate()}
        kept = lost = 0
        while kept + lost < 2000:
            got = os.read(read, 65536)
            lost += sum(map(int, MARK.findall(got)))
            kept += MARK.sub(b"", got).count(b"\n")
        assert (kept + lost, lost > 1000) == (2000, True)
        eventually(lambda: "palm-log" not in {t.name for t in threading.enumerate()})
        logger.info("again")
        assert b"again" in os.read(read, 65536)
        logger.info("%d", "no number")
        os.close(read)
        logger.info("nobody reads")
    assert "Logging error" in capsys.readouterr().err
    with pytest.raises(OSError):
        os.fstat(write)


def test_what_the_terminal_cannot_take_is_left_out(monkeypatch):
    read, write = os.pipe()
    monkeypatch.setattr(log_echo, "MOST", 1 << 20)
    monkeypatch.setattr(log_echo, "_OUT", write)
    monkeypatch.setattr(log_echo, "_ERR", write)
    echo = log_echo.Echo()
    for _ in range(64):
        echo.put("stdout", b"x" * (64 << 10))
    got = b""
    while got.count(b"x") < 1 << 20:
        got += os.read(read, 1 << 20)
    eventually(lambda: not echo._size)
    echo.put("stderr", b"the end\n")
    while not got.endswith(b"the end\n"):
        got += os.read(read, 1 << 20)
    left_out = int(got.partition(b"palm: ")[2].split()[0])
    assert got.count(b"x") + left_out == 4 << 20
    os.close(read)
    echo.put("stdout", b"nobody")
    eventually(lambda: write not in echo._open)
    echo.close()
    os.close(write)


def test_a_line_without_end(cluster):
    cluster.start(Talk)
    pid = cluster.status()["servers"][0]["pid"]
    with open(f"/proc/{pid}/fd/1", "wb") as f:
        f.write(b"y" * (3 * MOST_LINE))
    eventually(lambda: sum(r.text.count("y") for r in records(cluster, "talk")) > 2 * MOST_LINE)
    assert max(len(r.text) for r in records(cluster, "talk")) <= MOST_LINE
