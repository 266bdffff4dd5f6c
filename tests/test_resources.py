# SPDX-License-Identifier: BSD-3-Clause
"""What a process may have of the host: private memory and CPUs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal

import numpy as np
import pytest
from conftest import eventually

import palm
from palm import applying, cpus
from palm.config import Configuration
from palm.deaths import OUT_OF_MEMORY, Memory, OomKills, reason_of
from palm.errors import ConfigError, PalmError
from palm.memory_limit import MIB

ALL = sorted(os.sched_getaffinity(0))
UNBOUNDED = resource.RLIM_INFINITY
LIMIT = "memory_limit = '96MiB'"
SAYS = "the memory_limit of '{}' is 96.0 MiB, of which it had"
DIED = r"out of memory \(limit 96\.0 MiB, had [0-9.]+ MiB\): "


def as_cpp_does(mib):
    """Where it gets no memory: std::bad_alloc, which nobody catches."""
    new = ctypes.CDLL("libstdc++.so.6")._Znwm
    new.argtypes, new.restype = [ctypes.c_size_t], ctypes.c_void_p
    return new(mib * MIB) is not None


def in_a_fork(mib):
    pid = os.fork()
    if not pid:
        try:
            os._exit(42 * (len(bytearray(mib * MIB)) == mib * MIB))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Hungry(palm.Butterfly):
    def setup(self, keeps=0):
        self.kept = bytearray(keeps * MIB)

    @palm.function
    def take(self, mib):
        return len(bytearray(mib * MIB)) // MIB

    @palm.function
    def array(self, mib):
        return np.zeros(mib * MIB, np.uint8).nbytes // MIB

    @palm.function
    def fill(self, kib, ballast):
        """To the last byte, in pieces."""
        filled = []
        while True:
            filled.append(bytearray(kib << 10))

    @palm.function
    def most(self, kib):
        filled = []
        with contextlib.suppress(MemoryError):
            while True:
                filled.append(bytearray(kib << 10))
        return len(filled) * kib // 1024

    @palm.function
    def steps(self, mib):
        for i in range(2):
            yield len(bytearray(i * mib * MIB))

    @palm.function(batch=True)
    def together(self, x):
        return [len(bytearray(int(mib) * MIB)) // MIB for mib in x]

    @palm.function
    def native(self, mib):
        return as_cpp_does(mib)

    @palm.function
    def abort(self, mib):
        self.kept = bytearray(mib * MIB)
        os.abort()

    @palm.function
    def loop(self, x):
        """PALM's own, behind the function."""

        def fails(*_):
            raise MemoryError

        self._host._outlets.flush_all = fails
        return x

    @palm.function
    def fork(self, mib):
        return in_a_fork(mib)

    @palm.function
    def pid(self):
        return os.getpid()

    @palm.function
    def threads(self):
        import threadpoolctl

        return max(library["num_threads"] for library in threadpoolctl.threadpool_info())


class Single(palm.Server):
    @palm.function
    def take(self, mib):
        return len(bytearray(mib * MIB)) // MIB


class Parts(palm.ScatterGather):
    def scatter(self, mib):
        return [mib, len(bytearray(max(mib, 0) * MIB))]

    @palm.function
    def part(self, x):
        return x

    def gather(self, parts):
        return len(bytearray(max(-parts[0], 0) * MIB))


class Pieces(palm.ScatterGather):
    def scatter(self, mib):
        return [mib] * 4

    @palm.function
    def part(self, mib):
        return bytes(mib * MIB)

    def gather(self, parts):
        return sum(map(len, parts))


class Sum(palm.Reduce):
    @palm.function
    def add(self, a, b):
        return len(bytearray(a * MIB)) // MIB + b


@pytest.fixture
def started(cluster, tmp_path):
    """Starts a server as the lines of its table say; its name is that of the class."""

    def start(cls, *lines):
        path = tmp_path / "cluster.toml"
        path.write_text("\n".join([f"[servers.{cls.lower()}]", f"class = 'test_resources:{cls}'", *lines]))
        applying.start(Configuration.read(path), cluster)
        return cluster.client()

    return start


def server(cluster, name):
    return next(s for s in cluster.status()["servers"] if s["name"] == name)


def workers(cluster, name="hungry"):
    """When all of them are there."""

    def there():
        found = server(cluster, name)["workers"]
        return found if all(w["pid"] and w["state"] == "running" for w in found) else None

    return eventually(there)


def bound(pid):
    return resource.prlimit(pid, resource.RLIMIT_DATA)[0]


# ------------------------------------------------------------------------------------------------- private memory


@pytest.mark.parametrize("more", [[], ["env = { A = '1' }"]], ids=["born", "executed"])
def test_a_function_that_asks_for_more_fails_and_all_else_goes_on(started, more):
    client = started("Hungry", LIMIT, *more)
    pid = client.call("hungry.pid")
    for function, values in [
        ("take", (500,)),
        ("array", (500,)),
        ("steps", (500,)),
        ("fill", (64, b"")),
        ("fill", (1, bytes(20 * MIB))),  # which is copied into the capsule
        ("together", (np.float64(500),)),
    ]:
        with pytest.raises(palm.RemoteError) as e:
            client.call(f"hungry.{function}", *values, timeout=60)
        assert type(e.value) is palm.RemoteError and e.value.type.endswith("MemoryError"), function
        first = str(e.value).splitlines()[0]
        assert SAYS.format("hungry") in first and "raise memory_limit, make messages smaller, or" in first
        if values[0] != 1:  # where not a KiB is left, Python may have no room to note a line
            assert e.value.traceback.splitlines()[1].endswith(f"in {function}"), "the user's own lines"
        assert e.value.capsule, "which takes memory too"
        assert client.call("hungry.take", 30) == 30, function
    assert client.call("hungry.pid") == pid
    assert client.call("hungry.array", 60) == 60, "shared memory has a bound of its own"


@pytest.mark.parametrize("kib", [1, 64])
def test_who_asks_for_more_again_and_again_does_not_grow(started, kib):
    """malloc keeps what it got back in pieces, which the next function has again."""
    client = started("Hungry", LIMIT)
    for _ in range(8):
        with pytest.raises(palm.RemoteError, match="MemoryError"):
            client.call("hungry.fill", kib, b"", timeout=60)
    assert client.call("hungry.most", kib, timeout=60) < 2.5 * 96
    assert client.call("hungry.take", 30) == 30


def test_a_message_for_which_there_is_no_room_fails(started):
    """It is not taken for one that was lost, and sent again."""
    client = started("Hungry", LIMIT)
    for value in (bytes(120 * MIB), {"x": bytes(120 * MIB)}, "x" * (120 * MIB), [1e9] * (3 * MIB)):
        with pytest.raises(palm.RemoteError) as e:
            client.call("hungry.take", value, timeout=60)
        assert e.value.type == "MemoryError" and SAYS.format("hungry") in str(e.value)
        assert client.call("hungry.take", 30) == 30


def test_parts_for_which_there_is_no_room_fail(started):
    """All that a leader gets of one message is in its memory at once."""
    client = started("Pieces", LIMIT)
    assert client.call("pieces.part", 1) == 4 * MIB
    with pytest.raises(palm.RemoteError) as e:
        client.call("pieces.part", 30, timeout=60)
    assert e.value.type == "MemoryError" and SAYS.format("pieces") in str(e.value)
    assert client.call("pieces.part", 1) == 4 * MIB


def test_what_native_code_dies_of(started, cluster):
    client = started("Hungry", LIMIT, "restart = 'never'")
    with pytest.raises(palm.Crashed) as e:
        client.call("hungry.native", 500)
    assert re.search(DIED + "SIGABRT", e.value.reason)
    assert eventually(lambda: server(cluster, "hungry")["state"] == "failed")
    [worker] = server(cluster, "hungry")["workers"]
    assert re.match(DIED + "SIGABRT", worker["reason"])
    from helpers_logs import records  # not by the servers, which import this module

    assert eventually(lambda: any(re.search("died: " + DIED + "SIGABRT", r.text) for r in records(cluster, "hungry")))


def test_an_abort_near_the_limit(started):
    client = started("Hungry", LIMIT)
    with pytest.raises(palm.Crashed) as e:
        client.call("hungry.abort", 55, timeout=60)
    assert re.fullmatch(DIED + "SIGABRT", e.value.reason)
    assert client.call("hungry.take", 30) == 30


def test_no_memory_for_palm_itself(started):
    """Between two messages, so that none is blamed: it is not started again for ever."""
    client = started("Hungry", LIMIT, "restart = { limit = 3 }")
    with pytest.raises(palm.Crashed) as e:
        client.call("hungry.loop", 1, timeout=60)
    assert re.search(DIED + "exit code 1", e.value.reason)


def test_other_deaths_are_not_blamed_on_memory(started):
    client = started("Hungry", LIMIT)
    with pytest.raises(palm.Crashed) as e:
        client.call("hungry.abort", 10)
    assert e.value.reason == "SIGABRT"


def test_a_setup_that_asks_for_more(started, cluster):
    with pytest.raises(PalmError) as e:
        started("Hungry", LIMIT, "setup = { keeps = 500 }")
    *_, last = str(e.value).splitlines()
    assert last.startswith("MemoryError; " + SAYS.format("hungry")) and "in setup\n" in str(e.value)
    assert started("Hungry", LIMIT, "setup = { keeps = 10 }").call("hungry.take", 20) == 20


@pytest.mark.parametrize("cls", ["Hungry", "Single"])
def test_too_little_to_begin(started, cls):
    with pytest.raises(PalmError) as e:
        started(cls, "memory_limit = '8MiB'")
    assert re.fullmatch(
        rf"'{cls.lower()}(/0)?' did not start: memory_limit = 8\.0 MiB of '{cls.lower()}' is too small: before its "
        r"setup it has [0-9.]+ MiB, with Python and the modules it imports; give it [0-9]+ MiB or more",
        str(e.value),
    )


def test_who_has_a_limit(started, cluster):
    """Those that run something of the user's: not the leader of a Butterfly, nor what is the cluster's."""
    for cls in ("Hungry", "Single", "Parts", "Sum"):
        started(cls, LIMIT)
    status = cluster.status()
    assert {s["name"]: bound(s["pid"]) != UNBOUNDED for s in status["servers"]} == {
        "hungry": False,
        "single": True,
        "parts": True,
        "sum": True,
    }
    assert all(bound(w["pid"]) != UNBOUNDED for s in status["servers"] for w in s["workers"])
    assert {w["memory"]["limit"] for s in status["servers"] for w in s["workers"]} == {96 * MIB}
    children = cluster._supervisor._children
    assert {bound(children[name].pid) for name in ("registry", "registry/cache")} == {UNBOUNDED}


def test_leaders(started):
    client = started("Parts", LIMIT)
    for mib in (500, -500):
        with pytest.raises(palm.RemoteError, match=re.escape(SAYS.format("parts"))):
            client.call("parts.part", mib)
        assert client.call("parts.part", 10) == 0
    client = started("Sum", LIMIT)
    with (
        client.job("sum.add", [1, 500, 1]) as job,
        pytest.raises(palm.RemoteError, match=re.escape(SAYS.format("sum"))),
    ):
        list(job)
    assert list(client.job("sum.add", [10, 10])) == [20]


def test_a_fork_has_no_limit_and_its_parent_keeps_its_own(started):
    client = started("Hungry", LIMIT)
    assert client.call("hungry.fork", 200) == 42
    with pytest.raises(palm.RemoteError, match="MemoryError"):
        client.call("hungry.take", 200)


def test_reasons(tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 0\n")
    ooms, gib = OomKills(counter), 1 << 30
    assert reason_of(-signal.SIGSEGV, ooms, Memory(4 * gib, 3 * gib)) == "SIGSEGV"
    assert (
        reason_of(-signal.SIGABRT, ooms, Memory(4 * gib, 3 * gib, True))
        == "out of memory (limit 4.0 GiB, had 3.0 GiB): SIGABRT"
    )
    counter.write_text("oom_kill 3\n")
    found = [
        reason_of(-signal.SIGKILL, ooms, memory) for memory in (Memory(4 * gib, peak=8 * gib), Memory(peak=gib), None)
    ]
    assert found == [
        "out of memory (limit 4.0 GiB, peak 8.0 GiB): SIGKILL",
        "out of memory (peak 1.0 GiB): SIGKILL",
        OUT_OF_MEMORY,
    ]


def test_the_peak_of_one_that_was_killed(started, cluster):
    client = started("Hungry")
    [worker] = workers(cluster)
    child = cluster._supervisor._children["hungry/0"]
    assert client.call("hungry.take", 100) == 100
    process = child.process
    os.kill(worker["pid"], signal.SIGKILL)
    eventually(lambda: process.returncode is not None)
    assert process.peak > 100 * MIB


# ----------------------------------------------------------------------------------------------------------- CPUs


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("0", [0]),
        (" 0-3 , 8", [0, 1, 2, 3, 8]),
        ("8,0-3,2", [0, 1, 2, 3, 8]),
        ("0-6:2", [0, 2, 4, 6]),
    ],
)
def test_lists(said, found):
    assert cpus.parse(said) == tuple(found)
    assert cpus.parse(cpus.text(found)) == tuple(found)


def test_shares():
    eight = tuple(range(8))
    assert cpus.shares(eight, 2, 4) == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert cpus.shares(eight, 2, 1) == [(0, 1), (2, 3), (4, 5), (6, 7)], "for those that come later"
    assert cpus.shares(eight, 3, 2) == [(0, 1, 2), (3, 4, 5)]
    assert cpus.shares(eight, 2, 5) == cpus.shares(eight, 0, 2) == [eight]
    assert cpus.shares((), 1, 2) == [()]


def where(pid):
    """Of all its threads."""
    return {tuple(sorted(os.sched_getaffinity(int(t)))) for t in os.listdir(f"/proc/{pid}/task")}


def test_each_worker_has_its_own(started, cluster):
    """After a death too, and those that come later have them in turn."""
    own = [{(cpu,)} for cpu in ALL]
    client = started("Hungry", f"cpus = '{cpus.text(ALL)}'", f"workers = {min(2, len(ALL))}", "cores = 1")
    assert [where(w["pid"]) for w in workers(cluster)] == own[:2]
    assert client.call("hungry.threads") == 1
    assert where(server(cluster, "hungry")["pid"]) == {tuple(ALL)}, "its leader"
    victim = workers(cluster)[-1]["pid"]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in [w["pid"] for w in server(cluster, "hungry")["workers"]])
    assert [where(w["pid"]) for w in workers(cluster)] == own[:2]
    cluster.scale("hungry", len(ALL[:2]) + 1)
    assert [where(w["pid"]) for w in workers(cluster)] == [own[n % len(own)] for n in range(len(ALL[:2]) + 1)]
    assert [w["cpus"] for w in workers(cluster)][0] == str(ALL[0])


@pytest.mark.parametrize("more", [[], ["env = { OPENBLAS_NUM_THREADS = '2' }"]], ids=["born", "executed"])
def test_all_have_all_where_there_are_not_enough(started, cluster, more, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    client = started("Hungry", f"cpus = '{ALL[-1]}'", "workers = 2", *more)
    assert [where(w["pid"]) for w in workers(cluster)] == [{(ALL[-1],)}] * 2
    if not more:  # else those of BLAS are there before it keeps to its CPUs
        assert client.call("hungry.threads") == 1, "no more threads of BLAS than it has CPUs"


LAST = os.cpu_count() + 4000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cpus = 'all'", "cpus = 'all' has to be CPUs by their numbers, as \"0-3,8\""),
        ("cpus = ''", "cpus = '' has to be CPUs by"),
        ("cpus = 1", "cpus = 1 has to be a string"),
        ("cpus = [0, 1]", "cpus = [0, 1] has to be a string"),
        (f"cpus = '{LAST}'", f"there is no CPU {LAST} for this process, which may use {cpus.text(ALL)}"),
        ("cpus = '3-1'", "'3-1' in '3-1' goes backwards: write \"1-3\""),
        (f"cpus = '{ALL[0]}'\ncores = 2", f"cpus = '{ALL[0]}' are 1, fewer than cores = 2"),
        ("memory_limit = 'much'", "memory_limit = 'much' has to be an amount of memory above 0"),
        ("memory_limit = '0 GiB'", "memory_limit = '0 GiB' has to be an amount of memory above 0"),
        ("memory_limits = '1GiB'", "did you mean 'memory_limit'"),
    ],
)
def test_wrong(tmp_path, line, words):
    path = tmp_path / "cluster.toml"
    path.write_text(f"[servers.hungry]\nclass = 'test_resources:Hungry'\n{line}\n")
    with pytest.raises(ConfigError) as e:
        Configuration.read(path).check()
    assert str(e.value).startswith(f"{path}:3: ") and words in str(e.value) and "\n" not in str(e.value)
