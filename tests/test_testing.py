# SPDX-License-Identifier: BSD-3-Clause
"""`palm.testing.run` does what a cluster does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from helpers_payload import exactly

import palm


class Numbers(palm.Server):
    def setup(self, offset=0):
        self.offset = offset

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def shift(self, x):
        return x + self.offset

    @palm.function
    def scale(self, x, *, gain=2.0, bias=None):
        return x * gain if bias is None else x * gain + bias

    @palm.function
    def odd(self, x):
        return x if x % 2 else None

    @palm.function
    def upto(self, n):
        for i in range(n):
            yield None if i == 1 else i

    @palm.function
    def three(self):
        yield from (10, 20, 30)

    @palm.function
    def add(self, a, b):
        return a + b

    @palm.function
    def pair(self, x):
        return x, x + 1

    @palm.function
    def boom(self, x):
        if x == 3:
            raise KeyError("three")
        return x

    @palm.function
    def broken(self, n):
        try:
            yield n
            raise ValueError(f"no {n}")
        finally:
            self.count("closed")

    @palm.function
    def endless(self, n):
        try:
            while n:
                yield n
        finally:
            self.cache["closed"] = self.message.path


class Other(palm.Server):
    @palm.function
    def twice(self, x):
        yield x
        yield x

    @palm.function
    def returned(self, x):
        if x % 2:
            return palm.to("numbers.scale", x)
        return x

    @palm.function
    def yielded(self, x):
        yield x
        yield palm.to([palm.step("numbers.scale", gain=10.0), *self.message.rest], x)
        yield palm.to("numbers.upto", 3)
        yield x

    @palm.function
    def again(self, x):
        return palm.to("other.again", x - 1) if x > 0 else "at last"

    @palm.function
    def about(self, x):
        m = self.message
        yield {
            "number": m.number, "path": m.path, "stage": m.stage, "step": m.step, "rest": m.rest,
            "attempt": m.attempt, "seed": m.seed, "deadline": m.deadline, "job": len(m.job),
            "name": self.name, "cancelled": self.cancelled,
        }  # fmt: skip
        yield self.message.path

    @palm.function
    def random(self, x):
        return self.rng.standard_normal(3), self.rng.integers(1 << 40)

    @palm.function
    def randoms(self, x):
        for _ in range(2):
            yield self.rng.standard_normal(2)

    @palm.function
    def counted(self, x):
        return self.cache.add("seen", 1)  # type: ignore[attr-defined]

    @palm.function
    def writeable(self, x):
        return x.flags.writeable

    @palm.function
    def bad(self, x):
        return {"a": [x, object()]}

    @palm.function
    def bad_route(self, x):
        return palm.to("numbers.nothing", x)

    @palm.function
    def bad_value(self, x):
        yield palm.to("numbers.same", [object()])

    @palm.function
    def calls(self, x):
        return self.client.call("numbers.same", x)


ROW = np.arange(4.0)
PIPELINES = {
    "one": ("numbers.same", [1, 2.0, "x", (1, [2], {"a": b""}), np.float32(3)]),
    "setup": ("numbers.shift", [1, 2]),
    "filter": (["numbers.odd", "numbers.same"], range(9)),
    "generator": (["numbers.upto", "numbers.scale"], [3, 0, 2]),
    "nested": (["numbers.upto", "other.twice", "numbers.upto", "other.twice"], [4, 3]),
    "nested, about": (["other.twice", "numbers.upto", "other.about"], [3]),
    "none": (["numbers.three", "numbers.same"], None),
    "nothing": ("numbers.same", []),
    "several": (["numbers.pair", "numbers.add"], [1, 2]),
    "constants": ([palm.step("numbers.scale", gain=3.0), palm.step("numbers.scale", gain=0.5, bias=1)], range(3)),
    "array constants": (palm.step("numbers.scale", gain=ROW, bias=ROW[::-1]), [1, ROW]),
    "to, returned": (["other.returned", "numbers.scale"], range(5)),
    "to, yielded": (["other.yielded", palm.step("numbers.scale", gain=3.0)], [1, 2]),
    "to, constants of the job": (["other.returned", palm.step("numbers.scale", gain=7.0), "other.twice"], [1, 2, 3]),
    "to itself": ("other.again", [2000]),
    "message": (["numbers.same", "other.about", "numbers.same"], [5, 6]),
    "random": (["numbers.same", "other.random"], range(3)),
    "randoms": (["other.twice", "other.randoms", "other.random"], range(2)),
    "cache": ("other.counted", range(3)),
    "read-only": ("other.writeable", [ROW]),
}  # fmt: skip


def local() -> dict[str, palm.Server]:
    numbers = Numbers()
    numbers.setup(offset=100)
    return {"numbers": numbers, "other": Other()}


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Numbers, setup={"offset": 100})
        cluster.start(Other)
        with cluster.client() as client:
            client.call("numbers.same", client.call("other.writeable", ROW))
        yield cluster


@pytest.mark.parametrize("name", PIPELINES)
def test_as_a_cluster(servers, name):
    steps, inputs = PIPELINES[name]
    with servers.client() as client:
        expected = list(client.job(steps, inputs, ordered=True, seed=7))
    if name == "cache":
        assert sorted(expected) == [1, 2, 3]  # in the order in which messages came
    found = palm.testing.run(local(), steps, inputs, seed=7)
    assert found or name == "nothing"
    assert exactly(found, flags=True) == exactly(expected, flags=True)


@pytest.mark.parametrize(
    ("steps", "error", "text"),
    [
        ("number.same", palm.NotFound, "no server 'number'. Did you mean 'numbers'"),
        ("numbers.sane", palm.NotFound, "no function 'sane'. Did you mean 'same'"),
        ("numbers.setup", palm.NotFound, "no function 'setup'"),
        (palm.step("numbers.scale", gian=1), palm.PayloadError, "no constant 'gian'"),
        (palm.step("numbers.scale", gain=[1, {2}]), palm.PayloadError, r"constant 'gain': payload\[1\]: set"),
        ("numbers.add", palm.PayloadError, "2 positional parameters, but the message is one int"),
        (
            "numbers.three",
            palm.PayloadError,
            "0 positional parameters, but the message is one int: call it without a value",
        ),
        (["numbers.same", "other.bad"], palm.PayloadError, r"^other.bad: payload\['a'\]\[1\]: object"),
        ("other.bad_route", palm.NotFound, "no function 'nothing'"),
        ("other.bad_value", palm.PayloadError, r"^other.bad_value, palm.to: payload\[0\]: object"),
        ("numbers", ValueError, "server.function"),
        ("other.calls", RuntimeError, "without a cluster"),
    ],
)
def test_errors(steps, error, text):
    with pytest.raises(error, match=text):
        palm.testing.run(local(), steps, [1])


def test_inputs_are_checked():
    with pytest.raises(palm.PayloadError, match=r"^input 1: payload\['x'\]: set"):
        palm.testing.run(local(), "numbers.same", [0, {"x": {1}}])
    with pytest.raises(palm.PayloadError, match="but the message is empty: give the call 1 value"):
        palm.testing.run(local(), "numbers.same")


def test_exceptions_are_raised_as_they_are_and_close_what_is_open():
    servers = local()
    seen = []

    def inputs():
        try:
            for i in range(10):
                seen.append(i)
                yield i
        finally:
            seen.append("closed")

    with pytest.raises(KeyError, match="three") as found:
        palm.testing.run(servers, ["numbers.same", "numbers.boom"], inputs())
    assert found.traceback[-1].name == "boom"
    assert seen == [0, 1, 2, 3, "closed"]  # read when there is need of them
    with pytest.raises(KeyError) as found:  # holds the frames: nothing is closed by being collected
        palm.testing.run(servers, ["numbers.endless", "numbers.boom"], [0, 3])
    assert servers["numbers"].cache["closed"] == (1,)  # and `message` was still that of the generator
    with pytest.raises(ValueError, match="no 1"):
        palm.testing.run(servers, "numbers.broken", [1])


def test_what_inputs_raise():
    def inputs():
        yield 1
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        palm.testing.run(local(), "numbers.same", inputs())


def test_values_are_copies():
    array = np.ones(3)
    [found] = palm.testing.run(local(), "numbers.same", [array])
    array[0] = 5
    np.testing.assert_array_equal(found, 1)
    assert not found.flags.writeable


def test_objects_are_plain_again():
    servers = local()
    palm.testing.run(servers, "numbers.same", [1])
    assert servers["numbers"].name == "numbers"
    assert servers["numbers"].message.number == 0  # as before, outside of any job
    assert servers["numbers"].same(4) == 4
    servers["other"].cache["seen"] = 41  # is there in the next run
    assert palm.testing.run(servers, "other.counted", [1]) == [42]


def test_wrong_objects():
    with pytest.raises(TypeError, match='objects by name, {"spectrum": spectrum}, not list'):
        palm.testing.run([Other()], "other.twice", [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="object of a template"):
        palm.testing.run({"other": Other}, "other.twice", [1])  # type: ignore[dict-item]
    one = Other()
    with pytest.raises(ValueError, match="two names"):
        palm.testing.run({"a": one, "b": one}, "a.twice", [1])


def test_is_imported_when_it_is_used():
    code = "import sys, palm; assert 'palm.testing' not in sys.modules; palm.testing.run; palm.nothing"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert "AttributeError: module 'palm' has no attribute 'nothing'" in out.stderr
