# SPDX-License-Identifier: BSD-3-Clause
"""What a host that joins starts, by the state of what is there. Real hosts are in test_hosts.py."""

from __future__ import annotations

import os
import signal
import socket

import pytest
from conftest import eventually

import palm
from palm import applying
from palm.config import Configuration
from palm.joining import Part
from palm.options import Options
from palm.restarts import Policy

SERVERS = """
import os, palm
from pathlib import Path

if Path({broken!r}).exists():
    raise RuntimeError("it does not start any more")

class Plain(palm.Server):
    @palm.function
    def who(self, x):
        return os.getpid()

class Many(Plain, palm.Butterfly):
    pass
"""


def server(cluster):
    (one,) = cluster.status()["servers"]
    return one


@pytest.mark.parametrize("kind", ["Plain", "Many"])
def test_a_server_that_is_away(cluster, tmp_path, monkeypatch, kind):
    """Who started it has it back some time: a plain one is left alone, a parallel one gets workers."""
    broken = tmp_path / "broken"
    (tmp_path / "joined_servers.py").write_text(SERVERS.format(broken=str(broken)))
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "cluster.toml"
    path.write_text(f'[servers.one]\nclass = "joined_servers:{kind}"\n')
    cluster._prepare("one", Options(restart=Policy(limit=0, max_delay=0.2)))
    cluster.start(f"joined_servers:{kind}", "one")
    broken.touch()
    pid = server(cluster)["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server(cluster)["state"] == "restarting")
    begin = applying.start_one

    def mended(*args, **more):
        """When it is decided what is to be done."""
        broken.unlink()
        return begin(*args, **more)

    monkeypatch.setattr(applying, "start_one", mended)
    with Part(cluster.address) as part:
        said = list(part.start(Configuration.read(path)))
        broken.unlink(missing_ok=True)
        if kind == "Plain":
            assert said == ["one: is restarting on another host already"]
        else:
            assert said == ["one: has 1 worker more"]
            eventually(lambda: [w["state"] for w in server(cluster)["workers"]] == ["running", "running"])
    assert cluster.client().call("one.who", 1) != pid


def hosts(client, state="running"):
    """Names of what answers for a host, in this state."""
    return [host["name"] for host in client._directory.ask("hosts") if host["state"] == state]


def test_each_part_has_what_answers_for_it(cluster):
    """Two may be on one host; it ends with its part. Nobody sees it among servers, or can ask it for nonsense."""

    def ask(name, pages):
        step = palm.step(f"{name}.processes")
        return client._directory.ask("processes", pages) if name == "registry" else client.call(step, pages)

    with cluster.client() as client:
        assert hosts(client) == ["registry"]
        with Part(cluster.address), Part(cluster.address):
            names = eventually(lambda: len(found := hosts(client)) == 3 and found)
            status = client.status()
            assert (len(status["hosts"]), status["servers"], client.functions()) == (1, [], {})
            for name in names:
                for wrong in (None, [[1, 2]], [["a", 0, 0, 0]], [[1 << 70, 0, 0, 0]]):
                    with pytest.raises(palm.RemoteError):
                        ask(name, wrong)
                (found,) = ask(name, [[os.getpid(), 0, 1, 1]])["processes"]
                assert found["counters"] == {}, "that is no arena"
            assert sorted(hosts(client)) == sorted(names)
        assert [host["name"] for host in client._directory.ask("hosts")] == ["registry"], "they have left"


def test_a_host_that_was_lost_comes_again_under_another_name(cluster):
    """What was before is not shown beside it for ever."""

    def joins(client, name, host):
        server = {"name": f"registry/host-{name}", "host": host, "where": host.encode(), "pid": 7, "began": 7}
        more = {"worker": None, "leads": False, "supervised": True, "address": "nowhere"}
        assert client._directory.ask("join", server | more) == ""
        return server["name"]

    with cluster.client() as client:
        lost, other = joins(client, "a", "h2"), joins(client, "b", "h3")
        for name in (lost, other):
            client._directory.ask("left", name, 7, "it is not heard any more", "unreachable")
        assert hosts(client, "unreachable") == [lost, other]
        again = joins(client, "c", "h2")
        assert hosts(client) == ["registry", again] and hosts(client, "unreachable") == [other]
        shown = {h["host"]: h["state"] for h in client.status()["hosts"]}
        assert shown == {socket.gethostname(): "running", "h2": "unreachable", "h3": "unreachable"}
