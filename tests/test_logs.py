# SPDX-License-Identifier: BSD-3-Clause
"""The log: what servers say is kept with who said it and when, whoever dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import eventually
from helpers_logs import Crew, Halves, Talk, everything, records, said

import palm
from palm import places
from palm.log_record import MOST_TEXT, Record

pytest_plugins = "helpers_logs"  # its fixtures
pytestmark = pytest.mark.usefixtures("as_users_have_it")


def test_records_say_who_and_when_and_on_what(cluster, talk):
    began = time.time()
    job = talk.job("talk.say", [5, 6])
    assert list(job) == [5, 6] or True
    [warning] = said(cluster, "warning 6")
    pid = cluster.status()["servers"][0]["pid"]
    assert began < warning.time < time.time()
    assert warning == Record(
        time=warning.time,
        level="WARNING",
        number=30,
        server="talk",
        worker=0,
        pid=pid,
        text="warning 6",
        job=job.id,
        message=[1],
        logger="palm.talk",
    )
    found = [r.text for r in records(cluster, "talk") if r.message == [0]]
    assert found == ["info 5", "warning 5", "of another logger 5"]
    [setup] = said(cluster, "in setup")
    assert (setup.job, setup.message, setup.level) == ("", None, "INFO")


def test_the_message_at_work(cluster):
    cluster.start(Talk)
    client = cluster.client()
    client.call("talk.by_thread", 1)
    [record] = said(cluster, "of a thread")
    assert (record.job, record.message) == ("", None)
    job = client.job("talk.each", [10, 20])
    assert sorted(job) == [10, 11, 20, 21]
    said(cluster, "before 1")
    assert sorted(r.message for r in records(cluster, job=job.id)) == [[0], [0], [1], [1]]
    job = client.job("talk.together", [1.0, 2.0])
    assert len(list(job)) == 2
    assert {(r.job, r.message) for r in said(cluster, "a batch")} == {(job.id, None)}


def test_tracebacks_and_long_texts(cluster):
    cluster.start(Talk)
    cluster.client().call("talk.fail", "x" * 2 * MOST_TEXT)
    [record] = said(cluster, "it failed")
    assert record.level == "ERROR" and len(record.text) < MOST_TEXT + 40 and "letters more" in record.text
    cluster.client().call("talk.fail", 1)
    [record] = said(cluster, "it failed 1")
    assert record.text.endswith("ValueError: no such film") and "Traceback" in record.text and "in fail" in record.text


def test_levels(cluster, capfd):
    """What a user says about levels and handlers counts."""
    cluster.start(Talk, "fine", setup={"level": "DEBUG"})
    cluster.start(Talk, "coarse", setup={"level": "ERROR"})
    cluster.start(Talk, "own", setup={"configure": True})
    client = cluster.client()
    for name in ("fine", "coarse", "own"):
        client.call(f"{name}.say", 1)
    said(cluster, "of another logger 1", "own")
    texts = {name: [r.text for r in records(cluster, name) if r.logger == f"palm.{name}"] for name in ("fine", "own")}
    assert texts["fine"] == ["in setup", "debug 1", "info 1", "warning 1"] and "debug 1" in texts["own"]
    said(cluster, "of another logger 1", "coarse")
    assert not [r for r in records(cluster, "coarse") if r.logger == "palm.coarse"]
    err = eventually(lambda: capfd.readouterr().err)
    assert "their own: own 0 (0,) warning 1\n" in err and "WARNING own/0" not in err, "shown once, as they want it"


@pytest.mark.parametrize("template", [Crew, Halves])
def test_workers_and_leaders(cluster, template):
    name = cluster.start(template, workers=2)
    if template is Halves:
        cluster.client().call("halves.same", 5)
        [printed] = said(cluster, "scattered too", name)
        [record] = eventually(lambda: [r for r in records(cluster, name) if r.text == "scattered"])
        assert (record.worker, record.message, printed.worker) == (None, [0], None)
        return
    list(cluster.client().job("crew.say", range(40)))
    eventually(lambda: {r.worker for r in said(cluster, "in setup", name)} == {0, 1})
    one = eventually(lambda: records(cluster, "crew/1"))
    assert {r.worker for r in one} == {1} and {r.worker for r in records(cluster, "crew")} == {0, 1}


# ------------------------------------------------------------------------------------------------- what is printed


def test_all_that_is_printed(cluster, talk, capfd):
    talk.call("talk.show", 7)
    said(cluster, "by a child"), said(cluster, "no text")
    printed = {s: [r.text for r in records(cluster, "talk") if r.stream == s] for s in ("stdout", "stderr")}
    assert printed["stdout"] == ["by print 7", "unended 7, by os", "by C 7", "by a child"]
    assert printed["stderr"] == ["\\xffno text\x1b[2J"]
    assert {(r.stream, r.level) for r in records(cluster, "talk") if r.stream} == {
        ("stdout", "INFO"),
        ("stderr", "WARNING"),
    }
    shown = []

    def seen(stream: int) -> str:
        shown.append(capfd.readouterr())
        return "".join(part[stream] for part in shown)

    eventually(
        lambda: "by print 7\nunended 7, by os\nby C 7\nby a child\n" in seen(0)
    )  # on the terminal too, as before
    assert not seen(1) or "no text" in seen(1)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV"])
def test_last_words(cluster, talk, how):
    with pytest.raises(palm.Crashed, match=how):
        talk.call("talk.die", how)
    deaths = eventually(lambda: (found := said(cluster, f"died: {how}"))[2:] and found)
    assert len(deaths) == 3 and {r.number for r in deaths} == {logging.WARNING}
    of_one = [r.text for r in records(cluster) if r.pid == deaths[0].pid]
    assert {"a last record", "a last line", "the last of C", f"died: {how}; it is started again"} <= {*of_one}
    if how == "SIGSEGV":
        assert "Fatal Python error: Segmentation fault" in of_one and "in die" in "".join(of_one)


def test_what_is_said_at_the_end(cluster):
    cluster.start(Talk)
    path = cluster._logs.path
    cluster.close()
    assert "torn down" in [r.text for r in everything(path)]


def test_the_rest_of_the_cluster_is_heard_too(cluster):
    """The registry, the nursery, and the process with the caches."""
    for name in ("registry", "registry/nursery", "registry/cache"):
        pid = {
            "registry": cluster.status()["registry"]["pid"],
            "registry/nursery": cluster._births.pid,
            "registry/cache": cluster._supervisor._children["registry/cache"].pid,
        }[name]
        pipe = eventually(lambda pid=pid: (t := os.readlink(f"/proc/{pid}/fd/2")).startswith("pipe:") and t)
        with open(f"/proc/{pid}/fd/2", "wb") as f:
            f.write(b"from outside\n")
        assert pipe and [r.worker for r in said(cluster, "from outside", name)[-1:]] == [None]


# ------------------------------------------------------------------------------------------------------------ deaths


def test_the_death_of_the_registry_loses_nothing(cluster, tmp_path):
    cluster.start(Talk)
    client = cluster.client()
    path = tmp_path / "end"
    future = client.submit("talk.go_on", str(path))
    said(cluster, "go on 3")
    pid = cluster.status()["registry"]["pid"]
    os.kill(pid, signal.SIGKILL)
    last = int(said(cluster, "go on 3")[0].text.split()[2])
    eventually(lambda: not places.start_time(pid) and cluster.status()["registry"]["pid"] != pid)
    path.touch()
    count = future.result(30)
    assert count > last
    said(cluster, f"go on {count - 1}")
    assert [r.text for r in records(cluster, "talk") if "go on" in r.text] == [f"go on {k}" for k in range(count)]
    assert any("died: SIGKILL" in r.text for r in records(cluster, "registry"))


def test_who_prints_survives_the_owner_s_death(tmp_path):
    """Without a reader: no SIGPIPE, no BrokenPipeError, before it ends itself."""
    code = """
import sys
sys.path.insert(0, {tests!r})
from helpers_logs import *

class Late(palm.Server):
    def teardown(self):
        for k in range(5000): print("line", k)
        self.log.info("nobody")
        Path({path!r}).write_text("torn down")
    @palm.function
    def same(self, x): return x

if __name__ == "__main__":
    cluster = palm.Cluster("orphaned")
    cluster.start(Late)
    print("up", flush=True)
    time.sleep(60)
"""
    path = tmp_path / "told"
    script = tmp_path / "script.py"
    script.write_text(code.format(tests=str(Path(__file__).parent), path=str(path)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        process.kill()
    eventually(path.exists)
    eventually(lambda: not (places.base() / "orphaned").exists())
