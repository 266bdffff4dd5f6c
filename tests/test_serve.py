# SPDX-License-Identifier: BSD-3-Clause
"""Parallel servers by `palm.serve`: processes that nobody watches come, go and die; no message is lost or comes twice
(R4, R11; DESIGN 3)."""

from __future__ import annotations

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
from typing import Any

import pytest
from conftest import eventually
from helpers_butterfly import Work

import palm
from palm import places
from palm.registry import JOINING, Registry
from palm.tenure import LINGER, Tenure
from palm.vacancies import CLAIM, Vacancies

SCRIPT = Path(__file__).with_name("helpers_serve.py")
N = int(os.environ.get("PALM_CREW", "5000"))
SEED = int(os.environ.get("PALM_SEED", "1"))
Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the clusters that are made from now on, the registry."""
    monkeypatch.setenv("PALM_PRELOAD", "pytest,helpers_impatient")


@pytest.fixture
def serve(cluster: palm.Cluster) -> Iterator[Serve]:
    """Starts a process that serves."""
    started: list[subprocess.Popen[str]] = []

    def start(template: str = "Work", name: str = "work") -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), cluster.address, template, name]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    leaders = set() if cluster._closed else {s["pid"] for s in cluster.status()["servers"]} - {0}
    for process in started:
        process.kill()
        process.communicate()
    cluster.close()
    eventually(lambda: not any(places.start_time(pid) for pid in leaders))


def server(cluster: palm.Cluster, name: str = "work") -> dict[str, Any]:
    return next((s for s in cluster.status()["servers"] if s["name"] == name), {"state": "", "pid": 0, "workers": []})


def leader_of(cluster: palm.Cluster) -> int:
    return eventually(lambda: server(cluster)["pid"])


def workers(cluster: palm.Cluster) -> dict[int, int]:
    """Pids by number."""
    return {w["number"]: w["pid"] for w in server(cluster)["workers"] if w["pid"]}


def who(client: palm.Client, n: int = 1000) -> set[int]:
    return {pid for _, pid in client.job("work.who", range(n))}


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


# ------------------------------------------------------------------------------------------------ come and go


def test_one_alone_works(cluster, serve):
    process, client = serve(), cluster.client()
    client.wait_for("work")
    assert client.call("work.who", 1) == (0, process.pid)
    there = server(cluster)
    assert there["template"] == "Butterfly" and there["pid"] not in (0, process.pid)
    assert [w["pid"] for w in there["workers"]] == [process.pid]
    assert os.getsid(there["pid"]) == there["pid"]  # whatever ends the terminal of its starter does not end it
    client.close()
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "done\n", "")
    eventually(lambda: not places.start_time(there["pid"]), LINGER / 2)
    assert not cluster.status()["servers"]


def test_leaders_that_run_code_of_the_user_s(cluster, serve):
    serve("Total", "total")
    serve("Halves", "halves")
    client = cluster.client()
    client.wait_for("total", "halves")
    assert list(client.job(["halves.double", "total.add"], range(100))) == [9900]
    serve("Total", "total")
    client.wait_for("total", workers=2)
    assert list(client.job(["halves.double", "total.add"], range(100))) == [9900]


def test_further_ones_are_workers_too(cluster, serve):
    processes, client = [serve() for _ in range(3)], cluster.client()
    client.wait_for("work", workers=3)
    assert sorted(workers(cluster)) == [0, 1, 2]
    pids = {p.pid for p in processes}
    assert eventually(lambda: who(client) == pids)
    leader = leader_of(cluster)
    first = next(p for p in processes if p.pid == workers(cluster)[0])
    first.terminate()
    assert ended(first) == (0, "done\n", "")
    assert who(client) == pids - {first.pid} and server(cluster)["pid"] == leader
    serve()
    client.wait_for("work", workers=3)
    assert sorted(workers(cluster)) == [0, 1, 2]  # its number is given again


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_leaves_does_what_it_has(cluster, serve, tmp_path, number):
    leaving, client = serve(), cluster.client()
    client.wait_for("work")
    path = tmp_path / "path"
    future = client.submit("work.until", str(path))
    eventually(path.with_name("path.begun").exists)
    staying = serve()
    client.wait_for("work", workers=2)
    eventually(lambda: staying.pid in who(client, 10))
    leaving.send_signal(number)
    eventually(lambda: who(client, 100) == {staying.pid})  # it gets nothing more
    assert leaving.poll() is None and not future.done()
    path.touch()
    assert future.result(30) == 1 and ended(leaving) == (0, "done\n", "")


def test_a_second_ctrl_c_interrupts(cluster, serve, tmp_path):
    process, client = serve(), cluster.client()
    client.wait_for("work")
    path = tmp_path / "path"
    future = client.submit("work.until", str(path))
    eventually(path.with_name("path.begun").exists)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert "KeyboardInterrupt" in ended(process)[2]
    future.cancel()


@contextmanager
def unrest(what: Callable[[], object]) -> Iterator[list[object]]:
    """`what` is done three times a second."""
    over, done = threading.Event(), []

    def act() -> None:
        while not over.wait(0.3):  # the moment is the input of these tests, not a synchronisation
            done.append(what())

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def spread(n: int, done: list[object]) -> Iterator[int]:
    for k in range(6):
        yield from range(k * n // 6, (k + 1) * n // 6)
        eventually(lambda k=k: len(done) > k, 60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["leave", "die", "die, and leaders too"])
def test_each_result_exactly_once_while_they_come_and_go(cluster, serve, how):
    chance, client = random.Random(SEED), cluster.client()
    there = [serve() for _ in range(2)]
    client.wait_for("work", workers=2)

    def act() -> None:
        there.append(serve())
        client.wait_for("work", workers=2)
        gone = there.pop(chance.randrange(2))
        if how == "leave":
            gone.send_signal(chance.choice([signal.SIGTERM, signal.SIGINT]))
            return
        gone.kill()
        leader = server(cluster)["pid"]
        if how != "die" and leader > 0 and chance.random() < 0.5:
            os.kill(leader, signal.SIGKILL)

    with unrest(act) as done:
        job = client.job(["work.pair", "work.up"], spread(N, done), ordered=True)
        found = list(job)
    assert not job.errors and found == [y for x in range(N) for y in (x + 1, -x + 1)]


# ------------------------------------------------------------------------------------------------------- deaths


def test_who_started_the_leader_dies_and_it_stays(cluster, serve):
    first, client = serve(), cluster.client()
    client.wait_for("work")
    second = serve()
    client.wait_for("work", workers=2)
    leader = leader_of(cluster)
    first.kill()
    assert sorted(client.job("work.up", range(1000))) == list(range(1, 1001))
    assert server(cluster)["pid"] == leader and list(workers(cluster).values()) == [second.pid]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_leader_that_is_gone_has_one_successor(cluster, serve, number):
    pids, client = {serve().pid for _ in range(3)}, cluster.client()
    client.wait_for("work", workers=3)
    for _ in range(2):
        leader, job = leader_of(cluster), client.job("work.up", range(1000), window=16)
        there = [next(job)]
        os.kill(leader, number)
        assert sorted([*there, *job]) == list(range(1, 1001))
        eventually(lambda pid=leader: server(cluster)["pid"] not in (0, pid))  # the job may be over before it has gone
        eventually(lambda: who(client) == pids)
    eventually(lambda: len(led_by(cluster)) == 1)


def led_by(cluster: palm.Cluster) -> list[int]:
    """Pids of processes of the cluster that are neither workers nor the registry nor this one."""
    directory = Path(cluster.address.removeprefix("ipc://")).parent
    found = {int(p.suffix[1:]) for p in directory.glob("work-*") if p.suffix[1:].isdigit()}
    return [pid for pid in found - set(workers(cluster).values()) if places.start_time(pid)]


def test_a_message_that_kills_is_set_aside(cluster, serve, tmp_path):
    told, _, client = tmp_path / "told", [serve() for _ in range(3)], cluster.client()
    client.wait_for("work", workers=3)
    job = client.job(palm.step("work.kills_at", n=17, told=str(told)), range(100), on_error="skip")
    assert sorted(job) == [x for x in range(100) if x != 17]
    [error] = job.errors
    assert isinstance(error, palm.Crashed) and error.number == 17 and "palm.serve" in error.reason
    assert told.read_text() == "xx" and len(workers(cluster)) == 1


def test_they_outlive_the_registry(cluster, serve):
    pids, client = {serve().pid for _ in range(2)}, cluster.client()
    client.wait_for("work", workers=2)
    eventually(lambda: who(client) == pids)
    os.kill(cluster.status()["registry"]["pid"], signal.SIGKILL)
    eventually(lambda: set(workers(cluster).values()) == pids)
    leader = leader_of(cluster)
    os.kill(leader, signal.SIGKILL)
    eventually(lambda: who(client) == pids)
    third = serve()
    client.wait_for("work", workers=3)
    eventually(lambda: third.pid in who(client))
    assert sorted(workers(cluster)) == [0, 1, 2]


def test_when_the_last_has_died_clients_hear_it(cluster, serve, tmp_path):
    process, client = serve("Hasty"), cluster.client()
    client.wait_for("work")
    future = client.submit("work.until", str(tmp_path / "path"))
    eventually((tmp_path / "path.begun").exists)
    process.kill()
    with pytest.raises(palm.PalmError, match=f"no worker for 1 s; the last one .pid {process.pid}. has died"):
        future.result(60)
    assert server(cluster)["state"] == "failed"
    serve("Hasty")
    client.wait_for("work")
    assert client.call("work.up", 1) == 2 and server(cluster)["state"] == "running"


def test_all_and_the_leader_die(impatient, cluster, serve, tmp_path):
    process, client = serve(), cluster.client()
    client.wait_for("work")
    future = client.submit("work.until", str(tmp_path / "path"))
    eventually((tmp_path / "path.begun").exists)
    leader = leader_of(cluster)
    process.kill()
    process.wait()
    os.kill(leader, signal.SIGKILL)
    with pytest.raises(palm.Crashed, match="nobody has watched it"):
        future.result(60)


@pytest.mark.parametrize("who", ["worker", "leader too"])
def test_another_one_comes_in_time(cluster, serve, tmp_path, who):
    process, client = serve(), cluster.client()
    client.wait_for("work")
    future = client.submit("work.until", str(tmp_path / "path"))
    eventually((tmp_path / "path.begun").exists)
    leader = leader_of(cluster)
    process.kill()
    if who == "leader too":
        process.wait()
        os.kill(leader, signal.SIGKILL)
    (tmp_path / "path").touch()
    serve()
    assert future.result(60) == 1


# ----------------------------------------------------------------------------------------- with a cluster's own


def test_it_joins_workers_of_a_cluster(cluster, serve):
    cluster.start(Work, workers=1)
    client, leader = cluster.client(), leader_of(cluster)
    process = serve()
    client.wait_for("work", workers=2)
    assert workers(cluster)[1] == process.pid and server(cluster)["pid"] == leader
    eventually(lambda: process.pid in who(client) and len(who(client)) == 2)
    cluster.scale("work", 3)
    assert sorted(workers(cluster)) == [0, 1, 2, 3]
    cluster.scale("work", 1)
    eventually(lambda: sorted(workers(cluster)) == [0, 1])
    os.kill(leader, signal.SIGKILL)
    assert sorted(client.job("work.up", range(1000))) == list(range(1, 1001))
    eventually(lambda: process.pid in who(client))
    assert len(led_by(cluster)) == 1
    cluster.stop("work")
    code, _, err = ended(process)
    assert code == 1 and "the server 'work' was stopped by its cluster, and with it this worker" in err
    assert not cluster.status()["servers"]


def test_the_end_of_the_cluster_is_theirs(cluster, serve):
    processes, client = [serve() for _ in range(2)], cluster.client()
    client.wait_for("work", workers=2)
    leader = leader_of(cluster)
    cluster.close()
    assert [ended(p)[:2] for p in processes] == [(0, "done\n")] * 2
    eventually(lambda: not places.start_time(leader))


OWNER = """
import sys, time, palm
if __name__ == "__main__":
    cluster = palm.Cluster(sys.argv[1])
    print(cluster.address, flush=True)
    time.sleep(1000)
"""


def test_the_death_of_the_owner_is_their_end(tmp_path):
    (tmp_path / "owner.py").write_text(OWNER)
    name = f"mortal{os.getpid()}"
    owner = subprocess.Popen([sys.executable, tmp_path / "owner.py", name], stdout=subprocess.PIPE, text=True)
    processes = []
    try:
        address = owner.stdout.readline().strip()
        processes = [subprocess.Popen([sys.executable, SCRIPT, address, "Work", "work"]) for _ in range(2)]
        with palm.Client(address) as client:
            client.wait_for("work", workers=2)
            eventually(lambda: who(client) == {p.pid for p in processes})
            leader = client.status()["servers"][0]["pid"]
        owner.kill()
        assert [p.wait(30) for p in processes] == [0, 0]
        eventually(lambda: not places.start_time(leader))
        eventually(lambda: name not in os.listdir(places.base()))
    finally:
        for process in [owner, *processes]:
            process.kill()
            process.communicate()


# ------------------------------------------------------------------------------------------------------ refusals


def test_who_does_not_fit_is_refused(cluster, serve):
    cluster.start(Work, workers=1)
    code, out, err = ended(serve("Other"))
    assert (
        code == 1
        and not out
        and "of the class Work" in err.splitlines()[-1]
        and "Other with down(x)" in err.splitlines()[-1]
    )
    code, _, err = ended(serve("Plain"))
    assert code == 1 and "there is a running server 'work'" in err and "as a palm.Butterfly" in err.splitlines()[-1]
    cluster.start("helpers_butterfly:Plain", "plain")
    code, _, err = ended(serve("Work", "plain"))
    assert code == 1 and "is one process, and has no workers" in err.splitlines()[-1]
    assert len(workers(cluster)) == 1


def test_a_leader_that_cannot_be_started_is_told(cluster, serve):
    code, _, err = ended(serve("Unleadable"))
    assert code == 1 and "the leader of 'work' did not start" in err and "no such device" in err
    assert not cluster.status()["servers"]


def test_a_module_that_serves_when_it_is_imported(cluster, tmp_path, monkeypatch):
    (tmp_path / "serves_at_once.py").write_text(
        "import palm\nclass Both(palm.Butterfly):\n @palm.function\n def same(self, x): ...\n"
        "if palm.process.importing: palm.serve(Both)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(palm.PalmError, match='this one serves one: put that under `if __name__ == "__main'):
        cluster.start("serves_at_once:Both")


# -------------------------------------------------------------------------------------------- decisions, alone


def test_numbers_and_claims():
    living = {1, 2}
    vacancies = Vacancies(lambda holder: holder["pid"] in living)
    one, two = {"pid": 1}, {"pid": 2}
    assert vacancies.reserve("a", 2, one, {"a/0"}) == [1, 2]
    assert vacancies.reserve("a", 1, two, {"a/0"}) == [3] and vacancies.reserve("b", 1, two, {"a/0"}) == [0]
    vacancies.filled("a/1")
    assert vacancies.reserve("a", 1, two, set()) == [0]
    assert vacancies.claim("a", one, 0.0) and not vacancies.claim("a", two, CLAIM / 2)
    assert vacancies.claim("b", two, 0.0) and vacancies.claim("a", two, CLAIM)
    vacancies.filled("a")
    assert vacancies.claim("a", one, CLAIM)
    living.remove(1)
    assert vacancies.claim("a", two, CLAIM) and vacancies.reserve("a", 1, two, {"a/0"}) == [1]


def test_who_has_waited_for_a_worker_in_vain_is_not_waited_for_again():
    """Nobody has asked since the last one died, until the leader says that it has waited."""
    registry = Registry()
    registry.setup("cluster", "address", "log")
    dead = places.this_process() | {"began": 0}
    registry.known["a/0"] = dead | {"name": "a/0", "worker": 0, "supervised": False, "leads": False}
    registry.left("a", 1, "it has had no worker", "failed")
    found = registry.lookup(["a"])
    assert (found["states"]["a"], found["ends"]["a"]) == ("failed", "it has had no worker")


def test_a_registry_that_knows_nobody_yet_gives_no_numbers(monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    registry = Registry()
    registry.setup("cluster", "address", "log", again=True)
    numbers = registry.reserve("a", 2, places.this_process())
    assert next(numbers) is None and not registry.lead("a", places.this_process())
    registry.started(["a/0"])
    assert next(numbers) is None
    now += JOINING
    assert list(numbers) == [1, 2] and registry.lead("a", places.this_process())


@pytest.mark.parametrize(
    ("has_left", "jobs", "waiting", "lingers", "is_told"),
    [
        (True, 0, 0, False, False),
        (True, 1, 0, True, False),
        (True, 1, 1, True, True),
        (False, 0, 0, True, True),
        (False, 1, 1, True, True),
    ],
)
def test_how_long_a_leader_stays(has_left, jobs, waiting, lingers, is_told):
    tenure = Tenure(0.0)
    assert not tenure.is_over(LINGER / 2, 0, 0, 0)
    assert not tenure.is_over(LINGER * 2, 1, jobs, waiting)
    tenure.lost(77, has_left)
    assert tenure.is_over(LINGER * 2.5, 0, jobs, waiting) is not lingers
    assert tenure.is_over(LINGER * 3, 0, jobs, waiting)
    assert bool(tenure.reason) is is_told and ("77" in tenure.reason) is is_told


def test_a_leader_to_whom_nobody_comes():
    tenure = Tenure(0.0)
    assert tenure.is_over(LINGER, 0, 0, 0) and "none has come" in tenure.reason
