# SPDX-License-Identifier: BSD-3-Clause
"""Type hints are contracts: held against each other when a job is made, and against each message."""

from __future__ import annotations

import typing
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

import palm
from palm import contracts, shapes
from palm.contracts import Array, Contract, Nothing, Scalar, Tuple
from palm.fitting import Fitting
from palm.hints import contract_of
from palm.step import To

if TYPE_CHECKING:
    from nowhere import Thing

F4, F8, I8, I2 = np.float32, np.float64, np.int64, np.int16
Real = TypeVar("Real", bound=np.floating)
Either = TypeVar("Either", np.float32, np.int16)
Frame = NewType("Frame", NDArray[F4])


class Steps(palm.Server):
    @palm.function
    def plain(self, x):
        return x

    @palm.function
    def odd(self, x: Thing, y: dict[str, Any]) -> Thing:
        return x, y

    @palm.function
    def later(self, x: Later):
        return x.sum()

    @palm.function
    def single(self, x: NDArray[F4]) -> NDArray[F4]:
        return x

    @palm.function
    def double(self, x: np.ndarray) -> NDArray[F8]:
        return np.asarray(x, F8)

    @palm.function
    def row(self, x: Annotated[NDArray[np.floating], "rows 4"]) -> Annotated[NDArray[F8], "rows 4"]:
        return np.asarray(x, F8)

    @palm.function
    def thin(self, x: np.ndarray[tuple[int, Literal[3]], np.dtype[F8]]):
        return x

    @palm.function
    def both(self, x: tuple[np.ndarray, int]):
        return x

    @palm.function
    def square(self, x: Annotated[NDArray[Any], "n n"]) -> NDArray[np.floating]:
        return x + 0.0

    @palm.function
    def dot(self, a: Annotated[NDArray[F8], "... n"], b: Annotated[NDArray[F8], "n"]) -> tuple[NDArray[F8], int]:
        return a @ b, 1

    @palm.function
    def pairs(self, x) -> Iterator[tuple[NDArray[F8], NDArray[F8]]]:
        yield x, x[-1]

    @palm.function
    def elsewhere(self, x: np.ndarray):
        return palm.to("s.single", x)

    @palm.function
    def calibrate(
        self, x: Annotated[NDArray[Any], "h w"], *, dark: Annotated[NDArray[np.floating], "h w"], gain: float = 1.0
    ) -> NDArray[np.floating] | To:
        return (x - dark) * gain

    @palm.function
    def size_of(self, x: NDArray[Any]) -> int:
        return x.size

    @palm.function
    def half(self, n: float) -> float | None:
        return n / 2 if n else None

    @palm.function
    def maybe(self, x: NDArray[F4] | NDArray[F8], y: Annotated[NDArray[I8], "3"] | str | None) -> str:
        return type(y).__name__


class Many(palm.Butterfly):
    @palm.function
    def single(self, x: NDArray[F4]) -> NDArray[F4]:
        return x


Later = NDArray[F8]  # known when the class is used, not when it is made


def run(steps, *inputs):
    return palm.testing.run({"s": Steps()}, steps, inputs)


def hint(of: Any) -> Any:
    def f(self, x): ...

    f.__annotations__ = {"x": of}
    return contract_of(f).takes["x"]


# ------------------------------------------------------------------------------------------------- what hints say


@pytest.mark.parametrize(
    "written, meant",
    [
        (np.ndarray, (Array(),)),
        (NDArray[Any], (Array(),)),
        (NDArray[np.generic], (Array(),)),
        (NDArray[F4], (Array(("float32",)),)),
        ("NDArray[F4]", (Array(("float32",)),)),
        (NDArray[np.longlong], (Array(("int64",)),)),
        (NDArray[np.floating[Any]], (Array(("floating",)),)),
        (NDArray[F4 | F8], (Array(("float32", "float64")),)),
        (NDArray[F4] | NDArray[F8], (Array(("float32", "float64")),)),
        (NDArray[F4] | NDArray[Any], (Array(),)),
        (NDArray[F4] | None, (Array(("float32",)), Nothing())),
        (typing.Optional[NDArray[F4]], (Array(("float32",)), Nothing())),  # noqa: UP045
        (NDArray[Real], (Array(("floating",)),)),
        (NDArray[Either], (Array(("float32", "int16")),)),
        (Frame, (Array(("float32",)),)),
        (np.ndarray[tuple[int, Literal[3]], np.dtype[F8]], (Array(("float64",), "_ 3"),)),
        (np.ndarray[tuple[int, ...], np.dtypes.Float64DType], (Array(("float64",)),)),
        (Annotated[NDArray[F4], "rows 512"], (Array(("float32",), "rows 512"),)),
        (Annotated["NDArray[F4]", 7, "rows 512"], (Array(("float32",), "rows 512"),)),
        (Annotated[NDArray[F4] | None, "n"], (Array(("float32",), "n"), Nothing())),
        (Annotated[float, "seconds, from the first frame on"], (Scalar("float"),)),
        (F4, (Scalar("float32", True),)),
        (np.integer[Any], (Scalar("integer", True),)),
        (bool | str, (Scalar("bool"), Scalar("str"))),
        (tuple[NDArray[F4], Any], (Tuple(((Array(("float32",)),), ())),)),
        (tuple[()], (Tuple(()),)),
    ],
)
def test_what_a_hint_says(written, meant):
    assert hint(written) == meant


@pytest.mark.parametrize(
    "written",
    [Any, list[NDArray[F4]], dict, "Thing", "1 / 0", tuple[NDArray[F4], ...], tuple, object, NDArray[F4] | list],
)
def test_what_says_nothing(written):
    assert hint(written) == ()


def test_what_functions_give():
    def gives(of, yields=False):
        def f(self): ...

        def g(self):
            yield

        method = g if yields else f
        method.__annotations__ = {"return": of}
        return contract_of(method).gives

    array = (Array(("float32",)),)
    assert gives(Iterator[NDArray[F4]], True) == gives(Generator[NDArray[F4], None, None]) == array
    assert gives(Iterable[NDArray[F4]], True) == array
    assert gives(Iterable[NDArray[F4]]) == gives(NDArray[F4], True) == gives(To) == ()
    assert gives(None) == (Nothing(),)


def test_contracts_travel_as_payloads_and_what_is_strange_says_nothing():
    all_of_them = [signature.contract for signature in Steps._exposed.values()]
    assert [contracts.read(c.plain()) for c in all_of_them] == all_of_them
    for strange in (None, 3, {"takes": 3}, {"gives": 3}, {"gives": [3]}, {"gives": [["array", ["float31"], None]]}):
        assert contracts.read(strange) == Contract()
    for strange in (["array", [], "$"], ["array", [[]], None], ["tuple"], ["python", "list"], ["array"], [], ["x"]):
        assert contracts.read({"gives": [strange]}) == Contract()


def test_signatures_in_errors_are_as_they_are_written():
    def f(self, x: np.ndarray) -> None: ...

    f.__annotations__ = {"x": Annotated[NDArray[F4], "rows 512"]}
    cls = type("Written", (palm.Server,), {"f": palm.function(f)})
    with pytest.raises(palm.PayloadError, match=r"^w\.f\(x: Annotated\[NDArray\[numpy\.float32\], 'rows 512'\]\): in "):
        palm.testing.run({"w": cls()}, "w.f", [1])


def test_names_that_come_later_in_the_module_count():
    assert Steps._exposed["later"].contract.takes == {"x": (Array(("float64",)),)}


@pytest.mark.parametrize("text", ["rows 512x", "a-1", "... *b", "n=m", "#n", "x=", "the image, in counts", "-1"])
def test_a_text_that_is_no_shape_is_said_when_the_class_is_made(text):
    def f(self, x): ...

    f.__annotations__ = {"x": Annotated[NDArray[F4], text]}
    with pytest.raises(TypeError, match=r"^Wrong\.f: .* a shape is dimensions"):
        type("Wrong", (palm.Server,), {"f": palm.function(f), "__qualname__": "Wrong"})


# --------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    "one, other, fits",
    [
        ("3 4", "3 4", True),
        ("3 4", "3 5", False),
        ("3", "3 4", False),
        ("", "", True),
        ("", "n", False),
        ("n 4", "3 m", True),
        ("n n", "3 4", False),
        ("3 4", "n n", False),
        ("a b", "n n", True),
        ("a a b", "3 n n", True),
        ("a a 4", "3 n n", False),
        ("a 3 a", "x x 4", False),
        ("_ _", "3 4", True),
        ("rows=3 4", "cols=4 4", False),
        ("...", "", True),
        ("... 3", "3", True),
        ("... 3", "a b 4", False),
        ("a b c", "... 3 _", True),
        ("4 ...", "... 3", True),
        ("4 ...", "3 ...", False),
        ("4 5 ...", "a", False),
        ("*b 3", "2 _", True),
        ("*b 3", "*c 4", False),
    ],
)
def test_shapes_that_can_meet(one, other, fits):
    assert shapes.can_meet([(shapes.parse(one), shapes.parse(other))]) is fits
    assert shapes.can_meet([(shapes.parse(other), shapes.parse(one))]) is fits


@pytest.mark.parametrize(
    "text, shape, fits",
    [
        ("rows 4", (2, 4), True),
        ("rows 4", (2, 5), False),
        ("rows 4", (4,), False),
        ("", (), True),
        ("", (1,), False),
        ("n n", (2, 2), True),
        ("n n", (2, 3), False),
        ("_ _", (2, 3), True),
        ("_a _a", (2, 3), True),
        ("n=3", (3,), True),
        ("n=3", (4,), False),
        ("... 3", (3,), True),
        ("... 3", (1, 2, 3), True),
        ("... 3", (1, 2, 4), False),
        ("... 3", (), False),
        ("n ... n", (2, 7, 2), True),
        ("n ... n", (2, 7, 3), False),
        ("n ... n", (2,), False),
        ("3 *b", (3, 1, 1), True),
        ("3 *b", (4, 1), False),
    ],
)
def test_shapes_of_messages(text, shape, fits):
    call = Fitting("one.f(x)", Contract({"x": (Array((), text),)}), {}).around(np.ndim)
    if fits:
        assert call(np.empty(shape)) == len(shape)
    else:
        with pytest.raises(palm.PayloadError, match=r"one\.f\(x\): .* of shape \(.*reshape it"):
            call(np.empty(shape))


# ------------------------------------------------------------------------------------------------- from step to step


@pytest.mark.parametrize(
    "steps, says",
    [
        (["s.double", "s.single"], r"s\.double\(x: .*\) gives array of float64, .*s\.single\(x: .*\), takes array of "
         r"float32, .*float64 is not float32\. In s\.double, convert it, as with x\.astype\(np\.float32\)"),
        (["s.plain", "s.double", "s.single"], "float64 is not float32"),
        (["s.row", "s.maybe"], "is not .*return a tuple of 2"),
        (["s.row", "s.thin"], r'no array "rows 4" is "_ 3"\. In s\.row, reshape it'),
        (["s.size_of", "s.row"], r"int is not array of floating .*return np\.asarray"),
        (["s.half", "s.single"], "float is not array of float32"),
        (["s.pairs", "s.square"], r"\(array of float64, array of float64\) is not array .*return an array"),
        (["s.dot", "s.dot"], "of item 1, int is not array"),
        (["s.maybe", "s.half"], r"str is not float.*return float\(x\)"),
    ],
)  # fmt: skip
def test_a_step_that_cannot_take_what_the_one_before_gives(steps, says):
    with pytest.raises(palm.PayloadError, match=f"(?s){says}"):
        run(steps)


@pytest.mark.parametrize(
    "steps",
    [
        ["s.double", "s.row"],
        ["s.square", "s.single"],  # a floating may be a float32
        ["s.row", "s.square"],
        ["s.pairs", "s.dot"],
        ["s.double", "s.plain", "s.single"],
        ["s.calibrate", "s.maybe"],  # it may go elsewhere
        ["s.half", "s.half"],
        ["s.size_of", "s.half"],
    ],
)
def test_steps_that_may_fit(steps):
    constants = {"dark": np.zeros((2, 2))}
    assert run([palm.step(s, **constants) if s == "s.calibrate" else s for s in steps]) == []


def test_sizes_have_to_agree_over_several_parameters():
    def misfit(given, taken):
        both = (tuple(Array((), shape) for shape in side) for side in (given, taken))
        return contracts.misfit(*((Tuple(tuple((one,) for one in side)),) for side in both))

    assert misfit(["3", "4"], ["n", "n"]) and misfit(["a", "a"], ["3", "4"])
    assert not misfit(["3", "3"], ["n", "n"]) and not misfit(["a", "b"], ["n", "n"])


def test_one_of_several_that_cannot_be_taken_is_one_too_many():
    one, two, both = Array(("float32",)), Scalar("str"), (Array(("float32",)), Scalar("str"))
    assert contracts.misfit(both, (one,)) and not contracts.misfit((one,), both) and not contracts.misfit(both, both)
    assert contracts.misfit((Array(("int16",)),), both).what == "array of int16 is none of these" and two in both


@pytest.mark.parametrize(
    "given, taken, fits",
    [
        ("float", "float", True),
        ("int", "float", True),
        ("float", "int", False),
        ("bool", "int", True),
        ("str", "bytes", False),
        ("float", "np.float64", True),
        ("float", "np.float32", False),
        ("np.float32", "float", True),
        ("np.integer", "np.int16", True),
        ("np.int16", "np.floating", False),
    ],
)
def test_scalars_from_step_to_step(given, taken, fits):
    one, other = (Scalar(name.removeprefix("np."), name.startswith("np.")) for name in (given, taken))
    assert (contracts.misfit((one,), (other,)) is None) is fits


# --------------------------------------------------------------------------------------------- messages and constants


@pytest.mark.parametrize(
    "function, value, says",
    [
        ("single", np.zeros(3), r"inputs, `x` is an array of float64 of shape \(3,\), not array of float32: convert"),
        ("single", 1.5, r"`x` is of type float, not array of float32: send np\.asarray\(x\)"),
        ("row", np.zeros((2, 5)), r'`x` is .* of shape \(2, 5\), not array of floating "rows 4": reshape it'),
        ("row", np.zeros((2, 4), int), "int64 .* not array of floating"),
        ("square", np.zeros((2, 3)), '"n n"'),
        ("dot", (np.zeros((2, 3)), np.zeros(4)), r'`b` is .* shape \(4,\), not array of float64 "n" \(here n is 3\)'),
        ("half", "two", r"`n` is of type str, not float: send that"),
        ("half", np.zeros(()), "not float"),
        ("later", np.zeros(2, F4), "not array of float64"),
        ("maybe", (np.zeros(2), np.zeros(2, int)), r'`y` is .* of shape \(2,\), not array of int64 "3" or str or'),
        ("both", (np.zeros(2), 1, 2), r"`x` is a tuple of 3, not \(array, int\)"),
        ("both", (np.zeros(2), "1"), r"`x` is a tuple of 2, not \(array, int\)"),
        ("maybe", (np.zeros(2, int), ""), "not array of float32 or float64"),
    ],
)  # fmt: skip
def test_a_message_that_does_not_fit(function, value, says):
    with pytest.raises(palm.PayloadError, match=says):
        run(f"s.{function}", value)


def test_messages_that_fit():
    assert run("s.row", np.zeros((2, 4), ">f4"))[0].dtype == F8
    assert run("s.half", 3, np.float32(3), np.int16(3), True) == [1.5, 1.5, 1.5, 0.5]
    assert run("s.maybe", (np.zeros(2), None), (np.zeros(2, F4), "")) == ["NoneType", "str"]
    assert run("s.maybe", (np.zeros(2), np.zeros(3, int))) == ["ndarray"]
    [(total, one)] = run("s.dot", (np.ones((5, 2, 3)), np.ones(3)))
    assert total.shape == (5, 2) and one == 1
    assert run("s.odd", (1, 2)) == [(1, 2)]


def test_the_step_before_is_named():
    with pytest.raises(
        palm.PayloadError, match=r"s\.single\(x: .*\): in a message from s\.plain, `x` is an array of float64"
    ):
        run(["s.plain", "s.single"], np.zeros(2))


def test_constants_fit_and_bind_sizes():
    calibrate = palm.step("s.calibrate", dark=np.ones((2, 3)))
    assert run(calibrate, np.ones((2, 3)))[0].sum() == 0
    with pytest.raises(palm.PayloadError, match=r"`x` is .* of shape \(2, 2\), .*\(here h is 2, w is 3\)"):
        run(calibrate, np.ones((2, 2)))
    with pytest.raises(palm.PayloadError, match=r"the constant `dark` is of type int, not array of floating"):
        run(palm.step("s.calibrate", dark=1))
    with pytest.raises(palm.PayloadError, match=r"the constant `gain` is of type str, not float"):
        run(palm.step("s.calibrate", dark=np.ones((2, 3)), gain="2"))


def test_a_test_that_fails_binds_nothing():
    contract = Contract({"a": (Array((), "n n"), Array((), "m n")), "b": (Array((), "n 3"),)})
    fitting = Fitting("f", contract, {})
    fitting.check((np.zeros((3, 2)), np.zeros((2, 3))))
    fitting.check((np.zeros((2, 2)), np.zeros((2, 3))))
    with pytest.raises(palm.PayloadError, match=r"\(here n is 2\)"):
        fitting.check((np.zeros((3, 2)), np.zeros((3, 3))))


def test_what_is_bound_is_what_others_have_bound():
    contract = Contract({"a": (Array((), "n"),), "b": (Array((), "m n"),), "c": (Array((), "m"),)})
    with pytest.raises(palm.PayloadError, match=r"`b` is an array of float64 of shape \(4, 7\), .* \(here n is 3\)"):
        Fitting("f", contract, {}).check((np.zeros(3), np.zeros((4, 7)), np.zeros(4)))


def test_sizes_are_bound_anew_for_each_message():
    for takes in ({"a": (Array((), "n"),), "b": (Array((), "n"),)}, {"a": (Array((), "n n"), Array((), "n 2 n"))}):
        call = Fitting("f", Contract(takes), {}).around(lambda *values: len(values))
        for n in (2, 3):
            values = [np.zeros(n), np.zeros(n)] if len(takes) == 2 else [np.zeros((n, n))]
            assert call(*values) == len(takes)
        with pytest.raises(palm.PayloadError, match="shape"):
            call(*[np.zeros(4), np.zeros(5)][: len(takes)])


def test_a_rest_with_a_name_is_the_same_everywhere():
    contract = Contract(takes={"a": (Array((), "*b 3"),), "b": (Array((), "2 *b"),)})
    fitting = Fitting("f", contract, {})
    fitting.check((np.zeros((4, 5, 3)), np.zeros((2, 4, 5))))
    with pytest.raises(palm.PayloadError, match=r"here \*b is \(4, 5\)"):
        fitting.check((np.zeros((4, 5, 3)), np.zeros((2, 5, 4))))


def test_what_has_no_contract_is_called_as_it_is():
    signature = Steps._exposed["odd"]

    def function(x, y): ...

    assert signature.fitting("s", {}, "").around(function) is function


# ------------------------------------------------------------------------------------------------------- in a cluster


@pytest.fixture
def client(cluster):
    cluster.start(Steps, "s")
    return cluster.client()


def test_the_whole_pipeline_is_checked_when_a_job_is_made(client):
    read = iter(range(3))
    for make in (client.job, client.map):
        with pytest.raises(
            palm.PayloadError, match=r"s\.double\(x: .* gives array of float64, but the next step, s\.single"
        ):
            make(["s.plain", "s.double", "s.single"], read)
    assert list(read) == [0, 1, 2]
    assert list(client.job(["s.single", "s.plain", "s.double"], [np.ones(2, F4)]))[0].dtype == F8


def test_constants_are_checked_before_anything_is_sent(client):
    wrong = palm.step("s.calibrate", dark=np.ones((2, 3), int))
    for ask in (client.call, client.submit):
        with pytest.raises(palm.PayloadError, match=r"the constant `dark` is an array of int64"):
            ask(wrong, np.ones((2, 3)))


def test_a_message_that_does_not_fit_fails_alone(client):
    inputs = [np.ones((2, 4)), np.ones((2, 5)), np.ones((1, 4))]
    job = client.job(["s.plain", "s.row"], inputs, on_error="skip")
    assert sorted(x.shape for x in job) == [(1, 4), (2, 4)]
    [error] = job.errors
    assert (error.type, error.number, error.function) == ("PayloadError", 1, "row")
    assert "in a message from s.plain, `x` is an array of float64 of shape (2, 5)" in str(error)


def test_who_sends_is_named_by_calls_and_after_palm_to(client):
    with pytest.raises(palm.RemoteError, match="in a message from the client, `x` is of type int"):
        client.call("s.single", 1)
    with pytest.raises(palm.RemoteError, match=r"in a message from s\.elsewhere, `x` is an array of float64"):
        client.call("s.elsewhere", np.ones(2))
    assert client.call("s.dot", np.ones((2, 3)), np.ones(3))[1] == 1
    assert client.call(palm.step("s.calibrate", dark=np.ones((1, 2)), gain=3), np.ones((1, 2))).sum() == 0
    with pytest.raises(palm.RemoteError, match="here h is 1, w is 2"):
        client.call(palm.step("s.calibrate", dark=np.ones((1, 2))), np.ones((2, 2)))


def test_who_sends_is_named_by_workers_too(cluster, client):
    cluster.start(Many, "many", workers=2)
    with pytest.raises(palm.RemoteError, match=r"in a message from the client, `x` is an array of float64"):
        client.call("many.single", np.ones(2))
    with pytest.raises(palm.RemoteError, match=r"in a message from s\.plain, `x` is an array of float64"):
        list(client.job(["s.plain", "many.single"], [np.ones(2)]))
    with pytest.raises(
        palm.PayloadError, match=r"s\.double\(x: .* gives array of float64, but the next step, many\.single"
    ):
        client.job(["s.double", "many.single"], [np.ones(2)])


def test_constants_that_nobody_has_checked_are_checked_where_they_arrive(client, monkeypatch):
    monkeypatch.setattr(palm.directory.contracts, "read", lambda plain: Contract())
    with pytest.raises(palm.RemoteError, match="the constant `dark` is of type int, not array of floating"):
        client.call(palm.step("s.calibrate", dark=1), np.ones((2, 2)))


def test_results_of_functions_with_contracts_are_lent(client):
    before = client.status()["servers"][0]["counters"]["bytes_copied"]
    x = np.ones((4096, 4))
    assert client.call("s.row", x).shape == (4096, 4)
    assert client.call("s.square", np.ones((300, 300))).shape == (300, 300)
    assert client.status()["servers"][0]["counters"]["bytes_copied"] == before


class Stacks(palm.Server):
    @palm.function
    def gives(self, x: int) -> float:
        return float(x)

    @palm.function(batch=True)
    def sums(self, x: NDArray[np.float64], *, by: float = 2.0) -> NDArray[np.float64]:
        return x * by


def test_hints_of_a_batch_function_are_none_of_its_messages(cluster):
    """It gets a stack of scalars as an array, and gives a row to each."""
    cluster.start(Stacks)
    assert list(cluster.client().job(["stacks.gives", "stacks.sums", "stacks.sums"], range(3), ordered=True)) == [
        0,
        4,
        8,
    ]
    with pytest.raises(palm.PayloadError, match="by"):
        cluster.client().call(palm.step("stacks.sums", by="much"), 1.0)
