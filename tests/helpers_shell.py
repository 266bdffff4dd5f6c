# SPDX-License-Identifier: BSD-3-Clause
"""`palm` in a shell; the fixtures `shell`, `shop` and `forks`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import eventually

from palm import places

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


FORKS = """
import json, os, socket, sys
import numpy, rich.progress
import palm.cli, palm.cli_submit, palm.cli_tables, palm.cli_up, palm.client, palm.cluster

asks = socket.socket(fileno=int(sys.argv[1]))
while True:
    said, fds, _, _ = socket.recv_fds(asks, 1 << 18, 3)
    if not said:
        break
    if not (pid := os.fork()):
        asks.close()
        for n, fd in enumerate(fds):
            os.dup2(fd, n)
            os.close(fd)
        sys.argv[1:], directory, env = json.loads(said)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(directory)
        palm.cli.main()
    for fd in fds:
        os.close(fd)
    asks.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


class Forks:
    """Runs `palm` in a process that has imported it already: half a second less for each."""

    def __init__(self) -> None:
        self.asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-c", FORKS, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], process_group=0)

    def run(
        self, args: Sequence[str], directory: Path, env: dict[str, str], stdin: str, timeout: float
    ) -> tuple[int, str, str]:
        """Exit code, standard output and error."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
            files[0].write(stdin)
            files[0].seek(0)
            self.asks.settimeout(timeout)
            said = json.dumps([args, str(directory), env]).encode()
            socket.send_fds(self.asks, [said], [file.fileno() for file in files])
            code = int(self.asks.recv(64))
            for file in files:
                file.seek(0)
            return code, files[1].read(), files[2].read()

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)  # with what it runs, if that did not end
        self.process.wait()
        self.asks.close()


class Shell:
    """Runs `palm` in a directory and a world of clusters of its own."""

    def __init__(self, directory: Path, forks: Forks) -> None:
        self.directory, self.forks = directory, forks
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
        returned, out, err = self.forks.run(args, self.directory, self.env, stdin, timeout)
        assert returned == code, (args, returned, out, err)
        assert "Traceback" not in err or "Remote" not in err
        return out, err.rstrip().rpartition("\n")[2]

    def status(self) -> dict[str, Any]:
        """Of the only cluster."""
        found: dict[str, Any] = json.loads(self.run("status", "--json")[0])
        return found

    def clusters(self) -> set[str]:
        """Directories of clusters, running or dead."""
        base = self.runtime / "palm"
        names = {p.name for p in base.iterdir() if p.is_dir()} if base.exists() else set()
        return {name for name in names if not name.startswith(places.REMOVED)}

    def inhabitants(self) -> set[int]:
        """Pids of all processes of clusters."""
        pids = set()
        for name in self.clusters():
            with contextlib.suppress(FileNotFoundError):  # it is being removed
                for p in (self.runtime / "palm" / name).iterdir():
                    pids.add(p.read_text().split()[0] if p.name == "owner" else p.suffix[1:])
        return {int(pid) for pid in pids if pid.isdigit() and places.start_time(int(pid))}

    def close(self) -> None:
        for pid in self.inhabitants():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.inhabitants())
        eventually(self._removed)

    def _removed(self) -> bool:
        # who outlives a cluster's owner clears its directory too, at the same time
        shutil.rmtree(self.runtime, ignore_errors=True)
        return not self.runtime.exists()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def shell(tmp_path: Path, forks: Forks) -> Iterator[Shell]:
    """A shell in an empty directory but for tasks.py and cluster.toml."""
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "cluster.toml").write_text(CONFIGURATION)
    shell = Shell(tmp_path, forks)
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Shell]:
    """A shell with the cluster "shop" up, for all tests of this file."""
    directory = tmp_path_factory.mktemp("shop")
    (directory / "tasks.py").write_text(TASKS)
    (directory / "cluster.toml").write_text(CONFIGURATION)
    shell = Shell(directory, forks)
    try:
        shell.run("up", "-d")
        for i in range(3):
            np.save(directory / f"x{i}.npy", np.full((2, 3), float(i)))
        yield shell
    finally:
        shell.close()
