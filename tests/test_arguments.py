# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong in a call is said at once, by the caller's side: what was found, and what to do instead."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import palm


class Echo(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def add(self, a, b):
        return a + b

    @palm.function
    def many(self, n):
        yield from (np.full(3, 10.0 * n + i) for i in range(n))

    @palm.function
    def only_odd(self, n):
        return np.full(3, float(n)) if n % 2 else None

    @palm.function
    def write(self, x):
        x += 1

    @palm.function
    def random(self, x):
        return x + self.rng.random()


@pytest.fixture(scope="module")
def client():
    with palm.Cluster("arguments") as cluster:
        cluster.start(Echo)
        yield cluster.client()


@pytest.fixture(scope="module", autouse=True)
def there(client):
    """Before the ledger of each test looks."""
    return client.call("echo.same", 1)


STEPS = [
    (None, TypeError, "not NoneType"),
    (3, TypeError, "not int"),
    (Echo.same, TypeError, r"not the function Echo\.same"),
    ("echo.same:gain=2", ValueError, r'palm\.step\("echo\.same", name=value\)'),
    ("echo.same -> echo.add", ValueError, "a list"),
    ("echo.same,echo.add", ValueError, "a list"),
    ("echo", ValueError, r"server\.function"),
]


@pytest.mark.parametrize(("step", "error", "says"), STEPS)
@pytest.mark.parametrize("use", ["call", "submit", "job"])
def test_what_is_no_step(client, use, step, error, says):
    values = [[1]] if use == "job" else [1]
    with pytest.raises(error, match=says):
        getattr(client, use)(step, *values)


def test_a_pipeline_is_for_jobs(client):
    with pytest.raises(TypeError, match=r"client\.job"):
        client.call(["echo.same", "echo.same"], 1)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"timeout": "5"}, TypeError, "number of seconds"),
        ({"timeout": -1}, ValueError, "from 0 on"),
        ({"timeout": float("nan")}, ValueError, "from 0 on"),
        ({"window": "5"}, TypeError, "whole number"),
        ({"window": 0}, ValueError, "at least 1"),
        ({"window": 2.5}, TypeError, "whole number"),
        ({"seed": -1}, ValueError, "at least 0"),
        ({"seed": 1.5}, TypeError, "whole number"),
        ({"seed": "5"}, TypeError, "whole number"),
        ({"seed": True}, TypeError, "whole number"),
        ({"on_error": "ignore"}, ValueError, "raise"),
    ],
)
def test_options_of_a_job(client, options, error, says):
    with pytest.raises(error, match=says):
        client.job("echo.same", [1], **options)


@pytest.mark.parametrize("timeout", ["5", -1])
@pytest.mark.parametrize("use", ["call", "submit"])
def test_the_timeout_of_a_call(client, use, timeout):
    with pytest.raises((TypeError, ValueError), match="seconds"):
        getattr(client, use)("echo.same", 1, timeout=timeout)


@pytest.mark.parametrize("inputs", [5, np.float64(3), "abc", b"abc", {"a": 1}])
def test_what_is_no_stream_of_inputs(client, inputs):
    with pytest.raises(TypeError, match="inputs are an iterable of messages"):
        client.job("echo.same", inputs)


def test_an_array_of_no_dimension_is_no_stream(client):
    with pytest.raises(TypeError, match=r"not an array of no dimension: one message is \[array\]"):
        client.job("echo.same", np.array(3))


def test_numpy_numbers_are_numbers(client):
    options = {"seed": np.int64(7), "window": np.int32(3), "timeout": np.float32(30)}
    assert list(client.job("echo.random", [1.0], **options)) == list(client.job("echo.random", [1.0], seed=7))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"memory": 1024}, TypeError, '"512MiB"'),
        ({"setup": [1]}, TypeError, "dict"),
        ({"env": "A=1"}, TypeError, "dict"),
        ({"env": {"A": 1}}, TypeError, "{'A': '1'}, not 1"),
        ({"cores": "2"}, TypeError, "cores is a whole number"),
        ({"cores": 0}, ValueError, "at least 1"),
        ({"timeout": "3"}, TypeError, "number of seconds"),
        ({"name": 3}, palm.ConfigError, "letters"),
        ({"name": ""}, palm.ConfigError, "letters"),
    ],
)
def test_options_of_a_server(cluster, options, error, says):
    with pytest.raises(error, match=says):
        cluster.start(Echo, **options)


def test_a_method_without_self():
    with pytest.raises(TypeError, match="has no `self`"):

        class NoSelf(palm.Server):
            @palm.function
            def f(x):
                return x


def test_the_timeout_of_a_function():
    with pytest.raises(TypeError, match="timeout is a number of seconds"):
        palm.function(timeout="3")


class Silent(palm.Server):
    def same(self, x):
        return x


class Hides(Echo):
    def setup(self):
        self.add = 3


@pytest.mark.parametrize("template", [Silent, palm.Server, palm.Butterfly])
def test_a_server_without_a_function(cluster, template):
    with pytest.raises(TypeError, match=f"{template.__name__} exposes no function that could be called: put @palm"):
        cluster.start(template)


def test_an_attribute_that_hides_a_function(cluster):
    with pytest.raises(palm.PalmError, match="setup has set self.add, which hides the function add of Hides"):
        cluster.start(Hides)


def test_what_is_no_plain_method_of_a_reduce_is_left_alone():
    for key in (operator.itemgetter(0), staticmethod(str), classmethod(lambda cls, m: m)):
        type("Sum", (palm.Reduce,), {"key": key})


@pytest.mark.parametrize(("name", "wanted"), [("finish", "self, key, total, count"), ("key", "self, message")])
def test_methods_of_a_reduce(name, wanted):
    with pytest.raises(TypeError, match=rf"Sum.{name}\(self, a, \*, b\) is called as {name}\({wanted}\)"):
        type("Sum", (palm.Reduce,), {"__qualname__": "Sum", name: lambda self, a, *, b: a})


class Sum(palm.Reduce):
    @palm.function
    def add(self, a, b):
        return a + b


def test_map_over_a_reduce(cluster):
    cluster.start(Sum)
    client = cluster.client()
    with pytest.raises(ValueError, match="sum.add makes one of many: use client.job"):
        client.map("sum.add", range(3))
    assert list(client.job("sum.add", range(3))) == [3]


def test_a_static_method():
    with pytest.raises(TypeError, match="staticmethod"):

        class Static(palm.Server):
            @staticmethod
            @palm.function
            def f(x, y):
                return x


@pytest.mark.parametrize(("value", "says"), [([1, 2], "one list: send a tuple of 2"), ((1,), "a tuple of 1")])
def test_several_parameters_take_a_tuple(client, value, says):
    with pytest.raises(palm.RemoteError, match=says):
        client.call("echo.add", value)


@pytest.mark.parametrize(
    ("value", "send"),
    [(bytearray(b"x"), "bytes"), (memoryview(b"x"), "bytes"), (type("T", (tuple,), {})((1,)), "tuple")],
)
def test_almost_a_payload(client, value, send):
    with pytest.raises(palm.PayloadError, match=rf"send {send}\(x\)"):
        client.call("echo.same", value)


def test_who_writes_into_an_argument_is_told_what_to_do(client):
    with pytest.raises(palm.RemoteError, match=r"x = x\.copy\(\)"):
        client.call("echo.write", np.ones(3))


# ---------------------------------------------------------------------------------------------------------------- into


@pytest.mark.parametrize(
    ("inputs", "out", "error", "says"),
    [
        ([1.0], np.zeros((1, 3)), ValueError, r"input 0 has shape \(\), a row of `out` \(3,\)"),
        ([np.ones(1)], np.zeros((1, 3)), ValueError, r"shape \(1,\)"),
        ([np.ones(4)], np.zeros((1, 3)), ValueError, r"input 0 has shape \(4,\)"),
        ([np.ones(3), np.ones(3)], np.zeros((1, 3)), IndexError, "input 1 has no place in an array of 1 rows"),
        ([np.ones(3, complex)], np.zeros((1, 3)), TypeError, "input 0, of dtype complex128, does not cast to float64"),
        ([{"a": 1}], np.zeros(1), TypeError, "input 0, of type dict"),
    ],
)
def test_a_result_that_does_not_fit(client, inputs, out, error, says):
    with pytest.raises(error, match=says):
        client.job("echo.same", inputs, ordered=True).into(out)


def test_two_results_and_one_row(client):
    with pytest.raises(ValueError, match="input 0 has several results"):
        client.job("echo.many", [3, 2], ordered=True).into(np.zeros((2, 3)))


def test_rows_without_a_result_stay(client):
    out = client.job("echo.only_odd", [1, 2, 3]).into(np.full((3, 3), -1.0))
    assert out[:, 0].tolist() == [1.0, -1.0, 3.0]


# --------------------------------------------------------------------------------------------------------------- words


def test_an_error_of_a_job_comes_alone(client):
    with pytest.raises(palm.RemoteError) as caught:
        list(client.job("echo.write", [np.ones(3)]))
    assert caught.value.__context__ is None


def test_what_is_printed_tells_what_it_is(client):
    job = client.job("echo.write", [np.ones(3)], on_error="skip")
    assert list(job) == []
    assert (
        "ValueError" in repr(job.errors) and "echo.write, input 0" in repr(job.errors) and "\n" not in repr(job.errors)
    )
    assert repr(job) == "<palm.Job echo.write: 1 inputs sent, 1 done, ended>"
    assert repr(palm.step("echo.same", gain=2)) == "palm.step('echo.same', gain=2)"
    assert client.address in repr(client)
