# SPDX-License-Identifier: BSD-3-Clause
"""The cache of a server: what it holds and what goes, who shares it, what survives whom (API 2, 3)."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import eventually
from helpers_cache import Blur, Model, Plain
from hypothesis import given, settings
from hypothesis import strategies as st

import palm
from palm import cache as cache_module
from palm._core import space
from palm.cache_server import CacheServer
from palm.entries import MOST_ARRAYS, Entries, copied, measured
from palm.own_names import CACHE
from palm.shelf import Shelf

MIB = 1 << 20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def entries(bound: int = MIB, clock: Clock | None = None) -> Entries:
    return Entries(bound, clock or Clock(), copied)


def caches_pid(cluster: palm.Cluster) -> int:
    return cluster._supervisor._children[CACHE].pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Model, workers=2)
        cluster.start(Plain)
        cluster.start(Blur)
        with cluster.client() as client:  # once mapped, its memory stays so while it lives
            client.cache["plain"]["mapped"] = np.ones(MIB)
            assert client.cache["plain"].pop("mapped").size == MIB
            list(client.job("model.tally", [1] * 100))
            client.call("plain.get", "starts")
        cluster.status()
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


@pytest.fixture(params=["local", "shared"])
def cache(request: pytest.FixtureRequest, client: palm.Client) -> Iterator[palm.Cache]:
    """Both kinds, of which users see no difference."""
    if request.param == "local":
        yield palm.Cache()
        return
    shared = client.cache["blur"]
    shared.clear()
    yield shared
    shared.clear()


# ------------------------------------------------------------------------------------------- what it holds, pure


class Simple:
    """What `Entries` is, without any thought of how long it takes."""

    def __init__(self, bound: int, clock: Clock) -> None:
        self.bound, self.clock = bound, clock
        self.rows: list[tuple[str, object, float]] = []  # the least recently used first

    def living(self) -> list[tuple[str, object, float]]:
        self.rows = [r for r in self.rows if r[2] > self.clock.now]
        return self.rows

    def put(self, key: str, value: object, until: float) -> None:
        if self.size([(key, value, until)]) > self.bound:
            raise ValueError
        self.rows = [r for r in self.living() if r[0] != key] + [(key, value, until)]
        while self.size(self.rows) > self.bound:
            del self.rows[0]

    @staticmethod
    def size(rows: list[tuple[str, object, float]]) -> int:
        return sum(measured(value).size + Entries._overhead(key) for key, value, _ in rows)

    def find(self, key: str) -> tuple[str, object, float]:
        return next((r for r in self.living() if r[0] == key), None) or (_ for _ in ()).throw(KeyError(key))

    def do(self, operation: str, key: str, value: object) -> object:
        old = next((r for r in self.living() if r[0] == key), None)
        if operation == "get":
            row = self.find(key)
            self.rows = [r for r in self.rows if r is not row] + [row]
            return row[1]
        if operation == "remove":
            row = self.find(key)
            self.rows.remove(row)
            return None
        if operation == "has":
            return old is not None
        if operation == "add":
            if old is not None and type(old[1]) is not int:
                raise TypeError
            new = (old[1] if old else 0) + len(str(value))  # type: ignore[operator]
            self.put(key, new, old[2] if old else float("inf"))
            return new
        self.put(key, value, self.clock.now + 5 if operation == "set for 5 s" else float("inf"))
        return None


KEYS = st.sampled_from(["a", "b", "ba", "c"])
VALUES = st.sampled_from([b"", b"x" * 100, b"y" * 400, b"z" * 5000, "text", None])
ACTIONS = st.tuples(st.sampled_from(["get", "set", "set for 5 s", "remove", "has", "add", "wait"]), KEYS, VALUES)


def done(what, *args):
    try:
        return what(*args)
    except (KeyError, ValueError, TypeError) as e:
        return type(e)


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_it_is_what_a_simple_model_is(actions):
    clock = Clock()
    real, simple = entries(2000, clock), Simple(2000, clock)
    for operation, key, value in actions:
        if operation == "wait":
            clock.now += 2.0
            continue
        args = {"set": (key, value), "set for 5 s": (key, value, 5.0), "add": (key, len(str(value)))}
        found = done(getattr(real, operation.partition(" ")[0]), *args.get(operation, (key,)))
        assert found == done(simple.do, operation, key, value)
        assert real.keys() == [k for k, _, _ in simple.living()]
        assert real.size == simple.size(simple.rows) <= 2000
        assert real.keys("b") == [k for k in real.keys() if k.startswith("b")] and real.count() == len(simple.rows)


def test_ends_by_the_clock(clock):
    e = entries(clock=clock)
    e.set("a", 1, 5.0)
    e.set("b", 2)
    clock.now = 4.9
    assert e.get("a") == 1
    clock.now = 5.0
    assert e.keys() == ["b"] and e.expired == 1
    with pytest.raises(KeyError):
        e.get("a")


def test_what_is_set_again_has_a_new_end(clock):
    e = entries(clock=clock)
    e.set("a", 1, 5.0)
    e.set("b", 1, 5.0)
    e.set("a", 2)
    e.set("b", 2, 8.0)
    clock.now = 6.0
    assert e.keys() == ["a", "b"]
    clock.now = 8.0
    assert e.keys() == ["a"]


def test_add_and_append_keep_the_end(clock):
    e = entries(clock=clock)
    e.set("n", 1, 5.0)
    e.set("l", [], 5.0)
    assert e.add("n", 1) == 2 and e.append("l", 7) == 1
    clock.now = 5.0
    assert e.add("n", 1) == 1 and e.append("l", 7) == 1


def test_ends_that_do_not_hold_any_more_do_not_pile_up(clock):
    e = entries(clock=clock)
    for n in range(5000):
        e.set("a", n, 1000.0 + n)
    assert len(e._ends) < 200


def test_the_least_recently_used_goes_and_is_counted():
    e = entries(bound=3000)
    for key in "abc":
        e.set(key, b"x" * 500)
    e.get("a")
    assert e.has("b")  # no use
    e.set("d", b"x" * 500)
    assert e.keys() == ["c", "a", "d"] and e.evicted == 1


def test_what_is_too_large_leaves_all_as_it_was():
    e = entries(bound=1000)
    e.set("a", b"old")
    for grow in (lambda: e.set("a", b"x" * 1000), lambda: e.add("b", np.ones(1000)), lambda: e.set("a", ["x" * 999])):
        with pytest.raises(ValueError, match="whole cache"):
            grow()
    assert e.keys() == ["a"] and e.get("a") == b"old" and not e.evicted
    with pytest.raises(ValueError, match="whole cache"):
        for _ in range(100):
            e.append("l", b"x" * 100)
    assert 0 < len(e.get("l")) < 10 and e.size <= 1000


def test_a_sum_is_not_tried_that_would_be_huge():
    e = entries()
    e.add("a", np.ones((1000, 1)))
    with pytest.raises(ValueError, match="larger than both"):
        e.add("a", np.ones((1, 10_000_000)))


def test_a_broadcast_array_takes_what_its_copy_would():
    e = entries()
    with pytest.raises(ValueError, match="whole cache"):
        e.set("a", np.broadcast_to(np.float64(0), (1 << 40,)))


def test_a_list_has_no_more_arrays_than_a_message_can_carry():
    e = entries(64 * MIB)
    e.set("l", [np.zeros(1)] * MOST_ARRAYS)
    with pytest.raises(ValueError, match="arrays"):
        e.append("l", np.zeros(1))


def test_its_size_is_what_python_takes():
    import tracemalloc

    tracemalloc.start()
    try:
        e = entries(64 * MIB)
        before = tracemalloc.get_traced_memory()[0]
        for n in range(20_000):
            e.set(f"key {n}", [n, float(n), f"text {n}"])
        took = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.8 < e.size / took < 1.5


# --------------------------------------------------------------------------------- what users see, here and there


def test_a_mapping(cache):
    cache["a"] = 1
    cache.update(b=2, c=(3, [4]))
    assert dict(cache) == {"a": 1, "b": 2, "c": (3, [4])} == dict(cache.items()) and len(cache) == 3
    assert list(cache.values()) == [1, 2, (3, [4])] and type(cache["c"]) is tuple
    assert "a" in cache and "z" not in cache and 5 not in cache and cache.get("z", 9) == 9
    assert cache.pop("a") == 1 and cache.pop("a", None) is None and cache.setdefault("b", 5) == 2
    del cache["b"]
    assert list(cache) == ["c"] and cache.setdefault("d", 5) == 5
    cache.clear()
    assert not cache and not len(cache)


def test_a_missing_key(cache):
    for gone in (lambda: cache["z"], lambda: cache.pop("z"), lambda: cache.__delitem__("z")):
        with pytest.raises(KeyError) as caught:
            gone()
        assert caught.value.args == ("z",)


@pytest.mark.parametrize("empty", [b"", "", [], (), {}, None, 0, False, np.empty(0), np.empty((0, 3), "u1")], ids=repr)
def test_an_empty_value_is_a_value(cache, empty):
    cache["e"] = empty
    found = cache["e"]
    assert "e" in cache and type(found) is type(empty) and cache.get("e", 1) is not 1  # noqa: F632
    assert np.array_equal(found, empty) if isinstance(empty, np.ndarray) else found == empty


def test_keys_by_prefix(cache):
    cache.update({"p.a": 1, "p.b": 2, "q": 3})
    assert set(cache.keys("p.")) == {"p.a", "p.b"} and set(cache.keys()) == {"p.a", "p.b", "q"} and not cache.keys("x")


@pytest.mark.parametrize("wrong", [5, None, b"a", ("a",)])
def test_keys_are_text(cache, wrong):
    for use in (
        lambda: cache[wrong],
        lambda: cache.set(wrong, 1),
        lambda: cache.add(wrong),
        lambda: cache.append(wrong, 1),
        lambda: cache.pop(wrong, 1),
    ):
        with pytest.raises(TypeError, match=f"key of the cache is a str, not .*{type(wrong).__name__}"):
            use()
    cache[np.str_("a")] = 1
    assert cache["a"] == 1 and type(next(iter(cache))) is str


def test_what_cannot_be_sent_is_told_with_its_place(cache):
    for put in (cache.append, cache.__setitem__, cache.setdefault):
        with pytest.raises(palm.PayloadError, match=r"the value for 'a'.*\['x'\]\[1\]"):
            put("a", {"x": [1, object()]})
    assert "a" not in cache


def test_add_and_append(cache):
    assert cache.add("n") == 1 and cache.add("n", 2.5) == 3.5 and cache["n"] == 3.5
    first = cache.add("a", np.arange(3))
    assert np.array_equal(first, [0, 1, 2]) and first.dtype == np.arange(3).dtype and not first.flags.writeable
    assert np.array_equal(cache.add("a", 2), [2, 3, 4]) and np.array_equal(first, [0, 1, 2])
    assert cache.append("l", "x") == 1 and cache.append("l", [1]) == 2 and cache["l"] == ["x", [1]]
    with pytest.raises(TypeError, match="numbers and arrays"):
        cache.add("l")
    with pytest.raises(TypeError, match="no list"):
        cache.append("n", 1)
    with pytest.raises(ValueError):
        cache.add("a", np.arange(4))
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="ttl"):
            cache.set("t", 1, ttl=wrong)


def test_what_is_given_and_got_is_nobodys_else(cache):
    given = {"l": [1], "a": np.arange(3.0)}
    cache["x"] = given
    given["l"].append(2)
    given["a"][:] = 9
    found = cache["x"]
    assert found["l"] == [1] and np.array_equal(found["a"], [0, 1, 2])
    found["l"].append(3)
    assert cache["x"]["l"] == [1]
    with pytest.raises(ValueError):
        found["a"][0] = 5
    with pytest.raises(ValueError):
        found["a"].flags.writeable = True


def test_odd_arrays(cache):
    odd = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(100_000.0)[::-3],
        "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
        "scalar": np.array(5),
        "structured": np.zeros(3, [("x", "f4"), ("y", "u1", 2)]),
        "times": np.array(["2024-01-01"], "M8[D]"),
    }
    cache["odd"] = odd
    found = cache["odd"]
    assert all(np.array_equal(found[k], odd[k]) and found[k].dtype == odd[k].dtype for k in odd)


def test_the_end_comes(cache, clock, monkeypatch):
    cache.set("a", 1, ttl=0)
    assert "a" not in cache and not cache.get("a")
    cache.set("b", 1, ttl=None)
    assert cache["b"] == 1


def test_items_leave_out_what_has_gone(cache):
    cache.update(a=1, b=2)
    seen = iter(cache.items())
    assert next(seen) == ("a", 1)
    del cache["b"]
    assert list(seen) == []


def test_a_handler_may_use_it_while_it_is_used():
    cache = palm.Cache()

    def again(*_):
        cache.add("handled")

    before = signal.signal(signal.SIGALRM, again)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(2000):
            cache.add("n")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert cache["n"] == 2000


# ------------------------------------------------------------------------------------------------ who shares it


def test_a_program_with_all_of_it(client):
    weights = np.arange(8.0)
    client.cache["model"]["weights"] = weights
    images = np.ones((3, 8, 8))
    assert np.allclose(list(client.map("model.predict", images)), 28)
    model = Model()
    model.cache["weights"] = weights
    steps = [palm.step("blur.blur", sigma=1.0), "model.predict"]
    assert np.allclose(palm.testing.run({"blur": Blur(), "model": model}, steps, images), 28)


def test_of_which_servers_there_are(client):
    assert set(client.cache) == {"blur", "model", "plain"} and len(client.cache) == 3
    assert "model" in client.cache and "modle" not in client.cache and client.cache.get("modle") is None
    with pytest.raises(palm.NotFound, match=r"no server 'modle'.*Did you mean 'model'"):
        client.cache["modle"]
    with pytest.raises(TypeError):
        client.cache[5]
    assert CACHE not in client.cache
    assert {s["name"] for s in client.status()["servers"]} == {"blur", "model", "plain"}
    assert not any(step.startswith("registry") for step in client.functions())


def test_each_server_has_its_own(client):
    client.cache["model"]["mine"] = 1
    assert "mine" not in client.cache["plain"]


def test_in_setup_generators_and_by_clients(client):
    model = client.cache["model"]
    model.pop("made", None)
    assert len(set(model["pids"])) == 2
    assert client.call("model.running", 20) == list(range(1, 21))
    assert model["made"] == list(range(20))
    assert client.call("plain.get", "starts") == client.cache["plain"]["starts"] == 1


def test_sums_of_workers_and_clients_are_exact(client, servers):
    model = client.cache["model"]
    model["tally"] = 0

    def add():
        with servers.client() as another:
            cache = another.cache["model"]
            for _ in range(500):
                cache.add("tally")

    threads = [threading.Thread(target=add) for _ in range(2)]
    for t in threads:
        t.start()
    who = list(client.job("model.tally", [100] * 20))
    for t in threads:
        t.join()
    assert model["tally"] == 3000 and len(set(who)) == 2


def test_it_answers_while_all_workers_compute(client, tmp_path):
    client.cache["model"]["weights"] = np.arange(8.0)
    gates = [tmp_path / "0", tmp_path / "1"]
    futures = [client.submit("model.until", str(gate)) for gate in gates]
    try:
        eventually(lambda: all(gate.with_suffix(".begun").exists() for gate in gates))
        assert client.cache["model"]["weights"].size == 8 and not any(f.done() for f in futures)
    finally:
        for gate in gates:
            gate.touch()
    assert [f.result(10) for f in futures] == [1, 1]


# ------------------------------------------------------------------------------------------------------- arrays


def test_arrays_are_read_where_they_lie(client, servers):
    cache = client.cache["plain"]
    cache["w"] = np.arange(float(MIB))
    store = space.Page(*_where(servers))
    before, ours = store.counters()["bytes_copied"], space.read_counters()["bytes_copied"]
    views = [cache["w"] for _ in range(10)]
    mapped = {view.__array_interface__["data"][0] for view in views}
    assert len(mapped) == 1 and not views[0].flags.writeable and not views[0].flags.owndata
    assert client.call("plain.get", "w")[-1] == MIB - 1
    assert store.counters()["bytes_copied"] == before and space.read_counters()["bytes_copied"] == ours
    store.close()
    del cache["w"]


def test_what_is_set_does_not_lie_with_who_has_set_it(client, servers):
    cache = client.cache["plain"]
    with palm.arena():
        given = np.arange(float(MIB))
    cache["w"] = given  # lent as it lies: what is written to it from now on, the receiver sees
    given[:] = -1.0
    assert np.array_equal(cache["w"], np.arange(float(MIB)))
    del cache["w"]


def _where(cluster: palm.Cluster) -> tuple[int, ...]:
    """Whose page it is."""
    with cluster.client() as client:
        found = client._directory.ask("lookup", [CACHE])["servers"][CACHE]
    return tuple(found["page"])


def test_views_stay_whatever_becomes_of_the_entry(client):
    cache = client.cache["plain"]
    for end in (
        lambda: cache.__setitem__("w", np.zeros(MIB)),
        lambda: cache.__delitem__("w"),
        lambda: cache.add("w", 1.0),
        lambda: [cache.set(f"fill {n}", np.zeros(4 * MIB)) for n in range(9)],
    ):
        cache["w"] = np.arange(float(MIB))
        view = cache["w"]
        end()
        for n in range(4):
            cache[f"other {n}"] = np.full(MIB, -1.0)
        assert np.array_equal(view, np.arange(float(MIB)))
    assert "w" not in cache  # the last of these has evicted it
    cache.clear()


# ------------------------------------------------------------------------------------------- what survives whom


def test_after_the_death_of_a_worker(client):
    client.cache["model"].pop("died", None)
    client.cache["model"]["weights"] = np.arange(8.0)
    assert client.call("model.dies", 5) == 5
    assert np.allclose(client.call("model.predict", np.ones((8, 8))), 28)
    eventually(lambda: len(client.cache["model"]["pids"]) == 3)


def test_after_the_death_of_a_server_and_its_end(cluster):
    cluster.start(Plain)
    client = cluster.client()
    cache = client.cache["plain"]
    cache["w"] = np.arange(100_000.0)
    kill(cluster.status()["servers"][0]["pid"])
    assert client.call("plain.get", "w").size == 100_000 and cache["starts"] == 2
    cluster.start(Plain, replace=True)
    assert cache["starts"] == 3
    cluster.stop("plain")
    with pytest.raises(palm.NotFound):
        client.cache["plain"]
    cluster.start(Plain)
    assert dict(client.cache["plain"]) == {"starts": 1}


def test_after_the_death_of_the_caches(cluster):
    cluster.start(Plain)
    client = cluster.client()
    cache = client.cache["plain"]
    cache["w"] = np.arange(float(MIB))
    view, pid = cache["w"], caches_pid(cluster)
    kill(pid)
    with pytest.raises(KeyError):
        cache["w"]
    assert caches_pid(cluster) != pid and np.array_equal(view, np.arange(float(MIB)))
    assert cache.add("n") == 1 and client.call("plain.get", "n") == 1
    del view
    gc.collect()


def test_after_the_death_of_the_registry(cluster):
    cluster.start(Plain)
    client = cluster.client()
    client.cache["plain"]["a"] = 1
    kill(cluster.status()["registry"]["pid"])
    assert client.call("plain.get", "a") == 1
    eventually(lambda: "plain" in client.cache)
    assert client.cache["plain"]["a"] == 1


def test_caches_that_stand_still_are_waited_for_no_longer_than_said(cluster):
    cluster.start(Plain)
    with palm.Client(cluster.address, timeout=0.5) as client:
        cache = client.cache["plain"]
        cache["a"] = 1
        os.kill(caches_pid(cluster), signal.SIGSTOP)
        try:
            with pytest.raises(palm.Timeout):
                cache["a"]
        finally:
            os.kill(caches_pid(cluster), signal.SIGCONT)
        assert eventually(lambda: cache.get("a")) == 1
    with pytest.raises(palm.Disconnected):
        cache["a"]


def test_a_bound_of_a_file(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text('[servers.plain]\nclass = "helpers_cache:Plain"\ncache = "1MiB"\n')
    with palm.Cluster.from_file(path) as cluster:
        cache = cluster.client().cache["plain"]
        with pytest.raises(ValueError, match=f"may have {MIB}"):
            cache["a"] = np.zeros(MIB, "u1")
        for n in range(4):
            cache[f"{n}"] = np.zeros(300_000, "u1")
        assert list(cache) == ["1", "2", "3"]


def test_the_default_bound(client):
    with pytest.raises(ValueError, match=f"may have {256 * MIB}"):
        client.cache["plain"]["a"] = np.broadcast_to(np.uint8(0), (256 * MIB,))


# ------------------------------------------------------------------------------------------------- who is hostile


@pytest.mark.parametrize(
    "asked",
    [
        (1, 2, 3, 4),
        ("plain", 0, "_drop", ("a",)),
        ("plain", 0, "__class__", ()),
        ("plain", -1, "get", ("a",)),
        ("plain", True, "get", ("a",)),
        ("plain", 0, "get", ["a"]),
        ("plain", 0, "get", ()),
        ("plain", 0, "get", (1,)),
        ("plain", 0, "set", (["a"], 1, None)),
        ("plain", 0, "set", ("a", 1, "soon")),
        ("plain", 0, "set", ("a", 1, None, 1, 1)),
        ("plain", 0, "keys", (1,)),
        ("plain", 0, "add", ("a", {})),
        ("plain", 0, "add", ("a", np.array(["text"]))),
        ("plain", 0, ["get"], ("a",)),
        ("", 0, "get", ("a",)),
        ("x" * 65, 0, "set", ("a", 1)),
        ("plain", 0, "set", ("a", np.broadcast_to(np.uint8(0), (1 << 50,)), None)),
    ],
    ids=repr,
)
def test_nothing_that_is_asked_stops_it(client, servers, asked):
    pid = caches_pid(servers)
    error, text = client.call(cache_module.ASK, *asked)
    assert error in ("TypeError", "ValueError") and isinstance(text, str)
    with pytest.raises(palm.RemoteError, match="a tuple of 2"):
        client.call(cache_module.ASK, 1, 2)
    assert client.call(cache_module.DROP, asked) is True
    client.cache["plain"]["a"] = 1
    assert client.cache["plain"]["a"] == 1 and caches_pid(servers) == pid


def test_all_caches_together_are_bounded():
    shelf = Shelf(10_000, Clock())
    for n in range(100):
        shelf.do(f"server {n % 7}", 1 << 60, "set", (f"{n}", b"x" * 500, None))
    assert 8000 < sum(e.size for e in shelf._entries.values()) <= 10_000
    with pytest.raises(ValueError, match="whole cache"):
        shelf.do("server 1", 1 << 60, "set", ("a", b"x" * 10_000, None))


def test_servers_that_have_nothing_take_nothing(monkeypatch):
    monkeypatch.setattr("palm.shelf.MOST_SERVERS", 2)
    shelf = Shelf(10_000, Clock())
    for n in range(100):
        with pytest.raises(KeyError):
            shelf.do(f"{n}", 0, "get", ("a",))
    for name in "ab":
        shelf.do(name, 0, "set", ("a", 1))
    with pytest.raises(ValueError, match="2 servers"):
        shelf.do("c", 0, "set", ("a", 1))
    shelf.do("a", 0, "clear", ())
    shelf.do("c", 0, "set", ("a", 1))
    shelf.drop("c")
    assert [*shelf._entries] == ["b"]


def test_it_has_a_test_without_a_cluster(tmp_path):
    server = CacheServer()
    server.setup(str(tmp_path))
    assert server.ask("a", 0, "set", ("k", 1)) == ("", None) and server.ask("a", 0, "get", ("k",)) == ("", 1)
    assert server.ask("a", 0, "get", ("z",)) == ("KeyError", "z") and server.drop("a")
