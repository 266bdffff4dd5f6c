# SPDX-License-Identifier: BSD-3-Clause
"""`restart` in cluster.toml: after which deaths a server is started again, how patiently, and what is told when it is
not."""

from __future__ import annotations

import os
import signal

import pytest
from conftest import eventually

import palm
from palm import applying
from palm.cli_tables import status_report
from palm.config import Configuration
from palm.restarts import DEATHS, FAILURES, FIRST, Policy, Restarts


class Mortal(palm.Server):
    @palm.function
    def die(self, number):
        """Of this signal; 0: it ends itself."""
        if not number:
            raise SystemExit(0)
        os.kill(os.getpid(), number)

    @palm.function
    def pid(self):
        return os.getpid()


class Crew(palm.Butterfly):
    @palm.function(attempts=1)
    def die(self, number):
        os.kill(os.getpid(), number)

    @palm.function
    def pid(self, x):
        return os.getpid()


# ------------------------------------------------------------------------------------------------ the decision


def test_never():
    r = Restarts(policy=Policy("never"))
    assert r.died(progress=True) is None and r.died(progress=True, clean=True) is None and r.ended() is None


def test_on_failure():
    r = Restarts(policy=Policy("on-failure"))
    assert r.died(progress=True) == 0.0 and r.ended() == 0.0 and r.died(progress=True, clean=True) is None


@pytest.mark.parametrize(("limit", "deaths", "failures"), [(None, DEATHS, FAILURES), (5, 5, 5), (1, 3, 1)])
def test_limits(limit, deaths, failures):
    """One message, that may kill `attempts` times, never is enough."""
    r = Restarts(attempts=1, policy=Policy(limit=limit))
    assert [r.died(progress=False) is None for _ in range(deaths)] == [False] * (deaths - 1) + [True]
    r = Restarts(policy=Policy(limit=limit))
    assert [r.failed() is None for _ in range(failures)] == [False] * (failures - 1) + [True]


def test_no_limit():
    r = Restarts(policy=Policy(limit=0, max_delay=7))
    assert [r.died(progress=False) for _ in range(3000)][-1] == 7
    assert [r.failed() for _ in range(3000)][-1] == 7


@pytest.mark.parametrize("longest", [0, 0.1, 60])
def test_the_delay_grows_no_further(longest):
    r = Restarts(policy=Policy(max_delay=longest, limit=0))
    assert [r.died(progress=False) for _ in range(4)] == [0, *(min(FIRST * 2**n, longest) for n in range(3))]


# -------------------------------------------------------------------------------------------------- and what follows


def found(cluster, name):
    return next(s for s in cluster.status()["servers"] if s["name"] == name)


def ends_as(cluster, name, state, reason):
    eventually(lambda: found(cluster, name)["state"] == state)
    assert found(cluster, name)["reason"] == reason
    with pytest.raises(palm.NotFound, match=f"'{name}' is not running; its state is: {state} .{reason}."):
        cluster.client().call(f"{name}.pid")


FILE = """
[servers.never]
class = "test_restart_policy:Mortal"
restart = "never"
[servers.failing]
class = "test_restart_policy:Mortal"
restart = "on-failure"
[servers.crew]
class = "test_restart_policy:Crew"
workers = 2
restart = "never"
"""


@pytest.fixture
def configuration(tmp_path):
    (tmp_path / "cluster.toml").write_text(FILE)
    return Configuration.read(tmp_path / "cluster.toml")


def test_a_server_that_is_not_started_again(configuration, cluster, capsys):
    applying.start(configuration, cluster)
    client, failing = cluster.client(), found(cluster, "failing")["pid"]

    with pytest.raises(palm.Crashed, match='the process of .never. is gone: SIGSEGV; restart = "never"'):
        list(client.job("never.die", [int(signal.SIGSEGV)] * 3))
    ends_as(cluster, "never", "failed", 'SIGSEGV; restart = "never"')

    os.kill(failing, signal.SIGUSR1)
    eventually(lambda: found(cluster, "failing")["pid"] not in (0, failing))
    with pytest.raises(palm.Crashed, match='is gone: exit code 0; restart = "on-failure"'):
        client.call("failing.die", 0)
    ends_as(cluster, "failing", "stopped", 'exit code 0; restart = "on-failure"')
    status_report(cluster.status())
    assert 'exit code 0; restart = "on-failure"' in capsys.readouterr().out

    os.kill(cluster.status()["registry"]["pid"], signal.SIGKILL)  # its successor is told
    eventually(lambda: client._directory.ask("lookup", [])["states"].get("failing") == "stopped")

    running = dict(configuration.servers)
    assert applying.apply(configuration, cluster, running) == ["never started", "failing started"]
    assert client.call("never.pid") != client.call("failing.pid")


def test_workers_that_are_not_started_again(configuration, cluster):
    """The others go on; a leader that has no worker any more ends too, so that jobs do."""
    applying.start(configuration, cluster)
    client = cluster.client()
    with pytest.raises(palm.Crashed, match="SIGUSR1"):
        client.call("crew.die", int(signal.SIGUSR1))
    eventually(lambda: sorted(w["state"] for w in found(cluster, "crew")["workers"]) == ["failed", "running"])
    assert len(set(client.job("crew.pid", range(20)))) == 1 and cluster.workers("crew") == 1

    running = dict(configuration.servers)
    assert applying.apply(configuration, cluster, running) == ["crew has 2 workers"]
    assert [w["state"] for w in found(cluster, "crew")["workers"]] == ["running"] * 2

    job = client.job("crew.pid", range(10**9), window=8)
    next(job)
    for worker in found(cluster, "crew")["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    with pytest.raises(
        palm.Crashed, match='the process of .crew. is gone: no worker is left: SIGKILL; restart = "never"'
    ):
        list(job)
    assert applying.apply(configuration, cluster, running) == ["crew started"]


def test_a_leader_that_is_not_started_again(configuration, cluster):
    applying.start(configuration, cluster)
    os.kill(found(cluster, "crew")["pid"], signal.SIGKILL)
    ends_as(cluster, "crew", "failed", 'SIGKILL; restart = "never"')
    eventually(lambda: [w["state"] for w in found(cluster, "crew")["workers"]] == ["stopped"] * 2)
    assert all("its leader is given up" in w["reason"] for w in found(cluster, "crew")["workers"])
    cluster.stop("crew")
    assert "crew" not in {s["name"] for s in cluster.status()["servers"]}
