# SPDX-License-Identifier: BSD-3-Clause
"""A cache that is in a file too: what is there after the end of its process, of its cluster, or of the space on the
disk."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
from conftest import eventually
from helpers_cache import Plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cache import caches_pid

import palm
from palm import applying
from palm._core import space
from palm.cache_store import Lock, Store
from palm.config import Configuration
from palm.entries import Entries, copied
from palm.shelf import Shelf

MIB = 1 << 20


@pytest.fixture
def path(tmp_path):
    return tmp_path / "values.lmdb"


@contextlib.contextmanager
def shelf_of(path, clock=None, usual=0):
    shelf = Shelf(100 * MIB, *([clock] if clock else []))
    shelf.keep({"a": (str(path), usual)})
    try:
        yield lambda operation, *values, bound=0: shelf.do("a", bound, operation, values)
    finally:
        shelf.close()


# ------------------------------------------------------------------------------------------------ what is in the file


def test_values_of_all_kinds(path):
    values = {
        "array": np.arange(12.0).reshape(3, 4).T,
        "empty": np.zeros((0, 3), "i2"),
        "tree": {"a": (1, [2.5, None, "x"]), "b": b"\0", "c": np.float32(1.5), "d": True, "e": 1 << 200},
        "": "",
        "k" * 2000: 1,
        "ä\udc80": 2,
    }
    with shelf_of(path) as do:
        for key, value in values.items():
            do("set", key, value)
    with shelf_of(path) as do:
        assert do("keys") == list(values)
        assert np.array_equal(do("get", "array"), values["array"]) and not do("get", "array").flags.writeable
        assert do("get", "empty").shape == (0, 3) and do("get", "tree") == values["tree"]
        assert type(do("get", "tree")["c"]) is np.float32 and type(do("get", "tree")["a"]) is tuple
        assert [do("get", k) for k in list(values)[3:]] == ["", 1, 2]


def test_the_order_is_that_of_the_last_writes(path):
    with shelf_of(path) as do:
        for key in "abcd":
            do("set", key, [0])
        do("append", "b", 1)
        do("set", "a", [2])
        do("get", "c")
    with shelf_of(path) as do:
        assert do("keys") == ["c", "d", "b", "a"] and do("get", "b") == [0, 1]
        assert do("append", "b", np.ones(3)) == 3
    with shelf_of(path) as do:
        assert do("keys") == ["c", "d", "a", "b"] and do("get", "b")[2].tolist() == [1, 1, 1]


def test_ends_go_on_while_nobody_is_there(path):
    with shelf_of(path) as do:
        do("set", "short", 1, 0.05)
        do("set", "long", 2, 1000.0)
        do("add", "long", 5)
    before = time.monotonic()
    with shelf_of(path) as do:
        eventually(lambda: do("keys") == ["long"])
    with shelf_of(path, lambda: before + 999) as do:
        assert do("get", "long") == 7
    with shelf_of(path, lambda: before + 1001) as do:
        assert do("keys") == []


def test_what_goes_is_gone_from_the_file_too(path):
    """Of the shelf that has it in memory, and of one that is smaller."""
    with shelf_of(path) as do:
        for n in range(10):
            do("set", f"{n}", np.zeros(MIB, "u1"))
        do("set", "9", 1, bound=5 * MIB)
        assert do("keys") == ["5", "6", "7", "8", "9"]
        do("pop", "5")
        do("remove", "6")
    with shelf_of(path) as do:
        assert do("keys", bound=MIB + 10_000) == ["8", "9"]
    with shelf_of(path) as do:
        assert do("keys") == ["8", "9"]
        do("clear")
    with shelf_of(path) as do:
        assert do("keys") == []


def test_the_bound_is_that_of_the_file_for_who_does_not_know_it(path):
    """As a client of a server that is being started again: else what is too much by default would be lost."""
    with shelf_of(path, usual=90 * MIB) as do:
        for n in range(8):
            do("set", f"{n}", np.zeros(10 * MIB, "u1"))
    with shelf_of(path, usual=20 * MIB) as do:
        assert do("keys") == ["7"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "add", "append", "pop", "remove", "setdefault", "clear", "get", "again"]),
            st.sampled_from("abc"),
            st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2) | st.just(np.zeros(300)),
        ),
        max_size=30,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_file_has_what_a_cache_without_one_has(path, actions):
    path.unlink(missing_ok=True)
    plain = Entries(MIB, time.monotonic, copied)
    with contextlib.ExitStack() as stack:
        do = stack.enter_context(shelf_of(path))
        for operation, key, value in actions:
            if operation == "again":
                stack.close()
                do = stack.enter_context(shelf_of(path))
                continue
            values = (key, value) if operation in ("set", "add", "append", "setdefault") else (key,)
            values = () if operation == "clear" else values
            assert outcome(lambda: do(operation, *values)) == outcome(lambda: getattr(plain, operation)(*values))  # noqa: B023
        assert sorted(do("keys")) == sorted(plain.keys())
        assert all(str(do("get", k)) == str(plain.get(k)) for k in plain.keys())


def outcome(action):
    try:
        return str(action())
    except (KeyError, TypeError, ValueError) as e:
        return type(e)


# --------------------------------------------------------------------------------------------- files that are of no use


def test_one_file_for_one_cache(path):
    with shelf_of(path) as do:
        do("set", "k", 1)
        with pytest.raises(OSError, match=f"values.lmdb is in use by another cache .process {os.getpid()}.: each"):
            Store(path)
    Store(path).close()


def test_files_of_others(path, tmp_path):
    path.write_bytes(b"\x93NUMPY" + bytes(10_000))
    with pytest.raises(OSError, match="values.lmdb is no file of LMDB's"):
        Store(path)
    assert path.read_bytes().startswith(b"\x93NUMPY")
    other = tmp_path / "other.lmdb"
    with lmdb.open(str(other), subdir=False) as env, env.begin(write=True) as transaction:
        transaction.put(b"k", b"v")
    with pytest.raises(OSError, match="not one that PALM has made"):
        Store(other)
    with pytest.raises(OSError, match="none/values.lmdb cannot be had: No such file or directory"):
        Store(tmp_path / "none" / "values.lmdb")


def test_an_entry_that_cannot_be_read_is_left_out(path, caplog):
    with shelf_of(path) as do:
        do("set", "a", 1)
        do("set", "b", 2)
    with lmdb.open(str(path), subdir=False, lock=False) as env, env.begin(write=True) as transaction:
        key, value = next((k, v) for k, v in transaction.cursor() if v[20:21] == b"a")
        transaction.put(key, value[:30])
        transaction.put(b"\0" * 16, b"short")
    with shelf_of(path) as do:
        assert do("keys") == ["b"] and "an entry cannot be read" in caplog.text


def test_a_file_that_the_end_of_the_machine_has_damaged(path, caplog):
    """LMDB trusts its files: whoever reads a damaged one may die of it."""
    with shelf_of(path) as do:
        for n in range(200):
            do("set", f"{n}", np.zeros(2000, "u1"))
    lock = Lock(path)
    lock._say("another-boot 1")
    os.close(lock._fd)
    with shelf_of(path) as do:
        assert len(do("keys")) == 200, "nothing is wrong with it"
    Path(f"{path}.lock").write_text("another-boot 1")
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xff" * (len(data) - 8192))
    with shelf_of(path) as do:
        assert do("keys") == [] and "values.lmdb.damaged now" in caplog.text
        do("set", "k", 1)
    assert Path(f"{path}.damaged").exists()
    path.unlink()
    Path(f"{path}.lock").write_text("another-boot 1")
    with shelf_of(path) as do:
        assert do("keys") == []


WITHOUT_SPACE = """
import resource, sys, numpy as np
from palm.shelf import Shelf
shelf = Shelf(100 << 20)
shelf.keep({"a": (sys.argv[1], 0)})
do = lambda operation, *values: shelf.do("a", 0, operation, values)
do("set", "k", np.full(1000, 7))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, -1))
for n in range(3):
    try:
        do("set", "k", np.zeros(4 << 20, "u1"))
    except OSError as e:
        print(e)
    print(do("get", "k")[0])
do("set", "k", 5)
print(do("get", "k"))
"""


def test_no_space_on_the_disk(path):
    """A limit for files is one that a test may set."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_SPACE, path], capture_output=True, text=True, timeout=60)
    *said, last = done.stdout.splitlines()
    assert len(said) == 6 and last == "5" and done.returncode == 0, done.stderr
    for error, value in zip(said[::2], said[1::2], strict=True):
        assert error.startswith(f"{path} cannot be written to: ") and value == "7"
    with shelf_of(path) as do:
        assert do("get", "k") == 5


# ------------------------------------------------------------------------------------------------------- in a cluster


@pytest.fixture
def file(tmp_path):
    (tmp_path / "cluster.toml").write_text(
        '[servers.plain]\nclass = "helpers_cache:Plain"\ncache = { size = "64MiB", path = "values.lmdb" }\n'
    )
    return tmp_path / "cluster.toml"


def test_after_the_end_of_the_cluster(file):
    with palm.Cluster.from_file(file) as cluster:
        cache = cluster.client().cache["plain"]
        cache["w"] = np.arange(float(MIB))
        cache.set("t", "x", ttl=1000)
        assert cache["starts"] == 1
    with palm.Cluster.from_file(file) as cluster:
        client = cluster.client()
        cache = client.cache["plain"]
        assert cache["starts"] == 2 and list(cache) == ["w", "t", "starts"]
        before = space.read_counters()["bytes_copied"]
        view, again = cache["w"], cache["w"]
        assert np.array_equal(view, np.arange(float(MIB))) and not view.flags.writeable
        assert view.__array_interface__["data"] == again.__array_interface__["data"], "both lie where the caches are"
        assert space.read_counters()["bytes_copied"] == before
        cluster.stop("plain")
        cluster.start(Plain)
        assert dict(client.cache["plain"]) == {"starts": 1}, "a server of a script, that has no file"
        del view, again
        gc.collect()
    with palm.Cluster.from_file(file) as cluster:
        assert list(cluster.client().cache["plain"]) == ["w", "t", "starts"]


def test_after_the_death_of_the_caches_at_any_moment(file):
    """What `set` has returned from is there, and each is there as a whole."""
    with palm.Cluster.from_file(file) as cluster:
        client = cluster.client()
        cache, done, kills = client.cache["plain"], [], 5
        stop = threading.Event()

        def sets():
            n = 0
            while not stop.is_set():
                with contextlib.suppress(palm.PalmError):
                    cache[f"{n % 50}"] = np.full(1 + n % 3000, n)
                    done.append(n)
                n += 1

        writer = threading.Thread(target=sets)
        writer.start()
        try:
            for _ in range(kills):
                pid, so_far = caches_pid(cluster), len(done)
                eventually(lambda so_far=so_far: len(done) > so_far + 40)
                os.kill(pid, signal.SIGKILL)
                eventually(lambda pid=pid: caches_pid(cluster) != pid)
        finally:
            stop.set()
            writer.join()
        assert cache["starts"] == 1
        latest = {n % 50: n for n in done}
        for key, n in latest.items():
            found = cache[f"{key}"]
            assert found[0] >= n and found.size == 1 + found[0] % 3000 and (found == found[0]).all()


def test_no_space_in_a_cluster(file):
    with palm.Cluster.from_file(file) as cluster:
        cache = cluster.client().cache["plain"]
        cache["k"] = 1
        limits = resource.prlimit(caches_pid(cluster), resource.RLIMIT_FSIZE, (MIB, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="values.lmdb cannot be written to: "):
            cache["k"] = np.zeros(4 * MIB, "u1")
        assert cache["k"] == 1
        resource.prlimit(caches_pid(cluster), resource.RLIMIT_FSIZE, limits)
        cache["k"] = np.zeros(4 * MIB, "u1")
        assert cache["k"].size == 4 * MIB


def test_two_clusters_with_one_file(file, tmp_path):
    with palm.Cluster.from_file(file) as cluster:
        cluster.client().cache["plain"]["k"] = 1
        with pytest.raises(palm.ConfigError, match=r"cluster.toml:3: cache: .*values.lmdb is in use by another cache"):
            palm.Cluster.from_file(file)

        configuration, running = Configuration.read(file), {}
        running |= configuration.servers
        (tmp_path / "other.lmdb").write_text("something else")
        file.write_text(file.read_text().replace("values", "other"))
        with pytest.raises(palm.ConfigError, match=r"cluster.toml:3: cache: .*other.lmdb is no file of LMDB's"):
            applying.apply(Configuration.read(file), cluster, running)
        assert cluster.client().cache["plain"]["k"] == 1, "that server is as it was"

        file.write_text(file.read_text().replace("other", "new"))
        assert applying.apply(Configuration.read(file), cluster, configuration.servers | {}) == ["plain replaced"]
        assert dict(cluster.client().cache["plain"]) == {"starts": 1}
        file.write_text(file.read_text().replace('{ size = "64MiB", path = "new.lmdb" }', '"32MiB"'))
        applying.apply(Configuration.read(file), cluster, running)
        assert dict(cluster.client().cache["plain"]) == {"starts": 2}, "what was in memory stays"
    with palm.Cluster.from_file(file) as cluster:
        assert dict(cluster.client().cache["plain"]) == {"starts": 1}
