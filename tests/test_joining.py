# SPDX-License-Identifier: BSD-3-Clause
"""What a host that joins starts, by the state of what is there. Real hosts are in test_hosts.py."""

from __future__ import annotations

import os
import signal

import pytest
from conftest import eventually

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
