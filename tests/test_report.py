# SPDX-License-Identifier: BSD-3-Clause
"""Where the time of a job went: `Job.stats`, the report, and what one more worker would gain."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually
from test_rates import look, process, server

import palm
from palm import cli_submit, stats
from palm.recording import MOST, Recording
from palm.report import Report, render
from palm.step import route_of

VOID = {"meta", "br", "path", "rect", "line"}
HOSTILE = "\"><script>alert(1)</script>&amp;<b a='x"


class Quick(palm.Butterfly):
    @palm.function
    def half(self, x):
        return x / 2


class Slow(palm.Butterfly):
    @palm.function
    def sleep(self, x, *, name="none"):
        if x.flat[0] < 0:
            raise ValueError(f"negative, {name}")
        time.sleep(0.02)
        return x


class Page(HTMLParser):
    """Text by tag, tables as rows of cells; refuses what is not well-formed, a script, and what lies elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "b") and not any(k.startswith("on") for k, _ in attrs)
        assert all(k not in ("src", "href") for k, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table(self, first: str) -> list[dict[str, str]]:
        """The one whose first heading is this, the n-th of them by `first#n`."""
        name, _, n = first.partition("#")
        head, *rows = [t for t in self.tables if t[0][0] == name][int(n or 0)]
        return [dict(zip(head, row, strict=True)) for row in rows]


STEPS = ["quick.half", "slow.sleep"]


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Quick, workers=1)
        cluster.start(Slow, workers=2)
        with cluster.client() as client:  # once mapped, their memory stays so while they live
            eventually(lambda: list(client.job(STEPS, [np.ones(1)] * 20)) and both_have_worked(cluster))
        yield cluster


def both_have_worked(cluster: palm.Cluster) -> bool:
    (slow,) = [s for s in cluster.status()["servers"] if s["name"] == "slow"]
    return all(w["counters"]["functions"]["sleep"]["calls"] for w in slow["workers"])


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


def test_the_report_has_the_numbers_of_the_stats(client):
    list(client.job(STEPS, [np.ones(1)] * 7))  # before: not of the job
    with Recording(client, period=0.05) as recording:
        job = client.job(STEPS, [np.full((200, 200), float(i)) for i in range(100)])
        job._before = recording.before
        assert len(list(job)) == 100
    found = job.stats()
    assert [s["calls"] for s in found["steps"].values()] == [100, 100]
    assert [s["workers"] for s in found["steps"].values()] == [1, 2]
    assert found["limits"] == "slow.sleep" and 0 < found["own"]["share"] < 1
    assert 0.02 <= found["steps"]["slow.sleep"]["mean_seconds"] < 1.0
    assert found["steps"]["slow.sleep"]["bytes_in"] >= 100 * 320_000

    report = Report(route_of(STEPS), found["seconds"], recording.before, recording.after, vars(job.progress))
    page = Page(render(report))
    rows = {row["step"]: row for row in page.table("step")}
    for name, s in found["steps"].items():
        assert (rows[name]["calls"], rows[name]["workers"]) == (str(s["calls"]), str(s["workers"]))
    (quick, slow) = page.table("server#1")
    assert (quick["server"], slow["lent"], slow["inside"], slow["copied"]) == ("quick", "100", "0", "0 B")
    assert "100 sent, 100 done, 0 failed" in page.text and found["one_more"]["why"].split(";")[0] in page.text


def test_without_a_look_before_stats_are_since_the_start(client):
    calls = []
    for _ in range(2):
        job = client.job(STEPS, [np.ones(1)] * 30)
        assert len(list(job)) == 30
        calls.append([s["calls"] for s in job.stats()["steps"].values()])
    assert calls[0] >= [50, 50] and calls[1] == [n + 30 for n in calls[0]]


def test_what_waits_is_recorded(client):
    with Recording(client, period=0.02) as recording:
        list(client.job(STEPS, [np.ones(1)] * 60))
    assert max(queues["slow"] for _, queues in recording.queues) > 5
    assert [t for t, _ in recording.queues] == sorted(t for t, _ in recording.queues)
    assert any(s["name"] == "slow" for s in recording.after["servers"])


def test_a_long_recording_stays_short(cluster):
    with Recording(cluster.client(), period=0.0001) as recording:
        eventually(lambda: recording._period > 0.0003, 60)
        assert len(recording.queues) <= MOST + 1


def test_a_recording_outlives_the_cluster(cluster):
    cluster.start(Quick)
    recording = Recording(cluster.client(), period=0.01)
    eventually(lambda: len(recording.queues) > 2)
    cluster.close()
    recording.close()
    assert recording.after["servers"]


# ------------------------------------------------------------------------------------------------------- palm submit


def submit(cluster: palm.Cluster, tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from palm.cli import main; main()", "submit", "--cluster", cluster.name, *STEPS]
    files = ["--input", str(tmp_path / "in" / "*.npy"), "--output", str(tmp_path / "out")]
    return subprocess.run([*command, *files, *args], capture_output=True, text=True, timeout=60)


def test_submit_writes_a_report_though_some_fail(servers, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(12):
        np.save(tmp_path / "in" / f"x{i:02}.npy", np.full(3, -1.0 if i == 5 else 1.0))
    path = tmp_path / "report.html"
    done = submit(servers, tmp_path, "--report", str(path))
    assert done.returncode == 1, done.stderr
    page = Page(path.read_text())
    assert {row["step"]: row["calls"] for row in page.table("step")} == {"quick.half": "12", "slow.sleep": "12"}
    (failed,) = page.table("input")
    assert failed["input"].endswith("x05.npy") and "negative, none" in failed["why"]
    assert servers.name in page.text and "12 sent, 12 done, 1 failed" in page.text
    assert [p.name for p in tmp_path.iterdir()] == ["in", "out", "report.html"] or len(list(tmp_path.iterdir())) == 3

    done = submit(servers, tmp_path, "--report", str(tmp_path / "none" / "r.html"))
    assert done.returncode == 2 and "there is no directory" in done.stderr


def test_a_job_that_ends_early_says_so_in_its_report(client, tmp_path):
    paths = {}
    for i in range(50):
        np.save(tmp_path / f"x{i}.npy", np.ones(3))
        paths[f"x{i}"] = tmp_path / f"x{i}.npy"
    submission = cli_submit.Submission(route_of(STEPS), paths, tmp_path / "out")
    with pytest.raises(palm.Timeout):
        submission.run(client, 0.05, tmp_path / "r.html", progress=False)
    page = Page((tmp_path / "r.html").read_text())
    assert "Not complete:" in page.text and "within 0.05 s" in page.text


# --------------------------------------------------------------------------------------------------- what it is made of


def test_what_comes_from_users_is_escaped():
    name = f"a{HOSTILE}"
    before, after = look(0, server(name, pid=1)), look(2, server(name, pid=1, calls=4, busy_seconds=1.9))
    after["servers"][0]["counters"]["functions"][HOSTILE] = after["servers"][0]["counters"]["functions"].pop("f")
    steps = [palm.step(f"{name}.{HOSTILE}".replace(" ", "_"))]
    html = render(
        Report(
            steps,
            2.0,
            before,
            after,
            {"sent": 4, "done": 4},
            [(0.0, {name: 3}), (1.0, {name: 9})],
            [(f"{HOSTILE}.npy", HOSTILE)],
            {HOSTILE: HOSTILE},
            HOSTILE,
        )
    )
    assert "<script" not in html and "<b a" not in html
    page = Page(html)
    assert page.text.count("<script>alert(1)</script>&amp;<b") >= 8


def test_a_report_of_nothing_is_one():
    page = Page(render(Report(route_of(STEPS), 0.0, look(0), look(0))))
    assert [row["calls"] for row in page.table("step")] == ["0", "0"]


def test_it_says_whose_numbers_are_missing():
    after = look(1) | {"hosts": [{"host": "h2", "state": "unreachable", "cores": None}]}
    text = Page(render(Report(route_of(STEPS), 1.0, look(0), after))).text
    assert "what processes did on h2 (unreachable): nothing is known of them" in text
    assert stats.between(route_of(STEPS), None, after)["unknown_hosts"] == {"h2": "unreachable"}


@pytest.mark.parametrize(
    ("workers", "idle", "gain", "says"),
    [
        (1, 0.0, 2.0, "slow limits; with 2 workers instead of 1, it still limits"),
        (3, 0.0, 4 / 3, "slow limits; with 4 workers instead of 3, it still limits"),
        (3, 0.2, 4 / 3, "slow limits; with 4 workers instead of 3, it still limits"),
        (3, 0.6, 1.0, "no server limits: slow, the busiest, has 60 % of its time left"),
    ],
)
def test_one_more_worker_shares_the_work(workers, idle, gain, says):
    found = stats.one_more([stats.Load("fast", 2, 0.1, 0.05), stats.Load("slow", workers, 1 - idle, 0.1)], 1.0, 8)
    assert found["gain"] == pytest.approx(gain) and found["why"].startswith(says)


def test_the_next_server_bounds_the_gain():
    loads = [stats.Load("fast", 1, 0.9, None), stats.Load("slow", 2, 1.0, 0.1)]
    found = stats.one_more(loads, 1.0, 8)
    assert found["gain"] == pytest.approx(1 / 0.9) and found["why"].endswith("then fast limits")


def test_more_workers_do_not_help_everywhere():
    led = stats.one_more([stats.Load("slow", 2, 0.6, 0.9)], 1.0, 8)
    assert led["gain"] == 1.0 and "the leader of slow limits" in led["why"]
    full = stats.one_more([stats.Load("slow", 2, 1.0, 0.1)], 1.9, 2)
    assert full["gain"] == 1.0 and "cores of this machine are in use: 1.9 of 2" in full["why"]
    alone = stats.one_more([stats.Load("slow", 1, 1.0, None)], 1.0, 8)
    assert alone["gain"] == 2.0 and "if it were a palm.Butterfly" in alone["why"]
    assert stats.one_more([], 0.0, 8)["gain"] == 1.0


def test_the_step_that_limits_is_that_of_the_most_occupied_server():
    """Rather than the one with the longest calls, which many workers share."""
    before = look(0, server("a", pid=1), server("b", *(process(i) for i in (11, 12, 13, 14)), pid=2))
    after = look(
        10,
        server("a", pid=1, calls=10, busy_seconds=9.0, idle_seconds=1.0),
        server(
            "b",
            *(process(i, calls=3, busy_seconds=5.0, idle_seconds=5.0) for i in (11, 12, 13, 14)),
            pid=2,
            idle_seconds=9.0,
        ),
    )
    found = stats.of_steps(route_of(["a.f", "b.f"]), stats.rates.between(before, after), 16)
    assert found["limits"] == "a.f"
    assert found["steps"]["b.f"]["mean_seconds"] == pytest.approx(5 / 3) and found["steps"]["b.f"]["workers"] == 4
    assert found["own"]["seconds"] == pytest.approx(1.0) and found["one_more"]["gain"] == pytest.approx(0.9 / 0.5)
