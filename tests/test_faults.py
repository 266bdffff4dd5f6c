# SPDX-License-Identifier: BSD-3-Clause
"""What happens x where x to which pipeline: all of it (B10, R2, R8, R11; DELIVERY 8).

Each job has sent half of its inputs and has their results back. Then the trap is set in server b, in the middle of the
pipeline; and whatever happens in it, each result comes once, and nothing is left, neither here nor in any server.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from faults import INPUTS, SHAPES, Healthy, Trap, Trapped, expected, inputs, number_in

import palm

DEATHS = {"SIGKILL": "SIGKILL", "segfault": "SIGSEGV", "exit": "exit code 3", "exception": "exit code 1"}
WHERE = ["idle", "in a function", "sending", "just sent"]
HALF = INPUTS // 2


class World:
    """A cluster for all of it."""

    def __init__(self, cluster: palm.Cluster, directory: Path) -> None:
        self.cluster, self.trap = cluster, Trap(directory)
        for name in "ac":
            cluster.start(Healthy, name)
        cluster.start(Trapped, "b", setup={"directory": str(directory)})
        with cluster.client() as client:  # from now on this process has their arenas open, and they have this one's
            for shape in SHAPES:
                assert Halves(client, shape).all() == expected(shape, range(INPUTS))
        cluster.status()

    def pids(self) -> dict[str, int]:
        """Of all processes, when all are there."""

        def status() -> dict[str, Any] | None:
            try:
                found = self.cluster.status()
            except palm.PalmError:  # the registry is not there yet
                return None
            return found if [s["name"] for s in found["servers"] if s["state"] == "running"] == list("abc") else None

        found = eventually(status)
        return {s["name"]: s["pid"] for s in found["servers"]} | {"registry": found["registry"]["pid"]}

    def spring(self, where: str, what: str, go_on: Callable[[], Any]) -> None:
        """Returns when it happens in b, for which the job has to go on, unless b is to be idle."""
        self.trap.arm(where, what)
        if where == "idle":
            os.kill(self.pids()["b"], signal.SIGUSR1)
        else:
            go_on()
        eventually(self.trap.is_sprung)

    def hold(self, where: str, go_on: Callable[[], Any]) -> None:
        """Returns when b is idle, as it is already, or stays in this place until the gate is opened."""
        if where != "idle":
            self.spring(where, "a wait", go_on)

    def left(self, client: palm.Client) -> dict[str, dict[str, int]]:
        return {name: client.call(f"{name}.inside", timeout=10) for name in "abc"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with palm.Cluster() as cluster:
        yield World(cluster, tmp_path_factory.mktemp("trap"))


@pytest.fixture
def client(world: World) -> Iterator[palm.Client]:
    """When it goes, the servers have nothing but the call that asks them."""
    world.pids()
    with world.cluster.client() as client:
        yield client
        nothing = {"jobs": 1, "handles": 1, "generators": 0, "bytes": 0}
        eventually(lambda: all(nothing.items() <= left.items() for left in world.left(client).values()))


class Halves:
    """A job whose second half waits."""

    def __init__(self, client: palm.Client, shape: str) -> None:
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._collect)
        self.job = client.job(SHAPES[shape][0], inputs(self._go.wait), on_error="skip")
        n = expected(shape, range(HALF)).total()
        self.found = collections.Counter(number_in(next(self.job)) for _ in range(n))
        assert self.found == expected(shape, range(HALF))

    def go_on(self) -> None:
        """With somebody who takes the results. Again: without effect."""
        if not self._go.is_set():
            self._go.set()
            self._thread.start()

    def _collect(self) -> None:
        self.found.update(map(number_in, self.job))

    def all(self) -> collections.Counter[int]:
        self.go_on()
        self._thread.join(30)
        assert not self._thread.is_alive(), self.job.progress
        return self.found

    def is_conserved(self, failed: int = 0) -> bool:
        """R2: what was sent has come back, or has failed."""
        p = self.job.progress
        return (p.sent, p.done, p.failed, p.dropped) == (INPUTS, INPUTS, failed, 0) and len(self.job.errors) == failed


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


shapes = pytest.mark.parametrize("shape", SHAPES)
wheres = pytest.mark.parametrize("where", WHERE)


@shapes
@wheres
@pytest.mark.parametrize("what", DEATHS)
def test_death(world, client, what, where, shape):
    """What it had under way is done by its successor; but an exception of a function is an answer."""
    is_answer = what == "exception" and where == "in a function"
    pids, halves = world.pids(), Halves(client, shape)
    world.spring(where, what, halves.go_on)
    found = halves.all()
    if is_answer:
        [error] = halves.job.errors
        assert (error.server, error.type) == ("b", "RuntimeError")
        failed = expected(shape, range(error.number, error.number + 1))
        assert expected(shape, range(INPUTS)) - failed <= found <= expected(shape, range(INPUTS))
        assert sum((expected(shape, range(INPUTS)) - found).values()) == 1, "what it had yielded before is there"
    else:
        assert found == expected(shape, range(INPUTS))
        assert world.cluster._own_client()._directory._reason("b", pids["b"]) == DEATHS[what]
    assert halves.is_conserved(failed=is_answer)
    now = world.pids()
    assert {name for name in now if now[name] != pids[name]} == (set() if is_answer else {"b"})


@shapes
@wheres
def test_stopped_for_a_while(world, client, where, shape):
    """It is no death, and nobody takes it for one."""
    pids, halves = world.pids(), Halves(client, shape)
    world.spring(where, "SIGSTOP", halves.go_on)
    eventually(lambda: is_stopped(pids["b"]))
    try:
        others = {name: pid for name, pid in pids.items() if name != "b"}
        assert not any(is_stopped(pid) for pid in others.values())
        halves.go_on()
    finally:
        os.kill(pids["b"], signal.SIGCONT)
    assert halves.all() == expected(shape, range(INPUTS)) and halves.is_conserved()
    assert world.pids() == pids


def watched(pid: int) -> set[int]:
    """The processes that one has links to."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found |= {int(line.split()[1]) for line in info.read_text().splitlines() if line.startswith("Pid:")}
    return found


@shapes
@wheres
def test_the_registry_is_gone(world, client, where, shape):
    """It has no part in a job that is under way, and comes back; all join it again."""
    pids, halves = world.pids(), Halves(client, shape)
    world.hold(where, halves.go_on)
    os.kill(pids["registry"], signal.SIGKILL)
    world.trap.gate.touch()
    assert halves.all() == expected(shape, range(INPUTS)) and halves.is_conserved()
    now = world.pids()
    assert {name for name in now if now[name] != pids[name]} == {"registry"}
    servers = {pid for name, pid in now.items() if name != "registry"}
    eventually(lambda: all(now["registry"] in watched(pid) for pid in servers))  # each has its link, with all its files
    assert client.call("a.inside")


@shapes
@wheres
def test_the_client_is_gone(world, client, where, shape):
    """Servers hold nothing of what it wanted, and serve others."""
    before, pids = world.left(client), world.pids()
    beside = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", "import faults; faults.main()", world.cluster.address, shape],
        env={**os.environ, "PYTHONPATH": beside},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        try:
            assert other.stdin is not None and other.stdout is not None
            assert other.stdout.readline() == "half\n"
            world.hold(where, lambda: print(file=other.stdin, flush=True))
        finally:
            other.kill()
    world.trap.gate.touch()
    eventually(lambda: all(now["fds"] <= before[name]["fds"] for name, now in world.left(client).items()))
    eventually(lambda: not [p for p in world.cluster._directory.iterdir() if p.suffix == f".{other.pid}"])
    halves = Halves(client, shape)
    assert halves.all() == expected(shape, range(INPUTS)) and halves.is_conserved()
    assert world.pids() == pids
