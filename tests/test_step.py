# SPDX-License-Identifier: BSD-3-Clause
"""Pure things: steps and routes, names, amounts of memory, the cache, messages, errors as data."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import palm
from palm import places
from palm.cluster import parse_memory
from palm.message import Message
from palm.remote import error_of, tree_of_error
from palm.step import Step, To, route_of


def test_a_step_is_a_str():
    s = palm.step("spectrum.power", gain=2.0)
    assert s == "spectrum.power" and isinstance(s, str) and isinstance(s, palm.Step)
    assert (s.server, s.function, s.constants) == ("spectrum", "power", {"gain": 2.0})
    assert palm.step("a.b").constants == {}
    assert palm.step("a.b", name=1).constants == {"name": 1}, "the name is positional alone"


def test_routes():
    assert route_of("a.b") == ["a.b"] and isinstance(route_of("a.b")[0], Step)
    s = palm.step("a.b", x=1)
    assert route_of(s)[0] is s and route_of([s, "c.d"])[0] is s
    assert route_of(("a.b", "c.d")) == ["a.b", "c.d"]
    with pytest.raises(ValueError, match="0"):
        route_of([])
    with pytest.raises(TypeError, match="bytes"):
        route_of([b"a.b"])


@pytest.mark.parametrize("name", ["", "a", ".", "a.", ".a"])
def test_what_is_no_step(name):
    with pytest.raises(ValueError, match='"server.function"'):
        palm.step(name)


def test_to():
    to = palm.to("a.b", 5)
    assert isinstance(to, To) and to.route == ["a.b"] and to.value == 5
    with pytest.raises(ValueError, match="server.function"):
        palm.to("nowhere", 5)


@pytest.mark.parametrize(
    ("text", "n"),
    [
        (None, 0),
        ("1048576", 1 << 20),
        ("512MiB", 512 << 20),
        ("2GiB", 2 << 30),
        ("2GB", 2 * 10**9),
        ("1.5 kib", 1536),
        (" 7 b ", 7),
        ("1TiB", 1 << 40),
    ],
)
def test_amounts_of_memory(text, n):
    assert parse_memory(text) == n


@pytest.mark.parametrize("text", ["", "many", "2 apples", "MiB", "1 MiBs", "-1 GiB", "nan", "inf"])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(ValueError, match="amount of memory"):
        parse_memory(text)


@pytest.mark.parametrize("name", ["a", "tonight", "c1-2_3", "9", "x" * 31])
def test_names(name):
    assert places.check_name(name, "it") == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "a.b", "a/b", "..", "a b", "a\n", "é", "x" * 32, "a\0"])
def test_what_is_no_name(name):
    with pytest.raises(palm.ConfigError, match="the server"):
        places.check_name(name, "the server")


def test_the_directory_of_all_clusters_is_of_one_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path)[:0] or "/tmp")
    path = tmp_path / "palm"
    path.mkdir(mode=0o755)
    monkeypatch.setattr(places, "Path", lambda *_: path.parent)
    with pytest.raises(PermissionError, match="0700"):
        places.base()


def test_an_endpoint_has_a_path_that_fits():
    long = "ipc:///run/user/1000000/palm/" + "c" * 31 + "/registry"
    made = places.endpoint(long, "s" * 31)
    assert len(made.removeprefix("ipc://")) <= 107
    assert made != places.endpoint(long, "s" * 31)
    assert places.endpoint("tcp://127.0.0.1:5000", "client") == "tcp://127.0.0.1:*"


def test_start_time():
    import os

    assert places.start_time(os.getpid()) > 0
    assert places.start_time(2**22 + 1) == 0


# ------------------------------------------------------------------------------------------------------- the cache


def test_the_cache():
    cache = palm.Cache()
    cache["a"] = 1
    assert cache["a"] == 1 and "a" in cache and len(cache) == 1 and list(cache) == ["a"]
    del cache["a"]
    for gone in (lambda: cache["a"], lambda: cache.__delitem__("a")):
        with pytest.raises(KeyError):
            gone()
    with pytest.raises(TypeError, match="int"):
        cache[5] = 1
    assert cache.add("n") == 1 and cache.add("n", 2.5) == 3.5
    assert cache.append("l", "x") == 1 and cache.append("l", "y") == 2 and cache["l"] == ["x", "y"]
    cache.update({"p.a": 1, "p.b": 2})
    assert set(cache.keys("p.")) == {"p.a", "p.b"} and "p.a" in cache.keys()


def test_entries_of_the_cache_expire(monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    cache = palm.Cache()
    cache.set("a", 1, ttl=5.0)
    cache["b"] = 2
    now += 4.9
    assert cache["a"] == 1
    now += 0.2
    with pytest.raises(KeyError):
        cache["a"]
    assert "a" not in cache and cache["b"] == 2


def test_the_cache_is_atomic():
    cache = palm.Cache()

    def work():
        for _ in range(500):
            cache.add("n")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert cache["n"] == 2000


# ------------------------------------------------------------------------------------------------ messages, errors


def test_random_numbers_by_seed_path_and_stage():
    def first(seed=1, path=(0,), stage=0):
        return Message("", 0, path, stage, "", (), "", None, 1, seed).rng().random()

    assert first() == first()
    assert len({first(), first(seed=2), first(path=(1,)), first(path=(0, 0)), first(stage=1)}) == 5
    assert isinstance(Message.of_nothing().rng().bit_generator, np.random.Philox)


def test_errors_are_data():
    try:
        raise ValueError("no")
    except ValueError as e:
        tree = tree_of_error(e, "s", "f")
    assert all(isinstance(v, str) for v in tree.values())
    back = error_of(tree, 7)
    assert (back.type, back.args[0], back.server, back.function, back.number) == ("ValueError", "no", "s", "f", 7)
    crashed = error_of(tree_of_error(palm.Crashed("gone", reason="SIGKILL"), "s", "f"), 1)
    assert isinstance(crashed, palm.Crashed) and crashed.reason == "SIGKILL"


WITHOUT_REPR = np.ones(2, "i8").view("M8")  # of a unit that numpy cannot print


@pytest.mark.parametrize(
    "tree",
    [
        *(None, 5, [], {}, {"type": 5}, {"message": None, "traceback": []}, b"x"),
        *(WITHOUT_REPR, {"message": WITHOUT_REPR, "reason": [WITHOUT_REPR], "capsule": WITHOUT_REPR}),
    ],
    ids=lambda tree: type(tree).__name__,
)
def test_an_error_from_who_knows_where(tree):
    assert isinstance(error_of(tree, 3), palm.RemoteError)
    assert str(error_of(tree, 3))
