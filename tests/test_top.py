# SPDX-License-Identifier: BSD-3-Clause
"""`palm top`: in a terminal, in a pipe, and what it draws."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from conftest import eventually
from helpers_watching import Work
from rich.console import Console
from test_rates import look, process, server

import palm
import palm.cli
from palm import cli_top
from palm.rates import between, plain
from palm.top_view import COLUMNS, HELP, NAMES, View, fitting, limit_text, screen
from palm.units import rate_text, seconds_text
from palm.watch import Watch

MAIN = [sys.executable, "-c", "from palm.cli import main; main()"]


class Plain(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def zeros(self, n):
        return np.zeros(n)

    @palm.function
    def rows(self, n):
        for i in range(n):
            end = time.monotonic() + 0.01
            while time.monotonic() < end:
                pass
            yield i


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Work, workers=2)
        cluster.start(Plain)
        with cluster.client() as client:  # once mapped, their memory stays so while they live
            client.call("plain.same", 1)
            eventually(lambda: list(client.job("work.twice", range(100))) and both_have_worked(cluster))
        yield cluster


def both_have_worked(cluster: palm.Cluster) -> bool:
    return all(w["counters"]["functions"]["twice"]["calls"] for w in status_of(cluster, "work")["workers"])


def run(cluster: palm.Cluster, *args: str, columns: int = 250) -> subprocess.CompletedProcess[str]:
    command = [*MAIN, "top", "--cluster", cluster.name, *args]
    env = os.environ | {"COLUMNS": str(columns)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


# ---------------------------------------------------------------------------------------------------------- in a pipe


def test_in_a_pipe_it_prints_tables(servers):
    done = run(servers, "-n", "2", "--interval", "0.1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith(f"cluster {servers.name}") for line in lines) == 2
    header = next(line for line in lines if line.startswith("server "))
    assert all(c.title in header for c in COLUMNS)
    assert [line.split()[0] for line in lines[-5:]] == ["plain", "work", "work/0", "work/1", "work/leader"]
    assert "\x1b" not in done.stdout


def test_in_a_pipe_it_is_as_wide_as_a_terminal(servers):
    lines = run(servers, "-n", "1", "--interval", "0.1", columns=80).stdout.splitlines()
    header = next(line for line in lines if line.startswith("server "))
    assert header.split() == ["server", "state", "busy", "%", "CPU", "%", "calls/s", "median", "waiting"]
    assert max(map(len, lines)) <= 80


def test_a_function_that_holds_the_gil_is_seen_at_work(servers, tmp_path):
    """Nobody is asked; and `palm top --json` has a line for each interval."""
    with servers.client() as client:
        future = client.submit("work.until", str(tmp_path / "there"))
        try:
            eventually(lambda: any(w["work"]["state"] == "running" for w in status_of(servers, "work")["workers"]))
            done = run(servers, "-n", "2", "--interval", "0.2", "--json")
        finally:
            (tmp_path / "there").touch()
        future.result(10)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [found["cluster"] for found in lines] == [servers.name] * 2
    for found in lines:
        (work,) = [s for s in found["servers"] if s["name"] == "work"]
        leader, *workers = work["processes"]
        (busy,) = [w for w in workers if w["work"]["state"] == "running"]
        assert busy["work"]["function"] == "until" and busy["busy"] > 0.9 and busy["median_seconds"] is None
        assert leader["busy"] == 0.0 and 0.4 < work["busy"] < 0.6


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--sort", "speed"], 2, "--sort 'speed': there is no such column; there are name, state,"),
        (["--interval", "0"], 2, "--interval"),
        (["--cluster", "none-of-these"], 3, "none-of-these"),
    ],
)
def test_what_cannot_be_done_is_said(capsys, args, code, says):
    assert palm.cli.run(["top", *args]) == code
    assert says in capsys.readouterr().err


def test_it_ends_when_nobody_reads(servers):
    command = [*MAIN, "top", "--cluster", servers.name, "--interval", "0.1"]
    top = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert top.stdout is not None and top.stderr is not None
    top.stdout.readline()
    top.stdout.close()
    assert (top.wait(30), top.stderr.read()) == (0, "")
    top.stderr.close()


# ------------------------------------------------------------------------------------------------------ in a terminal


class Screen:
    """`palm top` in a terminal of its own."""

    def __init__(self, cluster: palm.Cluster, master: int, slave: int) -> None:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 130, 0, 0))
        self.master, self.slave, self.before = master, slave, termios.tcgetattr(slave)
        command = [*MAIN, "top", "--cluster", cluster.name, "--interval", "0.2"]
        env = {**os.environ, "TERM": "xterm"} | dict.fromkeys(("COLUMNS", "LINES"), "")
        self.top = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=env, preexec_fn=self._own
        )
        self.text = ""

    def _own(self) -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def read(self) -> None:
        while select.select([self.master], [], [], 0)[0]:
            self.text += os.read(self.master, 65536).decode(errors="replace")

    def shows(self, text: str) -> bool:
        """Whether that has come since it was last asked for with success."""
        self.read()
        before, found, after = self.text.partition(text)
        if found:
            self.text = after
        return bool(found)

    def press(self, key: str, text: str) -> None:
        os.write(self.master, key.encode())
        eventually(lambda: self.shows(text), 30)

    def ended(self) -> int:
        eventually(lambda: self.read() is None and self.top.poll() is not None, 30)
        assert termios.tcgetattr(self.slave) == self.before
        return self.top.returncode


@contextmanager
def terminal(cluster: palm.Cluster) -> Iterator[Screen]:
    master, slave = pty.openpty()
    shown = None
    try:
        shown = Screen(cluster, master, slave)
        eventually(lambda: shown.shows("\x1b[?1049h"), 30)  # the alternate screen
        eventually(lambda: shown.shows("work/leader"), 30)
        yield shown
    finally:
        if shown is not None:
            shown.top.kill()
            shown.top.wait()
        os.close(master)
        os.close(slave)


def test_keys_sort_and_end_it(servers):
    with terminal(servers) as shown:
        assert termios.tcgetattr(shown.slave)[3] & (termios.ICANON | termios.ECHO) == 0
        shown.press("u", "by busy %")
        shown.press(">", "by PALM %")
        shown.press("\x1b[D", "by busy %")  # left
        shown.press("r", "by busy %, reversed")
        shown.press(" ", "PAUSED")
        shown.press(" ", "over 0.2")
        shown.press("h", "space: pause")
        fcntl.ioctl(shown.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 60, 0, 0))
        eventually(lambda: shown.shows("more rows"), 30)
        shown.press("q", "\x1b[?1049l")
        assert shown.ended() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_leaves_the_terminal_as_it_was(servers, number, code):
    with terminal(servers) as shown:
        if number == signal.SIGINT:
            os.write(shown.master, b"\x03")
        else:
            shown.top.send_signal(number)
        eventually(lambda: shown.shows("\x1b[?1049l"), 30)
        assert shown.ended() == code


def test_keys_are_told_apart():
    assert list(cli_top.split("u\x1b[A\x1bOBq\x1b[6~\x1b")) == ["u", "up", "down", "q", "page down", "escape"]


# ------------------------------------------------------------------------------------------------------ what it draws


def drawn(found: Any, view: View, height: int | None = None, width: int = 250, away: float = 0.0) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(screen("c", found, view, away, width, height))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def some() -> Any:
    before = look(0, server("a", pid=1), server("b", process(3), process(4), pid=2), server("c", pid=5))
    after = look(
        1,
        server("a", pid=1, calls=5, busy_seconds=0.2, idle_seconds=0.8),
        server(
            "b",
            process(3, calls=2, busy_seconds=0.9, idle_seconds=0.1),
            process(4, calls=3, busy_seconds=1.0),
            pid=2,
            queue=9,
            idle_seconds=1.0,
        ),
        server("c", pid=6, calls=1000),
    )
    return between(before, after)


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ("", ["a", "b", "b/0", "b/1", "b/leader", "c"]),
        ("r", ["c", "b", "b/leader", "b/1", "b/0", "a"]),
        ("u", ["b", "b/1", "b/0", "b/leader", "a", "c"]),
        ("ur", ["c", "a", "b", "b/leader", "b/0", "b/1"]),
        ("wp", ["b", "a", "c"]),
    ],
)
def test_rows_are_sorted_and_workers_stay_with_their_server(keys, names):
    view = View()
    assert not any([view.press(key) for key in keys])
    lines = drawn(some(), view)
    assert [line.split()[0] for line in lines[3:]] == names
    assert lines[1] == "b limits: its 2 workers are busy 95 % of the time; 9 messages wait"


def test_sorting_by_each_column_works():
    view = View()
    for name in NAMES:
        assert view.sort == name
        assert len(drawn(some(), view)) == 9
        view.press(">")
    assert view.sort == "name" and view.press("q")


def test_it_fits_the_terminal():
    assert max(map(len, HELP)) < 80
    assert [c.name for c in fitting(30)] == ["name", "busy"]
    for width in (60, 80, 120, 200):
        assert all(len(line) <= width for line in drawn(some(), View(), width=width, height=50))
    view = View()
    lines = drawn(some(), view, height=7, width=80)
    assert len(lines) <= 7 and lines[-1] == "3 more rows: down or page down shows them"
    view.press("page down")
    lines = drawn(some(), view, height=7, width=80)
    assert [line.split()[0] for line in lines[3:]] == ["b/1", "b/leader", "c"][-len(lines[3:]) :] and view.first <= 4


@pytest.mark.parametrize("width", [40, 60, 80, 120, 250])
def test_names_and_titles_are_not_cut(width):
    name, work = "a-name-that-has-25-letters", {"state": "running", "function": "f" * 40, "seconds": 0.5}
    found = between(look(0, server(name, process(3))), look(1, server(name, process(3, work=work))))
    header, *rows = drawn(found, View(), width=width)[2:]
    assert [line.split()[0] for line in rows] == [name, f"{name}/0", f"{name}/leader"]
    titles = " ".join(header.split())
    assert titles == " ".join(c.title for c in COLUMNS if c.title in titles)
    assert drawn(found, View(), width=20)[3].startswith("a-name-that")


def test_what_is_not_known_is_not_shown_as_zero():
    (line,) = [line for line in drawn(some(), View()) if line.startswith("c ")]
    assert line.split()[:7] == ["c", "running", "idle", "-", "-", "-", "-"]
    assert "looks" in drawn(None, View())[0]
    assert "has not answered for 3.2 s" in drawn(some(), View(), away=3.2)[1]


def test_a_host_that_does_not_answer_is_told_of():
    gone = {"counters": {}, "memory": {}, "queue": None, "state": "unreachable", "work": {"state": "unknown"}}
    after = look(1, server("a") | gone, server("b"))
    after["hosts"] = [{"host": "h2", "state": "unreachable", "cores": None}]
    found = between(look(0, server("a"), server("b")), after)
    lines = drawn(found, View(), width=250)
    assert "h2 is unreachable: nothing is known of its processes" in lines
    (line,) = [line for line in lines if line.startswith("a ")]
    assert line.split() == ["a", "unreachable", *["-"] * (len(COLUMNS) - 2)]
    assert plain(found)["unknown_hosts"] == {"h2": "unreachable"} and plain(found)["servers"][0]["queue"] is None


def test_numbers_are_short():
    assert [rate_text(n) for n in (0, 7, 7.25, 99.96, 999, 12_300, 4.5e6)] == [
        "0",
        "7",
        "7.2",
        "100",
        "999",
        "12.3k",
        "4.5M",
    ]
    assert [seconds_text(s) for s in (None, 1.25e-6, 0.0123, 43.0)] == ["-", "1.25 us", "12.3 ms", "43 s"]


def test_why_a_server_limits():
    suspended = between(look(0, server("a")), look(1, server("a", state="suspended", queue=3)))
    assert limit_text(suspended) == "a limits: it is suspended; 3 messages wait"
    led = server("led", process(10, idle_seconds=0.9), pid=1, queue=50)
    found = between(look(0, server("led", process(10), pid=1)), look(1, led))
    assert limit_text(found) == "led limits: its leader is busy 100 % of the time; 50 messages wait"
    assert limit_text(between(look(0), look(1))).startswith("no server limits")


# ------------------------------------------------------------------------------------------------- what there is to see


def status_of(cluster: palm.Cluster, name: str) -> dict[str, Any]:
    return next(s for s in cluster.status()["servers"] if s["name"] == name)


def test_while_the_registry_is_away_pages_are_read(cluster):
    cluster.start(Plain)
    client = cluster.client()
    watch = Watch(client)
    client.call("plain.same", 1)
    registry = watch.look()["registry"]["pid"]
    before = watch.look()
    os.kill(registry, signal.SIGSTOP)
    try:
        for i in range(50):
            client.call("plain.same", i)
        found = between(before, watch.look())
        assert watch.away > 0
    finally:
        os.kill(registry, signal.SIGCONT)
    assert found.servers[0].delta is not None and found.servers[0].delta.calls == 50
    os.kill(registry, signal.SIGKILL)
    eventually(lambda: watch.look()["registry"]["pid"] != registry and not watch.away)
    eventually(lambda: [s["state"] for s in watch.look()["servers"]] == ["running"])
    cluster.close()
    with pytest.raises(palm.Disconnected, match=f"the cluster {cluster.name} is down"):
        watch.look()


def test_generators_are_busy_while_they_make_things(servers):
    before = servers.status()
    with servers.client() as client:
        assert list(client.job("plain.rows", [20])) == list(range(20))
    (plain,) = [s for s in between(before, servers.status()).servers if s.name == "plain"]
    assert plain.delta is not None and 0.2 <= plain.delta.busy < plain.delta.seconds
    assert plain.delta.functions["rows"][0] == 1 and sum(plain.delta.functions["rows"][2]) == 22


def test_who_waits_for_messages_is_idle(servers):
    before = servers.status()
    done = eventually(lambda: (s := servers.status())["now_ns"] - before["now_ns"] > 0.5e9 and s)
    for s in between(before, done).servers:
        assert s.delta is not None and s.delta.idle > 0.5 * s.delta.summed, s


def test_memory_is_told_by_kind(servers):
    plain = status_of(servers, "plain")
    assert set(plain["memory"]) == {"arena", "arena_idle", "mapped", "heap"}
    assert 1 << 20 < plain["memory"]["heap"] < 1 << 30 and plain["cpu_seconds"] > 0
    with servers.client() as client:
        kept = [client.call("plain.zeros", 1 << 20)]
        eventually(lambda: status_of(servers, "plain")["memory"]["arena"] >= 8 << 20)
        kept.clear()
    eventually(lambda: status_of(servers, "plain")["memory"]["arena"] < 1 << 20)
    assert status_of(servers, "plain")["memory"]["arena_idle"] >= 8 << 20


def test_links_that_have_only_been_opened_are_no_queue(cluster):
    """Though nobody may ever have said that their HELLO was taken."""
    cluster.start(Work, workers=2)
    cluster.start(Plain)
    client = cluster.client()
    list(client.job(["work.twice", "plain.same"], range(100)))
    now = time.monotonic_ns()

    def queues_of_later() -> list[int]:
        servers = client.status()["servers"]
        return [s["queue"] for s in servers] if all(s["counters"]["pulse_ns"] > now for s in servers) else []

    eventually(lambda: queues_of_later() == [0, 0])


def test_who_has_done_all_has_no_queue(cluster):
    """Of quick calls, one in sixteen reads the clock and tells how many wait; the last one is seldom that one."""
    cluster.start(Plain)
    client = cluster.client()
    for n in range(160, 176):
        assert list(client.job("plain.same", range(n))) == list(range(n))
        assert status_of(cluster, "plain")["counters"]["queue_depth"] == 0, n


@pytest.mark.parametrize(
    ("link", "used", "unused", "links"),
    [("", "by_ring", "by_socket", "ring"), ("sockets", "by_socket", "by_ring", "socket")],
)
def test_the_status_tells_by_which_link_envelopes_went(cluster, link, used, unused, links):
    cluster.start(Plain, env={"PALM_LINK": link})
    client = cluster.client()
    client.call("plain.same", 1)  # hand-shakes are over
    before = status_of(cluster, "plain")["counters"]
    for i in range(20):
        client.call("plain.same", i)
    after = status_of(cluster, "plain")["counters"]
    assert after[used] - before[used] >= 20
    assert after[unused] == before[unused] and (link == "" or after[unused] == 0)
    assert after["links"][links] >= 1 and sum(after["links"].values()) == after["links"][links]
