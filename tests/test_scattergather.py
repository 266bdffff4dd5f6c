# SPDX-License-Identifier: BSD-3-Clause
"""One message on all workers (DESIGN 3; API program 6): scattered, computed, gathered, whatever becomes of whom.

PALM_PARTS=2000 (messages in a storm of kills) makes it as long as a release needs it; PALM_SEED repeats a run.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually, first_module
from helpers_scattergather import Blur, Odds, Plain, Sums

import palm
from palm import capsule, replay

N = int(os.environ.get("PALM_PARTS", "400"))
SEED = int(os.environ.get("PALM_SEED", "1"))


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        for template in (Sums, Blur, Odds):
            cluster.start(template, workers=2)
        cluster.start(Plain)
        with cluster.client() as client:  # once mapped, its memory stays so while it lives
            steps = [palm.step("blur.add", by=1.0), "plain.total"]
            list(client.job(steps, (np.ones((512, 64)) for _ in range(20))))
            list(client.job(["plain.spread", "sums.double"], [10]))
            list(client.job(palm.step("odds.total", how="fresh", then="lazy"), [(1, 4)] * 4))
        cluster.status()
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


def server(cluster: palm.Cluster, name: str) -> dict:
    return next(s for s in cluster.status()["servers"] if s["name"] == name)


def worker_pids(cluster: palm.Cluster, name: str = "sums") -> list[int]:
    return [w["pid"] for w in server(cluster, name)["workers"] if w["pid"]]


def leader_pid(cluster: palm.Cluster, name: str = "sums") -> int:
    return server(cluster, name)["pid"]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# ------------------------------------------------------------------------------------------------------- values


def test_parts_are_in_the_order_in_which_they_were_scattered(client):
    assert client.call("sums.double", list(range(100))) == list(range(0, 200, 2))


def test_none_stands_in_the_place_of_a_part_that_gave_nothing(client):
    assert client.call("sums.odd", [1, 2, 3]) == [1, None, 3]


def test_without_parts_it_is_gathered_too(client):
    assert client.call("sums.double", []) == []
    assert list(client.job("sums.double", [[], [1], []], ordered=True)) == [[], [2], []]


def test_several_parameters_constants_and_the_message(client):
    parts, message, drawn, path = client.call("odds.part", 1, 2)
    assert parts == [(1, 2), (2, 1)] and message == (1, 2), "what is None is no part"
    assert path == (0,) and 0 <= drawn < 1
    with pytest.raises(palm.PayloadError, match="how"):
        client.job(palm.step("odds.part", nothing=1), [])
    with pytest.raises(palm.PayloadError, match="needs the constant 'by'"):
        client.job("blur.add", [])


def test_what_gather_gives_goes_on(client):
    assert client.call(palm.step("odds.part", then="to"), 1, 2) == 1
    assert client.call(palm.step("odds.part", then="many"), 1, 2) == [2, 2]
    x = np.ones((4, 2))
    assert list(client.job([palm.step("blur.add", by=1.0), "plain.total"], [x, x])) == [16.0, 16.0]
    job = client.job([palm.step("blur.add", by=1.0, drop=True), "plain.total"], [x, x])
    assert list(job) == [] and job.progress.dropped == 2


def test_what_gather_yields_has_room_and_comes_once(client):
    steps = [palm.step("odds.part", how="many", then="many"), "plain.up"]
    assert list(client.job(steps, [(0, 300)] * 3, window=2, ordered=True)) == [2] * 900


@pytest.mark.parametrize("ordered", [False, True])
def test_any_pipeline(client, ordered):
    """Twice in it, behind and before a fan-out, and behind itself."""
    steps = ["plain.spread", "sums.double", "plain.up", "sums.double", "sums.double"]
    found = list(client.job(steps, [3, 0, 20], ordered=ordered))
    expected = [[4 * (2 * i + 1), 4 * (2 * i + 3)] for n in (3, 0, 20) for i in range(n)]
    assert (found if ordered else sorted(found)) == (expected if ordered else sorted(expected))


@pytest.mark.parametrize("window", [1, 3, 64])
def test_no_window_is_too_small(client, window):
    found = list(client.job(["sums.double", "odds.part"], [[1, 2]] * 50, window=window, on_error="skip"))
    assert found == []  # a list is no tuple of two
    steps = ["plain.spread", "sums.double", "plain.up"]
    assert len(list(client.job(steps, [10] * 5, window=window))) == 50


def test_behind_a_branch_that_holds_up_nobody(client):
    """It says what it has begun, else no more would come."""
    job = client.job("plain.aside", [500])
    assert len(list(job)) == 500 - job.progress.dropped > 200


def test_several_jobs_at_once(client):
    jobs = [client.job("sums.double", [[k, i] for i in range(100)], ordered=True) for k in range(4)]
    for k, job in enumerate(jobs):
        assert list(job) == [[2 * k, 2 * i] for i in range(100)]


def test_all_workers_work(client, servers):
    seen = {pid for parts in client.job("sums.who", [[1] * 8] * 100) for pid in parts}
    assert seen == set(worker_pids(servers))


def test_a_batch_function_gets_parts(client):
    assert client.call("sums.stacked", [1.0, 2.0, 3.0]) == [10.0, 20.0, 30.0]


def test_it_is_run_again_after_an_exception_it_names(client, tmp_path):
    assert client.call("sums.fickle", [str(tmp_path / "there")]) == [2]


def test_parts_are_views_of_the_same_memory(client, servers):
    with palm.arena():
        x = np.random.default_rng(0).random((1024, 64))
    x.flags.writeable = False
    [y] = client.job("blur.same", [x])
    assert np.array_equal(x, y)
    counters = [c["counters"] for c in (server(servers, "blur"), *server(servers, "blur")["workers"])]
    assert [c["bytes_copied"] for c in counters] == [0, 0, 0]


def test_what_scatter_makes_is_lent_and_what_it_keeps_is_copied(client, servers):
    before = server(servers, "odds")["counters"]["bytes_copied"]
    assert client.call(palm.step("odds.total", how="fresh", then="lazy"), 1, 4) == 3
    assert server(servers, "odds")["counters"]["bytes_copied"] == before
    assert client.call(palm.step("odds.total", how="kept", then="lazy"), 1, 4) == 3
    assert server(servers, "odds")["counters"]["bytes_copied"] == before + 4 * (1 << 19)


# ---------------------------------------------------------------------------------------------------- identities

STEPS = ["plain.spread", "sums.seen"]


def test_each_part_has_a_name_and_numbers_of_its_own(client):
    seen = [part for parts in client.job(STEPS, [2, 3], ordered=True, seed=7) for part in parts]
    assert [part[1] for part in seen] == [(n, i, k) for n, m in ((0, 2), (1, 3)) for i in range(m) for k in range(2)]
    assert {part[2:5] for part in seen} == {(1, "sums.seen", ())}
    assert len({part[5] for part in seen}) == 10


def test_without_a_cluster_it_is_the_same(client):
    there = list(client.job(STEPS, [2, 3], ordered=True, seed=7))
    assert palm.testing.run({"sums": Sums(), "plain": Plain()}, STEPS, [2, 3], seed=7) == there
    there = list(client.job("odds.part", [(1, 2)], seed=3))
    assert palm.testing.run({"odds": Odds()}, "odds.part", [(1, 2)], seed=3) == there
    for constants in ({"then": "many"}, {"how": "none"}, {"then": "to"}):
        step = palm.step("odds.part", **constants)
        here = palm.testing.run({"odds": Odds(), "plain": Plain()}, step, [(1, 2)], seed=3)
        assert here == list(client.job(step, [(1, 2)], seed=3))
    assert palm.testing.run({"sums": Sums()}, "sums.odd", [[1, 2, 3]]) == [[1, None, 3]]
    with pytest.raises(ValueError, match="not 2"):
        palm.testing.run({"sums": Sums()}, palm.step("sums.fails", at=2), [[1, 2]])
    with pytest.raises(TypeError, match="one value"):
        palm.testing.run({"sums": Sums(), "plain": Plain()}, "sums.elsewhere", [[1]])


def test_hooks_have_a_host(client, servers):
    client.call("odds.part", 1, 2)  # counts
    assert server(servers, "odds")["template"] == "ScatterGather"
    functions = server(servers, "odds")["counters"]["functions"]
    assert functions["scatter"]["calls"] and functions["gather"]["calls"]


# ------------------------------------------------------------------------------------------------------ the class


def test_functions_say_what_they_take(client):
    assert client.functions()["odds.part"] == "(a, b, *, how='list', then='both')"
    assert client.functions()["blur.add"].endswith("tiles: 'int' = 4, by: 'float', drop=False)")


def test_contracts_are_those_of_scatter_and_gather(client):
    with pytest.raises(palm.PayloadError, match="float64"):
        client.job([palm.step("blur.add", by=1.0), palm.step("blur.add", by=1.0), "odds.part"], [])
    with pytest.raises(palm.PayloadError, match="by"):
        client.job(palm.step("blur.add", by="x"), [])
    with pytest.raises(palm.RemoteError, match="float32") as e:
        client.call("blur.same", np.ones((2, 2), np.float32))
    assert e.value.type == "PayloadError"


class Lists(palm.ScatterGather):
    def scatter(self, x):
        return [x, [1]]

    def gather(self, parts):
        return parts

    @palm.function
    def same(self, x: int):
        return x


def test_each_part_is_held_against_the_hints_of_the_function(cluster):
    cluster.start(Lists)
    with pytest.raises(palm.RemoteError, match=r"part 2 of 2: .*message from lists.scatter, `x` is") as e:
        cluster.client().call("lists.same", 1)
    assert (e.value.type, e.value.function) == ("PayloadError", "same")


def test_what_is_wrong_with_a_class_is_said_when_it_is_made():
    with pytest.raises(TypeError, match="one value"):

        class Yields(palm.ScatterGather):
            @palm.function
            def part(self, x):
                yield x

    with pytest.raises(TypeError, match="name of the template"):

        class Exposed(palm.ScatterGather):
            @palm.function
            def scatter(self, x):
                return x

    with pytest.raises(TypeError, match="positional default"):

        class Default(palm.ScatterGather):
            def scatter(self, x, tiles=3):
                return x

    with pytest.raises(TypeError, match="the list of the parts"):

        class Gathers(palm.ScatterGather):
            def gather(self, parts, message, more):
                return parts


class Halves(palm.ScatterGather):
    def gather(self, parts):
        return parts

    @palm.function
    def part(self, x):
        return x


def test_a_class_without_its_hooks_cannot_be_started(cluster):
    with pytest.raises(TypeError, match="no scatter"):
        cluster.start(Halves)
    assert not cluster.status()["servers"]
    with pytest.raises(TypeError, match="no scatter"):
        palm.testing.run({"halves": Halves()}, "halves.part", [1])
    assert Halves().part(1) == 1 and Halves().gather([1]) == [1]


# ------------------------------------------------------------------------------------------------------- errors


def test_a_part_that_fails_fails_its_message(client):
    job = client.job(palm.step("sums.fails", at=2), [[1], [1, 2, 3, 2], [3]], on_error="skip", ordered=True)
    assert list(job) == [[1], [3]]
    [error] = job.errors
    assert str(error).startswith("ValueError: part 2 of 4: not 2") or str(error).startswith("ValueError: part 4 of 4")
    assert (error.server, error.function, error.number, error.type) == ("sums", "fails", 1, "ValueError")
    assert "in fails" in error.traceback
    kept = capsule.read(error.capsule)
    assert (kept.value, kept.function, kept.constants) == (2, "fails", {"at": 2})
    assert replay.run_apart(error.capsule).how == replay.FAILED


def test_what_waits_of_a_message_that_has_failed_is_not_computed(cluster, tmp_path):
    told = tmp_path / "told"
    cluster.start(Sums)
    with pytest.raises(palm.RemoteError, match="part 1 of 101"):
        list(cluster.client().job(palm.step("sums.fails", at=2, told=str(told)), [[2] + [1] * 100], on_error="raise"))
    assert cluster.client().call("sums.double", [1]) == [2] and lines(told) == ["2"]


def test_errors_in_their_place(client):
    found = list(client.job(palm.step("sums.fails", at=2), [[1], [2], [3]], on_error="return", ordered=True))
    assert [found[0], found[2]] == [[1], [3]] and isinstance(found[1], palm.RemoteError)
    with pytest.raises(palm.RemoteError, match="part 1 of 1: not 2"):
        list(client.job(palm.step("sums.fails", at=2), [[1], [2], [3]]))


def test_a_part_is_one_value(client):
    for x in (1, 2):
        with pytest.raises(palm.RemoteError, match="part 2 of 2: sums.elsewhere has to return one value"):
            client.call("sums.elsewhere", [0, x], timeout=30)
    assert client.call("sums.elsewhere", [0, 3]) == [0, 3]


@pytest.mark.parametrize(
    ("constants", "what", "hook"),
    [
        ({"how": "raise"}, "ValueError: no parts", "scatter"),
        ({"how": "no payload"}, "part 2 of its scatter: payload: object cannot be sent", "scatter"),
        ({"how": "no iterable"}, "iterable of parts, not one int", "scatter"),
        ({"then": "raise"}, "ValueError: nothing to gather", "gather"),
    ],
)
def test_hooks_that_fail_fail_the_message(client, constants, what, hook):
    with pytest.raises(palm.RemoteError, match=what) as e:
        client.call(palm.step("odds.part", **constants), 1, 2)
    assert (e.value.server, e.value.function) == ("odds", "part")
    if what.startswith("ValueError"):
        assert first_module(e.value.traceback) == "helpers_scattergather.py"
    kept = capsule.read(e.value.capsule)
    assert kept.function == hook
    assert kept.value == ((1, 2) if hook == "scatter" else ([(1, 2), (2, 1)], (1, 2)))
    if what.startswith("ValueError"):
        assert replay.run_apart(e.value.capsule).how == replay.FAILED


# ---------------------------------------------------------------------------------------------- what nobody wants


@pytest.fixture
def gate(client: palm.Client, tmp_path: Path) -> Iterator[Path]:
    """Whatever becomes of the test, it is there when the client is closed."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


def begun(gate: Path) -> bool:
    return gate.with_name("gate.begun").exists()


def ended(gate: Path) -> bool:
    return gate.with_name("gate.ended").exists()


def test_a_job_that_is_cancelled_ends_at_the_worker(client, gate):
    job = client.job(palm.step("sums.until", gate=str(gate)), [[0, 1, 2]])
    eventually(lambda: begun(gate))
    job.cancel()
    eventually(lambda: ended(gate))


def test_one_input_that_is_given_up_ends_at_the_worker(client, gate):
    """Of a step without constants, whose calls are one job."""
    other = gate.with_name("other")
    try:
        kept, given_up = client.submit("sums.waits", [str(other)]), client.submit("sums.waits", [str(gate)])
        eventually(lambda: begun(gate))
        given_up.cancel()
        eventually(lambda: ended(gate))
        assert client.call("sums.double", [1]) == [2] and not kept.done()
    finally:
        other.touch()
    assert kept.result(10) == [0]


def test_a_deadline_holds_for_parts(client, gate, tmp_path):
    """What waits behind parts that take for ever is not begun."""
    told = tmp_path / "told"
    busy = [client.submit(palm.step("sums.until", gate=str(gate)), [0, 0]) for _ in range(2)]
    eventually(lambda: begun(gate))
    with pytest.raises(palm.Timeout):
        client.call(palm.step("sums.until", gate=str(gate), told=str(told)), [5, 6], timeout=0.3)
    gate.touch()
    assert [b.result(10) for b in busy] == [[0, 0]] * 2
    assert client.call("sums.double", [1]) == [2] and not lines(told)


def test_messages_are_scattered_when_workers_want_parts(cluster, tmp_path):
    """Their parts take room, while the message itself takes a place in line."""
    cluster.start(Sums, workers=2)
    gate = tmp_path / "gate"
    job = cluster.client().job(palm.step("sums.until", gate=str(gate)), [[0, 0, 1]] * 50)
    eventually(lambda: begun(gate) and server(cluster, "sums")["counters"]["messages_in"] >= 50)
    assert server(cluster, "sums")["counters"]["functions"]["scatter"]["calls"] <= 4
    gate.touch()
    assert len(list(job)) == 50


def test_nothing_of_a_job_is_left(client, servers):
    """In the leader and in its workers: after its end, after a cancel, after an error, and after its client is gone."""
    list(client.job("sums.double", [[1, 2, 3]] * 50))
    list(client.job(palm.step("sums.fails", at=2), [[1, 2, 3]] * 50, on_error="skip"))
    left = client.job("sums.double", ([i] for i in range(10**9)), window=16)
    next(left)
    left.cancel()
    with servers.client() as other:
        next(other.job("sums.double", ([i] for i in range(10**9)), window=16))

    def one_job_alone() -> bool:
        held = [tuple(h[:2]) for parts in client.job("sums.held", [[0] * 8]) for h in parts]
        return set(held) == {(1, 1)}

    eventually(one_job_alone)
    eventually(lambda: client.call("sums.left", [0, 1, 2]) == [0, 0, 1])


# ------------------------------------------------------------------------------------------------------- deaths


def test_what_others_have_done_is_not_repeated(cluster, tmp_path):
    """The worker that waits at part 0 is killed: that part alone is computed again."""
    cluster.start(Sums, workers=2)
    gate, told = tmp_path / "gate", tmp_path / "told"
    future = cluster.client().submit(palm.step("sums.until", gate=str(gate), told=str(told)), list(range(20)))
    eventually(lambda: len(lines(told)) == 20)
    [at_work] = [w["pid"] for w in server(cluster, "sums")["workers"] if w["counters"]["running_since_ns"]]
    kill(at_work)
    eventually(lambda: len(lines(told)) == 21)
    gate.touch()
    assert future.result(30) == list(range(20))
    assert collections.Counter(lines(told)) == {str(k): 1 + (k == 0) for k in range(20)}


def test_a_part_that_kills_is_set_aside(cluster, tmp_path):
    told = tmp_path / "told"
    cluster.start(Sums, workers=2)
    step = palm.step("sums.kills", at=17, told=str(told))
    job = cluster.client().job(step, [[10 * i, 10 * i + 7] for i in range(5)], on_error="skip")
    assert sorted(job) == [[10 * i, 10 * i + 7] for i in (0, 2, 3, 4)]
    [error] = job.errors
    assert isinstance(error, palm.Crashed) and (error.reason, error.number) == ("SIGSEGV", 1)
    assert "part 2 of 2" in str(error) and capsule.read(error.capsule).value == 17
    assert lines(told).count("17") == 2


def test_who_overruns_is_ended_and_fails_its_message(cluster):
    cluster.start(Sums, workers=2)
    job = cluster.client().job("sums.long", [[0], [0, 1], [0]], on_error="skip")
    assert list(job) == [[0], [0]]
    [error] = job.errors
    assert isinstance(error, palm.Crashed) and "part 2 of 2: it overran its timeout" in str(error)


def test_a_death_in_a_batch_of_parts_blames_the_culprit_alone(cluster, tmp_path):
    told = tmp_path / "told"
    cluster.start(Sums, workers=2)
    step = palm.step("sums.stacked_kills", at=241.0, told=str(told))
    messages = [[float(8 * i + k) for k in range(8)] for i in range(40)]
    job = cluster.client().job(step, messages, on_error="skip")
    assert sorted(job) == [m for m in messages if 241.0 not in m]
    [error] = job.errors
    assert isinstance(error, palm.Crashed) and error.number == 30 and "part 2 of 8" in str(error)
    deaths = lines(told)
    assert deaths.count("1") == 2 and len(deaths) <= 3, "whoever was with it, is alone at the next worker"


@pytest.mark.parametrize("what", ["_open", "_data"])
def test_what_did_not_arrive_at_a_worker_is_sent_again(cluster, what):
    """Though both ends live."""
    cluster.start(Sums, workers=1)
    client = cluster.client()
    assert client.call("sums.misses", [what]) == [what]
    job = client.job("sums.double", [[1, 2, 3]] * 20, timeout=30)
    assert list(job) == [[2, 4, 6]] * 20


@pytest.mark.parametrize("hook", ["scatter", "gather"])
def test_a_message_whose_hooks_kill_the_leader_is_set_aside(cluster, hook):
    cluster.start(Sums, workers=2)
    client = cluster.client()
    with pytest.raises(palm.Crashed) as e:
        client.call(palm.step("sums.double", dies=hook), [1, 2], timeout=60)
    assert e.value.reason == "SIGSEGV" and "3 processes" in str(e.value)
    assert client.call("sums.double", [1, 2]) == [2, 4]


def test_a_leader_that_is_killed_in_the_middle(cluster, tmp_path):
    cluster.start(Sums, workers=2)
    gate = tmp_path / "gate"
    future = cluster.client().submit(palm.step("sums.until", gate=str(gate)), list(range(20)))
    eventually(lambda: begun(gate))
    kill(leader_pid(cluster))
    eventually(lambda: ended(gate))  # nobody waits for it any more
    gate.touch()
    assert future.result(30) == list(range(20))


def test_a_new_epoch_begins_anew(cluster, tmp_path):
    """The server behind it dies: the client repeats what is not done; what comes late of former parts is nothing."""
    cluster.start(Sums, workers=2)
    cluster.start(Plain)
    gate, found = tmp_path / "gate", []
    steps = ["sums.double", palm.step("plain.gate", path=str(gate)), "sums.double"]
    job = cluster.client().job(steps, [[i] * 4 for i in range(200)], ordered=True)
    takes = threading.Thread(target=lambda: found.extend(job))
    takes.start()
    try:
        killed: set[int] = set()
        while len(killed) < 2:
            plain = eventually(lambda: (s := server(cluster, "plain"))["counters"].get("running_since_ns") and s)
            kill(plain["pid"])
            killed.add(plain["pid"])
    finally:
        gate.touch()
        takes.join()
    assert found == [[4 * i] * 4 for i in range(200)]


def test_setup_and_teardown_in_each_process(cluster, tmp_path):
    told = tmp_path / "told"
    cluster.start(Sums, workers=3, setup={"told": str(told)})
    assert lines(told) == ["setup"] * 4
    cluster.stop("sums")
    assert collections.Counter(lines(told)) == {"setup": 4, "teardown": 4}


def test_to_stop_it_does_what_it_has(cluster, tmp_path):
    cluster.start(Sums, workers=2)
    gate = tmp_path / "gate"
    client = cluster.client()
    futures = [client.submit(palm.step("sums.until", gate=str(gate)), [0, i]) for i in range(20)]
    eventually(lambda: begun(gate))
    stop = threading.Thread(target=cluster.stop, args=("sums",))
    stop.start()
    gate.touch()
    assert [f.result(30) for f in futures] == [[0, i] for i in range(20)]
    stop.join()


def test_scale(cluster):
    cluster.start(Sums)
    client = cluster.client()
    for n in (3, 1):
        cluster.scale("sums", n)
        client.wait_for("sums", workers=n)
        assert len({pid for parts in client.job("sums.who", [[1] * 8] * 200) for pid in parts}) == n


@contextmanager
def unrest(act: Callable[[], object]) -> Iterator[list[object]]:
    """Somebody is killed five times a second."""
    over, done = threading.Event(), []

    def run() -> None:
        while not over.wait(0.2):  # the moment is the input of these tests, not a synchronisation
            done.append(act())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def spread(n: int, done: list[object]) -> Iterator[list[int]]:
    """n messages of four parts; some are killed before the last of them."""
    for k in range(4):
        yield from ([x] * 4 for x in range(k * n // 4, (k + 1) * n // 4))
        eventually(lambda k=k: len(done) > 2 * k, 60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["workers", "leader too"])
def test_each_result_exactly_once_while_they_die(cluster, who):
    cluster.start(Sums, workers=3)
    cluster.start(Plain)
    chance = random.Random(SEED)

    def act() -> None:
        there = worker_pids(cluster) + ([leader_pid(cluster)] if who == "leader too" else [])
        there = [pid for pid in there if pid]
        if there:
            kill(chance.choice(there))

    with unrest(act) as done:
        job = cluster.client().job(["sums.double", "plain.up", "sums.double"], spread(N, done), ordered=True)
        found = list(job)
    assert not job.errors and found == [[2 * (2 * x + 1)] * 4 for x in range(N)]


# ------------------------------------------------------------------------------------------------------ as in the API

PROGRAM = """
import numpy as np, palm
from scipy.ndimage import gaussian_filter

class Blur(palm.ScatterGather):
    def scatter(self, image, *, tiles=8): yield from np.array_split(image, tiles)
    @palm.function
    def blur(self, tile, *, sigma): return gaussian_filter(tile, (0, sigma))
    def gather(self, parts): return np.concatenate(parts)

if __name__ == "__main__":
    with palm.Cluster() as cluster:
        cluster.start(Blur, workers=2)
        client, image = cluster.client(), np.arange(64.0).reshape(8, 8)
        smooth = client.call(palm.step("blur.blur", sigma=2.0, tiles=4), image, timeout=5.0)
        print(np.array_equal(smooth, gaussian_filter(image, (0, 2.0))))
"""


def test_the_program_of_the_api(tmp_path):
    pytest.importorskip("scipy")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    said = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "True\n"


class Model(palm.Butterfly):
    @palm.function(batch=True)
    def predict(self, x):
        return x.mean(axis=2) @ self.cache["weights"]


def test_the_other_one_without_a_cluster():
    model = Model()
    model.cache["weights"] = np.arange(8.0)
    steps = [palm.step("blur.add", by=0.0, tiles=2), "model.predict"]
    assert np.allclose(palm.testing.run({"blur": Blur(), "model": model}, steps, np.ones((3, 8, 8))), 28)
