# SPDX-License-Identifier: BSD-3-Clause
"""What a supervisor does about deaths: when it starts again, gives up, and which message it blames (R8, R9, R11).

Messages are sent by hand here, under names that the test chooses: after a death the same name comes again.
"""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import eventually

import palm
from palm._core import node as core
from palm.child import Child
from palm.deaths import OUT_OF_MEMORY, OomKills, reason_of
from palm.own_names import CACHE as CACHES
from palm.process import Order
from palm.registry import JOINING, Registry
from palm.remote import Route, error_of
from palm.restarts import DEATHS, FAILURES, LONGEST, Restarts
from palm.step import Step
from palm.suspects import MOST_TOGETHER, Suspects, of_job, together_of

JOB = bytes(range(16))
KILL, SEGV = int(signal.SIGKILL), int(signal.SIGSEGV)


class Fragile(palm.Server):
    def setup(self, gate=None, broken=None):
        if broken and Path(broken).exists():
            raise ValueError(f"no device {broken}")
        if gate:
            Path(f"{gate}.{self.name}").touch()
            while not Path(gate).exists():
                time.sleep(0.002)

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def die(self, number):
        """Of this signal; lives if it is 0."""
        if number:
            os.kill(os.getpid(), number)
            time.sleep(60)
        return [os.getpid(), self.message.attempt]

    @palm.function(attempts=1)
    def once(self, number):
        return self.die(number)

    @palm.function
    def leave(self, code):
        raise SystemExit(code)

    @palm.function
    def numbers(self, numbers):
        """Yields them up to one that kills."""
        for n in numbers:
            yield [n, self.message.attempt] if n >= 0 else self.die(signal.SIGKILL)

    @palm.function
    def endless(self, n):
        yield from range(n)

    @palm.function
    def onward(self, x):
        yield x
        yield x

    @palm.function
    def fail(self, x):
        raise ValueError(x)


class ByHand:
    """A client that gives its messages whatever name it likes, and knows no repeats."""

    def __init__(self, cluster: palm.Cluster) -> None:
        self.cluster = cluster
        self.node = core.Node(f"ipc://{cluster._directory}/by-hand.{os.getpid()}", "by hand")
        self.handle = 0

    def send(self, value, *steps, number=0, job=JOB):
        """Sends it to the process that is there, and returns what comes: results, an error, or "gone"."""
        return self.outcome(self.post(value, *steps, number=number, job=job), number)

    def post(self, value, *steps, number=0, job=JOB, epoch=0):
        there = running(self.cluster)
        names = {s.partition(".")[0] for s in steps}
        route = Route([Step(s) for s in steps], {n: there[n] for n in names}, 0, {}, {})
        first = there[route.steps[0].server]
        link = self.node.link(first["address"], first["pid"])
        self.handle += 1
        batch = core.Batch()
        batch.put(route.meaning(job, epoch, self.node.endpoint, 0), 0)
        self.node.send(link, core.OPEN, self.handle, 0, batch)
        batch.put(value, number)
        self.node.send(link, core.DATA, self.handle, 0, batch)
        return link

    def has_heard(self):
        """Takes part in the hand-shakes, and gives generators room once."""
        while (event := self.node.next(0.0)) is not None:
            if event.kind == core.MESSAGE and event.says == core.DATA:
                for form, number, path, _, granted in event.outcomes():
                    if form == core.ASK and not granted:
                        self.grant(event, number, path)
        return True

    def outcome(self, link, number):
        results, want = [], 1
        while len(results) < want:
            event = self.node.next(10.0)
            assert event is not None, "nothing came"
            if event.kind == core.GONE and event.link == link:
                return "gone"
            if event.kind != core.MESSAGE or event.says != core.DATA:
                continue
            for form, n, path, value, count in event.outcomes():
                assert n == number
                if form == core.ASK:
                    self.grant(event, n, path)
                    continue
                if form == core.ERROR:
                    return error_of(value, n)
                if form == core.CLOSE:
                    want = count
                else:
                    results.append(value)
            event.done()
        return results

    def grant(self, event, number, path):
        """As many children as it likes."""
        batch = core.Batch()
        batch.release(number, path, [], 1000, False)
        self.node.send(event.link, core.RELEASE, event.handle, 0, batch)

    def dies(self, value, step, **name):
        """Sends what kills the server, and waits for its successor."""
        pid = running(self.cluster)["fragile"]["pid"]
        assert self.send(value, step, **name) == "gone"
        successor(self.cluster, "fragile", of=pid)


def running(cluster):
    return {s["name"]: s for s in cluster.status()["servers"] if s["state"] == "running"}


def counters_of(cluster):
    return running(cluster)["fragile"]["counters"]


def arenas_mapped():
    return Path("/proc/self/maps").read_text().count("/memfd:palm")


def states(cluster):
    return {s["name"]: s["state"] for s in cluster.status()["servers"]}


@pytest.fixture
def by_hand(cluster):
    cluster.start(Fragile)
    made = ByHand(cluster)
    yield made
    made.node.close(0)


def kill(cluster, *names, by=signal.SIGKILL):
    """Returns the pids that are dead now."""
    pids = {n: s["pid"] for n, s in running(cluster).items() if n in names}
    for pid in pids.values():
        os.kill(pid, by)
    return pids


def has_successor(cluster, name, of):
    return running(cluster).get(name, {}).get("pid", of) != of


def successor(cluster, name, *, of):
    eventually(lambda: has_successor(cluster, name, of))


# ------------------------------------------------------------------------------------------ when it starts again


def test_at_once_then_later_then_not_at_all():
    r = Restarts()
    delays = [r.died(progress=False) for _ in range(DEATHS)]
    assert delays[0] == 0.0 and delays[-1] is None
    assert all(0 < a <= b <= LONGEST for a, b in zip(delays[1:-1], delays[2:-1], strict=False))
    assert delays[-2] > delays[1]


def test_progress_begins_anew():
    r = Restarts()
    for _ in range(3):
        for _ in range(DEATHS - 1):
            assert r.died(progress=False) is not None
        assert r.died(progress=True) == 0.0


def test_failures_in_a_row():
    r = Restarts()
    assert [r.failed() is None for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    r = Restarts()
    for _ in range(3 * FAILURES):
        assert r.failed() is not None
        r.ready()


def test_one_message_alone_does_not_make_it_give_up():
    """A function that lets a message kill twenty processes has to come to the twentieth, and before in a batch."""
    r = Restarts(attempts=20)
    assert all(r.died(progress=False) is not None for _ in range(21))
    assert r.died(progress=False) is None


def test_a_server_that_gets_on_is_never_given_up(by_hand):
    """It completes a message in each life."""
    for n in range(DEATHS + 1):
        assert by_hand.send(n, "fragile.same", number=n) == [n]
        pid = kill(by_hand.cluster, "fragile")["fragile"]
        successor(by_hand.cluster, "fragile", of=pid)


def test_a_server_that_does_not_is_given_up(cluster):
    cluster.status()
    cluster._supervisor._children[CACHES].started.result(10)
    mapped = arenas_mapped()
    cluster.start(Fragile)
    for _ in range(DEATHS - 1):
        pid = kill(cluster, "fragile", by=signal.SIGUSR1)["fragile"]
        successor(cluster, "fragile", of=pid)
    kill(cluster, "fragile", by=signal.SIGUSR1)
    eventually(lambda: states(cluster) == {"fragile": "failed"})
    assert arenas_mapped() == mapped, "a page keeps all memory of the dead"
    with pytest.raises(palm.NotFound, match=r"failed \(SIGUSR1\)"):
        cluster.client().call("fragile.same", 1)
    cluster.start(Fragile, replace=True)
    assert cluster.client().call("fragile.same", 1) == 1


def test_a_death_is_counted_once(cluster):
    """What tells of it is seen twice at the same moment, when a process dies as soon as it is ready."""
    cluster.start(Fragile)
    supervisor = cluster._supervisor
    child = supervisor._children["fragile"]
    with supervisor._lock:
        os.kill(child.pid, signal.SIGUSR1)
        eventually(lambda: child.process.poll() is not None)
        supervisor._look_at(child)
        supervisor._look_at(child)
        assert child.restarts._deaths == 1


def test_a_setup_that_raises(cluster, tmp_path, capfd):
    """At first it is the caller's; later it is tried some times, and the reason is told."""
    broken = tmp_path / "broken"
    broken.touch()
    with pytest.raises(palm.PalmError, match="(?s)did not start.*Traceback.*ValueError: no device"):
        cluster.start(Fragile, setup={"broken": str(broken)})
    assert states(cluster) == {}
    broken.unlink()
    cluster.start(Fragile, setup={"broken": str(broken)})
    broken.touch()
    kill(cluster, "fragile")
    eventually(lambda: states(cluster) == {"fragile": "failed"})
    with pytest.raises(palm.NotFound, match="failed .ValueError: no device"):
        cluster.client().call("fragile.same", 1)
    said = capfd.readouterr().err
    assert said.count("ValueError: no device") == FAILURES + 1, "each failure, and that it is given up"


def test_a_setup_that_raises_for_a_while(cluster, tmp_path):
    broken = tmp_path / "broken"
    cluster.start(Fragile, setup={"broken": str(broken)})
    broken.touch()
    pid = kill(cluster, "fragile")["fragile"]
    eventually(lambda: "no device" in cluster._own_client()._directory.ask("lookup", [])["ends"].get("fragile", ""))
    broken.unlink()
    successor(cluster, "fragile", of=pid)


def test_one_killed_while_it_starts_is_started_again(cluster, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    cluster.start(Fragile, setup={"gate": str(gate)})
    gate.unlink()
    Path(f"{gate}.fragile").unlink()
    kill(cluster, "fragile")
    child = cluster._supervisor._children["fragile"]
    for _ in range(2):
        pid = eventually(lambda: Path(f"{gate}.fragile").exists() and child.pid)
        Path(f"{gate}.fragile").unlink()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: child.pid != pid)
    gate.touch()
    eventually(lambda: states(cluster) == {"fragile": "running"})


def test_a_start_that_hangs(cluster, tmp_path):
    """At first it is the caller's; later it is ended, and counts as a failure."""
    gate = tmp_path / "gate"
    with pytest.raises(palm.Timeout, match="not ready within 0.5 s"):
        cluster.start(Fragile, setup={"gate": str(gate)}, timeout=0.5)
    gate.touch()
    cluster.start(Fragile, setup={"gate": str(gate)}, timeout=10)
    cluster._supervisor._children["fragile"].timeout = 0.5
    gate.unlink()
    kill(cluster, "fragile")
    eventually(lambda: states(cluster) == {"fragile": "failed"})
    with pytest.raises(palm.NotFound, match="not ready within 0.5 s"):
        cluster.client().call("fragile.same", 1)


def test_servers_that_die_together_start_together(cluster, tmp_path):
    """None waits for another's setup, nor does the registry."""
    gate, open_gate = tmp_path / "gate", tmp_path / "open"
    gate.touch()
    open_gate.touch()
    for name, path in (("slow", gate), ("slower", gate), ("quick", open_gate)):
        cluster.start(Fragile, name, setup={"gate": str(path)})
    gate.unlink()
    for mark in tmp_path.glob("*.*"):
        mark.unlink()
    registry = cluster.status()["registry"]["pid"]
    dead = kill(cluster, "slow", "slower", "quick")
    os.kill(registry, signal.SIGKILL)
    for name in ("slow", "slower", "quick"):
        eventually(lambda name=name: list(tmp_path.glob(f"*.{name}")))
    eventually(lambda: states_or_none(cluster) == {"slow": "restarting", "slower": "restarting", "quick": "running"})
    gate.touch()
    for name, pid in dead.items():
        successor(cluster, name, of=pid)
    assert cluster.status()["registry"]["pid"] != registry


def states_or_none(cluster):
    try:
        return states(cluster)
    except palm.PalmError:
        return None


def test_stopped_while_it_starts(cluster, tmp_path):
    gate = tmp_path / "gate"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        starting = pool.submit(cluster.start, Fragile, setup={"gate": str(gate)})
        eventually(Path(f"{gate}.fragile").exists)
        cluster.stop("fragile", timeout=0.1)
        with pytest.raises(palm.PalmError, match="stopped before it was ready"):
            starting.result(10)


def test_closed_while_servers_are_dead(tmp_path):
    with palm.Cluster() as cluster:
        cluster.start(Fragile, "one")
        cluster.start(Fragile, "two", setup={"gate": str(tmp_path)})
        kill(cluster, "one", "two")


def test_a_registry_that_does_not_answer(cluster):
    """Deaths are told to it when it does; who has died is started again meanwhile."""
    for name in ("one", "two"):
        cluster.start(Fragile, name)
    registry = cluster.status()["registry"]["pid"]
    dead = {c: c.pid for c in cluster._supervisor._children.values() if c.name in ("one", "two")}
    os.kill(registry, signal.SIGSTOP)
    try:
        for pid in dead.values():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: all(c.pid != pid for c, pid in dead.items()), 5)
    finally:
        os.kill(registry, signal.SIGCONT)
    for child, pid in dead.items():
        successor(cluster, child.name, of=pid)


def test_a_new_registry_is_told_who_was_given_up(cluster, tmp_path):
    broken = tmp_path / "broken"
    cluster.start(Fragile, setup={"broken": str(broken)})
    broken.touch()
    kill(cluster, "fragile")
    eventually(lambda: states(cluster) == {"fragile": "failed"})
    registry = cluster.status()["registry"]["pid"]
    os.kill(registry, signal.SIGKILL)
    eventually(lambda: states_or_none(cluster) == {"fragile": "failed"})
    assert cluster.status()["registry"]["pid"] != registry


def test_a_registry_that_knows_nobody_yet(monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    first, second = Registry(), Registry()
    first.setup("cluster", "address", "log")
    assert first.lookup(["one"])["states"] == {}
    second.setup("cluster", "address", "log", again=True)
    assert second.lookup(["one"])["states"] == {"one": "restarting"}
    second.started(["one"])
    assert second.lookup(["one", "other"])["states"] == {"one": "restarting", "other": "restarting"}
    now += JOINING
    assert second.lookup(["one", "other"])["states"] == {"one": "restarting"}
    assert list(second.wait_again(["other"], 3600)) == []


def test_who_asks_a_registry_that_knows_nobody_yet_waits(cluster, tmp_path):
    """It was started again together with a server, and its supervisor has not yet told it whom it has."""
    gate, told, more = tmp_path / "gate", threading.Event(), threading.Event()
    gate.touch()
    cluster.start(Fragile, setup={"gate": str(gate)})
    mark, tell = Path(f"{gate}.fragile"), cluster._reports._tell
    cluster._reports._tell = lambda *report: told.wait(60) and tell(*report)
    client = cluster.client()
    job = client.job("fragile.same", (more.wait(60) and n if n else n for n in range(2)))
    assert next(job) == 0
    registry = cluster.status()["registry"]["pid"]
    gate.unlink()
    mark.unlink()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            kill(cluster, "fragile")
            eventually(mark.exists)
            rest = pool.submit(list, job)
            os.kill(registry, signal.SIGKILL)
            eventually(lambda: states_or_none(cluster) is not None)
            assert client._directory.ask("lookup", ["fragile"])["states"] == {"fragile": "restarting"}
        finally:
            told.set()
            more.set()
            gate.touch()
        assert rest.result(60) == [1]


def test_a_job_outlives_a_registry_that_is_silent_for_long(cluster):
    """For longer than a question may take."""
    cluster.start(Fragile)
    registry = cluster.status()["registry"]["pid"]
    with palm.Client(cluster.address, timeout=0.2) as client, concurrent.futures.ThreadPoolExecutor() as pool:
        client.call("fragile.same", 1)
        route, raised = client._directory.route, []

        def watched(*values):
            try:
                return route(*values)
            except palm.Timeout as e:
                raised.append(e)
                raise

        client._directory.route = watched
        more = threading.Event()
        job = client.job("fragile.same", (more.wait(60) and n if n else n for n in range(2)))
        assert next(job) == 0
        kill(cluster, "fragile")
        os.kill(registry, signal.SIGSTOP)
        try:
            rest = pool.submit(list, job)
            eventually(lambda: len(raised) > 1 or rest.done())
        finally:
            os.kill(registry, signal.SIGCONT)
            more.set()
        assert rest.result(60) == [1]


def test_there_can_be_no_process(cluster, monkeypatch):
    """The supervisor outlives it, and tries again."""
    cluster.start(Fragile)
    spawn, failed = Child.spawn, []

    def fails_once(self, suspects):
        if not failed:
            failed.append(1)
            raise OSError(11, "no more processes")
        spawn(self, suspects)

    monkeypatch.setattr(Child, "spawn", fails_once)
    pid = kill(cluster, "fragile")["fragile"]
    successor(cluster, "fragile", of=pid)
    assert failed


# ------------------------------------------------------------------------------------------------------- reasons


def test_reasons():
    none = OomKills(Path("/nowhere"))
    assert reason_of(3, none) == "exit code 3"
    assert reason_of(-signal.SIGSEGV, none) == "SIGSEGV"
    assert reason_of(-signal.SIGKILL, none) == "SIGKILL"
    assert reason_of(-63, none) == "signal 63"


def test_out_of_memory(tmp_path):
    """As far as the cgroup tells: one death for each kill that it has counted of late."""
    counter = tmp_path / "memory.events"
    counter.write_text("oom 9\noom_kill 4\n")
    ooms = OomKills(counter)
    assert reason_of(-signal.SIGKILL, ooms) == "SIGKILL"
    counter.write_text("oom 9\noom_kill 6\n")
    ooms.look()
    assert [reason_of(-signal.SIGKILL, ooms) for _ in range(3)] == [OUT_OF_MEMORY, OUT_OF_MEMORY, "SIGKILL"]
    counter.write_text("oom 9\noom_kill 7\n")
    assert reason_of(-signal.SIGSEGV, ooms) == "SIGSEGV"
    ooms.look()
    ooms.look()
    assert reason_of(-signal.SIGKILL, ooms) == "SIGKILL", "somebody else's, long ago"


# ------------------------------------------------------------------------------------------------------ suspects


def test_the_table_of_suspects():
    table = Suspects(most=2)
    names = [(JOB, 0, n, ()) for n in range(3)]
    assert [table.blame("a", names[0], "SIGSEGV"), table.blame("a", names[0], "SIGKILL")] == [1, 2]
    assert table.blame("b", names[0], "SIGKILL") == 1
    assert table.of("a") == [(JOB, 0, 0, (), 2, "SIGKILL", False, None)]
    table.blame("a", names[0], "SIGKILL")
    table.blame("a", names[1], "SIGKILL")
    assert [s.number for s in table.of("a")] == [0, 1] and table.of("b") == [], "blamed longest ago"
    table.forget("a")
    assert table.of("a") == []
    assert table.blame("a", names[0], "SIGSEGV", attempt=3) == 3, "what it has tried without dying counts"
    assert table.blame("a", names[0], "SIGSEGV", attempt=1) == 4
    table.blame("a", names[2], "overran", final=True)
    assert [s.final for s in table.of("a")] == [False, True]


def test_of_several_at_once_none_is_blamed():
    child = Child(Order("nowhere:Nothing", "none", "", ""), {}, 1.0)
    child._page = Slot()
    assert child.suspect() == ((JOB, 0, 5, ()), 2)
    assert child.suspects_together() is None
    child._page.together = 2
    assert child.suspect() is None
    assert child.suspects_together() == ((JOB, 0, 5, ()), (9, (1,)))
    child._page = None
    assert child.suspect() is child.suspects_together() is None, "without an arena nobody can tell"


class Slot:
    together = 1

    def at_work(self):
        return JOB, 0, 5, (), self.together, 2, (9, (1,))


def test_suspects_of_a_step_of_a_job():
    table = Suspects()
    table.blame("a", (JOB, 1, 5, (7,)), "SIGSEGV")
    assert of_job(table.of("a"), JOB, 1) == {(5, (7,)): (1, "SIGSEGV", False)}
    assert of_job(table.of("a"), JOB, 2) == of_job(table.of("a"), bytes(16), 1) == {}


def test_those_that_ran_together_are_suspect_together():
    """Until one of them is found to be the culprit, which is then known beside them."""
    table, first = Suspects(), (JOB, 1, 5, (7,))
    for _ in range(2):
        table.suspect_together("a", first, (9, ()), "SIGSEGV")
    assert together_of(table.of("a"), JOB, 1) == [((5, (7,)), (9, ()))]
    assert together_of(table.of("a"), JOB, 2) == together_of(table.of("b"), JOB, 1) == []
    assert of_job(table.of("a"), JOB, 1) == {}
    assert table.blame("a", first, "SIGSEGV") == 1, "that death was none of it alone"
    assert len(together_of(table.of("a"), JOB, 1)) == 1
    for n in range(MOST_TOGETHER):
        table.suspect_together("a", (JOB, 1, n, ()), (n, (1,)), "SIGSEGV")
    assert len(together_of(table.of("a"), JOB, 1)) == MOST_TOGETHER
    table.forget("a")
    assert table.of("a") == []


def test_a_message_that_kills_is_set_aside(by_hand):
    """After three deaths it is not run again; others are, in between and afterwards, and know nothing of it."""
    for _ in range(3):
        by_hand.dies(SEGV, "fragile.die", number=7)
        assert by_hand.send(0, "fragile.die", number=8)[0][1] == 1
    pid = running(by_hand.cluster)["fragile"]["pid"]
    error = by_hand.send(SEGV, "fragile.die", number=7)
    assert isinstance(error, palm.Crashed)
    assert (error.server, error.function, error.number, error.reason) == ("fragile", "die", 7, "SIGSEGV")
    assert str(error).startswith(
        "3 processes have died while they worked on it, the last one of: SIGSEGV (in fragile.die, input 7)"
    )
    assert by_hand.send(0, "fragile.die", number=9) == [[pid, 1]]
    assert by_hand.send(0, "fragile.die", number=7, job=bytes(16)) == [[pid, 1]], "another job's"


def test_attempts(by_hand):
    """A message that does not kill the second time is told that it is the second time."""
    by_hand.dies(KILL, "fragile.die", number=1)
    assert by_hand.send(0, "fragile.die", number=1)[0][1] == 2
    by_hand.dies(KILL, "fragile.once", number=2)
    error = by_hand.send(0, "fragile.once", number=2)
    assert isinstance(error, palm.Crashed) and "its process has died while it worked on it: SIGKILL" in str(error)


def test_a_function_that_ends_its_process_is_blamed(by_hand):
    for _ in range(3):
        by_hand.dies(3, "fragile.leave", number=1)
    error = by_hand.send(3, "fragile.leave", number=1)
    assert isinstance(error, palm.Crashed) and error.reason == "exit code 3"


def test_a_generator_that_kills(by_hand):
    """At its start or in the middle, it is the message it was made of that is blamed."""
    for numbers in ([1, 2, -1, 3], [-1], [1, -1]):
        by_hand.dies(numbers, "fragile.numbers", number=4)
    error = by_hand.send([1, -1], "fragile.numbers", number=4)
    assert isinstance(error, palm.Crashed) and (error.number, error.reason) == (4, "SIGKILL")
    assert by_hand.send([1, 2], "fragile.numbers", number=5) == [[1, 1], [2, 1]]


def test_path_and_hop_belong_to_the_name(by_hand):
    """One child of a message kills the server of the next step."""
    by_hand.cluster.start(Fragile, "other")
    for epoch in range(2):
        pid = running(by_hand.cluster)["other"]["pid"]
        by_hand.post(KILL, "fragile.onward", "other.die", number=5, epoch=epoch)
        eventually(lambda pid=pid: by_hand.has_heard() and has_successor(by_hand.cluster, "other", pid))
    assert by_hand.cluster._supervisor._suspects.of("other") == [(JOB, 1, 5, (0,), 2, "SIGKILL", False, None)]
    assert by_hand.cluster._supervisor._suspects.of("fragile") == []


def test_nothing_running_nobody_is_blamed(by_hand):
    assert by_hand.send(5, "fragile.same") == [5]
    assert isinstance(by_hand.send(5, "fragile.fail", number=1), palm.RemoteError)
    pid = kill(by_hand.cluster, "fragile")["fragile"]
    successor(by_hand.cluster, "fragile", of=pid)
    assert by_hand.cluster._supervisor._suspects.of("fragile") == []


def test_a_generator_that_waits_is_not_blamed(by_hand):
    """Nobody takes what it makes; between two steps it is as innocent as any."""
    assert by_hand.send(5, "fragile.same") == [5]
    by_hand.post(10**6, "fragile.endless", number=1)
    seen = [0]
    eventually(
        lambda: (
            by_hand.has_heard()
            and (seen.append(counters_of(by_hand.cluster)["completed"]) or seen[-1] == seen[-2] >= 1000)
        )
    )
    assert counters_of(by_hand.cluster)["running_since_ns"] == 0
    pid = kill(by_hand.cluster, "fragile")["fragile"]
    eventually(lambda: by_hand.has_heard() and has_successor(by_hand.cluster, "fragile", pid))
    assert by_hand.cluster._supervisor._suspects.of("fragile") == []


def test_another_server_of_the_name_is_not_suspected(by_hand):
    """What has killed this one need not kill the one that replaces it."""
    for _ in range(3):
        by_hand.dies(KILL, "fragile.die", number=1)
    by_hand.cluster.start(Fragile, replace=True)
    assert by_hand.send(0, "fragile.die", number=1)[0][1] == 1
    pid = kill(by_hand.cluster, "fragile")["fragile"]
    successor(by_hand.cluster, "fragile", of=pid)
    assert by_hand.send(0, "fragile.die", number=1)[0][1] == 1
