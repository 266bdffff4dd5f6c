# SPDX-License-Identifier: BSD-3-Clause
"""Steps, values and inputs as the command line has them: in words and in files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from palm import cli_files


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("a.b", {}),
        ("a.b:gain=2.0", {"gain": 2.0}),
        ("a.b:gain=2,mode=fast", {"gain": 2, "mode": "fast"}),
        (
            'a.b:at=[1,2],to={"x": [3, 4]},flag=true,none=null',
            {"at": [1, 2], "to": {"x": [3, 4]}, "flag": True, "none": None},
        ),
        ('a.b:mode=2fast,word="2"', {"mode": "2fast", "word": "2"}),
        ("a.b:path=a=b", {"path": "a=b"}),
    ],
)
def test_constants(text, constants):
    step = cli_files.parse_step(text)
    assert (str(step), step.constants) == ("a.b", constants)


@pytest.mark.parametrize("text", ["a", "a.b:gain", "a.b:1=2", "a.b:=2"])
def test_constants_that_are_none(text):
    with pytest.raises(ValueError):
        cli_files.parse_step(text)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.eye(3)),
        np.float32(2) * np.ones(()),
        {"file": np.ones(2), "args": 3, "x y": np.float32(0.5)},
        {"a": [1, "b", None]},
        [1.5, "x"],
        "text",
    ],
)
def test_values_come_back_from_files(value, tmp_path):
    path = tmp_path / f"value{cli_files.suffix_of(value)}"
    cli_files.save(path, value)
    found = cli_files.load(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if isinstance(value, dict) and path.suffix == ".npz":
        assert set(found) == set(value)
        for name in value:
            np.testing.assert_array_equal(found[name], value[name])
    else:
        np.testing.assert_array_equal(found, value)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    cli_files.save(path, np.ones(3))

    def full(file, array, **_):
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="full"):
        cli_files.save(path, np.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
    np.testing.assert_array_equal(np.load(path), np.ones(3))


def test_json_of_any_payload():
    value = {
        "a": np.eye(2),
        "b": (1, b"\0\1"),
        "c": 1 + 2j,
        "d": np.float32(0.5),
        "e": [np.nan, float("inf")],
        3: None,
        "t": np.array(["2020-01-02"], "M8[D]"),
    }
    assert json.loads(cli_files.to_json(value)) == {
        "a": [[1, 0], [0, 1]],
        "b": [1, "AAE="],
        "c": [1, 2],
        "d": 0.5,
        "e": [None, None],
        "3": None,
        "t": ["2020-01-02"],
    }


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="it has objects"):
        cli_files.load(tmp_path / "x.npy")


def test_inputs(tmp_path):
    for name in ("b.npy", "a.npz", "sub/c.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(cli_files.inputs_of(f"{tmp_path}/**/*.*")) == ["a", "b", "c"]
    (tmp_path / "sub/a.npy").touch()
    with pytest.raises(ValueError, match="same output a"):
        cli_files.inputs_of(f"{tmp_path}/**/*.*")
    with pytest.raises(ValueError, match="no file matches"):
        cli_files.inputs_of(f"{tmp_path}/*.txt")
    (tmp_path / "x.txt").touch()
    with pytest.raises(ValueError, match="ends in .npy, .npz, .json"):
        cli_files.inputs_of(f"{tmp_path}/*.txt")
