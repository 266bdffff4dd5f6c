# SPDX-License-Identifier: BSD-3-Clause
"""The files of the log: they rotate, and are read in pages."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_logs import everything, record

import palm
from palm import log_files
from palm.log_files import Writer, look_back, look_on
from palm.log_record import Wanted, decoded

pytest_plugins = "helpers_logs"  # its fixtures
pytestmark = pytest.mark.usefixtures("as_users_have_it")


@pytest.fixture
def writer(tmp_path, monkeypatch) -> Iterator[Writer]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(log_files, "FILE_BYTES", 4000)
    monkeypatch.setattr(log_files, "LOOK", 1000)
    writer = Writer("some", tmp_path / "instead")
    yield writer
    writer.close()


def backwards(path: Path, wanted: Wanted, most: int) -> list[str]:
    found, cursor = [], ""
    while True:
        page = look_back(path, cursor, wanted, most - len(found))
        found = [decoded(line).text for line in page.lines.splitlines()] + found
        if page.over or len(found) >= most:
            return found
        cursor = page.cursor


def test_files_rotate_and_are_read_in_pages(writer):
    for k in range(1000):
        writer.write("a", [record(f"text {k}", job=f"{k % 7}job")])
    files = sorted(writer.path.glob("*.jsonl"))
    assert len(files) == log_files.FILES and all(f.stat().st_size <= 4000 + 200 for f in files)
    found = [r.text for r in everything(writer.path)]
    begin = int(found[0].split()[1])
    assert found == [f"text {k}" for k in range(begin, 1000)] and 200 < len(found) < 500
    assert backwards(writer.path, Wanted(), 10**6) == found
    assert backwards(writer.path, Wanted(), 5) == found[-5:]
    some = [f"text {k}" for k in range(begin, 1000) if k % 7 == 3]
    assert backwards(writer.path, Wanted(job="3job"), 10**6) == some
    assert backwards(writer.path, Wanted(job="3job"), 3) == some[-3:]
    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in writer.path.iterdir()} == {0o600}
    page = look_back(writer.path, "", Wanted(), 1)
    writer.write("a", [record("later")])
    assert decoded(look_on(writer.path, page.follow, Wanted()).lines.strip()).text == "later"


def test_a_reader_whose_file_has_gone_goes_on_with_the_next(writer):
    writer.write("a", [record("first")])
    cursor = look_on(writer.path, "", Wanted()).cursor
    for k in range(1000):
        writer.write("a", [record(f"text {k}")])
    first = sorted(writer.path.glob("*.jsonl"))[0].read_bytes().partition(b"\n")[0]
    assert look_on(writer.path, cursor, Wanted()).lines.partition(b"\n")[0] == first


def test_what_is_no_record_is_passed_over(writer):
    writer.write("a", [record("one")])
    [file] = writer.path.glob("*.jsonl")
    with open(file, "ab") as f:
        f.write(b'\xff{}\n\n{"time":1}\n[]\n' + record("two") + record("torn")[:30])
    assert [r.text for r in everything(writer.path)] == ["one", "two"] == backwards(writer.path, Wanted(), 99)
    page = look_on(writer.path, "", Wanted())
    with open(file, "ab") as f:
        f.write(record("torn")[30:])
    assert decoded(look_on(writer.path, page.cursor, Wanted()).lines.strip()).text == "torn"


@pytest.mark.parametrize(
    "cursor", ["x", "../../etc/passwd:0", "1.jsonl:0", f"{0:020d}.jsonl:-1", "9" * 20 + ".jsonl:0\n"]
)
def test_places_that_are_none(writer, cursor):
    writer.write("a", [record("one")])
    with pytest.raises(ValueError, match="no place in a log"):
        look_on(writer.path, cursor, Wanted())


def test_hostile_questions(cluster):
    ask = cluster._own_client()._directory.ask
    for values in [("x", ("", "", 0)), ("", ("", "", "")), (3, ("", "", 0)), ("", [1])]:
        with pytest.raises(palm.RemoteError):
            ask("log_on", *values)
    for most in (0, -1, "x", True):
        with pytest.raises(palm.RemoteError):
            ask("log_back", "", ("", "", 0), most)
    assert cluster.status()["registry"]["state"] == "running"


def test_a_disk_that_is_full(writer, monkeypatch):
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) // 2)
    writer.write("a", [record("torn"), record("torn")])
    assert writer.lost == 2 and "no room" in writer.why
    monkeypatch.undo()
    writer.write("a", [record("whole")])
    assert [r.text for r in everything(writer.path)][-1] == "whole" and writer.lost == 2


def test_a_home_that_nobody_can_write(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert Writer("some", tmp_path / "instead").path == tmp_path / "instead"


def test_the_logs_of_the_last_clusters_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for k in range(log_files.CLUSTERS + 5):
        writer = Writer(f"c{k}", tmp_path)
        writer.write("a", [record("text")])
        writer.close()
        (writer.path / "owner").write_text("1 1")  # dead
    there = {p.name for p in writer.path.parent.iterdir()}
    assert there == {f"c{k}" for k in range(4, log_files.CLUSTERS + 5)}
    assert log_files.find("c7") == writer.path.parent / "c7" and log_files.find("c1") is None
