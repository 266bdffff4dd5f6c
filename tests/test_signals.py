# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C, signals without end, fork, and leaving the interpreter (R7, R30, R32)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm
from palm import places

OBEYED = 1.0  # seconds; it is promised within 0.1, on a machine that does nothing else


class Waits(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def until(self, path):
        Path(path + ".running").touch()
        while not Path(path).exists() and not self.cancelled:
            time.sleep(0.002)
        return path

    @palm.function
    def slow(self, x):
        time.sleep(0.002)
        return x


class Dawdles(palm.Server):
    def setup(self):
        time.sleep(30)

    @palm.function
    def same(self, x):
        return x


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Waits)
        with cluster.client() as client:  # once mapped, its memory stays so while it lives
            client.call("waits.same", 1)
        cluster.status()
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


def interrupt_when(fact: Callable[[], object]) -> list[float]:
    """Ctrl-C as soon as the fact is there; when that was, for the record."""
    sent: list[float] = []

    def wait() -> None:
        eventually(fact)
        time.sleep(0.05)  # the main thread is in the wait by then, or before it: both have to do
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()
    return sent


def obeyed(sent: list[float], what: str) -> None:
    took = time.monotonic() - sent[0]
    print(f"Ctrl-C in {what}: {took * 1000:.0f} ms")
    assert took < OBEYED


@pytest.mark.parametrize("what", ["call", "job", "wait", "into", "map", "future", "shutdown"])
def test_ctrl_c(client, tmp_path, what):
    there = str(tmp_path / "there")
    waits: dict[str, Callable[[], object]] = {
        "call": lambda: client.call("waits.until", there),
        "job": lambda: list(client.job("waits.until", [there])),
        "wait": lambda: client.job("waits.until", [there]).wait(),
        "into": lambda: client.job("waits.until", [there]).into(np.zeros(1)),
        "map": lambda: list(client.map("waits.until", [there])),
        "future": lambda: client.submit("waits.until", there).result(),
        "shutdown": lambda: (client.submit("waits.until", there), client.shutdown()),
    }
    sent = interrupt_when(Path(there + ".running").exists)
    try:
        with pytest.raises(KeyboardInterrupt):
            waits[what]()
        obeyed(sent, what)
    finally:
        Path(there).touch()  # else the server would wait for ever, and what closes the client for it
    if what != "shutdown":
        assert client.call("waits.same", 1, timeout=10) == 1


def test_ctrl_c_in_the_loop_of_a_job(client):
    began = threading.Event()
    sent = interrupt_when(began.is_set)
    with pytest.raises(KeyboardInterrupt), client.job("waits.slow", iter(int, 1), window=8) as job:
        for _ in job:
            began.set()
    obeyed(sent, "the loop of a job")
    eventually(lambda: all(t.name != "palm-inputs" for t in threading.enumerate()))
    assert client.call("waits.same", 1, timeout=10) == 1


def test_ctrl_c_while_the_window_is_full(client):
    """The reader of inputs waits for room, the caller for time: neither holds up the other."""
    began = threading.Event()
    sent = interrupt_when(began.is_set)
    with pytest.raises(KeyboardInterrupt), client.job("waits.same", iter(int, 1), window=2) as job:
        next(job)
        began.set()
        while True:
            job._work.connection.wait(lambda: False)
    obeyed(sent, "a wait beside a full window")


def test_ctrl_c_while_a_server_starts(servers):
    began = time.monotonic()
    names = {s["name"] for s in servers.status()["servers"]}
    sent = interrupt_when(lambda: time.monotonic() > began + 0.3)
    with pytest.raises(KeyboardInterrupt):
        servers.start(Dawdles)
    assert time.monotonic() - sent[0] < OBEYED + 1.0, "its process is ended first, which it has a second for"
    assert {s["name"] for s in servers.status()["servers"]} == names


def test_ctrl_c_while_connecting():
    began = time.monotonic()
    sent = interrupt_when(lambda: time.monotonic() > began + 0.1)
    with pytest.raises(KeyboardInterrupt):
        palm.Client("tcp://127.0.0.1:1", timeout=30)
    obeyed(sent, "connecting")


@pytest.mark.parametrize("what", ["job", "calls", "arrays"])
def test_signals_without_end(client, what):
    """A signal each ms, whose handler returns: nothing fails, nothing is lost."""
    hits = 0

    def handler(*_):
        nonlocal hits
        hits += 1

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            if what == "job":
                assert list(client.job("waits.same", range(300), ordered=True)) == list(range(300))
            elif what == "calls":
                assert [client.call("waits.same", n) for n in range(50)] == list(range(50))
            else:
                x = np.arange(100_000)
                assert np.array_equal(client.call("waits.same", x), x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hits > 25


def test_a_link_is_made_whatever_signals_come(client):
    """A signal each 0.3 ms, whose handler returns: libzmq gives up what it does, and has to be asked again."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        for n in range(1500):
            with palm.Client(client.address) as other:
                signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
                assert other.call("waits.same", n) == n
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_handler_that_raises(client, tmp_path):
    """Its exception comes out of the call; the client works on."""

    class Enough(Exception):
        pass

    def handler(*_):
        raise Enough

    there = str(tmp_path / "there")
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        threading.Thread(
            target=lambda: (eventually(Path(there + ".running").exists), os.kill(os.getpid(), signal.SIGUSR1))
        ).start()
        with pytest.raises(Enough):
            client.call("waits.until", there)
    finally:
        signal.signal(signal.SIGUSR1, before)
    Path(there).touch()
    assert client.call("waits.same", 1, timeout=10) == 1


# ---------------------------------------------------------------------------------------- in processes of their own

BEGIN = """
import os, signal, sys, threading, time
import numpy as np
import palm

class Waits(palm.Server):
    @palm.function
    def same(self, x):
        return x
    @palm.function
    def sleep(self, path):
        open(path, "w").close()
        time.sleep(60)
    @palm.function
    def endless(self):
        while True:
            yield 1

told = sys.argv[1]
def running():
    while not os.path.exists(told):
        time.sleep(0.002)
"""
OPEN = """
cluster = palm.Cluster()
cluster.start(Waits)
client = cluster.client()
"""
LEAVES = {
    "an open cluster": "client.call('waits.same', 1)",
    "a client that is busy": "client.submit('waits.sleep', told); running()",
    "a job under way": "job = client.job('waits.same', iter(int, 1)); next(job)",
    "a job on an endless generator": "job = client.job('waits.endless'); next(job)",
    "results that are held": "kept = list(client.job('waits.same', [np.ones(1 << 20)] * 20))",
    "inputs that never come": "job = client.job('waits.same', (time.sleep(60) for _ in [1])); cluster.status()",
    "a thread in a call": (
        "threading.excepthook = print\n"
        "threading.Thread(target=lambda: client.call('waits.sleep', told), daemon=True).start(); running()"
    ),
    "sys.exit": "sys.exit(0)",
    "inside with": "\nwith cluster, client.job('waits.endless') as job:\n    next(job); sys.exit(0)",
}


def session_pids(session: int) -> set[int]:
    found = set()
    for p in os.listdir("/proc"):
        try:
            if p.isdigit() and os.getsid(int(p)) == session and places.start_time(int(p)):
                found.add(int(p))
        except ProcessLookupError:
            continue
    return found


def run(source: str, told: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", source, str(told)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def clusters_of(process: subprocess.Popen[str]) -> list[Path]:
    """Directories, of the living and the dead."""
    return [p for p in places.base().iterdir() if p.name.startswith(f"c{process.pid}-")]


def end(process: subprocess.Popen[str]) -> None:
    for pid in session_pids(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("what", LEAVES)
def test_leaving_the_interpreter_never_hangs(tmp_path, what):
    process = run(BEGIN + OPEN + LEAVES[what], tmp_path / "told")
    try:
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert "Traceback" not in err and "Error" not in err, err
        eventually(lambda: not session_pids(process.pid), 3)
        assert not clusters_of(process)
    finally:
        end(process)


@pytest.mark.parametrize("what", ["call", "job", "start"])
def test_ctrl_c_to_the_whole_group(tmp_path, what):
    """As the terminal sends it: to the servers too, which leave it to their owner. Nothing is left behind."""
    source = {
        "call": "client.call('waits.sleep', told)",
        "job": "open(told, 'w').close()\nfor _ in client.job(['waits.same', 'waits.same'], iter(int, 1)): pass",
        "start": "open(told, 'w').close()\nwhile True: cluster.stop(cluster.start(Waits, 'again'))",
    }[what]
    told = tmp_path / "told"
    process = run(BEGIN + OPEN + source, told)
    try:
        eventually(told.exists)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
        print(f"Ctrl-C to a group in {what}: {time.monotonic() - began:.2f} s to the end of it all")
        assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in err
        eventually(lambda: not session_pids(process.pid), 3)
        assert not clusters_of(process)
    finally:
        end(process)


def test_sigterm_ends_the_owner_and_all(tmp_path):
    process = run(BEGIN + OPEN + "open(told, 'w').close(); time.sleep(60)", tmp_path / "told")
    try:
        eventually((tmp_path / "told").exists)
        process.terminate()
        process.communicate(timeout=20)
        eventually(lambda: not session_pids(process.pid) and not clusters_of(process), 3)
    finally:
        end(process)


FORK = """
pid = os.fork()
if pid == 0:
    said = []
    for use in (
        lambda: client.call("waits.same", 1),
        lambda: client.submit("waits.same", 1),
        lambda: client.job("waits.same", [1]),
        lambda: [next(job) for _ in range(100)],  # what the parent had taken already is there
        lambda: cluster.start(Waits, "other"),
        lambda: cluster.client(),
        lambda: cluster.status(),
        lambda: palm.Client(cluster.address),
    ):
        try:
            use()
            said.append("nothing")
        except BaseException as e:
            said.append(f"{type(e).__name__}: {e}")
    client.close(); cluster.close(); del job  # do no harm to the parent's
    print("\\n".join(said), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
assert client.call("waits.same", 7) == 7 and sum(1 for _ in zip(job, range(1000))) == 1000
x[:] = 5
assert (client.call("waits.same", x) == 5).all()
print("the parent goes on")
"""


def test_fork(tmp_path):
    """In the child, every use has an error that says what to do; the parent does not notice."""
    begin = "x = np.ones(100_000)\njob = client.job('waits.same', iter(int, 1), window=10); next(job)\n"
    process = run(BEGIN + OPEN + begin + FORK, tmp_path / "told")
    try:
        out, err = process.communicate(timeout=40)
        assert process.returncode == 0, err
        *said, last = out.strip().split("\n")
        assert last == "the parent goes on" and len(said) == 8, out
        for line in said:
            assert "fork" in line and "spawn" in line, line
    finally:
        end(process)


def test_fork_and_exit_as_multiprocessing_does(tmp_path):
    """A child that only computes, and ends as any process does, harms nobody."""
    source = (
        "import multiprocessing\n"
        "def work(n): return float(np.ones(n).sum())\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    for _ in range(5):\n"
        "        assert pool.map(work, [10, 100_000]) == [10.0, 100_000.0]\n"
        "        assert client.call('waits.same', 1) == 1\n"
        "pid = os.fork()\n"
        "if pid == 0: sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "assert client.call('waits.same', 2) == 2\n"
        "print('fine')\n"
    )
    process = run(BEGIN + OPEN + source, tmp_path / "told")
    try:
        out, err = process.communicate(timeout=40)
        assert (process.returncode, out) == (0, "fine\n"), err
    finally:
        end(process)
