# SPDX-License-Identifier: BSD-3-Clause
"""Batch functions: which messages go in one call, what becomes of each of them, and what it costs (B5, R8)."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually, first_module
from helpers_arrays import counters

import palm
from palm import pace
from palm._core import node as core
from palm._core.stack import Rows, kind_of, stacked
from palm.faults import At, Plan
from palm.pace import AIM, GAIN, LONGEST, MOST, PATIENCE, Pace
from palm.remote import Route
from palm.step import Step
from palm.testing import chaos

N = 600  # messages: enough for several envelopes, and for k to grow
JOB = bytes(range(16))
LARGE = 1 << 16  # float64: 512 KiB


class Model(palm.Server):
    """`seen` has what each call got."""

    def setup(self):
        pace.AIM = 60.0  # how busy this machine is does not matter
        self.seen = []
        self.weights = np.arange(8.0)

    def note(self, *columns):
        self.seen.append([(c.shape, str(c.dtype), c.flags.writeable, c.base is not None) for c in columns])
        return columns[0]

    @palm.function
    def what_was_seen(self):
        seen, self.seen = self.seen, []
        return seen

    @palm.function
    def same(self, x):
        return x

    @palm.function(batch=True)
    def predict(self, x):
        return self.note(x).mean(axis=2) @ self.weights

    @palm.function(batch=True)
    def echo(self, x):
        return self.note(x)

    @palm.function(batch=5)
    def most_five(self, x):
        return self.note(x)

    @palm.function(batch=True)
    def scaled(self, x, *, gain):
        return self.note(x) * gain

    @palm.function(batch=True)
    def added(self, x, y):
        self.note(x, y)
        return x + y[:, None]

    @palm.function(batch=True)
    def both(self, x, y):
        return x + y, x - y

    @palm.function(batch=True)
    def odd_alone(self, x):
        return [float(v) if v % 2 else None for v in x]

    @palm.function(batch=True)
    def nothing(self, x):
        self.note(x)

    @palm.function(batch=True)
    def one_too_few(self, x):
        self.note(x)
        return x[1:]

    @palm.function(batch=True)
    def unsendable_fives(self, x):
        return [object() if v == 5 else int(v) for v in x]

    @palm.function(batch=True)
    def raises_at_seven(self, x):
        self.note(x)
        if (x == 7).any():
            raise ValueError("seven")
        return x

    @palm.function(batch=True)
    def asks_for_message(self, x):
        return [self.message.number for _ in x]

    @palm.function(batch=True)
    def asks_for_rng(self, x):
        return self.rng.standard_normal(len(x))

    @palm.function(batch=True)
    def elsewhere(self, x):
        return [palm.to("model.echo", v) if v % 2 else v for v in x]

    @palm.function
    def spread(self, n):
        yield from np.arange(n, dtype=float)

    @palm.function(batch=True)
    def doubled(self, x):
        return x * 2

    @palm.function(batch=True)
    def zeros(self, x):
        return np.zeros((len(x), LARGE)), np.ones((len(x), LARGE))

    @palm.function(batch=True)
    def kept(self, x):
        self.result = np.zeros((len(x), LARGE))
        return self.result


class Fragile(palm.Server):
    """Dies of what is negative. `log`: where each call notes what it got."""

    def setup(self, log):
        pace.AIM = 60.0
        self.path = log

    def note(self, x):
        with open(self.path, "a") as log:
            print(os.getpid(), *x, file=log)

    @palm.function(batch=True)
    def die(self, x):
        self.note(x)
        if (x < 0).any():
            ctypes.string_at(0)
        return x

    @palm.function(batch=True, attempts=1)
    def die_once(self, x):
        return self.die(x)

    @palm.function(batch=True, timeout=0.5)
    def overrun(self, x):
        self.note(x)
        if (x < 0).any():
            time.sleep(60)
        return x

    @palm.function(batch=True, retry_on=(OSError,))
    def fail_twice(self, x):
        self.note(x)
        failed = Path(self.path).read_text().splitlines().count(f"{os.getpid()} 7")
        if (x == 7).any() and failed < 3:
            raise OSError("not yet")
        return x

    @palm.function(batch=True)
    def hold(self, x):
        self.note(x)
        while (x < 0).any() and not Path(f"{self.path}.gate").exists():
            time.sleep(0.002)
        return x

    @palm.function(batch=True)
    def until_cancelled(self, x):
        self.note(x)
        seen, given_up = 0, self._host.place.assignment.job.given_up
        while (x < 0).any() and not (is_over := self.cancelled and len(given_up) == seen):
            if len(given_up) > seen:
                seen = len(given_up)
                self.note([seen, "given", "up"])
            time.sleep(0.002)
        if seen and is_over:
            self.note(["over"])
        return x

    @palm.function(batch=True)
    def same(self, x):
        return x


class Parallel(palm.Butterfly):
    def setup(self):
        pace.AIM = 60.0

    @palm.function(batch=True)
    def die(self, x):
        """Of what is negative."""
        if (x < 0).any():
            ctypes.string_at(0)
        return [(float(v), len(x)) for v in x]


@pytest.fixture
def client(cluster):
    cluster.start(Model)
    return cluster.client()


@pytest.fixture
def fragile(cluster, tmp_path):
    log = tmp_path / "log"
    log.touch()
    cluster.start(Fragile, setup={"log": str(log)})
    return cluster.client(), lambda: [line.split() for line in log.read_text().splitlines()]


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "log.gate"


def calls(client):
    """Of the first parameter: (k, shape of a message, dtype, writeable, whether it is a view)."""
    return [(c[0][0][0], c[0][0][1:], *c[0][1:]) for c in client.call("model.what_was_seen")]


# ------------------------------------------------------------------------------------------------- what goes in


def test_row_n_belongs_to_message_n(client):
    images = np.random.default_rng(1).standard_normal((N, 8, 8))
    found = list(client.job("model.predict", images, ordered=True))
    assert all(type(f) is np.float64 for f in found)
    assert np.allclose(found, images.mean(axis=2) @ np.arange(8.0))
    seen = calls(client)
    assert sum(k for k, *_ in seen) == N and max(k for k, *_ in seen) > 1
    assert {shape for _, shape, *_ in seen} == {(8, 8)}


def test_rows_side_by_side_are_a_view(client):
    """In an envelope's body: of 64 bytes each they touch, of 24 there is room between them."""
    before = counters(client, "model")["bytes_copied"]
    for width in (8, 3):
        rows = np.arange(N * width, dtype=float).reshape(N, width)
        assert np.array_equal(list(client.job("model.echo", rows, ordered=True)), rows)
    seen = calls(client)
    assert max(k for k, *_ in seen) > 1
    assert not any(writeable for *_, writeable, _ in seen) and all(is_view for *_, is_view in seen)
    assert counters(client, "model")["bytes_copied"] == before


def test_rows_of_one_block_are_a_view_and_go_on_as_views(client):
    with palm.arena():
        block = np.random.standard_normal((16, LARGE))
    before = counters(client, "model")["bytes_copied"]
    for found, row in zip(client.job(["model.echo", "model.echo"], block, ordered=True), block, strict=True):
        assert np.array_equal(found, row)
    assert all(is_view for *_, is_view in calls(client))
    assert counters(client, "model")["bytes_copied"] == before


def test_what_does_not_lie_side_by_side_is_copied_once(client):
    """In memory of the arena, which goes on without another copy."""
    arrays = []
    with palm.arena():
        for n in range(24):
            arrays.append(np.full(LARGE // 16, n))  # 32 KiB: several in an envelope
            arrays.append(np.full(7, n))  # so that what is sent does not touch
    with_gaps = [a for a in arrays if len(a) != 7]
    before = counters(client, "model")["bytes_copied"]
    total = []
    for _ in range(50):  # until several were in one call
        found = list(client.job("model.echo", iter([*with_gaps, *with_gaps[::-1]]), ordered=True))
        assert [f[0] for f in found] == [*range(24), *range(23, -1, -1)]
        total += calls(client)
        if any(k > 1 and not is_view for k, *_, is_view in total):
            break
    copied = sum(k * shape[0] * 8 for k, shape, *_, is_view in total if not is_view)
    assert copied and counters(client, "model")["bytes_copied"] - before == copied
    assert not any(writeable for *_, writeable, _ in total)


@pytest.mark.parametrize(
    ("inputs", "dtype"),
    [
        (list(range(100)), "int64"),
        ([n / 2 for n in range(100)], "float64"),
        ([complex(n, 1) for n in range(100)], "complex128"),
        ([n % 3 == 0 for n in range(100)], "bool"),
        ([np.float32(n) for n in range(100)], "float32"),
        ([np.datetime64(n, "D") for n in range(100)], "datetime64[D]"),
        ([np.array(n, "i2") for n in range(100)], "int16"),
    ],
)
def test_numbers_become_arrays_of_their_natural_dtype(client, inputs, dtype):
    assert list(client.job("model.echo", inputs, ordered=True)) == inputs
    seen = calls(client)
    assert {s[1:4] for s in seen} == {((), dtype, False)}
    assert sum(s[0] for s in seen) == 100 and max(s[0] for s in seen) > 1


def test_other_shapes_and_dtypes_go_in_separate_calls_in_order(client):
    inputs = [np.full(2 + n // 30 % 2, n, "i4" if n // 60 % 2 else "f8") for n in range(240)]
    found = list(client.job("model.echo", inputs, ordered=True))
    assert all(f.dtype == i.dtype and np.array_equal(f, i) for f, i in zip(found, inputs, strict=True))
    seen = calls(client)
    assert sum(k for k, *_ in seen) == 240 and len(seen) <= 120, "by as many as there are of one kind"
    assert {s[1:3] for s in seen} == {((n,), t) for n in (2, 3) for t in ("int32", "float64")}
    found = list(client.job("model.echo", [1, 1.0, True] * 20, ordered=True))
    assert [type(f) for f in found] == [np.int64, np.float64, np.bool_] * 20


def test_one_parameter_of_several(client):
    pairs = [(np.full(8, n, float), n) for n in range(N)]
    assert [f[0] for f in client.job("model.added", pairs, ordered=True)] == [2 * n for n in range(N)]
    seen = client.call("model.what_was_seen")
    assert sum(c[0][0][0] for c in seen) == N and max(c[0][0][0] for c in seen) > 1
    assert all(x[0] == (y[0][0], 8) and y[1] == "int64" and x[3] for x, y in seen), "a view, of a tuple's array too"


def test_the_largest_k(client):
    list(client.job("model.most_five", range(N)))
    assert max(k for k, *_ in calls(client)) <= 5


def test_constants(client):
    assert list(client.job(palm.step("model.scaled", gain=3), range(50), ordered=True)) == [3 * n for n in range(50)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "a str came"),
        (b"bytes", "a bytes came"),
        ((1, 2), "a tuple came; give it 2 parameters"),
        (1 << 63, "does not fit in an int64"),
        ({"a": 1}, "a dict came"),
    ],
)
def test_what_cannot_be_stacked_fails_alone(client, value, said):
    job = client.job("model.echo", [0, value, 1], on_error="skip", ordered=True)
    assert list(job) == [0, 1]
    [error] = job.errors
    assert error.type == "PayloadError" and said in str(error) and "model.echo(x)" in str(error)
    with pytest.raises(palm.RemoteError, match="has 2 positional parameters"):
        client.call("model.added", 1)


# ---------------------------------------------------------------------------------------------------- what comes out


def test_a_tuple_of_columns_gives_tuples(client):
    pairs = [(np.full(2, n), np.full(2, 1)) for n in range(100)]
    for n, found in enumerate(client.job("model.both", pairs, ordered=True)):
        assert type(found) is tuple and [f.tolist() for f in found] == [[n + 1] * 2, [n - 1] * 2]


def test_lists_have_drops_and_other_routes(client):
    job = client.job("model.odd_alone", range(100))
    assert sorted(job) == list(range(1, 100, 2)) and job.progress.dropped == 50
    assert sorted(client.job("model.elsewhere", range(100))) == list(range(100))
    job = client.job("model.nothing", range(100))
    assert list(job) == [] and job.progress.dropped == 100


def test_a_wrong_number_of_rows_fails_all_of_them(client):
    job = client.job("model.one_too_few", np.zeros((100, 2)), on_error="skip")
    assert list(job) == [] and len(job.errors) == 100
    seen = [k for k, *_ in calls(client)]
    said = {f"model.one_too_few(x) got {k} message{'s' * (k > 1)}" for k in seen}
    assert all(e.type == "PayloadError" and any(s in str(e) for s in said) for e in job.errors)
    k = seen[0]
    assert f"it returned an array of shape ({k - 1}, 2)" in str(min(job.errors, key=lambda e: e.number))
    assert sum(seen) == 100, "nobody is run again for it"


def test_a_row_that_cannot_be_sent_fails_alone(client):
    job = client.job("model.unsendable_fives", range(100), on_error="skip")
    assert sorted(job) == [n for n in range(100) if n != 5]
    assert [(e.number, e.type) for e in job.errors] == [(5, "PayloadError")]


def test_large_rows_are_lent(client):
    before = counters(client, "model")
    for a, b in client.job("model.zeros", range(12)):
        assert not a.any() and b.all()
    after = counters(client, "model")
    assert after["bytes_copied"] == before["bytes_copied"] and after["sent_arena"] - before["sent_arena"] == 24
    list(client.job("model.kept", range(12)))
    assert counters(client, "model")["bytes_copied"] - after["bytes_copied"] == 12 * LARGE * 8, "it may be written to"


def test_between_others(client):
    """Behind a generator, and before a function that is none of this kind."""
    found = client.job(["model.spread", "model.doubled", "model.same"], [50, 0, 70], ordered=True)
    assert list(found) == [2.0 * n for n in (*range(50), *range(70))]


def test_calls(client):
    assert client.call("model.doubled", 4) == 8
    assert client.call("model.both", 4, 1) == (5, 3)
    assert sorted(client.map("model.doubled", range(100))) == list(range(0, 200, 2))


def test_counted_by_message(client):
    def counted():
        [server] = client.status()["servers"]
        return server["counters"]["functions"]["echo"]

    list(client.job("model.echo", range(N)))
    found = eventually(lambda: counted()["calls"] == N and counted())
    assert sum(found["service_time"]["counts"]) == N and max(k for k, *_ in calls(client)) > 1


# ------------------------------------------------------------------------------------------------ without a cluster


def test_without_a_cluster(monkeypatch):
    monkeypatch.setattr(pace, "AIM", AIM)  # what setup changes
    model = Model()
    model.setup()
    images = np.random.default_rng(1).standard_normal((5, 8, 8))
    expected = images.mean(axis=2) @ np.arange(8.0)
    assert np.allclose(model.predict(images), expected)
    assert np.allclose(palm.testing.run({"m": model}, "m.predict", images), expected)
    assert palm.testing.run({"m": model}, "m.both", [(1, 2), (5, 3)]) == [(3, -1), (8, 2)]
    assert palm.testing.run({"m": model}, "m.odd_alone", range(4)) == [1.0, 3.0]
    assert palm.testing.run({"m": model}, "m.nothing", range(4)) == []
    for step in ("m.asks_for_message", "m.asks_for_rng"):
        with pytest.raises(RuntimeError, match="no `message` and no `rng`"):
            palm.testing.run({"m": model}, step, [1])
    with pytest.raises(palm.PayloadError, match="a str came"):
        palm.testing.run({"m": model}, "m.echo", ["a"])
    with pytest.raises(palm.PayloadError, match=r"m\.one_too_few\(x\) got 1 message "):
        palm.testing.run({"m": model}, "m.one_too_few", [1])


def test_there_is_no_one_message(client):
    for step in ("model.asks_for_message", "model.asks_for_rng"):
        with pytest.raises(palm.RemoteError, match="no `message` and no `rng`") as raised:
            client.call(step, 1)
        assert raised.value.type == "RuntimeError"
    assert client.call("model.same", 1) == 1


def test_definitions_are_checked():
    with pytest.raises(TypeError, match="nothing to stack"):

        class Empty(palm.Server):
            @palm.function(batch=True)
            def f(self, *, gain):
                return gain

    with pytest.raises(TypeError, match="batch function that yields"):

        class Yields(palm.Server):
            @palm.function(batch=True)
            def f(self, x):
                yield x

    for wrong in (-1, 2.5, "all", None):
        with pytest.raises(ValueError, match="batch="):
            palm.function(batch=wrong)
    assert Model._exposed["predict"].batch == MOST and Model._exposed["same"].batch == 0


def test_stacks_and_rows():
    messages = [(np.arange(3.0) + n, n) for n in range(4)]
    assert len({kind_of(m, "f") for m in messages}) == 1
    x, n = stacked(messages)
    assert np.array_equal(x, np.arange(3.0) + np.arange(4)[:, None]) and n.tolist() == [0, 1, 2, 3]
    [one] = stacked([(messages[0][0],)])
    assert one.shape == (1, 3) and np.shares_memory(one, messages[0][0]) and not one.flags.writeable
    for result in (np.float64(1), np.array(1.0), [1], (np.zeros(2), np.zeros(3)), (), "ab", {0: 1, 1: 1}):
        with pytest.raises(palm.PayloadError, match="f got 2 messages and has to return as many rows"):
            Rows(result, 2, "f")


# -------------------------------------------------------------------------------------------------------- failures


def test_an_exception_fails_the_culprit_alone(client):
    job = client.job("model.raises_at_seven", [n % 100 for n in range(300)], on_error="skip", ordered=True)
    assert list(job) == [n % 100 for n in range(300) if n % 100 != 7]
    assert sorted(e.number for e in job.errors) == [7, 107, 207]
    assert {(e.type, e.args[0].split(" (")[0]) for e in job.errors} == {("ValueError", "seven")}
    assert {first_module(e.traceback) for e in job.errors} == {"test_batch.py"}
    assert sum(k for k, *_ in calls(client)) > 300, "one was in a batch with others"
    [server] = client.status()["servers"]
    assert server["counters"]["errors"] == 3


def lives(log):
    """What the calls got, by process, in their order."""
    found = {}
    for pid, *values in log():
        found.setdefault(pid, []).append([float(v) for v in values])
    return list(found.values())


def test_a_death_in_a_batch_blames_the_culprit_alone(fragile):
    client, log = fragile
    inputs = [-1.0 if n == 200 else float(n) for n in range(N)]
    job = client.job("fragile.die", inputs, window=512, on_error="skip", ordered=True)
    assert list(job) == [x for x in inputs if x >= 0]
    [error] = job.errors
    assert isinstance(error, palm.Crashed) and (error.number, error.reason) == (200, "SIGSEGV")
    assert str(error).startswith("3 processes have died while they worked on it")
    first, *others = lives(log)
    assert len(first[-1]) > 1 and -1.0 in first[-1], "it was in a batch with others"
    with_others = set(first[-1])
    assert [life[-1] for life in others[:3]] == [[-1.0]] * 3
    assert len(others) == 4
    for life in others:
        assert all(len(call) == 1 for call in life if with_others & set(call)), "one by one"
    assert any(len(call) > 1 for life in others for call in life), "others go in batches"


def test_a_death_at_the_only_attempt(fragile):
    """That in a batch was none."""
    client, log = fragile
    inputs = [-1.0 if n == 200 else float(n) for n in range(N)]
    job = client.job("fragile.die_once", inputs, window=512, on_error="skip")
    assert sorted(job) == [x for x in inputs if x >= 0] and [e.number for e in job.errors] == [200]
    assert len(lives(log)) == 3


def test_workers(cluster):
    """Each may die once in a batch, and `attempts` times of the culprit alone."""
    cluster.start(Parallel, workers=2)
    inputs = [-1.0 if n == 200 else float(n) for n in range(N)]
    job = cluster.client().job("parallel.die", inputs, window=512, on_error="skip", ordered=True)
    found = list(job)
    assert [x for x, _ in found] == [x for x in inputs if x >= 0] and max(k for _, k in found) > 1
    assert [(e.number, e.reason) for e in job.errors] == [(200, "SIGSEGV")]


def test_who_overruns_in_a_batch_fails_alone(fragile):
    client, log = fragile
    inputs = [-1.0 if n == 200 else float(n) for n in range(N)]
    job = client.job("fragile.overrun", inputs, window=512, on_error="skip")
    assert sorted(job) == [x for x in inputs if x >= 0] and [e.number for e in job.errors] == [200]
    assert "its timeout of 0.5 s" in str(job.errors[0])
    assert [life[-1] for life in lives(log)[1:2]] == [[-1.0]]


def test_retry_on(fragile):
    client, log = fragile
    assert sorted(client.job("fragile.fail_twice", range(100), window=512)) == list(range(100))
    alone = [values for _, *values in log() if "7" in values and len(values) == 1]
    assert len(alone) == 3, "a call with others is no attempt"


def test_deaths_that_say_nothing(fragile, cluster):
    client, log = fragile
    with chaos(cluster, seed=3, kill=0.02, delay=0.02) as hits:
        assert sorted(client.job("fragile.die", range(200), window=512)) == list(range(200))
    plan = Plan(3, kill=0.02, stop=0.0, delay=0.02)
    fates = {n: plan.fault("fragile", At(b"", 0, n, ())) for n in range(200)}
    assert {hit.path[0]: hit.what for hit in hits} == {n: fault.what for n, fault in fates.items() if fault}
    assert {hit.what for hit in hits} == {"kill", "delay"}, "each message that is to be hit, whoever it is with"
    [server] = [s for s in cluster.status()["servers"] if s["name"] == "fragile"]
    assert cluster._supervisor._suspects.of("fragile") == [] and server["state"] == "running"


def test_killed_from_outside(fragile, cluster, gate):
    """In the middle of a call of several: all is done, none is blamed."""
    client, log = fragile
    found = []
    inputs = [-1.0 if n == 200 else float(n) for n in range(300)]
    thread = threading.Thread(target=lambda: found.extend(client.job("fragile.hold", inputs, window=512, ordered=True)))
    thread.start()
    eventually(lambda: any("-1.0" in values for _, *values in log()))
    pid, *values = next(line for line in log() if "-1.0" in line)
    os.kill(int(pid), signal.SIGKILL)
    eventually(lambda: any(line[0] != pid for line in log()))
    gate.touch()
    thread.join(30)
    assert found == inputs
    assert len(values) > 1 and not cluster._supervisor._suspects._known
    others = [line[1:] for line in log() if line[0] != pid]
    assert all(len(line) == 1 for line in others if set(line) & set(values)), "one by one"


def test_cancelled_when_nobody_waits_for_any(fragile):
    """The end of a job reaches a batch function that looks."""
    client, log = fragile
    job = client.job("fragile.until_cancelled", [-1.0 if n == 200 else float(n) for n in range(300)], window=512)
    eventually(lambda: any("-1.0" in values for _, *values in log()))
    pid = next(line[0] for line in log() if "-1.0" in line)
    job.cancel()
    assert client.call("fragile.same", 3) == 3
    assert client.call("fragile.until_cancelled", 3) == 3 and log()[-1][0] == pid, "its process was not ended"


def test_one_of_several_that_is_given_up_does_not_end_the_others(fragile, cluster):
    """Calls are messages of one job; here three of them are in one envelope, of which the last two are in one call."""
    _, log = fragile
    [server] = [s for s in cluster.status()["servers"] if s["name"] == "fragile"]
    node = core.Node(f"ipc://{cluster._directory}/by-hand.{os.getpid()}", "by hand")
    try:
        link, batch = node.link(server["address"], server["pid"]), core.Batch()
        route = Route([Step("fragile.until_cancelled")], {"fragile": server}, 0, {}, {})
        batch.put(route.meaning(JOB, 0, node.endpoint, 0), 0)
        node.send(link, core.OPEN, 1, 0, batch)
        for number, value in enumerate([1.0, -1.0, 2.0]):
            batch.put(value, number)
        node.send(link, core.DATA, 1, 0, batch)

        def has_noted(*what):
            while node.next(0.0) is not None:
                pass  # hand-shakes
            return [line[1:] for line in log()][1:] == [list(w) for w in what]

        eventually(lambda: has_noted(["-1.0", "2.0"]))
        for number, noted in ((1, [["1", "given", "up"]]), (2, [["1", "given", "up"], ["2", "given", "up"], ["over"]])):
            batch.job(JOB, number)
            node.send(link, core.CANCEL, 0, 0, batch)
            eventually(functools.partial(has_noted, ["-1.0", "2.0"], *noted))
    finally:
        node.close(0)


def test_a_deadline_that_has_passed(client):
    with pytest.raises(palm.Timeout):
        client.call("model.echo", 1, timeout=1e-9)
    assert client.call("model.echo", 1) == 1


# ------------------------------------------------------------------------------------------------------------- k


def run(p, seconds_of, calls=200, waiting=10**6):
    sizes = []
    for _ in range(calls):
        n = min(p.size, waiting)
        p.tell(n, seconds_of(n))
        sizes.append(n)
    return sizes


def test_quick_messages_go_by_as_many_as_there_may_be():
    sizes = run(Pace(100), lambda n: 5e-6 + 1e-6 * n)
    assert sizes[:8] == [1, 2, 4, 8, 16, 32, 64, 100] and set(sizes[8:]) == {100}


def test_slow_messages_go_alone():
    sizes = run(Pace(), lambda n: 0.02 * n, calls=1000)
    assert sizes[0] == 1 and set(sizes) == {1, 2} and sizes.count(2) <= 1000 / PATIENCE + 1, "a trial now and then"
    assert set(run(Pace(), lambda n: 1.5 * LONGEST * n)) == {1}, "not even that, where it would hold up others"


def test_a_call_takes_what_it_may():
    sizes = run(Pace(), lambda n: 1e-4 * n, calls=1000)
    assert all(n * 1e-4 <= 2 * AIM for n in sizes) and sorted(sizes)[500] * 1e-4 > AIM / 2


def test_a_call_with_a_price_of_its_own_goes_on_growing_as_long_as_it_gains():
    sizes = run(Pace(), lambda n: 0.01 + 1e-4 * n, calls=1000)
    usual = sorted(sizes)[500]
    assert 0.01 + 1e-4 * usual <= GAIN * (0.01 + 1e-4 * usual / 2) and usual >= 64


def test_messages_that_become_slow_go_alone():
    p = Pace()
    run(p, lambda n: 1e-7 * n)
    assert p.size == MOST
    assert run(p, lambda n: 0.05 * n, calls=20, waiting=10)[-1] == 1


def test_a_call_stays_below_its_timeout():
    p = Pace(limit=0.001)
    assert max(run(p, lambda n: 1e-5 * n)) * 1e-5 < 0.001 / 2


def test_the_only_one_is_one():
    assert set(run(Pace(1), lambda n: 1e-6)) == {1}
