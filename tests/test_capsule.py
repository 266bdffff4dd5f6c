# SPDX-License-Identifier: BSD-3-Clause
"""Capsules: what is written is what is read, nothing is run meanwhile, and there are not too many."""

from __future__ import annotations

import logging
import os
import pickle
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_payload import exactly

import palm
from palm import capsule
from palm._core.decode import NOTHING
from palm.capsule import Capsule, Store, Unusable
from palm.message import Message
from palm.remote import error_of, tree_of_error

JOB = "0123456789abcdef" * 2
MESSAGE = Message(JOB, 17, (17, 3, 1 << 40), 2, "work.fail", ("a.b", "c.d"), "ipc:///x", 1.5e9, 3, 1 << 70)


class Work(palm.Server):
    @palm.function
    def fail(self, x, *, gain=1.0):
        raise ValueError(f"no {x}")

    class Inner(palm.Server):
        pass


def local_class() -> type[palm.Server]:
    class Local(palm.Server):
        pass

    return Local


def a_capsule(**changes) -> Capsule:
    c = Capsule("work", "fail", {"x": np.arange(3)}, {"gain": 2.0}, MESSAGE, template="test_capsule:Work", time=1.5)
    return replace(c, **changes)


def an_error() -> BaseException:
    try:
        Work().fail(3)
    except ValueError as e:
        return e
    raise AssertionError


def put(store: Store, **changes) -> str | None:
    arguments = {"server": "work", "function": "fail", "value": np.arange(3), "constants": {}, "message": MESSAGE}
    return store.write(**{**arguments, "error": an_error(), **changes})  # type: ignore[arg-type]


def modes(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "value",
    [
        NOTHING, None, 3, b"x" * 100_000, np.arange(100_000.0).reshape(10, -1)[:, ::2], np.zeros((0, 2), np.int8),
        {"a": (np.float32(1), [np.ones(3), None]), 7: "é", "b": {"c": 1 << 80, "d": 2j}},
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", ">f8")]),
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_all_payloads(value, tmp_path):
    written = a_capsule(value=value, constants={"k": value if value is not NOTHING else 1}, setup={"v": [1, (2,)]})
    found = capsule.read(capsule.write(tmp_path / "x.palm", written))
    assert exactly(found.value) == exactly(value)
    if value is not NOTHING:
        assert exactly(found.constants["k"]) == exactly(value)
    assert exactly(found.setup) == exactly(written.setup)
    assert found.message == MESSAGE and exactly(found.message.path) == exactly(MESSAGE.path)
    same = ("server", "function", "reason", "traceback", "template", "template_pickled", "search", "versions", "time")
    assert [getattr(found, k) for k in same] == [getattr(written, k) for k in same]


def test_random_numbers_are_those_of_the_message(tmp_path):
    MESSAGE.rng().random(5)  # the message keeps its generator: that is not written
    found = capsule.read(capsule.write(tmp_path, a_capsule()))
    assert "_rng" not in vars(found.message)
    assert found.message.rng().random() == replace(MESSAGE).rng().random()


def test_a_directory_gives_names(tmp_path):
    old = os.umask(0)
    try:
        paths = [capsule.write(tmp_path, a_capsule()) for _ in range(3)]
        paths.append(capsule.write(tmp_path, a_capsule(server="../x", function="é" * 300)))
    finally:
        os.umask(old)
    names = [Path(p).name for p in paths]
    assert names[:3] == [f"work.fail-01234567-17{n}.palm" for n in ("", "-2", "-3")]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert {modes(Path(p)) for p in paths} == {0o600}


@pytest.mark.parametrize("chosen", [True, False])
def test_the_whole_file_or_none(tmp_path, chosen, monkeypatch):
    def full(*_):
        raise OSError("no room")

    monkeypatch.setattr(capsule.os, "replace", full)
    with pytest.raises(OSError, match="no room"):
        capsule.write(tmp_path if chosen else tmp_path / "x.palm", a_capsule())
    assert os.listdir(tmp_path) == []
    with pytest.raises(palm.PayloadError):
        capsule.write(tmp_path, a_capsule(value=object()))
    assert os.listdir(tmp_path) == []


def test_damaged_files(tmp_path):
    path = Path(capsule.write(tmp_path / "x.palm", a_capsule()))
    content = path.read_bytes()
    for n in (0, 15, 63, 64, 65, len(content) - 1):
        path.write_bytes(content[:n])
        with pytest.raises(ValueError, match="not a capsule" if n < 64 else "damaged"):
            capsule.read(path)
    for i in range(0, len(content), 7):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        if not 56 <= i < 64:  # which mean nothing
            with pytest.raises(ValueError):
                capsule.read(path)
    path.write_bytes(content.replace(b"capsule 1", b"capsule 2"))
    with pytest.raises(ValueError, match="version 2; this PALM reads 1"):
        capsule.read(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": 3}, {"template_pickled": "text"}, {"search": [1]}, {"versions": {"a": 1}}, {"message": {}},
        {"message": {"seed": -1}}, {"message": {"path": ["x"]}}, {"time": None},
    ],
    ids=str,
)  # fmt: skip
def test_files_that_others_have_made(tmp_path, wrong, monkeypatch):
    """The digest is right, but what it is of is not."""
    pack = capsule.pack

    def forged(value):
        if isinstance(value, dict) and "template_pickled" in value:
            inner = wrong.get("message")
            value = {**value, **wrong, **({"message": {**value["message"], **inner}} if inner else {})}
        return pack(value)

    monkeypatch.setattr(capsule, "pack", forged)
    path = capsule.write(tmp_path, a_capsule())
    with pytest.raises(ValueError, match="cannot be read"):
        capsule.read(path)


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_reading_unpickles_nothing(tmp_path):
    trace = tmp_path / "trace"
    bomb = pickle.dumps(Bomb(str(trace)))
    for how in ({"template_pickled": bomb}, {"setup": None, "setup_pickled": pickle.dumps({"x": Bomb(str(trace))})}):
        found = capsule.read(capsule.write(tmp_path / "x.palm", a_capsule(**how)))
        assert not trace.exists()
        if "setup" in how:
            found.load_setup()["x"].close()
        else:
            with pytest.raises(Unusable, match="is no template any more"):
                found.load_template()
        assert trace.exists()  # so it would have been seen
        trace.unlink()


# --------------------------------------------------------------------------------------------------------- the store


def test_store(tmp_path):
    directory = tmp_path / "deep" / "capsules"
    path = put(Store(Work, {"size": 3}, directory), constants={"gain": np.ones(2)})
    assert path is not None
    assert Path(path).parent == directory and modes(directory) == 0o700 and modes(Path(path)) == 0o600
    found = capsule.read(path)
    assert (found.server, found.function, found.reason) == ("work", "fail", "ValueError")
    assert "in fail\n" in found.traceback and found.traceback.endswith("ValueError: no 3\n")
    assert found.template == "test_capsule:Work" and found.template_pickled is None
    assert found.setup == {"size": 3} and found.message == MESSAGE
    assert found.load_template() is Work
    assert set(found.versions) == {"python", "numpy", "palm"} and all(map(os.path.isabs, found.search))


def test_a_death_has_a_reason_and_no_traceback(tmp_path):
    path = put(Store(Work, {}, tmp_path), error=None, reason="SIGSEGV")
    assert path is not None
    found = capsule.read(path)
    assert (found.reason, found.traceback) == ("SIGSEGV", "")


@pytest.mark.parametrize(
    ("template", "name", "by_value"),
    [
        (Work, "test_capsule:Work", False),
        (Work.Inner, "test_capsule:Work.Inner", False),
        (local_class(), "test_capsule:local_class.<locals>.Local", True),
    ],
)
def test_classes(tmp_path, template, name, by_value):
    path = put(Store(template, {}, tmp_path))
    assert path is not None
    found = capsule.read(path)
    assert found.template == name and (found.template_pickled is not None) == by_value
    loaded = found.load_template()
    assert (loaded is template) != by_value or by_value
    assert loaded.__name__ == template.__name__ and issubclass(loaded, palm.Server)


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def test_a_setup_that_is_no_payload_is_pickled(tmp_path):
    path = put(Store(Work, {"point": Point(4), "data": np.ones(2)}, tmp_path))
    assert path is not None
    found = capsule.read(path)
    assert found.setup is None
    assert found.load_setup()["point"].x == 4


def test_a_setup_that_cannot_be_pickled_is_missing(tmp_path):
    path = put(Store(Work, {"file": sys.stdout}, tmp_path))
    assert path is not None
    found = capsule.read(path)
    assert exactly(found.value) == exactly(np.arange(3))  # all else is there
    with pytest.raises(Unusable, match="cannot be pickled"):
        found.load_setup()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("not_there_at_all:Work", "not_there_at_all:Work cannot be loaded: ModuleNotFoundError"),
        ("test_capsule:Gone", "AttributeError"),
        ("test_capsule:Point", "is no template any more"),
    ],
)
def test_classes_that_are_gone(template, text):
    with pytest.raises(Unusable, match=text):
        a_capsule(template=template).load_template()
    other = a_capsule(template="gone:Gone", versions={"python": "2.7"})
    with pytest.raises(Unusable, match=r"it was written with python 2.7, here is python 3\."):
        other.load_template()


def test_at_most_so_many_of_a_job(tmp_path, monkeypatch):
    store = Store(Work, {}, tmp_path)
    paths = [put(store) for _ in range(capsule.FILES + 4)]
    assert all(paths[: capsule.FILES]) and not any(paths[capsule.FILES :])
    assert len(os.listdir(tmp_path)) == capsule.FILES
    assert put(store, message=replace(MESSAGE, job="f" * 32))  # another job has its own share


def test_at_most_so_many_bytes_of_a_job(tmp_path, monkeypatch):
    monkeypatch.setattr(capsule, "BYTES", 50_000)
    store = Store(Work, {}, tmp_path)
    assert put(store, value=bytes(60_000))  # one there is, whatever its size
    assert put(store) is None
    other = replace(MESSAGE, job="f" * 32)
    assert [bool(put(store, value=bytes(20_000), message=other)) for _ in range(3)] == [True, True, False]


def test_jobs_are_not_remembered_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(capsule, "JOBS", 2)
    store = Store(Work, {}, tmp_path)
    for job in "abc":
        put(store, message=replace(MESSAGE, job=job))
    assert list(store._jobs) == ["b", "c"]


def test_a_store_never_raises(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = Store(Work, {}, tmp_path / "file")
    with caplog.at_level(logging.WARNING, "palm"):
        assert [put(store) for _ in range(capsule.FILES + 5)] == [None] * (capsule.FILES + 5)
    assert len(caplog.records) == capsule.FILES  # no flood
    assert "work.fail: its failure at input 17 left no capsule" in caplog.text


def test_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALM_CAPSULES", "mine")
    assert Store(Work, {}).directory == tmp_path / "mine"
    monkeypatch.delenv("PALM_CAPSULES")
    store = Store(Work, {})
    monkeypatch.chdir("/")
    assert store.directory == tmp_path / "palm-capsules"
    assert not store.directory.exists()
    monkeypatch.setenv("PALM_CAPSULES", "")
    assert put(Store(Work, {})) is None


def test_the_path_travels_with_the_error():
    tree = tree_of_error(an_error(), "work", "fail", "/x/y.palm")
    error = error_of(tree, 17)
    assert error.capsule == "/x/y.palm"
    assert "ValueError: no 3 (in work.fail, input 17); palm replay /x/y.palm\n" in str(error)
    assert pickle.loads(pickle.dumps(error)).capsule == "/x/y.palm"
    assert error_of(tree_of_error(an_error(), "work", "fail"), 17).capsule is None
