# SPDX-License-Identifier: BSD-3-Clause
"""`palm up`, `down`, `scale` and `check`: exit codes, and the reason in the last line of standard error (API 4)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import types
import urllib.request

import pytest
from conftest import eventually
from helpers_shell import CONFIGURATION, TASKS, Shell

import palm
from palm import cli_up, places
from palm.config import Configuration

pytest_plugins = "helpers_shell"  # its fixtures


def test_up_and_down(shell):
    out, _ = shell.run("up", "-d")
    assert "cluster shop is up: tasks" in out
    before = shell.inhabitants()
    assert len(before) >= 2  # who owns it, and its server
    for args in (["up", "-d"], ["up"]):
        assert shell.run(*args)[0] == "cluster shop is up: nothing had to be changed\n"
    assert shell.inhabitants() == before
    out, _ = shell.run("down", "shop")
    assert out == "cluster shop is down\n"
    assert not shell.clusters()
    eventually(lambda: not any(map(places.start_time, before)))
    assert "no running cluster" in shell.run("down", code=3)[1]
    for args in (["status"], ["call", "tasks.nothing"], ["down", "shop"]):
        _, reason = shell.run(*args, code=3)
        assert "no running cluster" in reason


@pytest.mark.parametrize("name", ['name = "shop"', ""])
def test_nothing_is_left_of_who_owned_it(shell, name):
    """What it said before it was ready is shown if that failed; later it has a file beside the log."""
    path = shell.directory / "cluster.toml"
    logs = shell.runtime / "state" / "palm"
    shell.env["XDG_STATE_HOME"] = str(shell.runtime / "state")
    path.write_text(CONFIGURATION.replace('name = "shop"', name))
    shell.run("up", "-d")
    (cluster,) = shell.clusters()
    assert [p.name for p in (shell.runtime / "palm").iterdir()] == [cluster]
    pid = (shell.runtime / "palm" / cluster / "owner").read_text().split()[0]
    said = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)}
    (beside,) = logs.glob(f"*/{cluster}/owner.log")
    assert said == {str(beside)} and not beside.read_bytes()
    shell.run("down")
    eventually(lambda: not any((shell.runtime / "palm").iterdir()))
    assert not beside.parent.exists(), "nothing was said"

    path.write_text(CONFIGURATION.replace('name = "shop"', name).replace("0.5", "13"))
    shell.run("up", "-d", code=1)
    eventually(lambda: not any((shell.runtime / "palm").iterdir()))
    assert not [*logs.rglob("owner.log")]


def test_what_the_owner_says_at_its_end_is_kept(tmp_path):
    (tmp_path / "owner.log").write_text("MemoryError")
    cli_up._remove_silent(tmp_path)
    assert (tmp_path / "owner.log").read_text() == "MemoryError"
    cli_up._remove_silent(tmp_path / "none")


PARALLEL = """
import palm
class Crew(palm.Butterfly):
    def setup(self):
        if self.worker == 3: raise ValueError("no such device")
    @palm.function
    def who(self, x): return self.worker
if __name__ == "__main__":
    import sys
    palm.serve(Crew, sys.argv[1])
"""


def crew(shell: Shell, name: str = "crew") -> list[int]:
    return [w["number"] for s in shell.status()["servers"] if s["name"] == name for w in s["workers"]]


def pids(shell: Shell) -> dict[str, int]:
    return {s["name"]: s["pid"] for s in shell.status()["servers"]}


def test_up_again_applies_what_differs(shell):
    path = shell.directory / "cluster.toml"
    (shell.directory / "parallel.py").write_text(PARALLEL)
    crew_of = '[servers.crew]\nclass = "parallel:Crew"\nworkers = {}\n'
    path.write_text(CONFIGURATION + crew_of.format(2))
    shell.run("up", "-d")
    before = pids(shell)

    new = "import palm\nclass New(palm.Server):\n    @palm.function\n    def same(self, x): return x\n"
    (shell.directory / "parallel.py").write_text(PARALLEL + new)
    path.write_text(CONFIGURATION + crew_of.format(3) + '[servers.new]\nclass = "parallel:New"\n')
    assert shell.run("up", "-d")[0] == "cluster shop is up: crew has 3 workers, new started\n"
    assert shell.run("call", "new.same", "-", stdin="5")[0] == "5\n" and crew(shell) == [0, 1, 2]
    assert {k: v for k, v in pids(shell).items() if k != "new"} == before

    path.write_text(CONFIGURATION.replace("0.5", "1.5") + crew_of.format(3))
    assert shell.run("up", "-d")[0] == "cluster shop is up: new stopped, tasks replaced\n"
    after = pids(shell)
    assert after.keys() == before.keys() and after["crew"] == before["crew"] and after["tasks"] != before["tasks"]

    shell.run("scale", "crew", "1")
    assert shell.run("up", "-d")[0] == "cluster shop is up: crew has 3 workers\n"


def test_up_again_with_a_wrong_file_changes_nothing(shell):
    path = shell.directory / "cluster.toml"
    shell.run("up", "-d")
    before = pids(shell)
    new = '[servers.new]\nclass = "tasks:Tasks"\n[servers.none]\nclass = "tasks:None"\n'
    path.write_text(CONFIGURATION + new)
    _, reason = shell.run("up", "-d", code=2)
    assert "cluster.toml:10: the module 'tasks' has no class 'None'" in reason
    path.write_text(CONFIGURATION.replace('name = "shop"', 'name = "shop"\nmetrics = "127.0.0.1:0"'))
    _, reason = shell.run("up", "-d", code=2)
    assert "cluster.toml:4: metrics is None as long as the cluster runs" in reason
    assert pids(shell) == before


def test_up_again_after_a_replacement_that_failed(shell):
    path = shell.directory / "cluster.toml"
    shell.run("up", "-d")
    path.write_text(CONFIGURATION.replace("0.5", "13"))
    _, reason = shell.run("up", "-d", code=1)
    assert "'tasks' did not start" in reason and pids(shell) == {}
    path.write_text(CONFIGURATION)
    assert shell.run("up", "-d")[0] == "cluster shop is up: tasks started\n"
    assert pids(shell).keys() == {"tasks"}


def test_up_again_with_a_module_that_exits(shell):
    shell.run("up", "-d")
    (shell.directory / "tasks.py").write_text(
        "import sys\nif 'palm.exporter' not in sys.modules: sys.exit(5)\n" + TASKS
    )
    shell.run("up", "-d", code=5)
    (shell.directory / "tasks.py").write_text(TASKS)
    assert shell.run("up", "-d")[0] == "cluster shop is up: nothing had to be changed\n"


def test_up_of_another_file_with_the_same_name(shell):
    shell.run("up", "-d")
    (shell.directory / "other.toml").write_text(CONFIGURATION.replace("0.5", "1.5"))
    _, reason = shell.run("up", "-d", "other.toml", code=2)
    assert "other.toml:1: the cluster shop that runs is that of " in reason and "cluster.toml: give this one" in reason


def test_modules_of_others_are_not_imported_anew(tmp_path, monkeypatch):
    """A virtual environment may lie beside the file."""
    (tmp_path / "cluster.toml").write_text('[cluster]\nname = "x"\n[servers.a]\nclass = "beside.inner:A"\n')
    monkeypatch.setitem(sys.modules, "beside.inner", types.ModuleType("beside.inner"))
    monkeypatch.setitem(sys.modules, "besides", types.ModuleType("besides"))
    sys.modules["besides"].__file__ = str(tmp_path / "besides.py")
    Configuration.read(tmp_path / "cluster.toml").forget_modules()
    assert "beside.inner" not in sys.modules and "besides" in sys.modules and "palm" in sys.modules


def test_up_again_of_what_a_script_owns(shell):
    script = "import palm, sys; c = palm.Cluster('shop'); print('up', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=shell.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "up\n"
        _, reason = shell.run("up", "-d", code=2)
        assert "is no `palm up`" in reason
        _, reason = shell.run("down", code=2)
        assert f"(pid {process.pid}) too, name it: palm down shop" in reason and process.poll() is None
        process.stdin.close()


def test_scale(shell):
    (shell.directory / "parallel.py").write_text(PARALLEL)
    workers = '[servers.crew]\nclass = "parallel:Crew"\nworkers = 2\n'
    (shell.directory / "cluster.toml").write_text(CONFIGURATION + workers)
    shell.run("up", "-d")
    assert crew(shell) == [0, 1]
    for n in (3, 1):
        assert shell.run("scale", "crew", str(n))[0] == f"crew has {n} worker{'s' * (n > 1)}\n"
        assert crew(shell) == [*range(n)]
    table, _ = shell.run("status")
    assert "  crew/0" in table and "crew/1" not in table and "tasks/" not in table
    for _ in range(2):  # a number that nobody has got is free again
        _, reason = shell.run("scale", "crew", "4", code=1)
        assert "no such device" in reason
    assert set(crew(shell)) >= {0} and 3 not in crew(shell)
    for args, code, words in [
        (["crew", "0"], 2, "0 is not in the range"),
        (["crew", "many"], 2, "'many' is not a valid integer"),
        (["other", "2"], 2, "no server 'other' with workers of this cluster; there are: crew"),
        (["tasks", "2"], 2, "as a palm.Butterfly"),
        (["crew", "2", "--cluster", "nowhere"], 3, "no running cluster 'nowhere'"),
    ]:
        assert words in shell.run("scale", *args, code=code)[1]
    shell.run("down")
    assert "no running cluster" in shell.run("scale", "crew", "2", code=3)[1]


def test_scale_has_no_more_patience_than_it_is_told(shell):
    slow = "import os, time\n" + PARALLEL.replace(
        'if self.worker == 3: raise ValueError("no such device")',
        'while self.worker and not os.path.exists("go"): time.sleep(0.01)',
    )
    (shell.directory / "parallel.py").write_text(slow)
    (shell.directory / "cluster.toml").write_text(CONFIGURATION + '[servers.crew]\nclass = "parallel:Crew"\n')
    shell.run("up", "-d")
    _, reason = shell.run("scale", "crew", "2", "--timeout", "0.2", code=124)
    assert "not done within 0.2 s" in reason and "goes on with it" in reason
    (shell.directory / "go").touch()
    eventually(lambda: crew(shell) == [0, 1])
    shell.run("down")


class Idle(palm.Server):
    @palm.function
    def same(self, x):
        return x


def test_scale_of_what_a_script_owns(cluster):
    cluster.start(Idle)
    done = subprocess.run(
        [sys.executable, "-c", "from palm.cli import main; main()", "scale", "idle", "2", "--cluster", cluster.name],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2 and f"(pid {os.getpid()}) is no `palm up`" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_up_in_the_foreground(shell, number, code):
    process = shell.start("up", "cluster.toml")
    try:
        assert "cluster shop is up: tasks" in process.stdout.readline()
        before = shell.inhabitants()
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert not shell.clusters()
    eventually(lambda: not any(map(places.start_time, before)))


@pytest.mark.parametrize("detach", [["-d"], []])
def test_a_server_that_does_not_start(shell, detach):
    (shell.directory / "cluster.toml").write_text(CONFIGURATION.replace("0.5", "13"))
    _, reason = shell.run("up", *detach, code=1)
    assert "'tasks' did not start" in reason and reason.endswith("ValueError: unlucky")
    assert not shell.clusters()
    with shell.start("up", *detach) as process:
        _, err = process.communicate(timeout=30)
    assert ", in setup" in err and "process.py" not in err, "the user's lines alone"


def test_up_with_a_wrong_file(shell):
    (shell.directory / "cluster.toml").write_text(CONFIGURATION.replace("setup", "setpu"))
    _, reason = shell.run("up", "-d", code=2)
    assert "cluster.toml:6:" in reason and "did you mean 'setup'?" in reason
    (shell.directory / "cluster.toml").unlink()
    _, reason = shell.run("up", code=2)
    assert "cluster.toml" in reason


def test_check(shell):
    out, _ = shell.run("check")
    assert out == "cluster.toml: tasks: nothing is wrong\n" and not shell.clusters()
    (shell.directory / "other.toml").write_text(CONFIGURATION.replace("offset", "ofset"))
    _, reason = shell.run("check", "other.toml", code=2)
    assert "other.toml:6:" in reason and "setup" in reason and "ofset" in reason
    _, reason = shell.run("check", "none.toml", code=2)
    assert "none.toml" in reason


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[servers.registry]\nclass = "tasks:Tasks"',
            ":2: in [servers], the name 'registry' has to be 1 to 31 letters",
        ),
        ('[cluster]\nlisten = "eth77"', ":3: this host has no IPv4 address 'eth77'; it has: lo 127.0.0.1"),
        (
            '[cluster]\nlisten = "203.0.113.9/24"',
            ":3: this host has no address in the network 203.0.113.9/24; it has: ",
        ),
        (
            '[servers.a]\nclass = "tasks:np"',
            ":3: class = 'tasks:np': a template is a subclass of palm.Server, not <mod",
        ),
        ("", ":1: there is nothing in it: [servers.NAME] and class ="),
        ('[servers.a]\nclass = "tasks:Tasks', ":3: not TOML: "),
    ],
)
def test_check_refuses_what_up_refuses(shell, text, says):
    (shell.directory / "cluster.toml").write_text(f"\n{text}\n")
    for args in (["check"], ["up"]):
        _, reason = shell.run(*args, code=2)
        assert f"cluster.toml{says}" in reason


def test_check_doubts_more_cores_than_there_are(shell):
    (shell.directory / "cluster.toml").write_text('[servers.a]\nclass = "tasks:Tasks"\ncores = 99999\n')
    out, doubt = shell.run("check")
    assert (
        out == "cluster.toml: a: it can be started\n" and "cluster.toml:3: cores = 99999, which is more than" in doubt
    )


def test_metrics(shell):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    (shell.directory / "cluster.toml").write_text(
        CONFIGURATION.replace('name = "shop"', f'name = "shop"\nmetrics = "{address}"')
    )
    shell.run("up", "-d")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        assert b'palm_up{server="tasks",worker="0"} 1.0' in answer.read()
    (shell.directory / "other.toml").write_text(f'[cluster]\nname = "other"\nmetrics = "{address}"\n')
    _, reason = shell.run("up", "-d", "other.toml", code=2)
    assert f"other.toml:3: metrics = '{address}' cannot be had" in reason and shell.clusters() == {"shop"}
    shell.run("down", "shop")
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=10)
