# SPDX-License-Identifier: BSD-3-Clause
"""The command line: exit codes, and the reason in the last line of standard error (API 4)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from conftest import eventually

import palm
from palm import cli

pytest_plugins = "helpers_shell"  # its fixtures


def test_help_needs_no_rich():
    code = "import sys; from palm.cli import run; run(['--help']); sys.exit('rich' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert out.returncode == 0
    for word in ("demo", "up", "down", "scale", "status", "call", "submit", "doctor", "bench"):
        assert f"\n  {word} " in out.stdout


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


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["submit", "a.f:x=1,b.g", "--input", "*", "--output", "o"], "constants are written as"),
        (["submit", "a.f,b.g", "--input", "*", "--output", "o"], "steps are separated by spaces, as a.f b.g"),
        (["submit", "a.f -> b.g:x=1", "--input", "*", "--output", "o"], "separated by spaces, as a.f b.g"),
        (["submit", "in/a b.npy", "--input", "*", "--output", "o"], "is a file, where a step stands"),
        (["call", "a.b", "-", "--output", "no/x.npy"], "--output no/x.npy: there is no directory "),
        (["call", "a.b", "[1, 2]"], "[1, 2]: FILE ends in .npy, .npz, .json, or is - for JSON on standard input"),
        (["call", "a.b", "no.npy"], "there is no file no.npy"),
        (["explain", "no.toml"], "there is no file no.toml; it would have the steps of a job"),
        (["replay", "no.palm"], "there is no file no.palm; an error names its capsule"),
    ],
)
def test_wrong_usage_is_told_with_what_to_do(args, says, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_client", lambda _: pytest.fail("it should not have come so far"))
    assert cli.run(args) == 2
    assert says in capsys.readouterr().err


def test_help_of_down_warns_of_scripts(capsys):
    assert cli.run(["down", "--help"]) == 0
    assert "the process of that script ends with it" in " ".join(capsys.readouterr().out.split())


def test_status(shop):
    status = shop.status()
    assert status["cluster"] == "shop"
    [server] = status["servers"]
    assert server["name"] == "tasks" and server["state"] == "running" and server["pid"] in shop.inhabitants()
    assert set(server["counters"]) >= {"messages_in", "messages_out", "bytes_copied", "busy_seconds", "functions"}
    out, _ = shop.run("status", "--cluster", "shop")
    for word in ("shop", "tasks", "running", str(server["pid"]), "positive"):
        assert word in out


def test_status_of_one_server(shop):
    out, _ = shop.run("status", "tasks")
    assert out.startswith("tasks: a palm.Server, tasks:Tasks\n") and "\n\ndouble(x, *, gain=2.0)\n\n" in out
    assert "\n\n\n" not in out, "it has no docstrings"


class Idle(palm.Server):
    @palm.function
    def same(self, x):
        return x


def test_status_has_what_the_client_has(cluster):
    cluster.start(Idle)
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


def errors_of(shop, *args, stdin=""):
    """All lines of standard error."""
    with shop.start(*args) as process:
        _, err = process.communicate(stdin, timeout=30)
    return err.splitlines()


def test_what_palm_refuses_needs_no_traceback(shop):
    [reason] = errors_of(shop, "call", "tasks.add", "-", stdin="3")
    assert reason.startswith("palm: PayloadError: tasks.add(a, b) has 2 positional parameters")
    first, *_, reason = errors_of(shop, "call", "tasks.positive", "-", stdin="-1")
    assert first.startswith("Traceback") and reason.startswith("palm: AttributeError: ")


def test_who_is_in_a_traceback():
    own = [
        f"{os.path.dirname(cli.__file__)}/fitting.py",
        "/far/site-packages/palm/work.py",
        "src/palm/_core/encode.pyx",
    ]
    assert all(map(cli._is_ours, own))
    assert not any(map(cli._is_ours, ["/home/u/palm/film.py", "/home/u/fitting.py", "<string>"]))


def test_call_stops_at_ctrl_c(shop):
    holding = shop.directory / "holding"  # as long as it is there, so is the function
    process = shop.start("call", "tasks.hold", "x1.npy")
    try:
        eventually(lambda: holding.exists() or process.poll() is not None, 30)
        assert "running" in shop.status()["servers"][0]["counters"]
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
