# SPDX-License-Identifier: BSD-3-Clause
"""The command line: exit codes, and the reason in the last line of standard error (API 4)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import eventually

import palm
from palm import cli, cli_files, cli_submit, places
from palm._core import space
from palm.config import Configuration

TASKS = """
import time
import numpy as np
import palm

class Tasks(palm.Server):
    def setup(self, offset=0.0):
        if offset == 13: raise ValueError("unlucky")
        self.offset = offset
    @palm.function
    def double(self, x, *, gain=2.0): return x * gain + self.offset
    @palm.function
    def positive(self, x):
        if x.min() < 0: raise ValueError("a negative\\nnumber")
        return np.sqrt(x)
    @palm.function
    def add(self, a, b): return a + b
    @palm.function
    def nothing(self): return "an empty message"
    @palm.function
    def describe(self, x): return {"mean": x.mean(), "rows": x.sum(axis=0)}
    @palm.function
    def kind(self, x): return {"type": type(x).__name__, "keys": sorted(x) if isinstance(x, dict) else []}
    @palm.function
    def rows(self, x): yield from (row.copy() for row in x)
    @palm.function
    def drop(self, x): return None
    @palm.function
    def sleep(self, x, *, seconds=0.2): time.sleep(seconds); return x
    @palm.function
    def hold(self, x):
        import pathlib
        pathlib.Path("holding").touch()
        while pathlib.Path("holding").exists(): time.sleep(0.01)
    @palm.function
    def die(self, x): import os; os._exit(3)
"""
CONFIGURATION = """
[cluster]
name = "shop"
[servers.tasks]
class = "tasks:Tasks"
setup = { offset = 0.5 }
"""


class Shell:
    """Runs `palm` in a directory and a world of clusters of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime = Path(tempfile.mkdtemp(prefix="palm-t-", dir="/tmp"))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(self.runtime), "PATH": path}
        self.env.pop("PALM_CLUSTER", None)

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from palm.cli import main; main()", *args]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.directory, env=self.env, **{**pipes, **options})

    def run(self, *args: str, code: int = 0, stdin: str = "", timeout: float = 30.0) -> tuple[str, str]:
        """Standard output, and the last line of standard error."""
        process = self.start(*args)
        try:
            out, err = process.communicate(stdin, timeout)
        finally:
            process.kill()
        assert process.returncode == code, (args, process.returncode, out, err)
        assert "Traceback" not in err or "Remote" not in err
        return out, err.rstrip().rpartition("\n")[2]

    def clusters(self) -> set[str]:
        """Directories of clusters, running or dead."""
        base = self.runtime / "palm"
        return {p.name for p in base.iterdir() if p.is_dir()} if base.exists() else set()

    def inhabitants(self) -> set[int]:
        """Pids of all processes of clusters."""
        paths = [p for name in self.clusters() for p in (self.runtime / "palm" / name).iterdir()]
        owners = [int(p.read_text().split()[0]) for p in paths if p.name == "owner"]
        return {
            pid
            for pid in map(int, [*owners, *(p.suffix[1:] for p in paths if p.suffix[1:].isdigit())])
            if places.start_time(pid)
        }

    def close(self) -> None:
        for pid in self.inhabitants():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.inhabitants())
        eventually(self._removed)

    def _removed(self) -> bool:
        # who outlives a cluster's owner clears its directory too, at the same time
        shutil.rmtree(self.runtime, ignore_errors=True)
        return not self.runtime.exists()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in an empty directory but for tasks.py and cluster.toml."""
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "cluster.toml").write_text(CONFIGURATION)
    shell = Shell(tmp_path)
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell with the cluster "shop" up, for all tests of this file."""
    directory = tmp_path_factory.mktemp("shop")
    (directory / "tasks.py").write_text(TASKS)
    (directory / "cluster.toml").write_text(CONFIGURATION)
    shell = Shell(directory)
    try:
        shell.run("up", "-d")
        for i in range(3):
            np.save(directory / f"x{i}.npy", np.full((2, 3), float(i)))
        yield shell
    finally:
        shell.close()


# ------------------------------------------------------------------------------------------------ words and files


def test_help_needs_no_rich():
    code = "import sys; from palm.cli import run; run(['--help']); sys.exit('rich' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert out.returncode == 0
    for word in ("demo", "up", "down", "scale", "status", "call", "submit", "doctor", "bench"):
        assert f"\n  {word} " in out.stdout


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("a.b", {}),
        ("a.b:gain=2.0", {"gain": 2.0}),
        ("a.b:gain=2,mode=fast", {"gain": 2, "mode": "fast"}),
        (
            'a.b:at=[1,2],to={"x": [3, 4]},flag=true,none=null',
            {"at": [1, 2], "to": {"x": [3, 4]}, "flag": True, "none": None},
        ),
        ('a.b:mode=2fast,word="2"', {"mode": "2fast", "word": "2"}),
        ("a.b:path=a=b", {"path": "a=b"}),
    ],
)
def test_constants(text, constants):
    step = cli_files.parse_step(text)
    assert (str(step), step.constants) == ("a.b", constants)


@pytest.mark.parametrize("text", ["a", "a.b:gain", "a.b:1=2", "a.b:=2"])
def test_constants_that_are_none(text):
    with pytest.raises(ValueError):
        cli_files.parse_step(text)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.eye(3)),
        np.float32(2) * np.ones(()),
        {"file": np.ones(2), "args": 3, "x y": np.float32(0.5)},
        {"a": [1, "b", None]},
        [1.5, "x"],
        "text",
    ],
)
def test_values_come_back_from_files(value, tmp_path):
    path = tmp_path / f"value{cli_files.suffix_of(value)}"
    cli_files.save(path, value)
    found = cli_files.load(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if isinstance(value, dict) and path.suffix == ".npz":
        assert set(found) == set(value)
        for name in value:
            np.testing.assert_array_equal(found[name], value[name])
    else:
        np.testing.assert_array_equal(found, value)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    cli_files.save(path, np.ones(3))

    def full(file, array, **_):
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="full"):
        cli_files.save(path, np.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
    np.testing.assert_array_equal(np.load(path), np.ones(3))


def test_json_of_any_payload():
    value = {
        "a": np.eye(2),
        "b": (1, b"\0\1"),
        "c": 1 + 2j,
        "d": np.float32(0.5),
        "e": [np.nan, float("inf")],
        3: None,
        "t": np.array(["2020-01-02"], "M8[D]"),
    }
    assert json.loads(cli_files.to_json(value)) == {
        "a": [[1, 0], [0, 1]],
        "b": [1, "AAE="],
        "c": [1, 2],
        "d": 0.5,
        "e": [None, None],
        "3": None,
        "t": ["2020-01-02"],
    }


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="it has objects"):
        cli_files.load(tmp_path / "x.npy")


def test_inputs(tmp_path):
    for name in ("b.npy", "a.npz", "sub/c.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(cli_files.inputs_of(f"{tmp_path}/**/*.*")) == ["a", "b", "c"]
    (tmp_path / "sub/a.npy").touch()
    with pytest.raises(ValueError, match="same output a"):
        cli_files.inputs_of(f"{tmp_path}/**/*.*")
    with pytest.raises(ValueError, match="no file matches"):
        cli_files.inputs_of(f"{tmp_path}/*.txt")
    (tmp_path / "x.txt").touch()
    with pytest.raises(ValueError, match="ends in .npy, .npz, .json"):
        cli_files.inputs_of(f"{tmp_path}/*.txt")


def test_bench_gets_all_arguments(monkeypatch):
    seen: list[list[str]] = []
    module = types.SimpleNamespace(main=lambda args: seen.append(args) or 7)
    monkeypatch.setitem(sys.modules, "palm.bench", module)
    assert cli.run(["bench", "handover", "--json", "-n", "3", "--help"]) == 7
    assert seen == [["handover", "--json", "-n", "3", "--help"]]


@pytest.mark.parametrize(
    "args",
    [
        ["upp"],
        ["call"],
        ["submit", "a.b"],
        ["call", "a"],
        ["status", "--nonsense"],
        ["call", "a.b", "no.npy"],
        ["call", "a.b", "-", "--output", "x.txt"],
        ["submit", "a.b", "--input", "/no/*.npy", "--output", "out"],
    ],
)
def test_wrong_usage(args, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_client", lambda _: pytest.fail("it should not have come so far"))
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.run(args) == 2
    assert capsys.readouterr().err.strip()


# ----------------------------------------------------------------------------------------------------- up and down


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
    for args in (["down"], ["status"], ["call", "tasks.nothing"], ["down", "shop"]):
        _, reason = shell.run(*args, code=3)
        assert "no running cluster" in reason


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
    servers = json.loads(shell.run("status", "--json")[0])["servers"]
    return [w["number"] for s in servers if s["name"] == name for w in s["workers"]]


def pids(shell: Shell) -> dict[str, int]:
    return {s["name"]: s["pid"] for s in json.loads(shell.run("status", "--json")[0])["servers"]}


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
    slow = PARALLEL.replace('if self.worker == 3: raise ValueError("no such device")', "while self.worker: pass")
    (shell.directory / "parallel.py").write_text(slow)
    (shell.directory / "cluster.toml").write_text(CONFIGURATION + '[servers.crew]\nclass = "parallel:Crew"\n')
    shell.run("up", "-d")
    _, reason = shell.run("scale", "crew", "2", "--timeout", "0.2", code=124)
    assert "not done within 0.2 s" in reason and "goes on with it" in reason
    shell.run("down")


def test_scale_of_what_a_script_owns(cluster):
    cluster.start(palm.Server, "idle")
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


# -------------------------------------------------------------------------------------------------- status and call


def test_status(shop):
    out, _ = shop.run("status", "--json")
    status = json.loads(out)
    assert status["cluster"] == "shop"
    [server] = status["servers"]
    assert server["name"] == "tasks" and server["state"] == "running" and server["pid"] in shop.inhabitants()
    assert set(server["counters"]) >= {"messages_in", "messages_out", "bytes_copied", "busy_seconds", "functions"}
    out, _ = shop.run("status", "--cluster", "shop")
    for word in ("shop", "tasks", "running", str(server["pid"]), "positive"):
        assert word in out


def test_status_has_what_the_client_has(cluster):
    cluster.start(palm.Server, "idle")
    with cluster.client() as client:
        expected = client.status()
        out = subprocess.run(
            [sys.executable, "-c", "from palm.cli import main; main()", "status", "--json"],
            env={**os.environ, "PALM_CLUSTER": cluster.name},
            capture_output=True,
            text=True,
            timeout=30,
        )
        found = json.loads(out.stdout)
    assert expected["now_ns"] < found["now_ns"]
    for status in (expected, found):
        status["now_ns"] = 0
        for server in status["servers"]:
            for process in (server, *server["workers"]):
                process["cpu_seconds"] = process["read_ns"] = 0
                process["counters"], process["memory"] = sorted(process["counters"]), sorted(process["memory"])
    assert found == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("args", "stdin", "result"),
    [
        (["tasks.double", "x1.npy"], "", [[2.5] * 3] * 2),
        (["tasks.double:gain=10", "x1.npy"], "", [[10.5] * 3] * 2),
        (["tasks.double", "-"], "3", 6.5),
        (["tasks.nothing"], "", "an empty message"),
        (["tasks.add", "-"], "[1, 2]", 3),
        (["tasks.rows", "x2.npy"], "", [[2.0] * 3] * 2),
        (["tasks.drop", "x2.npy"], "", None),
        (["tasks.kind", "-"], '{"b": 1, "a": 2}', {"type": "dict", "keys": ["a", "b"]}),
        (["tasks.kind", "-"], "[1, 2]", {"type": "list", "keys": []}),
    ],
)
def test_call(shop, args, stdin, result):
    out, _ = shop.run("call", *args, stdin=stdin)
    assert json.loads(out) == result


def test_call_with_output(shop):
    np.savez(shop.directory / "two.npz", a=np.ones(2), b=np.zeros(2))
    assert json.loads(shop.run("call", "tasks.kind", "two.npz")[0]) == {"type": "dict", "keys": ["a", "b"]}
    shop.run("call", "tasks.double", "x1.npy", "--output", "y.npy")
    np.testing.assert_array_equal(np.load(shop.directory / "y.npy"), np.full((2, 3), 2.5))
    _, reason = shop.run("call", "tasks.describe", "x1.npy", "--output", "y.npy", code=2)
    assert "write it to a file that ends in .npz or .json" in reason


@pytest.mark.parametrize(
    ("args", "stdin", "code", "words"),
    [
        (["tasks.positive", "-"], "-1", 1, ["AttributeError", "tasks.positive"]),
        (["tasks.doubel", "x1.npy"], "", 2, ["'double'?"]),
        (["task.double", "x1.npy"], "", 2, ["'tasks'?"]),
        (["tasks.double:gian=1", "x1.npy"], "", 2, ["no constant 'gian'"]),
        (["tasks.sleep", "x1.npy", "--timeout", "0.05"], "", 124, ["tasks.sleep", "0.05 s"]),
        (["tasks.double", "-"], "{", 2, ["-: Expecting"]),
        (["tasks.double", "x1.npy", "--cluster", "none"], "", 3, ["no running cluster 'none'", "shop"]),
    ],
)
def test_call_that_fails(shop, args, stdin, code, words):
    _, reason = shop.run("call", *args, stdin=stdin, code=code)
    assert all(word in reason for word in words), reason


# ----------------------------------------------------------------------------------------------------------- submit


def test_submit(shop):
    shop.run("submit", "tasks.double:gain=3", "tasks.positive", "--input", "x?.npy", "--output", "out/twice")
    out = shop.directory / "out/twice"
    assert sorted(p.name for p in out.iterdir()) == ["x0.npy", "x1.npy", "x2.npy"]
    for i in range(3):
        np.testing.assert_array_equal(np.load(out / f"x{i}.npy"), np.sqrt(np.full((2, 3), 3.0 * i + 0.5)))


def test_submit_of_many_kinds(shop):
    shop.run("submit", "tasks.rows", "--input", "x?.npy", "--output", "rows")
    assert sorted(p.name for p in (shop.directory / "rows").iterdir()) == [
        f"x{i}-{k}.npy" for i in range(3) for k in (0, 1)
    ]
    np.testing.assert_array_equal(np.load(shop.directory / "rows/x2-1.npy"), [2.0] * 3)
    shop.run("submit", "tasks.describe", "--input", "x1.npy", "--output", "dicts")
    with np.load(shop.directory / "dicts/x1.npz") as found:
        assert found["mean"] == 1.0 and found["rows"].tolist() == [2.0] * 3
    shop.run("submit", "tasks.kind", "--input", "x1.npy", "--output", "json")
    assert json.loads((shop.directory / "json/x1.json").read_text()) == {"type": "ndarray", "keys": []}
    shop.run("submit", "tasks.drop", "--input", "x?.npy", "--output", "none")
    assert not list((shop.directory / "none").iterdir())


def test_submit_goes_on_after_failures_and_resumes(shop):
    folder = shop.directory / "mixed"
    folder.mkdir()
    for name, value in {"a": 4.0, "b": -1.0, "d": 9.0}.items():
        np.save(folder / f"{name}.npy", np.full((40, 100), value))
    (folder / "c.npy").write_bytes(b"no array")
    submit = ["submit", "tasks.positive", "--input", "mixed/*.npy", "--output", "roots"]
    process = shop.start(*submit)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    *_, first, second, reason = err.rstrip().splitlines()
    assert first.startswith("mixed/b.npy: ValueError: a negative number") and second.startswith(
        "mixed/c.npy: cannot be read"
    )
    assert reason.startswith("palm: 2 of 4 inputs failed, the first one mixed/b.npy: ValueError: a negative number")
    out = shop.directory / "roots"
    assert sorted(p.name for p in out.iterdir()) == ["a.npy", "d.npy"]
    assert np.load(out / "d.npy")[0, 0] == 3.0
    before = (out / "a.npy").stat().st_mtime_ns
    np.save(folder / "b.npy", np.full((40, 100), 16.0))
    _, reason = shop.run(*submit, "--resume", code=1)
    assert reason.startswith("palm: 1 of 2 inputs failed, the first one mixed/c.npy")
    assert np.load(out / "b.npy")[0, 0] == 4.0
    assert (out / "a.npy").stat().st_mtime_ns == before


def test_submit_with_a_timeout(shop):
    submit = ["submit", "tasks.sleep", "--input", "x?.npy", "--output", "slow", "--timeout", "0.3"]
    _, reason = shop.run(*submit, code=124)
    assert "not complete within 0.3 s" in reason
    shop.run(*submit[:-2], "--resume")
    assert len(list((shop.directory / "slow").iterdir())) == 3


def test_submit_when_a_server_dies(shop):
    process = shop.start("submit", "tasks.die", "--input", "x?.npy", "--output", "dead")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert all(f"x{n}.npy: 3 processes have died" in err for n in range(3)), err
    assert "failed" in err.splitlines()[-1], err
    eventually(lambda: json.loads(shop.run("status", "--json")[0])["servers"][0]["state"] == "running")


def test_call_stops_at_ctrl_c(shop):
    holding = shop.directory / "holding"  # as long as it is there, so is the function
    process = shop.start("call", "tasks.hold", "x1.npy")
    try:
        eventually(lambda: holding.exists() or process.poll() is not None, 30)
        assert "running" in json.loads(shop.run("status", "--json")[0])["servers"][0]["counters"]
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=10)
        assert holding.exists()
    finally:
        holding.unlink(missing_ok=True)
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert time.monotonic() - began < 1.0
    assert err.strip() == "palm: interrupted"


def test_submit_stops_at_ctrl_c(shop):
    folder = shop.directory / "many"
    folder.mkdir()
    for i in range(12):
        np.save(folder / f"{i}.npy", np.ones(3))
    out = shop.directory / "stopped"
    process = shop.start("submit", "tasks.sleep", "--input", "many/*.npy", "--output", "stopped")
    try:
        eventually(lambda: list(out.glob("*.npy")) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert time.monotonic() - began < 1.0
    assert err.endswith("palm: interrupted\n") and "Traceback" not in err
    assert not list(out.glob(".*"))
    assert shop.run("call", "tasks.nothing")


class Copies(palm.Server):
    @palm.function
    def total(self, x):
        return float(sum(v.sum() for v in x.values()) if isinstance(x, dict) else x.sum())


def test_submitted_arrays_are_not_copied(cluster, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((100, 1000)))
    np.savez(tmp_path / "b.npz", x=np.ones((100, 1000)), y=np.zeros((100, 1000)))
    cluster.start(Copies)
    before = space.read_counters()
    with cluster.client() as client:
        submission = cli_submit.Submission(["copies.total"], cli_files.inputs_of(f"{tmp_path}/*"), tmp_path / "out")
        assert cli_submit.submit(submission, client, 10.0) == 0
    after = space.read_counters()
    assert after["sent_arena"] - before["sent_arena"] == 3
    assert after["bytes_copied"] == before["bytes_copied"]
    assert json.loads((tmp_path / "out/b.json").read_text()) == 100_000.0
