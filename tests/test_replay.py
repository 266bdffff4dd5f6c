# SPDX-License-Identifier: BSD-3-Clause
"""``palm replay``: what failed, fails again, here and without a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import palm
from palm import capsule, places
from palm._core.decode import NOTHING
from palm.capsule import Capsule
from palm.message import Message
from palm.replay import outcomes
from palm.summary import lines

MODULE = """
import ctypes, os, sys, time
import numpy as np
import palm

class Lab(palm.Server):
    def setup(self, offset=0.0, broken=False):
        if broken: raise RuntimeError("no device")
        self.offset = offset
    def teardown(self):
        print("torn down", flush=True)
    @palm.function
    def shift(self, x, *, gain=1.0):
        return x * gain + self.offset
    @palm.function
    def positive(self, x):
        lowest = float(x.min())
        if lowest < 0: raise ValueError(f"negative: {lowest}")
        return x
    @palm.function
    def add(self, a, b): return a + b
    @palm.function
    def rows(self, x):
        yield from x
        yield None
        yield palm.to("a.b", {"n": len(x)})
    @palm.function
    def nothing(self): return None
    @palm.function
    def bad(self): return [1, {2}]
    @palm.function
    def random(self):
        m = self.message
        return [self.rng.integers(1 << 40), m.number, m.path, m.stage, m.rest, m.attempt, self.name, self.cancelled]
    @palm.function
    def crash(self, x):
        print("about to", flush=True)
        ctypes.string_at(0)
    @palm.function
    def stay(self):
        print("pid", os.getpid(), flush=True)
        time.sleep(60)
    @palm.function
    def leave(self, x): sys.exit(x)
    @palm.function
    def vanish(self, x): os._exit(x)
"""
MESSAGE = Message("ab" * 16, 17, (17, 3), 2, "lab.it", ("a.b",), "ipc:///x", 1.5e9, 3, 99)
ARRAY = np.linspace(-2, 5, 1000).reshape(10, 100)


class Shell:
    """Runs `palm replay` elsewhere than where the module is."""

    def __init__(self, tmp_path: Path) -> None:
        self.module, self.elsewhere = tmp_path / "code", tmp_path / "elsewhere"
        self.module.mkdir()
        self.elsewhere.mkdir()
        (self.module / "lab_module.py").write_text(MODULE)

    def capsule(self, function: str, value: object = NOTHING, **changes: object) -> str:
        c = Capsule("lab", function, value, {}, MESSAGE, "ValueError", "Traceback: it\n", "lab_module:Lab",
                    search=(str(self.module),), versions={"python": "3"}, time=1.0)  # fmt: skip
        return capsule.write(self.elsewhere, replace(c, **changes))  # type: ignore[arg-type]

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-c", "from palm.cli import main; main()", "replay", *args]

    def run(self, *args: str, code: int, stdin: str = "") -> tuple[str, str]:
        command = self.command(*args)
        done = subprocess.run(command, cwd=self.elsewhere, input=stdin, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout, done.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_show_runs_nothing(shell):
    (shell.module / "lab_module.py").write_text("raise SystemExit('imported')")
    constants = {"gain": np.full((100, 100), np.nan), "mode": "fast"}
    path = shell.capsule("shift", {"x": ARRAY, "n": (1, "y")}, constants=constants, setup={"offset": 3.5})
    out, err = shell.run(path, "--show", code=0)
    assert err == ""
    for text in (
        "lab.it", "lab_module:Lab", "ValueError", "attempt 3", "input 17 of job abab", "path 17.3, stage 2, seed 99",
        "offset: float 3.5", "gain: ndarray float64 (100, 100), 78.1 KiB: 10000 NaN", "mode: str 'fast'",
        "input['x']: ndarray float64 (10, 100), 7.8 KiB: min -2, mean 1.5, max 5", "input['n']: tuple of 2",
        "input['n'][1]: str 'y'", "Recorded Traceback: it", "python 3",
    ):  # fmt: skip
        assert text in out, (text, out)


def test_done(shell):
    path = shell.capsule("shift", np.arange(3.0), constants={"gain": 2.0}, setup={"offset": 1.0})
    out, err = shell.run(path, code=0)
    assert "result: ndarray float64 (3,), 24 B: [1., 3., 5.]\ntorn down\ndone; it does not fail here" in out
    assert "written for ValueError" in out and err == ""


def test_fails_again(shell):
    out, err = shell.run(shell.capsule("positive", ARRAY), code=1)
    assert "input: ndarray float64 (10, 100)" in out and "torn down" not in out
    assert ", in positive" in err and "palm/replay.py" not in err and "local.py" not in err
    assert err.rstrip().endswith("palm: ValueError: negative: -2.0 (in lab.positive, input 17)")


def test_what_it_sends(shell):
    out, _ = shell.run(shell.capsule("rows", np.ones((2, 3))), code=0)
    assert "yielded 0: ndarray float64 (3,)" in out and "yielded 1: ndarray" in out
    assert "yielded 2, to a.b: dict of 1\nyielded 2, to a.b['n']: int 2\n" in out
    out, _ = shell.run(shell.capsule("nothing"), code=0)
    assert "input: an empty message" in out and "result" not in out
    out, _ = shell.run(shell.capsule("add", (1, 2)), code=0)
    assert "result: int 3\n" in out


@pytest.mark.parametrize(
    ("function", "value", "last"),
    [
        ("bad", NOTHING, "PayloadError: result: payload[1]: set cannot be sent"),
        ("add", 1, "2 positional parameters, but the message is one int"),
        ("leave", 0, "the process ended with exit code 0"),
        ("vanish", 7, "the process ended with exit code 7"),
        ("vanish", 0, "the process ended with exit code 0"),
    ],
)
def test_other_ways_to_fail(shell, function, value, last):
    _, err = shell.run(shell.capsule(function, value), code=1)
    assert last in err.rstrip().rpartition("\n")[2]


def test_setup_fails(shell):
    _, err = shell.run(shell.capsule("nothing", setup={"broken": True}), code=1)
    assert "RuntimeError: no device (in lab.nothing" in err


def test_a_crash_is_told(shell):
    path = shell.capsule("crash", np.arange(3), reason="SIGSEGV", traceback="")
    out, err = shell.run(path, code=1)
    assert out.index("SIGSEGV") < out.index("[0, 1, 2]") < out.index("Replaying lab.crash") < out.index("about to")
    assert "in crash" in err  # where it was, by faulthandler
    assert err.rstrip().endswith("palm: SIGSEGV (in lab.crash, input 17)")


def test_interrupted(shell):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = shell.command(shell.capsule("stay"))
    with subprocess.Popen(command, cwd=shell.elsewhere, text=True, **pipes) as process:
        assert process.stdout is not None
        pid = next(int(line.split()[1]) for line in process.stdout if line.startswith("pid "))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        stayed = places.start_time(pid)
        if stayed:
            os.kill(pid, signal.SIGKILL)
    assert not stayed


def test_message_and_random_numbers_are_the_recorded_ones(shell):
    out, _ = shell.run(shell.capsule("random"), code=0)
    expected = [MESSAGE.rng().integers(1 << 40), 17, (17, 3), 2, ("a.b",), 3, "lab", False]
    for line in lines(expected, "result"):
        assert f"{line}\n" in out


def test_pdb(shell):
    out, err = shell.run(shell.capsule("positive", ARRAY), "--pdb", code=1, stdin="p lowest, self.message.number\nq\n")
    assert "(-2.0, 17)" in out and "ValueError: negative" in err
    assert err.rstrip().endswith("palm: ValueError: negative: -2.0 (in lab.positive, input 17)")
    out, _ = shell.run(shell.capsule("shift", np.ones(1)), "--pdb", code=0)
    assert "result: ndarray" in out and "(Pdb)" not in out
    out, _ = shell.run(shell.capsule("leave", 3), "--pdb", code=1, stdin="p x\nq\n")
    assert "(Pdb) 3" in out


# so that one process imports palm, not fourteen
ALL = """
import json, sys
from palm.cli import run
for args in json.load(sys.stdin):
    print("exit code", run(args), file=sys.stderr, flush=True)
"""


def test_wrong_files(shell):
    (shell.elsewhere / "x.palm").write_bytes(b"PALM" * 100)
    cases = [
        ("x.palm", "not a capsule"),
        ("gone.palm", "gone.palm"),
        (shell.capsule("shift", 1, template="lab_module:Gone"), "AttributeError"),
        (shell.capsule("shift", 1, template="gone_module:Lab"), "ModuleNotFoundError"),
        (shell.capsule("shifted", 1), "no function 'shifted'. Did you mean 'shift'?"),
        (shell.capsule("shift", 1, constants={"gone": 1}), "no constant 'gone'"),
        (shell.capsule("shift", 1, template_pickled=b"no pickle"), "UnpicklingError"),
    ]
    commands = [["replay", path, *more] for path, _ in cases for more in ([], ["--pdb"])]
    command = [sys.executable, "-c", ALL]
    done = subprocess.run(
        command, cwd=shell.elsewhere, input=json.dumps(commands), capture_output=True, text=True, timeout=60
    )
    *said, rest = done.stderr.split("exit code 2\n")
    assert not rest, done.stderr
    for err, text in zip(said, [text for _, text in cases for _ in range(2)], strict=True):
        assert text in err.rstrip().rpartition("\n")[2], done.stderr


SCRIPT = """
import sys
import palm
from palm import capsule
from palm.message import Message

FACTOR = 10

class Options:
    def __init__(self, limit): self.limit = limit

class Local(palm.Server):
    def setup(self, options): self.limit = options.limit
    @palm.function
    def check(self, x):
        if x > self.limit: raise ValueError(f"{x * FACTOR} is too much")
        return x

if __name__ == "__main__":
    store = capsule.Store(Local, {"options": Options(3)}, sys.argv[1])
    message = Message("cd" * 16, 0, (0,), 0, "local.check", (), "", None, 1, 5)
    for value in (2, 4):
        print(store.write(server="local", function="check", value=value, constants={}, message=message, reason="?"))
"""


def test_class_of_a_script(shell):
    script = shell.module / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, shell.elsewhere], capture_output=True, text=True, timeout=60)
    good, bad = done.stdout.split()
    script.unlink()  # it is all in the file
    out, _ = shell.run(good, code=0)
    assert "__main__:Local (in the capsule)" in out and "pickled: loaded by a replay alone" in out
    assert "result: int 2" in out
    _, err = shell.run(bad, code=1)
    assert "palm: ValueError: 40 is too much (in local.check, input 0)" in err


class Kept(palm.Server):
    def setup(self):
        self.log.info("setup")
        with pytest.raises(RuntimeError):
            _ = self.message

    @palm.function
    def same(self, x):
        self.count("calls")
        self.cache["x"] = x
        return self.cache["x"], x.flags.writeable


def test_outcomes_in_this_process():
    value = capsule.unpack(capsule.pack(np.ones(2)))
    [(what, (array, writeable))] = outcomes(Capsule("kept", "same", value, {}, MESSAGE, template="test_replay:Kept"))
    assert what == "result" and not writeable
    np.testing.assert_array_equal(array, 1)


def test_what_there_is_too_much_of():
    found = list(lines([[[[[[1]]]]], list(range(100)), "x" * 1000, np.broadcast_to(1.0, (1 << 20, 1 << 20))]))
    assert "payload[0][0][0][0]: 1 more" in found
    assert found[5:].count("payload[1]: 80 more") == 1
    assert f"payload[2]: str '{'x' * 99}... (1002 characters)" in found
    assert found[-1].startswith("payload[3]: ndarray float64 (1048576, 1048576), 8192.0 GiB")
    for dtype in ("c16", "M8[s]", "?", "U3", "f2", "g", [("a", "i4")]):
        assert len(list(lines(np.zeros(9, dtype)))) == 1
    assert list(lines(np.array([1, np.inf, np.nan] * 5))) == [
        "payload: ndarray float64 (15,), 120 B: min 1, mean 1, max 1, 5 NaN, 5 infinite"
    ]


def test_help(shell):
    out, _ = shell.run("--help", code=0)
    assert "--pdb" in out and "capsules that you trust" in " ".join(out.split())
    assert os.environ["PALM_CAPSULES"]  # tests leave no capsules where they run
