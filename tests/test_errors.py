# SPDX-License-Identifier: BSD-3-Clause
"""Every error says what was asked, what there is, and what to do."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import palm


class Spectrum(palm.Server):
    def setup(self, size=8):
        self.size = size

    @palm.function
    def power(self, frame, *, gain=1.0):
        return frame * gain

    @palm.function
    def shift(self, frame, *, by):
        return frame + by

    def helper(self, x):
        return x

    def _private(self, x):
        return x


class Wrong(Exception):
    def __str__(self):
        raise RuntimeError("not even this works")


class NotText(Exception):
    def __str__(self):
        return 5


class Raises(palm.Server):
    @palm.function
    def value_error(self, x):
        raise ValueError(f"no {x}")

    @palm.function
    def chained(self, x):
        try:
            raise KeyError("inner")
        except KeyError as e:
            raise ValueError("outer") from e

    @palm.function
    def weird(self, x):
        raise Wrong

    @palm.function
    def not_text(self, x):
        raise NotText

    @palm.function
    def huge(self, n):
        raise ValueError("x" * n)

    @palm.function
    def surrogate(self, x):
        raise ValueError("\udcff\udc80")

    @palm.function
    def recursive(self, x):
        return self.recursive(x)

    @palm.function
    def memory(self, x):
        raise MemoryError

    @palm.function
    def local_class(self, x):
        class Local(Exception):
            pass

        raise Local("of a class that nobody else has")

    @palm.function
    def group(self, x):
        raise ExceptionGroup("two", [ValueError(1), TypeError(2)])

    @palm.function
    def stop_iteration(self, x):
        raise StopIteration(x)

    @palm.function
    def returns_object(self, x):
        return object()

    @palm.function
    def returns_object_array(self, x):
        return {"a": [np.array([object()])]}

    @palm.function
    def yields_object(self, x):
        yield 1
        yield object()

    @palm.function
    def raises_remote(self, x):
        raise palm.PayloadError("of the user's own")

    @palm.function
    def same(self, x):
        return x


class Dull(palm.Server):
    @palm.function
    def same(self, x):
        return x


class Refuses(palm.Server):
    def setup(self, device="camera"):
        raise RuntimeError(f"no such {device}")

    @palm.function
    def same(self, x):
        return x


class Exits(palm.Server):
    def setup(self):
        os._exit(7)

    @palm.function
    def same(self, x):
        return x


class Dawdles(palm.Server):
    def setup(self):
        time.sleep(60)

    @palm.function
    def same(self, x):
        return x


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Spectrum)
        cluster.start(Raises)
        with cluster.client() as client:  # once mapped, their memory stays so while they live
            client.call("spectrum.power", client.call("raises.same", 1))
        cluster.stop(cluster.start(Spectrum, "other"))  # whose cache ends with it: there is a link to who has them now
        cluster.status()
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


# ----------------------------------------------------------------------------------------------- steps that are none


@pytest.mark.parametrize(
    ("step", "error", "says"),
    [
        ("spectrun.power", palm.NotFound, r"no server 'spectrun'.*you mean 'spectrum'\?.*raises, spectrum"),
        ("zzz.power", palm.NotFound, r"no server 'zzz'.*raises, spectrum"),
        (
            "spectrum.powr",
            palm.NotFound,
            r"spectrum\.powr.*no function 'powr'.*you mean 'power'\?.*power, shift",
        ),
        ("spectrum.helper", palm.NotFound, r"spectrum\.helper.*not exposed.*@palm\.function.*power, shift"),
        ("spectrum._private", palm.NotFound, r"no function '_private'.*power, shift"),
        ("spectrum.setup", palm.NotFound, r"no function 'setup'.*power, shift"),
        ("spectrum.__class__", palm.NotFound, r"no function '__class__'"),
        ("spectrum", ValueError, r'"server\.function", not \'spectrum\''),
        ("spectrum.", ValueError, r'"server\.function", not'),
        (".power", ValueError, r'"server\.function", not'),
        ("", ValueError, r'"server\.function", not'),
        (5, TypeError, r"int"),
        (None, TypeError, r"NoneType"),
        ([], ValueError, r"1 to 256 steps, not 0"),
        (["spectrum.power"] * 300, ValueError, r"1 to 256 steps, not 300"),
        (["spectrum.power", 5], TypeError, r"a step is a str.*not int"),
        (palm.step("spectrum.power", gian=2), palm.PayloadError, r"no constant 'gian'.*gain=1\.0"),
        (
            palm.step("spectrum.shift"),
            palm.PayloadError,
            r"needs the constant 'by'.*palm\.step\('spectrum\.shift', by=",
        ),
        ("spectrum.shift", palm.PayloadError, r"needs the constant 'by'"),
        ("Spectrum.power", palm.NotFound, r"no server 'Spectrum'\. Did you mean 'spectrum'\?"),
        ("spectrum.POWER", palm.NotFound, r"Did you mean 'power'\?"),
        (palm.step("spectrum.power", gain=object()), palm.PayloadError, r"object"),
    ],
)
def test_wrong_steps(client, step, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        client.job(step, [1])
    if isinstance(step, str):
        with pytest.raises(error, match=f"(?s){says}"):
            client.call(step, 1)
        with pytest.raises(error, match=f"(?s){says}"):
            client.submit(step, 1)
    assert client.call("spectrum.power", 1) == 1


def test_a_value_that_cannot_be_sent(client):
    for send in (client.call, client.submit):
        with pytest.raises(palm.PayloadError, match="object"):
            send("spectrum.power", {"a": [1, object()]})
    assert client.call("spectrum.power", 1) == 1
    with client:  # waits for what is under way: nothing is
        pass


# -------------------------------------------------------------------------------------------- errors from functions


def test_a_remote_error_has_all_there_is_to_know(client):
    with pytest.raises(palm.RemoteError) as caught:
        client.call("raises.value_error", 5)
    e = caught.value
    assert (e.server, e.function, e.type, e.args) == ("raises", "value_error", "ValueError", ("no 5",))
    assert e.traceback.startswith("Traceback") and "in value_error" in e.traceback and __file__ in e.traceback
    assert "spread" not in e.traceback and "node.pyx" not in e.traceback, "the user's lines alone"
    assert str(e).startswith("ValueError: no 5 (in raises.value_error, input ") and "Remote Traceback" in str(e)
    again = pickle.loads(pickle.dumps(e))
    assert (str(again), again.server, type(again)) == (str(e), "raises", type(e))


@pytest.mark.parametrize(
    ("function", "type_", "says"),
    [
        ("chained", "ValueError", "outer"),
        ("weird", "Wrong", "cannot be shown"),
        ("not_text", "NotText", "cannot be shown"),
        ("surrogate", "ValueError", ""),
        ("recursive", "RecursionError", "recursion"),
        ("memory", "MemoryError", ""),
        ("local_class", "Local", "nobody else has"),
        ("group", "ExceptionGroup", "two"),
        ("stop_iteration", "StopIteration", "1"),
        ("returns_object", "PayloadError", "object"),
        ("returns_object_array", "PayloadError", r"\['?a'?\]\[0\].*(?s:object)"),
        ("yields_object", "PayloadError", "object"),
        ("raises_remote", "PayloadError", "of the user's own"),
    ],
)
def test_any_exception_comes_back(client, function, type_, says):
    with pytest.raises(palm.RemoteError, match=says) as caught:
        client.call(f"raises.{function}", 1, timeout=20)
    assert (caught.value.type, caught.value.function) == (type_, function)
    assert client.call("raises.same", 1) == 1
    [error] = (
        client.job(f"raises.{function}", [1], on_error="return") if function != "yields_object" else [caught.value]
    )
    assert error.type == type_


def test_the_cause_is_in_the_traceback(client):
    with pytest.raises(palm.RemoteError) as caught:
        client.call("raises.chained", 1)
    assert "KeyError: 'inner'" in caught.value.traceback and "direct cause" in caught.value.traceback


def test_a_huge_message(client):
    with pytest.raises(palm.RemoteError) as caught:
        client.call("raises.huge", 10_000_000, timeout=20)
    assert caught.value.type == "ValueError" and caught.value.args[0].startswith("xxx")
    assert client.call("raises.same", 1) == 1


# ------------------------------------------------------------------------------------------------ starting servers


def test_setup_that_raises(servers):
    with pytest.raises(palm.PalmError, match="(?s)'refuses' did not start.*in setup.*RuntimeError: no such lens"):
        servers.start(Refuses, setup={"device": "lens"})
    assert "refuses" not in [s["name"] for s in servers.status()["servers"]]
    with pytest.raises(palm.PalmError, match="exit code 7"):
        servers.start(Exits)
    with pytest.raises(palm.Timeout, match="'dawdles' was not ready within 0.5 s"):
        servers.start(Dawdles, timeout=0.5)
    assert servers.start(Spectrum, "refuses") == "refuses", "the name is free"
    servers.stop("refuses")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"name": "spectrum"}, ValueError, "a server 'spectrum' already.*replace=True"),
        ({"name": "registry"}, ValueError, "'registry'"),
        ({"name": "a.b"}, palm.ConfigError, r"'a\.b'.*letters, digits"),
        ({"name": "a/../b"}, palm.ConfigError, "letters, digits"),
        ({"name": "x" * 32}, palm.ConfigError, "1 to 31"),
        ({"name": "x", "setup": {"sise": 3}}, TypeError, r"Spectrum\.setup\(self, size=8\).*sise"),
        ({"name": "x", "memory": "2 apples"}, ValueError, "'2 apples'.*512MiB"),
        ({"name": "x", "workers": 2}, ValueError, "workers=2"),
        ({"name": "x", "workers": 0}, ValueError, "workers=0"),
    ],
)
def test_wrong_starts(servers, arguments, error, says):
    with pytest.raises(error, match=says):
        servers.start(Spectrum, **arguments)
    assert [s["name"] for s in servers.status()["servers"]] == ["raises", "spectrum"]


@pytest.mark.parametrize(
    ("template", "error", "says"),
    [
        (int, TypeError, r"subclass of palm\.Server, not <class 'int'>"),
        (Spectrum(), TypeError, r"subclass of palm\.Server"),
        ("os:getcwd", TypeError, r"subclass of palm\.Server"),
        ("spectrum", ValueError, r'"module:Class"'),
        ("no_such_module:Class", ModuleNotFoundError, "no_such_module"),
        ("os:NoSuch", (AttributeError, palm.NotFound), "NoSuch"),
    ],
)
def test_what_is_no_template(servers, template, error, says):
    with pytest.raises(error, match=says):
        servers.start(template)


def test_setup_for_who_has_none(servers):
    with pytest.raises(TypeError, match=r"Dull has no `setup` method that could take setup=\{'size': ...\}"):
        servers.start(Dull, setup={"size": 3})


def test_a_template_that_cannot_be_pickled(servers):
    lock = threading.Lock()

    class Holds(palm.Server):
        held = lock

        @palm.function
        def same(self, x):
            return x

    with pytest.raises(TypeError, match="(?s)'holds' cannot be handed.*Holds.*lock"):
        servers.start(Holds)
    with pytest.raises(TypeError, match="(?s)'other' cannot be handed.*size.*lock"):
        servers.start(Spectrum, "other", setup={"size": lock})
    assert [s["name"] for s in servers.status()["servers"]] == ["raises", "spectrum"]


def test_stopping_what_is_not_there(servers):
    with pytest.raises(LookupError, match="no server 'nobody' here; there are: .*spectrum"):
        servers.stop("nobody")
    with pytest.raises(LookupError):
        servers.stop("registry")


# -------------------------------------------------------------------------------------------- wrong definitions


def test_wrong_definitions():
    with pytest.raises(TypeError, match=r"A\.f is async"):

        class A(palm.Server):
            @palm.function
            async def f(self, x):
                return x

    with pytest.raises(TypeError, match=r"B\.f is async"):

        class B(palm.Server):
            @palm.function
            async def f(self, x):
                yield x

    with pytest.raises(TypeError, match=r"C\.f has \*args.*keyword-only"):

        class C(palm.Server):
            @palm.function
            def f(self, *args):
                return args

    with pytest.raises(TypeError, match=r"D\.f has \*\*kwargs"):

        class D(palm.Server):
            @palm.function
            def f(self, x, **kwargs):
                return kwargs

    with pytest.raises(TypeError, match=r"E\.f has the positional default y=1.*`\*`"):

        class E(palm.Server):
            @palm.function
            def f(self, x, y=1):
                return x

    with pytest.raises(TypeError, match=r"F\.f has no `self`"):

        class F(palm.Server):
            @palm.function
            def f():
                return 1


@pytest.mark.parametrize("name", ["count", "log", "observe", "setup", "teardown", "cache", "rng", "message", "client"])
def test_names_of_the_template(name):
    with pytest.raises(TypeError, match=f"T.{name} is exposed, but '{name}' is a name of the template"):
        type("T", (palm.Server,), {name: palm.function(lambda self, x: x)})


def test_what_needs_a_running_server():
    s = Spectrum()
    with pytest.raises(RuntimeError, match="running server"):
        s.client  # noqa: B018
    assert s.power(2, gain=3) == 6
    s.cache["a"] = 1
    assert s.cache["a"] == 1 and not s.cancelled
    s.count("x")
    s.observe("y", 1.0)
    assert s.rng.standard_normal() == Spectrum().rng.standard_normal()


# ------------------------------------------------------------------------------------------------------ connecting


def test_no_cluster(monkeypatch, tmp_path):
    monkeypatch.delenv("PALM_CLUSTER", raising=False)
    monkeypatch.setattr("palm.places.base", lambda: tmp_path)
    with pytest.raises(palm.Disconnected, match=r"no address.*\$PALM_CLUSTER.*no running cluster.*palm up"):
        palm.Client()
    with pytest.raises(palm.Disconnected, match="no running cluster 'tonight'.*has: none"):
        palm.Client("tonight")
    with pytest.raises(palm.ConfigError, match="'../tonight'"):
        palm.Client("../tonight")


def test_two_clusters_and_no_name(monkeypatch):
    monkeypatch.delenv("PALM_CLUSTER", raising=False)
    with palm.Cluster() as one, palm.Cluster() as two:
        with pytest.raises(palm.Disconnected, match=f"(?s)running clusters.*({one.name}|{two.name}).*name one"):
            palm.Client()


@pytest.mark.parametrize(
    ("address", "why"), [("ipc:///tmp/no/such/place", "No such file"), ("tcp://127.0.0.1:1", r"0\.3 s")]
)
def test_nobody_at_the_address(address, why):
    began = time.monotonic()
    with pytest.raises(palm.Disconnected, match=f"(?s){address}.*{why}"):
        palm.Client(address, timeout=0.3)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("address", ["tcp://127.0.0.1", "nonsense://x", "ipc://" + "x" * 200, "tcp://:::"])
def test_wrong_addresses(address):
    with pytest.raises((palm.PalmError, ValueError, OSError), match=".") as caught:
        palm.Client(address, timeout=0.3)
    assert address[:20] in str(caught.value), "it says which address"


def test_an_address_that_leads_nowhere_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address, why in [
        ("ipc://" + "x" * 200, "begins with /"),
        ("ipc://registry", "begins with /"),
        (f"ipc://{tmp_path}/" + "x" * 200, "cannot be connected to"),
        (f"ipc://{tmp_path}/registry", "nobody answers"),
    ]:
        with pytest.raises(palm.Disconnected, match=why):
            palm.Client(address, timeout=0.1)
    assert not os.listdir(tmp_path)


def test_a_name_in_use(servers):
    with palm.Cluster("in-use-" + str(os.getpid())) as one:
        with pytest.raises(FileExistsError, match=rf"'{one.name}' is running \(pid {os.getpid()}\)"):
            palm.Cluster(one.name)
    with pytest.raises(palm.ConfigError, match="'a b'"):
        palm.Cluster("a b")


def test_after_the_end(servers):
    cluster = palm.Cluster()
    client = cluster.client()
    cluster.close()
    cluster.close()
    for use in (lambda: cluster.start(Spectrum), cluster.status, cluster.client, lambda: cluster.stop("x")):
        with pytest.raises(palm.Disconnected, match="the cluster is closed"):
            use()
    with pytest.raises(palm.Disconnected, match="closed"):
        client.call("spectrum.power", 1)


def test_exceptions_are_also_what_python_calls_them():
    assert issubclass(palm.Timeout, TimeoutError)
    assert issubclass(palm.Cancelled, concurrent.futures.CancelledError)
    assert issubclass(palm.NotFound, LookupError)
    assert issubclass(palm.PayloadError, TypeError)
    assert issubclass(palm.Disconnected, ConnectionError)
    assert issubclass(palm.ConfigError, ValueError)
    assert issubclass(palm.Crashed, palm.RemoteError)


class Asks(palm.Server):
    @palm.function
    def ask(self, x):
        return self.client.call("dies.die", x)

    @palm.function
    def claim(self, x):
        raise palm.Crashed("so I say")


class Dies(palm.Server):
    @palm.function(attempts=1)
    def die(self, x):
        os._exit(7)


def test_a_death_that_a_function_hears_of_is_not_its_own(cluster):
    cluster.start(Asks)
    cluster.start(Dies)
    client = cluster.client()
    for step, text in (("asks.ask", "exit code 7"), ("asks.claim", "so I say")):
        with pytest.raises(palm.RemoteError, match=text) as caught:
            client.call(step, 1)
        assert (type(caught.value), caught.value.type, caught.value.server) == (palm.RemoteError, "Crashed", "asks")
