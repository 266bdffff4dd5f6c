# SPDX-License-Identifier: BSD-3-Clause
"""os.fork in a process that uses PALM: neither side sees the other's writes, and the child is told (R32)."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import palm
from palm._core.space import CoreError

N = 1 << 16


def in_child(work) -> str:
    """What `work` returns in a forked child, which then leaves at once."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = work()
        except BaseException as e:
            text = f"failed: {e!r}"
        os.write(write, text.encode())
        os._exit(7)
    os.close(write)
    with open(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return f"{text}; exit {os.waitstatus_to_exitcode(status)}"


def refusal(work) -> str:
    try:
        work()
    except RuntimeError as e:
        return str(e)
    return "no error"


class Forks(palm.Server):
    def setup(self):
        self.acc = np.ones(N)

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def write_in_child(self, x):
        y = x * 2

        def work() -> str:
            y[:] = 9
            self.acc[:] = 9
            fresh = np.full(N, 3.0)
            return f"{y.sum() + self.acc.sum() + fresh.sum() + x.sum()}"

        said = in_child(work)
        return said, y, self.acc

    @palm.function
    def use_in_child(self):
        return [
            in_child(lambda: refusal(lambda: self.client.call("forks.same", 1))),
            in_child(lambda: refusal(lambda: palm.Client())),
            in_child(lambda: refusal(lambda: palm.arena().__enter__())),
        ]

    @palm.function
    def child_reads_on(self, x):
        """The child reads what the parent had at the fork, though the parent lets go of it and makes new arrays."""
        y = x + 1
        go_read, go_write = os.pipe()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(go_read, 1)
            os.write(write, f"{y.min()} {y.max()}".encode())
            os._exit(0)
        del y
        others = [np.full(N, 100.0 + k) for k in range(8)]
        os.write(go_write, b"x")
        said = os.read(read, 100).decode()
        os.waitpid(pid, 0)
        for fd in (go_read, go_write, read, write):
            os.close(fd)
        return said, others[-1]


@pytest.fixture
def client(cluster: palm.Cluster) -> palm.Client:
    cluster.start(Forks)
    return cluster.client()


def test_writes_of_the_child_stay_its_own(client: palm.Client) -> None:
    x = np.ones(N)
    for _ in range(3):
        said, y, acc = client.call("forks.write_in_child", x)
        assert said == f"{float(N * (9 + 9 + 3 + 1))}; exit 7"
        assert (y == 2).all() and (acc == 1).all()
    assert np.array_equal(client.call("forks.same", x), x)


def test_use_in_the_child_is_refused(client: palm.Client) -> None:
    for said in client.call("forks.use_in_child"):
        assert "fork" in said and "exit 7" in said and "no error" not in said
    assert client.call("forks.same", 5) == 5


def test_child_reads_what_there_was_at_the_fork(client: palm.Client) -> None:
    for k in range(3):
        said, others = client.call("forks.child_reads_on", np.full(N, float(k)))
        assert said == f"{k + 1.0} {k + 1.0}"
        assert (others == 107).all()


SCRIPT = """
import os
import time

import numpy as np
import palm
from palm._core import node, space
from test_fork import N, in_child, refusal


class Double(palm.Server):
    @palm.function
    def double(self, x):
        return x * 2


def main():
    with palm.Cluster() as cluster:
        cluster.start(Double)
        client = cluster.client()
        with palm.arena():
            mine = np.full(N, 5.0)
        theirs = client.call("double.double", mine)
        job = client.job("double.double", iter(range(3)))

        def write():
            mine[:] = 9
            with_hook = np.full(N, 1.0)
            return f"{mine.sum()} {theirs.sum()} {with_hook.sum()}"

        print("wrote", in_child(write))
        print("mine", mine.min(), mine.max(), theirs.min(), theirs.max())
        for name, use in {
            "call": lambda: client.call("double.double", 1),
            "submit": lambda: client.submit("double.double", mine),
            "job": lambda: list(client.job("double.double", [mine])),
            "next": lambda: next(job),
            "status": lambda: client.status(),
            "client": lambda: palm.Client(cluster.address),
            "of the cluster": lambda: cluster.client(),
            "start": lambda: cluster.start(Double, "other"),
            "arena": lambda: palm.arena().__enter__(),
            "put": lambda: node.Batch().put(np.zeros(N), 0),
        }.items():
            print(name, ":", in_child(lambda: refusal(use)))
        print("close", in_child(lambda: str((client.close(), cluster.close()))))
        print("after", sorted(job), client.call("double.double", mine).max())
        del theirs, job
        end = time.monotonic() + 10
        while space.stats()["blocks_held"] > 1 and time.monotonic() < end:
            time.sleep(0.01)
        print("held", space.stats()["blocks_held"])


if __name__ == "__main__":
    main()
    print("done")
"""


def test_client_that_forks(tmp_path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(textwrap.dedent(SCRIPT))
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": path}
    )
    said = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stdout + done.stderr
    assert said["wrote"] == f"{9.0 * N} {10.0 * N} {1.0 * N}; exit 7"
    assert said["mine"] == "5.0 5.0 10.0 10.0"
    for name in ("call", "submit", "job", "next", "status", "client", "of", "start", "arena", "put"):
        assert "fork" in said[name] and said[name].endswith("exit 7"), (name, said[name])
    assert said["close"].endswith("exit 7")
    assert said["after"] == "[0, 2, 4] 10.0"
    assert said["held"] == "1"
    assert "done" in said
    assert not done.stderr


def test_the_error_can_be_told_by_a_pool():
    error = pickle.loads(pickle.dumps(CoreError("why", "PALM_EFORK")))
    assert (type(error), str(error), error.code) == (CoreError, "why", "PALM_EFORK")
