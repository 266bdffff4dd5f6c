# SPDX-License-Identifier: BSD-3-Clause
"""The log of servers under palm.serve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import eventually
from helpers_logs import Talk, killed, records, said

from palm import places

pytest_plugins = "helpers_logs"  # its fixtures
pytestmark = pytest.mark.usefixtures("as_users_have_it")


SERVED = """
import sys
sys.path.insert(0, {tests!r})
from helpers_logs import *

if __name__ == "__main__":
    palm.serve({template}, address={address!r})
    assert not logging.getLogger("palm").handlers and logging.lastResort is logging._defaultLastResort
    print("done")
"""


@pytest.mark.parametrize("template", ["Talk", "Halves"])
def test_a_server_that_serves(cluster, template, tmp_path):
    """Its prints stay on its own terminal, its records come; of the leader that it has started, both."""
    script = tmp_path / "script.py"
    script.write_text(SERVED.format(tests=str(Path(__file__).parent), template=template, address=cluster.address))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "backslashreplace"}
    with subprocess.Popen([sys.executable, str(script)], **pipes) as process, killed(process):
        client = cluster.client()
        client.wait_for(template.lower())
        if template == "Talk":
            job = client.job("talk.say", [3])
            assert list(job) == [3]
            [record] = said(cluster, "warning 3")
            assert (record.pid, record.job, record.message) == (process.pid, job.id, [0])
            client.call("talk.show", 8)
        else:
            client.call("halves.same", 5)
            [printed] = said(cluster, "scattered too")
            [record] = eventually(lambda: [r for r in records(cluster, "halves") if r.text == "scattered"])
            assert (record.worker, printed.worker, printed.stream) == (None, None, "stdout")
            assert record.pid == printed.pid != process.pid
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "done\n" in out, err
    if template == "Talk":
        assert "by print 8" in out and "warning 3\n" in err
        assert not [r for r in records(cluster) if "by print" in r.text]


def test_strangers_at_the_socket_of_the_log(cluster):
    """What they say is no hello, or brings the wrong fds."""
    import socket

    path = str(places.directory_of(cluster.address) / "logs")
    hello = {"server": "s", "worker": None, "pid": 1, "streams": ["stdout"]}
    worker = json.dumps({**hello, "worker": [1]}).encode()
    for said_, count in [
        (b"", 0),
        (b"\xff", 1),
        (b"[]", 2),
        (json.dumps(hello).encode(), 3),
        (b"x" * 9000, 1),
        (worker, 1),
    ]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(path)  # one is heard later than it has come
            ends = [os.pipe() for _ in range(count)]
            socket.send_fds(s, [said_], [r for r, _ in ends])
            for end in ends:
                os.close(end[0]), os.close(end[1])
    cluster.start(Talk)
    said(cluster, "in setup")
