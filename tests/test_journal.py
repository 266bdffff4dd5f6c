# SPDX-License-Identifier: BSD-3-Clause
"""Journals: a job that was killed, made again, does what is left, and the output is the same bits (B4)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm
from palm.journal import Journal, ranges_of
from palm.step import step

STEPS = [step("work.same")]


class Work(palm.Server):
    def setup(self, log):
        self.path = Path(log)
        self.broken = Path(log + ".broken")

    def note(self, x):
        with open(self.path, "a") as f:
            f.write(f"{x}\n")

    @palm.function
    def same(self, x):
        self.note(x)
        return x

    @palm.function
    def noise(self, x, *, scale=1.0):
        self.note(x)
        return x + scale * self.rng.standard_normal()

    @palm.function
    def upto(self, n):
        self.note(n)
        yield from range(n)

    @palm.function
    def odd(self, x):
        self.note(x)
        return x if x % 2 else None

    @palm.function
    def few(self, x):
        return x if x < 2 else None

    @palm.function
    def sometimes(self, x):
        self.note(x)
        if x % 5 == 3 and self.broken.exists():
            raise ValueError(f"no {x}")
        return x


class Place:
    """A cluster with Work, the log of what it worked on, and a journal's path."""

    def __init__(self, cluster: palm.Cluster, directory: Path) -> None:
        self.log, self.journal = directory / "log", directory / "journal"
        cluster.start(Work, setup={"log": str(self.log)})
        self.client = cluster.client()

    def job(self, function="same", inputs=range(10), **options):
        return self.client.job(f"work.{function}", inputs, journal=self.journal, **options)

    def worked_on(self) -> list[int]:
        """Since it was asked last."""
        if not self.log.exists():
            return []
        found = [int(x) for x in self.log.read_text().split()]
        self.log.write_text("")
        return found


@pytest.fixture
def place(cluster, tmp_path):
    return Place(cluster, tmp_path)


def taken_from(job, n):
    """The first n results; what was asked for the next one's sake is the job's affair."""
    with job:
        return [next(job) for _ in range(n)]


# ------------------------------------------------------------------------------------------------------------ the file


def test_ranges():
    assert ranges_of([5, 1, 2, 3, 7, 6]) == [(1, 4), (5, 8)]


def test_what_is_noted_is_there_again(tmp_path):
    path = tmp_path / "j"
    first = Journal(path, STEPS, None, 77)
    for number in (0, 1, 2, 9, 4):
        first.add(number)
    first.close()
    again = Journal(path, STEPS, None, 78)
    assert (again.seed, again.done) == (77, [(0, 3), (4, 5), (9, 10)])
    assert [again.next_done(n) for n in (0, 3, 4, 5, 10)] == [(0, 3), (4, 5), (4, 5), (9, 10), None]
    again.close()


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path, cut):
    path = tmp_path / "j"
    with_two = Journal(path, STEPS, 1, 0)
    with_two.add(0)
    with_two.write()
    with_two.add(5)
    with_two.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path, STEPS, 1, 0)
    assert again.done == ([(0, 1)] if cut < 10 else [])  # the last line has 9 bytes
    again.add(7)
    again.close()
    last = Journal(path, STEPS, 1, 0)
    assert (7, 8) in last.done
    last.close()


@pytest.mark.parametrize(
    ("steps", "seed", "says"),
    [
        ([step("work.noise")], None, "with steps"),
        ([step("work.same", gain=np.ones(3))], None, r"with other constants of its steps \['work.same"),
        (STEPS, 2, "with seed 1, while this one has 2"),
    ],
)
def test_the_journal_of_another_job(tmp_path, steps, seed, says):
    Journal(tmp_path / "j", STEPS, 1, 0).close()
    with pytest.raises(ValueError, match=says):
        Journal(tmp_path / "j", steps, seed, 0)


def test_constants_are_told_apart_by_content(tmp_path):
    Journal(tmp_path / "j", [step("a.b", x=np.arange(3))], 1, 0).close()
    Journal(tmp_path / "j", [step("a.b", x=np.arange(3))], 1, 0).close()
    with pytest.raises(ValueError, match="another job"):
        Journal(tmp_path / "j", [step("a.b", x=np.arange(4))], 1, 0)


@pytest.mark.parametrize(
    "text", ["no json\n", "{}\n", '{"palm journal": 2}\n', "[1]\n", "no line", "one\nand two", '{"palm": 1']
)
def test_a_file_that_is_no_journal(tmp_path, text):
    (tmp_path / "j").write_text(text)
    with pytest.raises(ValueError, match="no journal"):
        Journal(tmp_path / "j", STEPS, None, 0)
    assert (tmp_path / "j").read_text() == text


@pytest.mark.parametrize(
    "line", ["[[1, 0]]", "[[1]]", "7", '[["a", "b"]]', "[[-1, 2]]", "{", "{}", '{"inputs": [-1], "digest": ""}']
)
def test_a_damaged_journal(tmp_path, line):
    Journal(tmp_path / "j", STEPS, 1, 0).close()
    with open(tmp_path / "j", "a") as f:
        f.write(line + "\n")
    with pytest.raises(ValueError, match="damaged"):
        Journal(tmp_path / "j", STEPS, 1, 0)


def test_one_job_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("palm.journal.PATIENCE", 0.05)
    journal = Journal(tmp_path / "j", STEPS, 1, 0)
    with pytest.raises(BlockingIOError, match="in use"):
        Journal(tmp_path / "j", STEPS, 1, 0)
    journal.close()
    Journal(tmp_path / "j", STEPS, 1, 0).close()


# ------------------------------------------------------------------------------------------------------------- the job


@pytest.mark.parametrize("ordered", [False, True])
def test_what_was_worked_on_is_not_done_again(place, ordered):
    first = taken_from(place.job(ordered=ordered), 4)
    place.worked_on()
    rest = list(place.job(ordered=ordered))
    done = set(first[:3])  # the fourth was taken, but nobody asked for more
    assert sorted(rest) == sorted(set(range(10)) - done) == sorted(place.worked_on())
    assert list(place.job()) == [] == place.worked_on()


def test_numbers_and_progress_are_those_of_all_inputs(place):
    taken_from(place.job(ordered=True), 4)
    job = place.job(inputs=iter(range(10)), ordered=True)
    assert list(job.items()) == [(n, n) for n in range(3, 10)]
    assert (job.progress.sent, job.progress.done, job.progress.total) == (10, 10, 10)


def test_fewer_inputs_than_were_done(place):
    list(place.job())
    assert list(place.job(inputs=iter(range(3)))) == []


@pytest.mark.parametrize("ordered", [False, True])
def test_an_input_is_done_with_its_last_result(place, ordered):
    taken_from(place.job("upto", [3, 2, 4], ordered=ordered, window=1), 4)
    again = [n for n, _ in place.job("upto", [3, 2, 4], ordered=True).items()]
    assert again == [1, 1, 2, 2, 2, 2]


def test_inputs_without_a_result_are_done(place):
    assert sorted(place.job("odd")) == [1, 3, 5, 7, 9]
    place.worked_on()
    assert list(place.job("odd")) == [] == place.worked_on()


@pytest.mark.parametrize("on_error", ["skip", "return"])
def test_what_failed_is_tried_again(place, on_error):
    broken = Path(str(place.log) + ".broken")
    broken.touch()
    list(place.job("sometimes", on_error=on_error))
    broken.unlink()
    place.worked_on()
    assert sorted(place.job("sometimes", on_error=on_error)) == [3, 8] == sorted(place.worked_on())


def test_what_came_before_the_error_is_done(place):
    broken = Path(str(place.log) + ".broken")
    broken.touch()
    job = place.job("sometimes", ordered=True, window=1)
    with pytest.raises(palm.RemoteError):
        list(job)
    broken.unlink()
    assert list(place.job("sometimes", ordered=True)) == list(range(3, 10))


def test_wait_notes_too(place):
    assert place.job().wait().done == 10
    assert list(place.job()) == []


def test_a_dropped_job_lets_go_of_its_journal(place):
    for _ in place.job():
        break
    assert len(list(place.job())) == 10


def test_rows_that_are_left_out_are_told_of(place, tmp_path):
    """They are in the memmap that was `out` the last time, and in nothing else."""
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", "f8", (10,))
    place.job().into(rows)
    with pytest.warns(RuntimeWarning, match=r"10 inputs were done before"):
        place.job().into(np.zeros(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        place.job().into(rows)


def test_a_file_that_was_made_anew_is_not_taken_for_the_one_that_was(place, tmp_path):
    """Rows that are done would be missing in it, and nobody would know."""

    def rows(mode, name="rows.npy"):
        return np.lib.format.open_memmap(tmp_path / name, mode, "f8", (10,))

    expected = place.job().into(rows("w+")).copy()
    assert expected.any()
    for wrong in (rows("w+", "other.npy"), rows("w+")):
        with pytest.raises(ValueError, match='10 inputs are done.*open its file with mode "r\\+"'):
            place.job().into(wrong)
    rows("r+")[:] = expected
    np.testing.assert_array_equal(place.job().into(rows("r+")), expected)


def test_inputs_without_rows_tell_nothing(place, tmp_path):
    """The last ones have none: what is known is what of others has been written, whatever becomes of theirs."""
    out = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", "f8", (40,))
    place.job("few", range(40)).into(out)
    assert out[:2].tolist() == [0, 1] and not out[2:].any()
    with pytest.raises(ValueError, match="40 inputs are done"):
        place.job("few", range(40)).into(np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", "f8", (40,)))
    out[:2], out[2:] = [0, 1], np.nan
    assert place.job("few", range(40)).into(out)[:2].tolist() == [0, 1]


def test_what_was_not_done_into_a_memmap_is_told_of(place, tmp_path):
    with pytest.warns(RuntimeWarning):
        place.job().into(np.zeros(10))
    with pytest.warns(RuntimeWarning, match="10 inputs were done before.*not all by `into` with a memmap") as told:
        place.job().into(np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", "f8", (10,)))
    assert told[0].filename == __file__


@pytest.mark.parametrize("mode", ["array", "copy", "c"])
def test_what_a_kill_would_lose_is_told_of(place, tmp_path, mode):
    np.save(tmp_path / "rows.npy", np.zeros(10))
    out = np.load(tmp_path / "rows.npy", mmap_mode={"array": None, "copy": "r+"}.get(mode, mode))
    if mode == "copy":
        out = out.copy()
    with pytest.warns(RuntimeWarning, match="no memmap of a file: after a kill they are gone"):
        place.job().into(out)


def test_another_function(place):
    list(place.job())
    with pytest.raises(ValueError, match=r"with steps \['work.same'\], while this one has \['work.odd'\]"):
        place.job("odd")


SCRIPT = """
import sys, numpy as np, palm
from test_journal import Work
name, log, journal, out, n = sys.argv[1:]
with palm.Client(name) as client:
    rows = np.lib.format.open_memmap(out, "r+", "f8", (int(n),))
    job = client.job([palm.step("work.noise", scale=2.0)], range(int(n)), journal=journal, window=20)
    job.into(rows)
print(job.progress.done)
"""


def test_killed_again_and_again(cluster, tmp_path):
    """The output is that of an undisturbed run, bit by bit, and most inputs were worked on once."""
    n = 4000
    log, journal, out = tmp_path / "log", tmp_path / "journal", tmp_path / "out.npy"
    cluster.start(Work, setup={"log": str(log)})
    rows = np.lib.format.open_memmap(out, "w+", "f8", (n,))
    rows[:] = np.nan
    rows.flush()

    def noted():
        lines = journal.read_text().splitlines()[1:] if journal.exists() else []
        return sum(end - first for line in map(json.loads, lines) if type(line) is list for first, end in line)

    def run():
        arguments = [sys.executable, "-c", SCRIPT, cluster.name, str(log), str(journal), str(out), str(n)]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        return subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, text=True)

    killed = 0
    while killed < 3:
        process, before = run(), noted()
        eventually(lambda process=process, before=before: noted() > before or process.poll() is not None, 30)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        if noted() == n:
            break
    process = run()
    assert process.communicate()[0] == f"{n}\n" and process.returncode == 0
    assert killed and noted() == n
    seed = json.loads(journal.read_text().splitlines()[0])["seed"]
    with cluster.client() as client:
        undisturbed = client.job([palm.step("work.noise", scale=2.0)], range(n), seed=seed).into(np.zeros(n))
    assert rows.tobytes() == undisturbed.tobytes()
