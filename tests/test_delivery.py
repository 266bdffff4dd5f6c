# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that end by themselves and lose nothing, while processes die (R2, R3, R8, R11, R17, R19; docs/delivery.md).

PALM_STORM=100000 (messages in a storm of kills, one every tenth of a second) and PALM_FAN=1000000 (children of one
input) make it as long as a release needs it; PALM_SEED repeats a run.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually
from helpers_delivery import A, B, C, Deaf

import palm
from palm import capsule, places
from palm.directory import pid_here
from palm.remote import pid_of

STORM = int(os.environ.get("PALM_STORM", "4000"))
FAN = int(os.environ.get("PALM_FAN", "100000"))
SEED = int(os.environ.get("PALM_SEED", "1"))
EVERY = 0.1 if "PALM_STORM" in os.environ else 0.3  # seconds between two kills
KILLS = 4  # that a job sees at least
MIB = 1 << 20


@pytest.fixture
def abc(cluster: palm.Cluster) -> palm.Cluster:
    for template in (A, B, C):
        cluster.start(template)
    return cluster


def pids(cluster: palm.Cluster) -> dict[str, int]:
    return {s["name"]: s["pid"] for s in cluster.status()["servers"] if s["pid"]}


def rss(pid: int) -> int:
    """Bytes, the most it ever had; of shared memory too, which counts in each process that has read it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def private(pid: int) -> int:
    """Bytes of its own, now."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_"))


@contextmanager
def storm(cluster: palm.Cluster, *names: str) -> Iterator[list[str]]:
    """A random one of these servers is killed every tenth of a second; the list of those that were."""
    chance, over = random.Random(SEED), threading.Event()
    killed: list[str] = []

    def kill() -> None:
        while not over.wait(EVERY):  # the moment is the input of these tests, not a synchronisation
            alive = {name: pid for name, pid in pids(cluster).items() if name in names}
            if alive:
                name = chance.choice(sorted(alive))
                try:
                    os.kill(alive[name], signal.SIGKILL)
                    killed.append(name)
                except ProcessLookupError:
                    pass

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def spread(n: int, killed: list[str]) -> Iterator[int]:
    """The numbers below n; there are some kills before the last of them."""
    for k in range(KILLS):
        yield from range(k * n // KILLS, (k + 1) * n // KILLS)
        eventually(lambda k=k: len(killed) > k, 60)


# ---------------------------------------------------------------------------------------------- storms of kills


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ordered", [False, True])
def test_each_result_exactly_once_in_a_storm(abc, ordered):
    with storm(abc, "a", "b", "c") as killed:
        job = abc.client().job(["a.up", "b.twice", "c.down"], spread(STORM, killed), ordered=ordered)
        found = list(job)
    assert not job.errors
    assert (found if ordered else sorted(found)) == [(x + 1) * 2 - 1 for x in range(STORM)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("steps", "of"),
    [
        (["a.up", "b.twice", "a.up", "b.twice"], lambda x: [((x + 1) * 2 + 1) * 2]),
        (["a.up", "b.pair", "c.down", "b.pair"], lambda x: [x, -x, -x - 2, x + 2]),
        (["b.twice", "b.pair", "c.down"], lambda x: [2 * x - 1, -2 * x - 1]),
        (["b.odd", "a.up", "b.pair"], lambda x: [x + 1, -x - 1] if x % 2 else []),
        (["a.up", "c.elsewhere", "b.pair"], lambda x: [(x + 1) * 2] if (x + 1) % 2 else [x + 1, -x - 1]),
    ],
    ids=["cyclic", "fan-out", "same server", "filter", "branch"],
)
def test_every_kind_of_pipeline_in_a_storm(abc, steps, of):
    n = STORM // 10
    with storm(abc, "a", "b", "c") as killed:
        job = abc.client().job(steps, spread(n, killed))
        found: dict[int, list[int]] = collections.defaultdict(list)
        for number, value in job.items():
            found[number].append(value)
    assert not job.errors
    assert {k: sorted(v) for k, v in found.items()} == {x: sorted(of(x)) for x in range(n) if of(x)}
    assert job.progress.dropped == sum(not of(x) for x in range(n))


@pytest.mark.timeout(600)
def test_a_sleeping_consumer_in_a_storm(abc):
    """Nothing is lost, and nothing grows beyond the window: 64 messages of 1 MiB."""
    window, size = 64, MIB
    client = abc.client()
    list(client.job(["a.up", "b.twice", "c.down"], [np.zeros(size // 8)] * 8))  # warm
    before = private(os.getpid())
    most = dict.fromkeys("abc", 0)
    n = max(200, STORM // 100)
    with storm(abc, "a", "b", "c") as killed:
        job = client.job(
            ["a.up", "b.twice", "c.down"], (np.full(size // 8, k) for k in range(n)), window=window, ordered=True
        )
        found = [float(next(job)[0]) for _ in range(n // 2)]
        asleep = time.monotonic() + 5
        while time.monotonic() < asleep:
            for name, pid in pids(abc).items():
                try:
                    most[name] = max(most[name], rss(pid))
                except (FileNotFoundError, ProcessLookupError):
                    continue
            time.sleep(0.05)
        grown = private(os.getpid()) - before
        found += [float(x[0]) for x in job]
    assert killed and found == [(k + 1) * 2 - 1 for k in range(n)]
    # of each message under way a client may hold the input and the result; a server what it got and what it made
    assert grown < (2 * window + 32) * size
    assert max(most.values()) < (2 * window + 32) * size + 150 * MIB, {k: v // MIB for k, v in most.items()}


@pytest.mark.timeout(600)
def test_one_input_becomes_very_many(cluster):
    """Fan-out stays within the window, however large it is (R17, R19)."""
    cluster.start(A)
    cluster.start(B)
    client = cluster.client()
    client.call("a.up", client.call("b.twice", 1))
    watched = pids(cluster) | {"client": os.getpid()}
    before = {name: rss(pid) for name, pid in watched.items()}
    total = n = 0
    for value in client.job(["a.split", "b.slow"], [FAN]):
        total, n = total + value, n + 1
    assert (n, total) == (FAN, FAN * (FAN - 1) // 2)
    for name, pid in watched.items():
        assert rss(pid) - before[name] < 200 * MIB, name


# ------------------------------------------------------------------------------------------------- room for all


@pytest.mark.parametrize("window", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("ordered", [False, True])
def test_no_window_is_too_small(abc, window, ordered):
    """A pipeline that visits servers twice and fans out twice cannot stop for ever (R19)."""
    steps = ["a.split", "b.pair", "a.up", "b.pair", "c.down"]
    expected = [w - 1 for n in (3, 0, 5, 40) for v in range(n) for x in (v, -v) for w in (x + 1, -x - 1)]
    found = list(abc.client().job(steps, [3, 0, 5, 40], window=window, ordered=ordered))
    assert (found if ordered else sorted(found)) == (expected if ordered else sorted(expected))


def test_a_generator_makes_no_more_than_there_is_room_for(abc):
    made = abc.client().job(["a.rows", "b.weigh"], [10**9], window=32)
    for _ in range(10):
        next(made)
    counters = {s["name"]: s["counters"] for s in abc.status()["servers"]}
    assert counters["a"]["messages_out"] < 500, "what nobody has taken holds its slot"
    made.cancel()


# ------------------------------------------------------------------------------------------- who keeps, who repeats


def test_who_keeps_repeats_what_is_lost_behind_it(abc, tmp_path):
    """The generator lives, the server behind it dies: the function is not run again."""
    path, gate = tmp_path / "runs", tmp_path / "gate"
    steps = ["a.once", palm.step("b.gate", path=str(gate)), "c.down"]
    job = abc.client().job(steps, [str(path)], ordered=True)
    found = [next(job) for _ in range(50)]
    os.kill(pids(abc)["b"], signal.SIGKILL)
    gate.touch()
    assert found + list(job) == [x - 1 for x in range(300)]
    assert path.read_text() == "x"


@pytest.mark.parametrize("window", [1, 64])
def test_a_generator_that_died_goes_on_where_it_was(abc, tmp_path, window):
    """It runs again, and what is settled already is not made again for those behind it."""
    path, gate = tmp_path / "runs", tmp_path / "gate"
    steps = ["a.once", palm.step("b.gate", path=str(gate))]
    job = abc.client().job(steps, [str(path)], ordered=True, window=window)
    found = [next(job) for _ in range(50)]
    os.kill(pids(abc)["a"], signal.SIGKILL)
    gate.touch()
    assert found + list(job) == list(range(300))
    assert path.read_text() == "xx"
    calls = {s["name"]: s["counters"] for s in abc.status()["servers"]}["b"]["functions"]["gate"]["calls"]
    assert calls <= 300 + 64, "the first fifty were not repeated, but what was under way may be"


def test_a_generator_that_died_after_it_was_stopped_stays_so(abc):
    """It did not come to hear of it; its successor makes what the first one may have made, and ends."""
    job = abc.client().job(["a.numbers", "b.twice"], ordered=True, window=64, timeout=30)
    found = [next(job) for _ in range(5)]
    pid = pids(abc)["a"]
    os.kill(pid, signal.SIGSTOP)
    job.stop()
    os.kill(pid, signal.SIGKILL)
    found += list(job)
    assert found == list(range(0, 2 * len(found), 2)) and len(found) < 1000


@pytest.mark.parametrize(("what", "step"), [("_open", "same"), ("_data", "same"), ("_release", "many")])
def test_what_did_not_arrive_is_repeated(cluster, what, step):
    """Though both ends live."""
    cluster.start(Deaf)
    client = cluster.client()
    client.call("deaf.misses", what)
    job = client.job(f"deaf.{step}", [300], timeout=20)
    assert list(job) == ([300] if step == "same" else list(range(300)))


def test_executions_that_differ_are_told(abc, tmp_path):
    """DELIVERY 1: a function that yields has to yield as many each time."""
    path = tmp_path / "ran"
    job = abc.client().job(["a.fickle", "b.twice"], [str(path)], on_error="skip")
    found = [next(job) for _ in range(5)]
    os.kill(pids(abc)["a"], signal.SIGKILL)
    assert sorted(found) == [0, 2, 4, 6, 8] and list(job) == []
    [error] = job.errors
    assert error.type == "Nondeterministic" and "a.fickle" in str(error)


# ---------------------------------------------------------------------------------------------------- set aside


class Sums(palm.Server):
    @palm.function
    def total(self, arrays, *, sent, died):
        if not os.path.exists(died):
            eventually(lambda: os.path.exists(sent))
            open(died, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(float(a[0]) for a in arrays)


def test_what_is_repeated_fits_in_envelopes(monkeypatch, tmp_path):
    """Two messages went alone; together they have more arrays than an envelope has frames for."""
    monkeypatch.setenv("PALM_LINK", "frames")
    counts = [12, 1015]
    with palm.Cluster() as cluster:
        cluster.start(Sums)
        with palm.arena():
            inputs = [[np.full(4200, float(k)) for k in range(n)] for n in counts]
        files = {name: str(tmp_path / name) for name in ("sent", "died")}
        job = cluster.client().job(palm.step("sums.total", **files), inputs, ordered=True)
        eventually(lambda: job.progress.sent == 2)
        (tmp_path / "sent").touch()
        assert list(job) == [sum(range(n)) for n in counts]
    assert (tmp_path / "died").exists()


def test_a_message_that_kills_is_set_aside(abc):
    """R8, B7: 99 results, one error with the reason, and a capsule that has the input."""
    inputs = (np.full(3, n) for n in range(100))
    job = abc.client().job(palm.step("c.segfault_at", n=17), inputs, on_error="skip")
    assert sorted(job) == [float(n) for n in range(100) if n != 17]
    [error] = job.errors
    assert isinstance(error, palm.Crashed)
    assert (error.reason, error.number, error.server, error.function) == ("SIGSEGV", 17, "c", "segfault_at")
    assert error.capsule is not None
    kept = capsule.read(error.capsule)
    assert np.array_equal(kept.value, np.full(3, 17)) and (kept.function, kept.constants) == ("segfault_at", {"n": 17})


# ------------------------------------------------------------------------------------------------------ the end


def test_nothing_of_a_job_is_left_on_servers(abc):
    """I8: after its end, after a cancel, and after its client is gone."""
    client = abc.client()
    list(client.job(["a.rows", "b.weigh"], [50] * 5))
    left = client.job(["a.rows", "b.weigh"], [10**9], window=16)
    next(left)
    left.cancel()
    with abc.client() as other:
        given_up = other.job(["a.rows", "b.weigh"], [10**9], window=16)
        next(given_up)
    assert client.call("a.up", 1) == 2  # a round trip behind all that

    eventually(lambda: client.call("a.held") == client.call("b.held") == 0)


def test_a_generator_that_nobody_waits_for_is_closed(abc, tmp_path):
    """The call has timed out: what is kept for it goes, and its `finally` runs."""
    closed = tmp_path / "closed"
    client = abc.client()
    with pytest.raises(palm.Timeout):
        client.call("a.forever", str(closed), timeout=2)
    eventually(lambda: client.call("a.up", 1) == 2 and closed.exists())


SUBMITS = """
import sys, time, palm
with palm.Client(sys.argv[1]) as client:
    client.submit("b.mark", sys.argv[2])
    time.sleep(600)
"""


def test_nobody_works_for_a_client_that_died_in_the_queue(abc, tmp_path):
    """The server sees the death before it looks at what the client had sent."""
    gate, mark = tmp_path / "gate", tmp_path / "begun"
    client = abc.client()
    pid = pids(abc)["b"]

    def counter(name: str) -> int:
        return next(s["counters"][name] for s in client.status()["servers"] if s["name"] == "b")

    def sockets() -> int:
        """Each of libzmq's has an eventfd."""
        return [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()].count("anon_inode:[eventfd]")

    busy = client.submit(palm.step("b.gate", path=str(gate)), 50)
    eventually(lambda: counter("running_since_ns"))  # all of it has come
    before, received, lost = sockets(), counter("messages_in"), counter("lost_links")
    dies = subprocess.Popen([sys.executable, "-c", SUBMITS, abc.address, str(mark)])
    try:
        eventually(lambda: counter("messages_in") > received, 60)
    finally:
        dies.kill()
        dies.wait()
    eventually(lambda: counter("lost_links") > lost)
    gate.touch()
    assert busy.result(10) == 50 and client.call("b.twice", 1) == 2
    assert not mark.exists()
    eventually(lambda: sockets() <= before)


def test_pids_of_another_namespace_are_not_ours():
    here, elsewhere = places.pid_namespace(), bytes(24)
    assert pid_of("ipc://x", {"ipc://x": 7}, here) == 7 and pid_of("ipc://y", {"ipc://x": 7}, here) == 0
    assert pid_of("ipc://x", {"ipc://x": 7}, elsewhere) == 0
    assert pid_here({"pid": 7, "where": here}) == 7 and pid_here({"pid": 7, "where": elsewhere}) == 0


def test_a_call_whose_time_is_over_is_not_begun(abc, tmp_path):
    gate = tmp_path / "gate"
    client = abc.client()
    stays = client.submit(palm.step("b.gate", path=str(gate)), 50)
    with pytest.raises(palm.Timeout):
        client.call("b.mark", str(tmp_path / "begun"), timeout=0.2)
    gate.touch()
    assert stays.result(10) == 50 and client.call("b.twice", 1) == 2
    assert not (tmp_path / "begun").exists()


def test_work_whose_deadline_has_passed_is_not_begun(abc, tmp_path):
    client = abc.client()
    gate = tmp_path / "gate"
    with pytest.raises(palm.Timeout):
        list(client.job(palm.step("b.gate", path=str(gate)), [50, *range(100)], timeout=0.3))
    gate.touch()
    client.call("b.twice", 1)
    calls = {s["name"]: s["counters"] for s in abc.status()["servers"]}["b"]["functions"]["gate"]["calls"]
    assert calls <= 1
