# SPDX-License-Identifier: BSD-3-Clause
"""What a registry leaves to its successor: the file, and what `palm status` says when the registry has been killed."""

from __future__ import annotations

import concurrent.futures
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import eventually

import palm
from palm.store import Store

KINDS = ("known", "reasons")
N = int(os.environ.get("PALM_REGISTRY_INPUTS", 3000))  # 100000 by hand


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry.db"


def test_what_was_committed_is_there(path):
    first = Store(path, KINDS, again=False)
    assert not first.is_restored
    for n in range(5):
        first["reasons"]["a/1", n] = f"SIG{n}"
    first["known"]["a"] = {"where": b"\0\xff", "pid": 5, "page": [1, 2], "of": ("x", None)}
    first["known"]["b"] = {}
    first.commit()
    del first["reasons"]["a/1", 0]
    first["known"].pop("b")
    first["known"].setdefault("c", {"pid": 7})
    first.commit()
    first["known"]["d"] = {"pid": 8}  # of nothing that was a whole
    first.close()

    second = Store(path, KINDS, again=True)
    assert second.is_restored
    assert list(second["reasons"]) == [("a/1", n) for n in range(1, 5)]
    assert dict(second["known"]) == {"a": dict(first["known"])["a"], "c": {"pid": 7}}
    second.close()
    third = Store(path, KINDS, again=False)
    assert not third["known"] and not third["reasons"], "the first of a cluster inherits nothing"
    third.close()


COMMITS = """
import sys, itertools
from pathlib import Path
from palm.store import Store
store = Store(Path(sys.argv[1]), ("known", "reasons"), again=sys.argv[2] == "again")
for n in itertools.count(store["known"].get("n", 0) + 1):
    store["known"]["n"] = n
    store["reasons"]["n"] = "x" * (n % 5000) + str(n)
    store.commit()
    print(n, flush=True)
"""


def test_a_commit_is_there_as_a_whole_when_its_process_is_killed(path):
    chance = random.Random(7)
    for again in ("", "again", "again", "again"):
        command = [sys.executable, "-c", COMMITS, path, again]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(chance.randrange(1, 200)):
                told = int(process.stdout.readline())
            process.kill()
            told = int(process.stdout.read().split("\n")[-2:][0] or told)
        store = Store(path, KINDS, again=True)
        n = store["known"]["n"]
        assert store.is_restored and n >= told and store["reasons"]["n"] == "x" * (n % 5000) + str(n)
        store.close()


@pytest.mark.parametrize("damage", [b"no file of SQLite's at all", b"SQLite format 3\0" + b"\xff" * 4000, None])
def test_a_file_that_cannot_be_read(path, damage, caplog):
    first = Store(path, KINDS, again=False)
    first["known"]["a"] = {"pid": 1}
    first["reasons"]["a", 1] = "SIGKILL"
    first.commit()
    if damage is None:
        first._db.execute("UPDATE entries SET value = x'00' WHERE kind = 'reasons'")
    first.close()
    if damage is not None:
        path.write_bytes(damage)
    second = Store(path, KINDS, again=True)
    assert not second.is_restored and not second["known"] and "cannot be read, it asks anew" in caplog.text
    second["known"]["b"] = {"pid": 2}
    second.commit()
    second.close()
    third = Store(path, KINDS, again=True)
    assert third.is_restored and dict(third["known"]) == {"b": {"pid": 2}}
    third.close()


def test_nowhere_to_write(tmp_path, caplog):
    store = Store(tmp_path / "none" / "registry.db", KINDS, again=True)
    store["known"]["a"] = 1
    store.commit()
    assert not store.is_restored and store["known"]["a"] == 1 and "in its memory alone" in caplog.text


WITHOUT_SPACE = """
import resource, sys
from pathlib import Path
from palm.store import Store
store = Store(Path(sys.argv[1]), ("known",), again=False)
store["known"]["a"] = 1
store.commit()
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, -1))
for n in range(100):
    store["known"][n] = "x" * 1000
    store.commit()
print(len(store["known"]))
"""


def test_no_space_on_the_disk(path):
    """What is not up to date any more must not be taken for what is known."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_SPACE, path], capture_output=True, text=True, timeout=60)
    assert done.stdout == "101\n" and done.stderr.count("in its memory alone") == 1
    assert not list(path.parent.glob("registry.db*"))


# ------------------------------------------------------------------------------------------------------- in a cluster


class Work(palm.Butterfly):
    @palm.function
    def same(self, x):
        return x

    @palm.function(attempts=1)
    def die(self, number):
        os.kill(os.getpid(), number)


class Broken(palm.Server):
    def setup(self, gate):
        if os.path.exists(gate):
            raise ValueError("no such device")

    @palm.function
    def same(self, x):
        return x


def facts(status):
    """What stays the same when only the registry dies."""
    return [
        (s["name"], s["state"], s["pid"], s.get("reason"), [(w["number"], w["pid"]) for w in s["workers"]])
        for s in status["servers"]
    ]


def kill_registry(cluster):
    pid = cluster.status()["registry"]["pid"]
    os.kill(pid, signal.SIGKILL)
    return pid


def status_of_another(cluster, than):
    """As soon as there is one."""
    try:
        status = cluster.status()
    except palm.PalmError:
        return None
    return status if status["registry"]["pid"] != than else None


def test_killed_while_a_job_runs(cluster, tmp_path):
    """The job completes, and the status is right again within 5 s: servers, pids, and the reasons of earlier deaths."""
    cluster.start(Work, workers=2)
    gate = tmp_path / "gate"
    cluster.start(Broken, setup={"gate": str(gate)})
    client = cluster.client()
    gate.touch()
    os.kill(next(s["pid"] for s in cluster.status()["servers"] if s["name"] == "broken"), signal.SIGKILL)
    with pytest.raises(palm.Crashed, match="SIGUSR2"):
        client.call("work.die", int(signal.SIGUSR2))
    eventually(
        lambda: {s["state"]: len(s["workers"]) for s in cluster.status()["servers"]} == {"failed": 0, "running": 2}
    )
    eventually(lambda: len(all_pids(cluster)) == 3)
    assert "no such device" in str(facts(cluster.status()))
    before, registry = facts(cluster.status()), cluster.status()["registry"]["pid"]

    killed, inputs = threading.Event(), iter(range(N))

    def halting():
        for n in inputs:
            if n == N // 2:
                killed.wait(30)
            yield n

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: sum(client.job("work.same", halting())))
        began = time.monotonic()
        assert kill_registry(cluster) == registry
        killed.set()
        status = eventually(lambda: status_of_another(cluster, registry), 5)
        assert facts(status) == before and time.monotonic() - began < 5
        assert found.result(100) == N * (N - 1) // 2


def test_a_successor_is_not_blind(cluster, tmp_path):
    """Nobody tells it anything here: the supervisor is held up, and the servers are stopped."""
    cluster.start(Work, workers=2)
    with pytest.raises(palm.Crashed, match="SIGUSR2"):
        cluster.client().call("work.die", int(signal.SIGUSR2))
    pids = eventually(lambda: (found := all_pids(cluster)) and len(found) == 3 and found)
    cluster._own_client()._directory.show_client()
    told, tell = threading.Event(), cluster._reports._tell
    cluster._reports._tell = lambda *report: told.wait(60) and tell(*report)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        registry = kill_registry(cluster)
        status = eventually(lambda: status_of_another(cluster, registry), 5)
        assert [(s["name"], s["state"], len(s["workers"])) for s in status["servers"]] == [("work", "suspended", 2)]
        assert all_pids(cluster) == pids and [c["pid"] for c in status["clients"]] == [os.getpid()]
        assert cluster._own_client()._directory.ask("lookup", ["nobody"])["states"] == {}, "it knows whom there is not"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        told.set()


def all_pids(cluster):
    return sorted(p["pid"] for s in cluster.status()["servers"] for p in [s, *s["workers"]] if p["pid"])


def test_what_it_has_left_cannot_be_read(cluster):
    """Then it learns from those there are, as before."""
    cluster.start(Work, workers=2)
    client = cluster.client()
    assert client.call("work.same", 1) == 1
    before, registry = facts(cluster.status()), cluster.status()["registry"]["pid"]
    os.kill(registry, signal.SIGSTOP)
    for path in cluster._directory.glob("registry.db*"):
        path.write_bytes(b"nonsense" * 1000)
    os.kill(registry, signal.SIGKILL)
    eventually(lambda: (s := status_of_another(cluster, registry)) and facts(s) == before)
    assert client.call("work.same", 2) == 2


def test_the_end_of_a_server_is_told_when_there_is_a_registry_again(cluster):
    """Its successor has what it has left behind: without the news the server would be on its way for ever."""
    cluster.start(Work)
    directory = cluster._own_client()._directory
    ask, away = directory.ask, [palm.Disconnected("away")] * 3

    def ask_one_that_is_away(function, *values, **more):
        if function == "left" and away:
            raise away.pop()
        return ask(function, *values, **more)

    directory.ask = ask_one_that_is_away
    cluster.stop("work")
    assert not away and cluster.status()["servers"] == []
