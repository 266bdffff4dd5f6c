# SPDX-License-Identifier: BSD-3-Clause
"""Many messages become one for each key, each in it once, whatever dies (DESIGN 3; DELIVERY 4: I4, I5, I10; B3)."""

from __future__ import annotations

import collections
import contextlib
import functools
import operator
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually, first_module
from helpers_reduce import Exact, Join, Meet, Mod, Sum, Unsendable, Words, Work
from model.tree import canonical
from unrest import Unrest

import palm
from palm import capsule
from palm._core import space

N = int(os.environ.get("PALM_REDUCE", "1000"))
ALL = {"sum": Sum, "exact": Exact, "mod": Mod, "words": Words, "join": Join, "meet": Meet}


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        for name, cls in ALL.items():
            cluster.start(cls, name, workers=2)
        cluster.start(Work, workers=2)
        with cluster.client() as client:  # once mapped, memory stays so
            for name in ("sum", "exact", "meet"):
                list(client.job(["work.array", f"{name}.add"], range(64)))
            list(client.job("mod.add", range(1000)))
            list(client.job(["work.words", "words.add"], ["a"] * 64))
            list(client.job(["work.fork", "join.merge"], range(1000)))
        cluster.status()
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


@pytest.fixture
def cluster() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        yield cluster


# ------------------------------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("n", [0, 1, 2, 63, 1000])
@pytest.mark.parametrize("step", ["sum.add", "exact.add"])
def test_one_of_many(client, step, n):
    assert list(client.job(step, range(n))) == [sum(range(n))][: min(n, 1)]


def test_one_of_each_key_in_their_order(client):
    """Which is named by the lowest input that went into it; what `finish` does not want does not go on."""
    expected = [(k, sum(range(k, 100, 10)), 10) for k in range(10) if k != 3]
    assert list(client.job("mod.add", range(100), ordered=True)) == expected
    assert list(client.job("mod.add", reversed(range(100)), ordered=True).items()) == [(9 - e[0], e) for e in expected]


def test_what_is_dropped_before_and_what_fans_out(client):
    assert list(client.job(["work.odd", "sum.add"], range(100))) == [2500]
    assert list(client.job(["work.split", "work.odd", "exact.add"], [10, 0, 20])) == [25 + 100]


def test_in_the_middle_of_a_pipeline_and_twice(client):
    job = client.job(["work.up", "mod.add", "work.where"], range(50), ordered=True)
    found = list(job.items())
    totals = [(k, sum(range(k or 10, 51, 10)), 5) for k in range(10) if k != 3]
    # behind the last input, at the place of its key
    assert [value for _, value in found] == [(50, (50, t[0]), t) for t in totals]
    assert [number for number, _ in found] == [9, 0, 1, 3, 4, 5, 6, 7, 8]
    assert list(client.job(["sum.add", "work.up", "sum.add"], range(10))) == [46]
    [(number, _)] = client.job(["mod.add", "work.first", "sum.add"], range(5, 20)).items()
    assert number == 5  # the lowest of that of the lowest key, which is 10
    assert job.progress.sent == job.progress.done == 50 and not job.progress.failed and not job.progress.dropped


def test_several_jobs_at_the_same_time(servers):
    with servers.client() as a, servers.client() as b:
        jobs = [c.job(["work.up", "sum.add"], range(n)) for c, n in ((a, 300), (b, 400), (a, 500))]
        assert [list(job) for job in jobs] == [[sum(range(1, n + 1))] for n in (300, 400, 500)]


def test_the_tree_is_that_of_names(client):
    [found] = client.job(["work.odd", "work.same", "exact.tree"], range(100))
    names = {str((n,)): str(n) for n in range(1, 100, 2)}
    expected = canonical([(n,) for n in range(1, 100, 2)])
    for name, value in names.items():
        expected = expected.replace(name, value)
    assert found == expected


def test_arrays_are_combined_where_they_lie(cluster):
    cluster.start(Sum, workers=2)
    with palm.arena():
        arrays = [np.full(1 << 15, n, np.float64) for n in range(40)]
    [total] = cluster.client().job("sum.add", arrays)
    assert total.shape == (1 << 15,) and (total == sum(range(40))).all()
    [server] = cluster.status()["servers"]
    assert [p["counters"]["bytes_copied"] for p in (server, *server["workers"])] == [0, 0, 0]


@pytest.mark.parametrize(("step", "n"), [("sum.kept", 200), ("sum.view", 2)])
def test_what_a_function_keeps_is_copied(client, step, n):
    """And not what it writes there next."""
    [total] = client.job(step, [np.full(8, x, np.float64) for x in range(n)])
    assert (total == sum(range(n))).all() and total.shape == (8 if step == "sum.kept" else 4,)


def test_word_count(client):
    lines = ["the cat the dog", "a dog", "", "the end"] * 50
    expected = collections.Counter(word for line in lines for word in line.split())
    assert list(client.job(["work.words", "words.add"], lines)) == sorted(expected.items())


def test_random_numbers_are_those_of_the_combination(servers, client):
    """Whichever worker makes it, and in whichever order."""
    inputs = [np.zeros(3)] * 50
    [first] = client.job("exact.drawn", inputs, seed=5)
    servers.scale("exact", 1)
    [again] = client.job("exact.drawn", inputs, seed=5)
    servers.scale("exact", 2)
    assert first.tobytes() == again.tobytes() and np.unique(first).size == 3


# ---------------------------------------------------------------------------------------------- one of each input


@pytest.mark.parametrize("window", [1, 2, None])
@pytest.mark.parametrize("ordered", [False, True])
def test_branches_meet_again(client, window, ordered):
    job = client.job(["work.fork", "join.merge"], range(100), window=window, ordered=ordered)
    found = list(job.items())
    assert (found if ordered else sorted(found, key=lambda f: f[0])) == [
        (x, {"left": x, "right": -x}) for x in range(100)
    ]


@pytest.mark.parametrize("window", [1, None])
def test_all_children_of_an_input(client, window):
    steps = ["work.split", "work.up", "meet.add", "work.where"]
    found = list(client.job(steps, [5, 0, 300, 1], window=window, ordered=True))
    assert [(number, value) for number, _, value in found] == [(0, 15), (2, 300 * 301 // 2), (3, 1)]
    assert [path for _, path, _ in found] == [(0, 0, 0), (2, 0, 0), (3, 0, 0)]


def test_it_comes_out_before_the_end(client):
    """An input's reduction does not wait for other inputs."""
    gate = threading.Event()

    def inputs() -> Iterator[int]:
        yield 3
        gate.wait(60)
        yield 4

    job = client.job(["work.split", "meet.add"], inputs())
    try:
        assert next(job) == 3
    finally:
        gate.set()
    assert list(job) == [6]


def test_reductions_of_reductions(client):
    """Of each input, of what that becomes, and of all."""
    steps = ["work.split", "meet.add", "work.split", "meet.add", "sum.add"]
    inputs = [3, 5, 4]
    inner = [sum(range(n)) for n in inputs]
    assert list(client.job(steps, inputs)) == [sum(sum(range(n)) for n in inner)]


# ---------------------------------------------------------------------------------------------------- without a cluster


@pytest.mark.parametrize(
    ("steps", "inputs"),
    [
        ("sum.add", range(100)),
        ("sum.add", []),
        (["work.odd", "work.same", "exact.tree"], range(50)),
        ("mod.add", range(100)),
        (["work.up", "mod.add", "work.where"], range(50)),
        (["work.fork", "join.merge"], range(20)),
        (["work.split", "work.up", "meet.add", "work.where"], [5, 0, 30, 1]),
        (["work.split", "meet.add", "work.split", "meet.add", "sum.add", "work.where"], [3, 5, 4]),
        (["work.words", "words.add"], ["a b a", "b c"]),
        ("exact.drawn", [np.zeros(3)] * 20),
        (["work.split", "meet.add", "exact.tree", "work.where"], [3, 5]),
    ],
)
def test_the_same_in_one_thread(client, steps, inputs):
    """Values, order, names and random numbers."""
    objects = {name: cls() for name, cls in (ALL | {"work": Work}).items()}
    objects["mod"].setup()
    found = palm.testing.run(objects, steps, inputs, seed=3)
    expected = list(client.job(steps, inputs, seed=3, ordered=True))
    if steps == "exact.drawn":
        assert [x.tobytes() for x in found] == [x.tobytes() for x in expected]
    else:
        assert found == expected


# ------------------------------------------------------------------------------------------------------- what fails


def test_a_key_fails_alone(client):
    job = client.job("mod.fails", range(100), on_error="skip")
    assert [value[0] for value in job] == [0, 1, 2, 4, 5, 6, 8, 9]
    [error] = job.errors
    assert error.type == "ValueError" and error.server == "mod" and error.function == "fails" and error.number == 7
    assert capsule.read(error.capsule).message.number % 10 == 7, "as `self.message` had it"
    with pytest.raises(palm.RemoteError, match="no sum of") as raised:
        list(client.job("mod.fails", range(100)))
    assert first_module(raised.value.traceback) == "helpers_reduce.py"
    found = list(client.job("mod.fails", range(100), on_error="return", ordered=True))
    assert [type(value) for value in found] == [tuple] * 6 + [palm.RemoteError] + [tuple] * 2


def test_a_key_that_cannot_be_had_is_the_message_s_error(client):
    job = client.job("mod.add", [1, -5, 11], on_error="skip")
    assert list(job) == [(1, 12, 2)]
    [error] = job.errors
    assert error.number == 1 and error.type == "ValueError"
    assert error.capsule is None, "it would be replayed as a message of the function"
    assert first_module(error.traceback) == "helpers_reduce.py"


def test_a_key_or_a_total_that_cannot_be_sent_fails_alone():
    with palm.Cluster() as cluster:
        cluster.start(Unsendable, workers=2)
        job = cluster.client().job("unsendable.add", range(40), on_error="skip")
        assert list(job) == [(0, 180), (2, 200), (3, 207)]
        of_key, of_total = sorted(job.errors, key=lambda e: "Unicode" not in str(e))
        assert of_key.number == 3 and "not Unicode" in str(of_key)
        assert of_total.number == 1 and "set" in str(of_total)


def test_finish_fails_for_its_key_alone(tmp_path):
    with palm.Cluster() as cluster:
        cluster.start(Mod, workers=1, setup={"told": str(tmp_path)})
        job = cluster.client().job("mod.add", range(10), on_error="skip")
        assert [value[0] for value in job] == [0, 1, 2, 5, 6, 7, 8, 9]
        [error] = job.errors
        assert error.type == "KeyError" and error.number == 4


def test_a_combination_that_kills_is_set_aside(tmp_path):
    told = tmp_path / "told"
    with palm.Cluster() as cluster:
        cluster.start(Mod, workers=2, setup={"told": str(told)})
        job = cluster.client().job("mod.kills", range(100), on_error="skip")
        assert [value[0] for value in job] == [0, 1, 2, 4, 5, 6, 8, 9]
        [error] = job.errors
        assert isinstance(error, palm.Crashed) and error.reason == "SIGSEGV" and error.number == 7
    assert told.read_text() == "xx"


def test_a_total_that_kills_the_leader_is_set_aside(tmp_path):
    told = tmp_path / "kills"
    with palm.Cluster() as cluster:
        cluster.start(Mod, workers=1, setup={"told": str(told)})
        job = cluster.client().job("mod.add", range(100), on_error="skip")
        values = [value[0] for value in job]
        assert values == [0, 1, 2, 4, 5][: len(values)]  # those before it that were sent before
        [error] = job.errors
        assert isinstance(error, palm.Crashed) and error.reason == "SIGKILL"
    assert told.read_text() == "xxx"


def test_it_is_for_jobs_alone(client, tmp_path):
    with pytest.raises(palm.PalmError, match="for client.job"):
        client.call("sum.add", 1)
    with pytest.raises(ValueError, match="journal"):
        list(client.job("sum.add", range(3), journal=tmp_path / "j"))


def test_what_is_no_reduce_is_told_when_it_is_made():
    with pytest.raises(TypeError, match="one message of two"):

        class One(palm.Reduce):
            @palm.function
            def add(self, a):
                return a

    with pytest.raises(TypeError, match="one message of two"):

        class Many(palm.Reduce):
            @palm.function
            def add(self, a, b):
                yield a

    with pytest.raises(TypeError, match="a name of the template"):

        class Named(palm.Reduce):
            @palm.function
            def key(self, a, b):
                return a


# -------------------------------------------------------------------------------------------------------- the end


def test_nothing_of_a_job_is_left(cluster):
    """I8: after its end, a cancel, and the end of its client."""
    for cls in (Sum, Exact):
        cluster.start(cls, workers=2)
    cluster.start(Work, workers=1)  # in whose memory all arrays are that are not sums
    client = cluster.client()
    list(client.job(["work.array", "sum.add"], range(200)))
    client.job(["work.array", "exact.add"], range(200)).cancel()
    with cluster.client() as other:
        other.job(["work.array", "sum.add"], range(200))
    eventually(lambda: client.call("work.held") == 0)


def test_inputs_need_not_be_kept(cluster):
    """What a Reduce has absorbed is let go of, long before the end: with a window of 32 there are never many."""
    most = 0

    def inputs() -> Iterator[np.ndarray]:
        nonlocal most
        for n in range(600):
            most = max(most, space.stats()["blocks_held"])
            yield np.full(4096, n, np.float64)

    cluster.start(Sum, workers=2)
    before = space.stats()["blocks_held"]
    [total] = cluster.client().job("sum.add", inputs(), window=32)
    assert total[0] == sum(range(600))
    assert most - before < 200


# --------------------------------------------------------------------------------------------------------- deaths


@contextlib.contextmanager
def collected(job: palm.Job) -> Iterator[list[object]]:
    """What it gives, taken by another thread."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend(job))
    thread.start()
    try:
        yield found
    finally:
        thread.join()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", ["sum.add", "exact.add"])
def test_each_message_is_in_it_once_while_they_die(cluster, step):
    cluster.start(ALL[step.partition(".")[0]], workers=2)
    cluster.start(Work, workers=2)
    with Unrest(cluster, 0.2, "sum", "exact", "work") as unrest:
        [total] = cluster.client().job(["work.up", step], unrest.spread(range(N * 2)))
    assert total == sum(range(1, N * 2 + 1))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["join", "mod"])
def test_each_key_is_whole_while_they_die(cluster, name):
    cluster.start(ALL[name], workers=2)
    cluster.start(Work, workers=2)
    with Unrest(cluster, 0.2, name, "work") as unrest:
        if name == "join":
            job = cluster.client().job(["work.fork", "join.merge"], unrest.spread(range(N)), ordered=True)
            assert list(job) == [{"left": x, "right": -x} for x in range(N)]
        else:
            job = cluster.client().job(["work.same", "mod.slowly", "work.same"], unrest.spread(range(N)))
            assert sorted(job) == [(k, sum(range(k, N, 10)), N // 10) for k in range(10) if k != 3]


@pytest.mark.timeout(600)
def test_the_same_bits_for_any_number_of_workers_and_deaths(cluster):
    """B3, I10 (`PALM_REDUCE=10000` for a release)."""
    arrays = [np.random.default_rng(n).standard_normal(64) for n in range(N)]
    found = []
    cluster.start(Exact, workers=1)
    for workers in (1, 2, 4):
        cluster.scale("exact", workers)
        [total] = cluster.client().job("exact.add", arrays)
        found.append(total.tobytes())
    with Unrest(cluster, 0.2, "exact") as unrest:
        [total] = cluster.client().job("exact.add", unrest.spread(arrays))
        found.append(total.tobytes())
    assert len(set(found)) == 1
    cluster.start(Sum, workers=2)
    [plain] = cluster.client().job("sum.add", arrays)
    assert np.allclose(plain, functools.reduce(operator.add, arrays), rtol=0, atol=1e-9 * N)
    assert np.allclose(plain, np.frombuffer(found[0]), rtol=0, atol=1e-9 * N)


def test_a_leader_that_dies_before_the_end_is_told_what_it_had(cluster):
    """All inputs are done by then: nobody could send them again."""
    cluster.start(Mod, workers=2)
    client = cluster.client()
    gate = threading.Event()

    def inputs() -> Iterator[int]:
        yield from range(100)
        gate.wait(60)

    job = client.job("mod.add", inputs())
    with collected(job) as found:
        try:
            eventually(lambda: job.progress.done == 100)
            os.kill(cluster.status()["servers"][0]["pid"], signal.SIGKILL)
        finally:
            gate.set()
    assert found == [(k, sum(range(k, 100, 10)), 10) for k in range(10) if k != 3]


def test_a_failed_key_stays_so_when_its_leader_dies(cluster):
    cluster.start(Mod, workers=2)
    gate = threading.Event()

    def inputs() -> Iterator[int]:
        yield from range(100)
        gate.wait(60)
        yield 107

    job = cluster.client().job("mod.fails", inputs(), on_error="skip")
    with collected(job) as found:
        try:
            eventually(lambda: job.progress.done == 100)
            os.kill(cluster.status()["servers"][0]["pid"], signal.SIGKILL)
        finally:
            gate.set()
    assert [value[0] for value in found] == [0, 1, 2, 4, 5, 6, 8, 9]
    assert [error.number for error in job.errors] == [7]


class Weighs(palm.Reduce):
    @palm.function
    def add(self, a, b, *, weight):
        return a + b + weight


class Splits(palm.Server):
    def setup(self, died):
        self.died = died

    @palm.function
    def go(self, x):
        for weight in (1, 1000):
            yield palm.to(palm.step("weighs.add", weight=weight), 0)
        if self.message.number == 50 and not os.path.exists(self.died):
            Path(self.died).touch()
            os._exit(7)


def test_reductions_with_other_constants_stay_apart_after_a_loss(cluster, tmp_path):
    """The client opens them anew then, each from its first step on: constants are all that tells them apart."""
    cluster.start(Weighs, workers=2)
    cluster.start(Splits, setup={"died": str(tmp_path / "died")})
    assert sorted(cluster.client().job("splits.go", range(100))) == [99, 99_000]
    assert (tmp_path / "died").exists()
