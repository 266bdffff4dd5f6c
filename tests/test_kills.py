# SPDX-License-Identifier: BSD-3-Clause
"""Death as a parameter: how x where, of servers, the registry, clients and the owner (R8, R9, R11, R15).

PALM_KILLS=200 makes the random part as long as a release needs it; PALM_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm
from palm import places

KILLS = int(os.environ.get("PALM_KILLS", "10"))
SEED = int(os.environ.get("PALM_SEED", "1"))
LEFT_AFTER = 3.0  # seconds within which nothing of a dead session is left (R15)


class Victim(palm.Server):
    def setup(self):
        self.kept = []

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def pid(self):
        return os.getpid()

    @palm.function
    def stay(self, path):
        """In a function, until somebody ends it."""
        Path(path).write_text(str(os.getpid()))
        while not self.cancelled:
            time.sleep(0.002)
        return path

    @palm.function
    def stay_once(self, path):
        """In a function, until somebody ends the process; the next one returns at once."""
        if not Path(path).exists():
            self.stay(path)
        return os.getpid()

    @palm.function
    def counted(self, n):
        for i in range(n):
            yield np.full(5000, i)

    @palm.function
    def sleep(self, path):
        Path(path).write_text(str(os.getpid()))
        time.sleep(60)

    @palm.function
    def hold_the_gil(self, path):
        Path(path).write_text(str(os.getpid()))
        return sum(range(10**12))  # one call of C, that never looks up

    @palm.function
    def send(self, n):
        """Sends arrays without end."""
        while True:
            yield np.full(100_000, n)

    @palm.function
    def exits(self, code):
        sys.exit(code)

    @palm.function
    def os_exits(self, code):
        os._exit(code)

    @palm.function
    def interrupts(self, x):
        raise KeyboardInterrupt

    @palm.function
    def exits_in_a_generator(self, code):
        yield 1
        sys.exit(code)

    @palm.function
    def segfault(self, x):
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)


class Other(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def pid(self):
        return os.getpid()


def pids_of(cluster: palm.Cluster) -> dict[str, int]:
    return {s["name"]: s["pid"] for s in cluster.status()["servers"]}


def alive(pid: int) -> bool:
    return bool(places.start_time(pid))


def works(client: palm.Client, step: str = "victim.same") -> bool:
    """True as soon as a call is answered: a server that is being restarted is not there, or not yet."""
    try:
        return client.call(step, 5, timeout=5) == 5
    except (palm.NotFound, palm.Crashed, palm.Timeout, palm.Disconnected):
        return False


# ----------------------------------------------------------------------------------------------- servers: how x where


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.parametrize("where", ["idle", "in a function", "sending"])
def test_a_server_is_killed(cluster, tmp_path, number, where):
    """What it had is done by its successor; nobody else notices."""
    cluster.start(Victim)
    cluster.start(Other)
    client = cluster.client()
    pid = client.call("victim.pid")
    told = tmp_path / "told"
    job = future = None
    if where == "in a function":
        future = client.submit("victim.stay_once", str(told))
        eventually(told.exists)
    elif where == "sending":
        job = client.job(["victim.counted", "other.same"], [2000], ordered=True)
        found = [int(next(job)[0]) for _ in range(5)]
    os.kill(pid, number)
    if future is not None:
        assert future.result(20) not in (pid, None)
    if job is not None:
        assert found + [int(x[0]) for x in job] == list(range(2000))
        assert not job.errors
    assert client.call("victim.pid") != pid
    assert client.call("other.same", 1) == 1
    assert pids_of(cluster)["victim"] == client.call("victim.pid")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("exits", "exit code 3"),
        ("os_exits", "exit code 3"),
        ("exits_in_a_generator", "exit code 3"),
        ("segfault", "SIGSEGV"),
        ("interrupts", "exit code 1"),
    ],
)
def test_a_function_ends_its_process(cluster, function, reason):
    cluster.start(Victim)
    client = cluster.client()
    with pytest.raises(palm.Crashed) as caught:
        client.call(f"victim.{function}", 3, timeout=20)
    assert (caught.value.reason, caught.value.server, caught.value.function) == (reason, "victim", function)
    eventually(lambda: works(client))
    with pytest.raises(palm.Crashed) as caught:
        list(client.job(f"victim.{function}", [3]))
    assert caught.value.reason == reason
    eventually(lambda: works(client))


def test_all_calls_and_jobs_outlive_a_server(cluster, tmp_path):
    cluster.start(Victim)
    cluster.start(Other)
    told = tmp_path / "told"
    clients = [cluster.client() for _ in range(3)]
    stays = clients[0].submit("victim.stay_once", str(told))
    eventually(told.exists)
    futures = [c.submit("victim.same", n) for n, c in enumerate(clients)]
    jobs = [c.job(["other.same", "victim.same", "other.same"], range(1000), ordered=True) for c in clients]
    os.kill(int(told.read_text()), signal.SIGKILL)
    assert stays.result(20) == pids_of(cluster)["victim"]
    assert [f.result(20) for f in futures] == [0, 1, 2]
    assert [list(job) for job in jobs] == [list(range(1000))] * 3


def test_a_server_that_does_not_come_back(cluster, tmp_path):
    """R11: who needs it fails with the reason."""
    cluster.start(Victim)
    told = tmp_path / "told"
    client = cluster.client()
    future = client.submit("victim.sleep", str(told))
    job = client.job("victim.same", range(100))
    eventually(told.exists)
    cluster.stop("victim", timeout=0.2)
    assert isinstance(future.exception(10), palm.Crashed)
    with pytest.raises(palm.Crashed):
        job.wait(10)


def test_a_job_that_does_not_need_the_dead_server_goes_on(cluster):
    cluster.start(Victim)
    cluster.start(Other)
    client = cluster.client()
    job = client.job("other.same", range(5000), window=16, ordered=True)
    found = [next(job)]
    os.kill(client.call("victim.pid"), signal.SIGKILL)
    assert found + list(job) == list(range(5000))
    eventually(lambda: works(client))


def test_a_stopped_server_goes_on(cluster):
    """SIGSTOP is no death: what waits, waits, and goes on (R9: status says so)."""
    cluster.start(Victim)
    client = cluster.client()
    pid = client.call("victim.pid")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(palm.Timeout):
            client.call("victim.same", 1, timeout=0.2)
        assert eventually(lambda: cluster.status()["servers"][0]["state"]) == "suspended"
        job = client.job("victim.same", range(100), ordered=True)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert list(job) == list(range(100))
    assert client.call("victim.pid") == pid


def test_a_stopped_server_can_be_stopped(cluster):
    cluster.start(Victim)
    pid = pids_of(cluster)["victim"]
    os.kill(pid, signal.SIGSTOP)
    cluster.stop("victim")
    assert not alive(pid)


# ------------------------------------------------------------------------------------------------------- registry


def test_the_registry_is_killed(cluster):
    cluster.start(Victim)
    cluster.start(Other)
    client = cluster.client()
    pid = cluster.status()["registry"]["pid"]
    job = client.job(["victim.same", "other.same"], range(5000), window=16, ordered=True)
    found = [next(job)]
    os.kill(pid, signal.SIGKILL)
    assert found + list(job) == list(range(5000)), "it holds no message of any job"
    assert client.call("victim.same", 1) == 1
    eventually(lambda: not alive(pid))

    def all_again():
        try:
            with palm.Client(cluster.address, timeout=5) as fresh:
                fresh.wait_for("victim", "other", timeout=5)
                return works(fresh)
        except (palm.Disconnected, palm.Timeout):
            return False

    eventually(all_again)
    status = eventually(lambda: _status(cluster))
    assert status["registry"]["pid"] != pid
    assert [s["name"] for s in status["servers"]] == ["other", "victim"]


def _status(cluster):
    try:
        return cluster.status()
    except (palm.PalmError, palm.Disconnected):
        return None


def test_a_client_outlives_the_registry(cluster):
    """One that was there before finds servers that it has not met yet."""
    cluster.start(Victim)
    cluster.start(Other)
    client = cluster.client()
    assert works(client)
    pid = cluster.status()["registry"]["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: (s := _status(cluster)) and s["registry"]["pid"] != pid and len(s["servers"]) == 2)
    assert client.call("other.same", 2, timeout=10) == 2
    assert set(client.functions()) >= {"other.same", "victim.same"}


# -------------------------------------------------------------------------------------- subprocesses of many kinds

OWNER = """
import os, sys, time
import numpy as np
import palm
from test_kills import Other, Victim

cluster = palm.Cluster(sys.argv[1])
cluster.start(Victim)
cluster.start(Other)
client = cluster.client()
with palm.arena():
    big = np.ones(1 << 20)
if sys.argv[2] in ("sleep", "hold_the_gil", "stay"):
    future = client.submit("victim." + sys.argv[2], sys.argv[3])
    while not os.path.exists(sys.argv[3]):
        time.sleep(0.002)
print("ready", flush=True)
steps = ["victim.same", "other.same"] if sys.argv[2] == "load" else ["other.same"]
while True:
    try:
        client.job(steps, [big] * 100).wait()
    except palm.PalmError:
        time.sleep(0.01)
"""

CLIENT = """
import sys, time
import numpy as np
import palm

client = palm.Client(sys.argv[1])
print("ready", flush=True)
kept = []
while True:
    try:
        for x in client.job(["victim.same", "other.same"], (np.ones(1 << 18) for _ in range(100))):
            kept = [*kept[-8:], x]
    except palm.PalmError:
        time.sleep(0.01)
"""


class Session:
    """A process of ours with all that it starts; what is left of it is counted from outside."""

    def __init__(self, script: str, *arguments: str) -> None:
        beside = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONPATH": beside},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(20)

    def end(self) -> None:
        """Whatever the test has come to."""
        for pid in session_pids(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(20)
        if self.process.stdout is not None:
            self.process.stdout.close()


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def session_pids(session: int) -> set[int]:
    return {int(p) for p in os.listdir("/proc") if p.isdigit() and session_of(int(p)) == session and alive(int(p))}


def nothing_is_left(session: Session, name: str) -> Callable[[], bool]:
    """No process, no directory, no socket; memory is that of the processes alone, since nothing has a name."""
    return lambda: not session_pids(session.process.pid) and not (places.base() / name).exists()


@pytest.mark.parametrize("state", ["load", "idle", "stay", "sleep", "hold_the_gil"])
def test_the_owner_is_killed(tmp_path, state):
    """kill -9 of the script: after 3 s nothing of it is left, GIL or no GIL."""
    name = f"owner-{os.getpid()}"
    session = Session(OWNER, name, state, str(tmp_path / "told"))
    try:
        assert len(session_pids(session.process.pid)) == 6 and (places.base() / name).exists()
        session.kill()
        eventually(nothing_is_left(session, name), LEFT_AFTER)
    finally:
        session.end()


def test_the_owner_and_the_registry_are_killed(tmp_path):
    name = f"both-{os.getpid()}"
    session = Session(OWNER, name, "load", "")
    try:
        with palm.Client(name) as client:
            registry = client.status()["registry"]["pid"]
        session.process.send_signal(signal.SIGKILL)
        os.kill(registry, signal.SIGKILL)
        session.process.wait(20)
        eventually(nothing_is_left(session, name), LEFT_AFTER)
    finally:
        session.end()


def test_a_client_is_killed_in_the_middle_of_a_job(cluster):
    """The server goes on serving others, and what it lent to the dead comes back."""
    cluster.start(Victim)
    cluster.start(Other)
    client = cluster.client()
    assert works(client)

    pids = pids_of(cluster)
    before: dict[str, list[str]] = {}
    for n in range(4):
        handled = sum(messages_in(client))
        session = Session(CLIENT, cluster.address)
        try:
            eventually(lambda handled=handled: sum(messages_in(client)) > handled + 100)
            session.kill()
        finally:
            session.end()
        assert list(client.job(["victim.same", "other.same"], range(100), ordered=True)) == list(range(100))
        if n == 0:  # from the second on, nothing is new, but for what is under way
            before = {name: fds_of(pid) for name, pid in pids.items()}
    assert pids_of(cluster) == pids
    for name, pid in pids.items():
        eventually(lambda name=name, pid=pid: len(fds_of(pid)) < len(before[name]) + 3)
    eventually(lambda: not dead_sockets(places.Path(cluster._directory)))


def messages_in(client: palm.Client) -> list[int]:
    return [s["counters"].get("messages_in", 0) for s in client.status()["servers"]]


def fds_of(pid: int) -> list[str]:
    return sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))


def dead_sockets(directory: Path) -> list[str]:
    return [p.name for p in directory.iterdir() if p.suffix[1:].isdigit() and not alive(int(p.suffix[1:]))]


def test_memory_of_a_dead_server_can_be_read_on(cluster):
    """A result stays readable as long as it is held, whoever made it (R24)."""
    cluster.start(Victim)
    client = cluster.client()
    job = client.job("victim.send", [7])
    kept = [next(job) for _ in range(3)]
    os.kill(client.call("victim.pid"), signal.SIGKILL)
    job.cancel()
    eventually(lambda: works(client))
    assert all(np.array_equal(x, np.full(100_000, 7)) for x in kept)
    del kept, job


def test_any_process_at_any_moment(tmp_path):
    """`PALM_KILLS` times: a session under load, a random process of it is killed at a random moment. It goes on, if the
    owner lives; then the owner dies too, and after 3 s nothing is left."""
    chance = random.Random(SEED)
    for n in range(KILLS):
        name = f"random-{os.getpid()}-{n}"
        session = Session(OWNER, name, "load", "")
        try:
            what = chance.choice(["owner", "registry", "victim", "other", "client", "nursery"])
            moment = chance.random() * 0.1
            told = f"kill {n} of seed {SEED}: {what} after {moment:.3f} s"
            client = Session(CLIENT, name)
            try:
                time.sleep(moment)  # the moment is the input of this test, not a synchronisation
                with palm.Client(name) as looks:
                    status = looks.status()
                pids = {s["name"]: s["pid"] for s in status["servers"]}
                pids |= {
                    "registry": status["registry"]["pid"],
                    "owner": session.process.pid,
                    "client": client.process.pid,
                    "nursery": nursery_of(session),
                }
                os.kill(pids[what], signal.SIGKILL)
                if what != "owner":
                    eventually(lambda name=name: serves(name), 10)
                client.end()
                session.kill()
                eventually(nothing_is_left(session, name), LEFT_AFTER)
            except AssertionError as e:
                raise AssertionError(f"{told}: {e}; left: {left_of(session, name)}") from None
            finally:
                client.end()
        finally:
            session.end()


def nursery_of(session: Session) -> int:
    """The oldest of those that look like one: the others are born there."""
    return min(p for p in session_pids(session.process.pid) if b"palm.nursery" in cmdline_of(p))


def cmdline_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def serves(name: str) -> bool:
    try:
        with palm.Client(name, timeout=2) as client:
            client.wait_for("victim", "other", timeout=2)
            return list(client.job(["victim.same", "other.same"], range(10), ordered=True)) == list(range(10))
    except palm.PalmError:
        return False


def left_of(session: Session, name: str) -> list[str]:
    path = places.base() / name
    processes = [f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes()!r}" for pid in session_pids(session.process.pid)]
    return [*processes, *map(str, path.iterdir() if path.exists() else [])]
