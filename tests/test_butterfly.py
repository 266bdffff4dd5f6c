# SPDX-License-Identifier: BSD-3-Clause
"""A leader and its workers (R4, R5, R8, R11; DESIGN 3, 5.8): all results, once, whatever becomes of the workers."""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually
from helpers_butterfly import Plain, Work

import palm

N = int(os.environ.get("PALM_CREW", "5000"))
SEED = int(os.environ.get("PALM_SEED", "1"))


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Work, workers=2)
        cluster.start(Plain)
        with cluster.client() as client:  # once mapped, its memory stays so while it lives
            list(client.job(["work.up", "plain.down"], range(100)))
        cluster.status()
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


@pytest.fixture
def gate(client: palm.Client, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Names paths for `work.until`; whatever becomes of the test, they are there when the client is closed."""
    made: list[Path] = []

    def make(name: str) -> Path:
        made.append(tmp_path / name)
        return made[-1]

    yield make
    for path in made:
        path.touch()


def workers(cluster: palm.Cluster, name: str = "work") -> list[dict]:
    return next(s["workers"] for s in cluster.status()["servers"] if s["name"] == name)


def pids(cluster: palm.Cluster) -> list[int]:
    return [w["pid"] for w in workers(cluster) if w["pid"]]


def received(cluster: palm.Cluster) -> int:
    """Messages that have come to the leader."""
    return next(s["counters"]["messages_in"] for s in cluster.status()["servers"] if s["name"] == "work")


# ------------------------------------------------------------------------------------------------- as a server is


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("steps", "of"),
    [
        (["work.up"], lambda x: [x + 1]),
        (["plain.down", "work.up", "plain.down", "work.up"], lambda x: [x]),
        (["work.pair", "plain.down"], lambda x: [x - 1, -x - 1]),
        (["work.pair", "work.pair", "work.up"], lambda x: [x + 1, -x + 1, -x + 1, x + 1]),
        (["work.odd", "work.up"], lambda x: [x + 1] if x % 2 else []),
        (["work.elsewhere", "work.up"], lambda x: [x - 1] if x % 2 else [x + 1]),
    ],
    ids=["one step", "twice", "fan-out", "fan-outs", "filter", "branch"],
)
def test_any_pipeline(client, steps, of, ordered):
    found = list(client.job(steps, range(500), ordered=ordered))
    expected = [y for x in range(500) for y in of(x)]
    assert (found if ordered else sorted(found)) == (expected if ordered else sorted(expected))


def test_behind_a_branch_that_holds_up_nobody(client):
    """The leader says what has been begun, else no more would come."""
    job = client.job("plain.aside", [500])
    assert len(list(job)) == 500 - job.progress.dropped > 200


SCRIPT = """
import numpy as np
import palm

class Blur(palm.Server):
    def setup(self, by=1.0):
        self.by = by
    @palm.function
    def blur(self, x, *, times=2):
        yield from (self.by * x for _ in range(times))
    @palm.function
    def total(self, x):
        return float(x.sum()), self.rng.integers(1000), self.message.path

if __name__ == "__main__":
    with palm.Cluster() as cluster:
        cluster.start(Blur, WORKERS setup={"by": 2.0})
        arrays = (np.full(3, i) for i in range(20))
        print(list(cluster.client().job(["blur.blur", "blur.total"], arrays, ordered=True, seed=5)))
"""


def test_to_change_the_base_class_is_all_it_takes(tmp_path):
    said = {}
    for base, count in (("Server", ""), ("Butterfly", "workers=3,")):
        path = tmp_path / f"{base}.py"
        path.write_text(SCRIPT.replace("palm.Server", f"palm.{base}").replace("WORKERS", count))
        said[base] = subprocess.run(
            [sys.executable, path], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    assert said["Server"] == said["Butterfly"] and said["Server"].count("(6.0,") == 2


def test_all_workers_work(client, servers):
    found = collections.Counter(number for number, _ in client.job("work.who", range(2000)))
    assert set(found) == {0, 1}
    assert {pid for _, pid in client.job("work.who", range(2000))} == set(pids(servers))


def test_arrays_go_through_the_leader_without_a_copy(client, servers):
    with palm.arena():
        x = np.ones(1 << 18)
    x.flags.writeable = False
    assert list(client.job(["work.twice", "plain.total"], [x] * 20)) == [2.0 * x.size] * 20
    status = {s["name"]: s for s in servers.status()["servers"]}["work"]
    assert status["counters"]["bytes_copied"] == 0
    assert all(w["counters"]["bytes_copied"] == 0 for w in status["workers"])


def test_errors_say_where(client):
    with pytest.raises(palm.RemoteError, match="not 7") as e:
        client.call("work.fails", 7)
    assert (e.value.server, e.value.function, e.value.type) == ("work", "fails", "ValueError")
    with pytest.raises(palm.NotFound, match="up"):
        client.call("work.nothing", 1)


def test_random_numbers_do_not_depend_on_the_worker(servers, client):
    draw = [list(client.job("work.drawn", [3] * 40, seed=4, ordered=True)) for _ in range(2)]
    assert np.array_equal(draw[0], draw[1])


def test_it_is_run_again_after_an_exception_it_names(client, tmp_path):
    assert client.call("work.fickle", str(tmp_path / "there")) == 2


def begun(path: Path) -> bool:
    return path.with_name(path.name + ".begun").exists()


def busy(client: palm.Client, gate: Callable[[str], Path], n: int = 2) -> list:
    """So many workers are at work until they are let go."""
    paths = [gate(f"busy{i}") for i in range(n)]
    futures = [client.submit("work.until", str(path)) for path in paths]
    eventually(lambda: all(begun(path) for path in paths))
    return [*zip(futures, paths, strict=True)]


def let_go(held: list) -> None:
    for _, path in held:
        path.touch()
    assert [future.result(10) for future, _ in held] == [1] * len(held)


def test_a_job_that_is_cancelled_ends_at_the_worker(client, gate):
    path = gate("path")
    job = client.job("work.until", [str(path)])
    eventually(lambda: begun(path))
    job.cancel()
    eventually(path.with_name("path.ended").exists)


def test_one_input_that_is_given_up_ends_at_the_worker(client, gate):
    path = gate("path")
    future = client.submit("work.until", str(path))
    eventually(lambda: begun(path))
    future.cancel()
    eventually(path.with_name("path.ended").exists)


def test_what_is_late_is_not_begun(client, gate):
    held, late = busy(client, gate), gate("late")
    with pytest.raises(palm.Timeout):
        client.call("work.until", str(late), timeout=0.2)
    let_go(held)
    assert client.call("work.up", 1) == 2 and not begun(late)


def test_what_is_given_up_is_not_begun(servers, client, gate):
    held, given_up = busy(client, gate), gate("given up")
    before = received(servers)
    client.submit("work.until", str(given_up)).cancel()
    kept = client.submit("work.up", 1)
    eventually(lambda: received(servers) >= before + 2)
    let_go(held)
    assert kept.result(10) == 2 and not begun(given_up)


def test_long_ones_do_not_wait_for_one_another(client, gate):
    """While one worker is busy for ever, the other does all the rest, of whatever function."""
    held = busy(client, gate, 1)
    assert len({number for number, _ in client.job("work.nap", [0.001] * 100, timeout=60)}) == 1
    assert len({number for number, _ in client.job("work.who", range(1000), timeout=60)}) == 1
    let_go(held)


def test_a_worker_that_stands_still_holds_up_its_own_message_alone(client, servers):
    stopped = pids(servers)[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        job = client.job("work.long", range(20))
        there = [next(job) for _ in range(19)]
        assert stopped not in there
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert next(job) == stopped and not list(job)


@pytest.mark.skipif("PALM_MAKESPAN" not in os.environ, reason="it takes a machine that does nothing else")
@pytest.mark.parametrize("order", ["long first", "long last", "by turns"])
@pytest.mark.parametrize(("slow", "most"), [(1.0, 1.05), (4.0, 1.1)])
def test_makespan(cluster, order, slow, most):
    """400 tasks on two workers, one of which is four times as slow, beside the ideal for these speeds."""
    tasks = {
        "long first": [0.02] * 40 + [0.001] * 360,
        "long last": [0.001] * 360 + [0.02] * 40,
        "by turns": [0.02 if i % 10 == 9 else 0.001 for i in range(400)],
    }[order]
    cluster.start(Work, workers=2, setup={"dawdle": {1: slow}})
    client = cluster.client()
    list(client.job("work.nap", [0.001] * 20))
    ratios = []
    for _ in range(5):
        began = time.monotonic()
        took = [seconds for _, seconds in client.job("work.nap", tasks)]
        assert len(took) == 400
        ratios.append((time.monotonic() - began) / (sum(took) / (1 + 1 / slow)))
    print(f"{order}, a worker {slow:g} times as slow: {sorted(ratios)[2]:.3f} of the ideal, {min(ratios):.3f} at best")
    assert sorted(ratios)[2] <= most


# ------------------------------------------------------------------------------------------------------ stragglers


def who_got_it(path: Path) -> list[int]:
    return [int(line) for line in Path(f"{path}.who").read_text().split()]


def test_another_worker_gets_what_one_takes_long_for(client, gate):
    path = gate("gate")
    job = client.job(palm.step("work.stuck_once", path=str(path)), range(100), timeout=30)
    assert sorted(job) == list(range(100)) and not path.exists()
    assert len(set(who_got_it(path))) == len(who_got_it(path)) == 2


def test_but_only_if_it_may(client, gate):
    path = gate("gate")
    job = client.job(palm.step("work.stuck_once_impure", path=str(path)), range(100), timeout=30)
    found = [next(job) for _ in range(99)]
    time.sleep(0.3)  # some times as long as until another one would have got it
    path.touch()
    assert sorted([*found, *job]) == list(range(100))
    assert len(who_got_it(path)) == 1


def test_nor_where_the_route_goes_on(client, gate):
    """Somebody might make children of both."""
    path = gate("gate")
    job = client.job([palm.step("work.stuck_once", path=str(path)), "work.pair"], range(100), timeout=30)
    found = [next(job) for _ in range(198)]
    time.sleep(0.3)
    path.touch()
    assert sorted([*found, *job]) == sorted(y for x in range(100) for y in (x, -x))
    assert len(who_got_it(path)) == 1


def test_the_death_of_who_took_long_changes_nothing(cluster, tmp_path):
    cluster.start(Work, workers=2)
    path, killed = tmp_path / "gate", threading.Event()

    def inputs() -> Iterator[int]:
        yield from range(100)
        killed.wait(30)
        yield from range(100, 200)

    with cluster.client() as client:
        job = client.job(palm.step("work.stuck_once", path=str(path)), inputs(), timeout=30)
        found = [next(job) for _ in range(100)]
        os.kill(who_got_it(path)[0], signal.SIGKILL)
        killed.set()
        assert sorted([*found, *job]) == list(range(200))


# ------------------------------------------------------------------------------------------------- how many


def test_scale(cluster, tmp_path):
    told = tmp_path / "told"
    cluster.start(Work, workers=1, setup={"told": str(told)})
    client = cluster.client()
    for n in (3, 1, 2):
        cluster.scale("work", n)
        client.wait_for("work", workers=n)
        assert len(workers(cluster)) == n
        assert len({number for number, _ in client.job("work.who", range(3000))}) == n
    assert sorted(told.read_text().split()) == ["0", "1", "1", "2"]
    with pytest.raises(palm.Timeout):
        client.wait_for("work", workers=3, timeout=0.1)
    with pytest.raises(LookupError, match="work"):
        cluster.scale("other", 2)
    with pytest.raises(ValueError, match="one worker at least"):
        cluster.scale("work", 0)
    cluster.stop("work")
    assert not cluster.status()["servers"]
    with pytest.raises(LookupError):
        cluster.scale("work", 2)


def test_a_server_has_one_process(cluster):
    with pytest.raises(ValueError, match="palm.Butterfly"):
        cluster.start(Plain, workers=2)


class Broken(palm.Butterfly):
    def setup(self):
        if self.worker == 2:
            raise ValueError("no such device")

    @palm.function
    def same(self, x):
        return x


def test_a_worker_that_does_not_start_is_told_and_nothing_is_left(cluster):
    with pytest.raises(palm.PalmError, match="no such device"):
        cluster.start(Broken, workers=3)
    assert not cluster.status()["servers"]
    cluster.start(Broken, workers=2)


def test_to_stop_it_does_what_it_has(cluster):
    cluster.start(Work, workers=2)
    client = cluster.client()  # with one link: all have been sent when one of them runs
    futures = [client.submit("work.nap", 0.01) for _ in range(20)]
    eventually(lambda: any(w["counters"]["running_since_ns"] for w in workers(cluster)))
    cluster.stop("work")
    assert len([f.result(10) for f in futures]) == 20


# ------------------------------------------------------------------------------------------------------- deaths


@contextmanager
def unrest(cluster: palm.Cluster, what) -> Iterator[list[object]]:
    """`what` is done five times a second."""
    over, done = threading.Event(), []

    def act() -> None:
        while not over.wait(0.2):  # the moment is the input of these tests, not a synchronisation
            done.append(what(len(done)))

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def spread(n: int, done: list[object]) -> Iterator[int]:
    """The numbers below n; something has been done some times before the last of them."""
    for k in range(4):
        yield from range(k * n // 4, (k + 1) * n // 4)
        eventually(lambda k=k: len(done) > k, 60)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["workers", "leader too", "all workers"])
def test_each_result_exactly_once_while_they_die(cluster, who):
    cluster.start(Work, workers=3)
    chance = random.Random(SEED)

    def act(_: int) -> None:
        there = pids(cluster)
        if who == "leader too":
            there += [s["pid"] for s in cluster.status()["servers"] if s["pid"]]
        for pid in there if who == "all workers" else there and [chance.choice(there)]:
            kill(pid)

    with unrest(cluster, act) as done:
        job = cluster.client().job(["work.pair", "work.up"], spread(N, done), ordered=True)
        found = list(job)
    assert not job.errors and found == [y for x in range(N) for y in (x + 1, -x + 1)]


@pytest.mark.timeout(300)
def test_each_result_exactly_once_while_they_come_and_go(cluster):
    """A worker is added and another one killed, or stopped, again and again (`PALM_CREW=50000` for a release)."""
    cluster.start(Work, workers=2)
    chance = random.Random(SEED)

    def act(n: int) -> None:
        cluster.scale("work", 2 + n % 3)
        there = pids(cluster)
        if there:
            kill(chance.choice(there))

    with unrest(cluster, act) as done:
        job = cluster.client().job("work.up", spread(N, done))
        found = sorted(job)
    assert not job.errors and found == list(range(1, N + 1))


def test_a_message_that_kills_workers_is_set_aside(cluster, tmp_path):
    """No more die of it than its function allows, though each has been with another worker (R8)."""
    told = tmp_path / "told"
    cluster.start(Work, workers=3)
    job = cluster.client().job(palm.step("work.kills_at", n=17, told=str(told)), range(100), on_error="skip")
    assert sorted(job) == [x for x in range(100) if x != 17]
    [error] = job.errors
    assert isinstance(error, palm.Crashed) and error.reason == "SIGSEGV" and error.number == 17
    assert told.read_text() == "xx" and Path(error.capsule).exists()


def test_a_leader_that_is_started_again_finds_its_workers(cluster):
    cluster.start(Work, workers=2)
    client = cluster.client()
    before = set(pids(cluster))
    leader = cluster.status()["servers"][0]["pid"]
    os.kill(leader, signal.SIGKILL)
    assert sorted(client.job("work.up", range(1000), timeout=60)) == list(range(1, 1001))
    eventually(lambda: {pid for _, pid in client.job("work.who", range(1000))} == before)


def test_status_tells_of_workers_that_are_started_again(cluster):
    cluster.start(Work, workers=2)
    [pid, _] = pids(cluster)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(there := pids(cluster)) == 2 and pid not in there)
    [server] = cluster.status()["servers"]
    assert server["name"] == "work" and [w["state"] for w in server["workers"]] == ["running", "running"]
    assert server["template"] == "Butterfly"


class Knows(palm.Butterfly):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def handles(self, x):
        return len(self._host._assignments)


def test_handles_do_not_multiply_from_leader_to_leader(cluster):
    """Each worker has one at the next leader, which has one at each of its own for all of them."""
    cluster.start(Knows, "a", workers=2)
    cluster.start(Knows, "b", workers=2)
    steps = ["a.same", "b.same"] * 6 + ["a.handles"]
    found = max(cluster.client().job(steps, range(200)))
    assert found <= 7, "one for each visit"
