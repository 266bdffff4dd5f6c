# SPDX-License-Identifier: BSD-3-Clause
"""`palm logs`."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from helpers_logs import Crew, Talk, everything, killed, record, records, said

import palm
from palm import log_files, log_pipes, logs

pytest_plugins = "helpers_logs"  # its fixtures
pytestmark = pytest.mark.usefixtures("as_users_have_it")


class Shell:
    """Runs `palm`."""

    def __init__(self, cluster: palm.Cluster) -> None:
        self.cluster = cluster

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from palm.cli import main; main()", "logs", *args]
        env = {**os.environ, "PALM_CLUSTER": self.cluster.name}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=env, **{**pipes, **options})

    def run(self, *args: str, code: int = 0) -> list[str]:
        """Lines of standard output, or of standard error if it fails."""
        with self.start(*args) as process, killed(process):
            out, err = process.communicate(timeout=60)
        assert process.returncode == code, (out, err)
        return (err if code else out).splitlines()


@pytest.fixture(scope="module")
def spoken() -> Iterator[Shell]:
    """Of a cluster in which something has been said."""
    with palm.Cluster("spoken") as cluster:
        cluster.start(Talk)
        cluster.start(Crew, workers=2)
        client = cluster.client()
        list(client.job("crew.say", range(40)))
        client.call("talk.show", 1)
        client.call("talk.fail", 1)
        said(cluster, "no text"), said(cluster, "by a child"), said(cluster, "it failed"), said(cluster, "printed 39")
        yield Shell(cluster)


def test_lines_for_people(spoken):
    out = spoken.run("talk")
    [error] = [k for k, line in enumerate(out) if "it failed 1" in line]
    job = records(spoken.cluster, "talk", level=40)[0].job
    assert out[error].split()[2:] == ["ERROR", "talk/0", f"{job[:8]}:0", "it", "failed", "1"]
    assert (
        out[error + 1] == "    Traceback (most recent call last):" and out[error + 4] == "    ValueError: no such film"
    )
    assert any(line.endswith("stderr   talk/0       \\xffno text\\x1b[2J") for line in out), "it clears no screen"
    assert len(out[0].split()) > 3 and out[0].startswith("20")


def test_which_are_shown(spoken):
    everything = [json.loads(line) for line in spoken.run("-n", "0", "--json")]
    assert {r["server"] for r in everything} == {"talk", "crew"} and len(everything) > 80
    assert [json.loads(line) for line in spoken.run("-n", "3", "--json")] == everything[-3:]
    one = [json.loads(line) for line in spoken.run("--json", "crew/1")]
    assert one == [r for r in everything if r["server"] == "crew" and r["worker"] == 1][-100:]
    job = next(r["job"] for r in everything if r["server"] == "crew" and "job" in r)
    assert len(spoken.run("--job", job[:6], "-n", "0")) == 40 == len(spoken.run("--job", job, "-n", "0", "crew"))
    assert all(json.loads(line)["number"] >= 30 for line in spoken.run("--level", "warning", "--json"))
    assert len(spoken.run("--level", "ERROR", "--json")) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["tlak"], "there is no server 'tlak' in this log; there are: crew, crew/0, crew/1, talk, talk/0, registry"),
        (["crew/7"], "there is no server 'crew/7'"),
        (["--job", "no-id"], "there is no job 'no-id' in this log"),
        (["--job", "no-id", "--json", "-n", "0"], "there is no job 'no-id' in this log"),
        (["--level", "loud"], "'loud' is no level: debug, info"),
        (["-n", "-1"], "-1 is not in the range"),
    ],
)
def test_wrong_questions(spoken, args, words):
    assert words in spoken.run(*args, code=2)[-1]


def test_who_has_said_nothing_is_no_error(spoken):
    assert spoken.run("--level", "critical", "registry") == []
    job = next(r.job for r in records(spoken.cluster, "crew") if r.job)
    assert spoken.run("--job", job[:6], "talk") == spoken.run("--job", job, "--level", "critical") == []


def test_it_follows_until_ctrl_c(spoken):
    with spoken.start("-f", "-n", "1", "talk") as process, killed(process):
        assert process.stdout.readline()
        spoken.cluster.client().call("talk.say", "live")
        while "info live" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err.strip()) == (130, "palm: interrupted")


@pytest.mark.parametrize("args", [["-n", "0"], ["-f", "-n", "1"]])
def test_a_reader_that_goes_away(spoken, args):
    """`| head -1`: quietly; also while nothing comes."""
    with spoken.start(*args) as process, killed(process):
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0 and process.stderr.read() == ""


def test_it_follows_through_deaths_of_the_registry_and_to_the_end():
    with palm.Cluster("followed") as cluster:
        cluster.start(Talk)
        said(cluster, "in setup")
        with Shell(cluster).start("-f") as process, killed(process):
            assert "in setup" in process.stdout.readline()
            os.kill(cluster.status()["registry"]["pid"], signal.SIGKILL)
            cluster.client().call("talk.say", "after it")
            while "info after it" not in process.stdout.readline():
                pass
            cluster.close()
            out, err = process.communicate(timeout=30)
            assert "torn down" in out and (process.returncode, err) == (0, "")


def test_of_a_cluster_that_has_ended():
    with palm.Cluster("ended") as cluster:
        cluster.start(Talk)
    shell = Shell(cluster)
    assert [line.split()[-2:] for line in shell.run("-f")] == [["in", "setup"], ["torn", "down"]]
    assert "there are: talk, talk/0, registry" in shell.run("nobody", code=2)[-1]
    cluster.name = "never-was"
    assert "there is no running cluster 'never-was'" in shell.run(code=3)[-1]


def test_in_a_terminal(spoken):
    """Colours, and lines as long as they are."""
    import pty

    parent, child = pty.openpty()
    with spoken.start("-n", "1", "--level", "error", stdout=child) as process, killed(process):
        os.close(child)
        said_ = b""
        with contextlib.suppress(OSError):  # EIO: its end
            while data := os.read(parent, 65536):
                said_ += data
        os.close(parent)
        assert process.wait(30) == 0
    assert b"\x1b[31mERROR" in said_ and b"ValueError: no such film" in said_


def test_up_in_the_background_says_it_in_the_log_alone(tmp_path):
    """The file that has what the owner itself says does not grow by what servers print."""
    (tmp_path / "cluster.toml").write_text('[cluster]\nname = "quiet"\n[servers.talk]\nclass = "helpers_logs:Talk"\n')
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", "from palm.cli import main; main()"]
    subprocess.run([*command, "up", "-d"], cwd=tmp_path, env=env, check=True, capture_output=True)
    try:
        with palm.Client("quiet") as client:
            client.call("talk.show", 1)
        following = [*command, "logs", "-f", "--cluster", "quiet"]
        with subprocess.Popen(following, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert any("by print 1" in line for line in process.stdout)
            process.terminate()
        assert "by print" not in (log_files.of("quiet") / "owner.log").read_text()
    finally:
        subprocess.run([*command, "down", "quiet"], check=True, capture_output=True)


def test_as_many_files_as_are_needed():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = log_pipes.Pipes()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * max(first.writes), before[1]))
        several = [log_pipes.Pipes() for _ in range(max(first.writes))]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        for pipes in several:
            pipes.close()
    finally:
        first.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_last_turn(tmp_path, monkeypatch):
    """What is in a pipe when the log is closed, is in the log."""
    monkeypatch.setattr(logs, "PAUSE", 30.0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    directory = tmp_path / "some"
    directory.mkdir()
    log = logs.Logs(directory)
    pipes = log.pipes()
    out, _, to_records = pipes.writes
    os.write(out, b"first\n")
    log.hear("a", 0, 1, pipes)
    eventually(lambda: everything(log.path))  # then it rests
    os.write(out, b"unended")
    os.write(to_records, b"Q" + record("a record"))
    log.close()
    pipes.given()
    assert [r.text for r in everything(log.path)] == ["first", "a record", "unended"]


def test_a_module_that_has_its_own_standard_output(cluster, tmp_path, monkeypatch):
    (tmp_path / "muted.py").write_text(
        "import os, sys\nimport palm\nprint('at import')\nsys.stdout = sys.stderr = open(os.devnull, 'w')\n"
        "class Muted(palm.Server):\n    @palm.function\n    def say(self, x):\n"
        "        print('lost'); os.write(2, b'by fd\\n')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cluster.start("muted:Muted")
    cluster.client().call("muted.say", 1)
    said(cluster, "by fd")
    assert [r.text for r in records(cluster, "muted")] == ["at import", "by fd"]
