# SPDX-License-Identifier: BSD-3-Clause
"""The log: what servers say is kept with who said it and when, whoever dies; a flood costs nobody anything but lines,
which are counted."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually

import palm
from palm import log_echo, log_files, log_pipes, logs, places
from palm.log_files import Page, Writer, look_back, look_on
from palm.log_flood import BURST, LAST, LAST_BYTES, LINE, RATE, Flood
from palm.log_handler import Handler, installed
from palm.log_record import MARK, MOST_TEXT, Record, Wanted, decoded, encoded, level_of
from palm.logs import MOST_LINE
from palm.process import Order

FLOOD = 100_000


class Talk(palm.Server):
    def setup(self, level=None, configure=False):
        if level:
            self.log.setLevel(level)
        if configure:
            handler = logging.StreamHandler()
            text = "their own: %(server)s %(worker)s %(path)s %(message)s"
            handler.setFormatter(logging.Formatter(text, defaults={"server": "", "worker": "", "path": ""}))
            logging.basicConfig(level=logging.DEBUG, handlers=[handler])
        self.log.info("in setup")

    def teardown(self):
        print("torn down")

    @palm.function
    def say(self, x):
        self.log.debug("debug %s", x, extra={"job": "of a user's own"})
        self.log.info("info %s", x)
        self.log.warning("warning %s", x)
        logging.getLogger("others.library").warning("of another logger %s", x)
        logging.getLogger("others.library").info("not wanted")
        return x

    @palm.function
    def show(self, x):
        print("by print", x)
        print("unended", x, end="", flush=True)
        os.write(1, b", by os\n")
        ctypes.CDLL(None).printf(b"by C %d\n", x)
        os.write(2, b"\xffno text\x1b[2J\n")
        subprocess.run(["echo", "by a child"], check=True)
        return x

    @palm.function
    def fail(self, x):
        try:
            raise ValueError("no such film")
        except ValueError:
            self.log.exception("it failed %s", x)
        return x

    @palm.function
    def by_thread(self, x):
        thread = threading.Thread(target=self.log.info, args=("of a thread",))
        thread.start()
        thread.join()
        return x

    @palm.function
    def each(self, x):
        for k in range(2):
            self.log.info("before %s", k)
            yield x + k

    @palm.function(batch=True)
    def together(self, x):
        self.log.info("a batch")
        return x

    @palm.function
    def many(self, n):
        """Returns how often it had to wait, so that others ran."""
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for k in range(n):
            self.log.info("record %s", k)
        for k in range(n):
            print("line", k)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    @palm.function
    def go_on(self, path):
        """Until there is such a file; says something ten times a second."""
        k = 0
        while not Path(path).exists():
            self.log.info("go on %s", k)
            k += 1
            time.sleep(0.02)
        return k

    @palm.function
    def die(self, how):
        self.log.info("a last record")
        print("a last line")
        ctypes.CDLL(None).printf(b"the last of C\n")
        if how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        ctypes.string_at(0)


class Crew(palm.Butterfly):
    def setup(self):
        self.log.info("in setup")

    @palm.function
    def say(self, x):
        self.log.info("info %s", x)
        print("printed", x)
        return x


class Halves(palm.ScatterGather):
    def scatter(self, x):
        self.log.info("scattered")
        print("scattered too")
        yield from (x // 2, x - x // 2)

    @palm.function
    def same(self, x):
        return x

    def gather(self, parts):
        return sum(parts)


def records(cluster: palm.Cluster, server: str = "", **wanted: Any) -> list[Record]:
    """All of them so far, as the registry shows them."""
    ask, found, cursor, over = cluster._own_client()._directory.ask, [], "", False
    while not over:
        page = Page(*ask("log_on", cursor, tuple(Wanted(server, **wanted))))
        cursor, over = page.cursor, page.over
        found += [decoded(line) for line in page.lines.splitlines()]
    return found


def said(cluster: palm.Cluster, text: str, server: str = "") -> list[Record]:
    """Waits until somebody has said it; all such records, in order."""
    return eventually(lambda: [r for r in records(cluster, server) if text in r.text])


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    """Python buffers what goes into a pipe."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture(params=[{}, {"MINE": "yes"}], ids=["born", "executed"])
def talk(cluster: palm.Cluster, request: pytest.FixtureRequest) -> palm.Client:
    cluster.start(Talk, env=request.param)
    return cluster.client()


# ---------------------------------------------------------------------------------------------------------- records


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
    assert {r.worker for r in said(cluster, "in setup", name)} == {0, 1}
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
    out, err = capfd.readouterr()
    assert "by print 7\nunended 7, by os\nby C 7\nby a child\n" in out, "on the terminal too, as before"
    assert not err or "no text" in err


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


def everything(path: Path) -> list[Record]:
    """All that is in a log on disk."""
    found, cursor, over = [], "", False
    while not over:
        lines, cursor, over, _ = look_on(path, cursor, Wanted())
        found += [decoded(line) for line in lines.splitlines()]
    return found


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


# ------------------------------------------------------------------------------------------------------------ floods


def test_a_flood_is_summarised_and_holds_up_nobody(cluster):
    cluster.start(Talk)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waited = cluster.client().call("talk.many", FLOOD)
    assert waited < FLOOD / 20, "records never wait, lines hardly"

    def count(of: Callable[[Record], bool]) -> int:
        return sum(1 for r in records(cluster, "talk") if of(r))

    def told() -> int:
        return sum(r.dropped for r in records(cluster, "talk"))

    def kept() -> int:
        return count(lambda r: r.text.startswith(("record ", "line ")) and not r.dropped)

    eventually(lambda: kept() + told() == 2 * FLOOD, 20)
    assert BURST // 500 < kept() < FLOOD / 2
    assert count(lambda r: r.text == f"line {FLOOD - 1}") == 1, "what was said last is there"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "KiB"
    pid = cluster.status()["registry"]["pid"]
    peak = next(s for s in Path(f"/proc/{pid}/status").read_text().splitlines() if s.startswith("VmHWM"))
    assert int(peak.split()[1]) < 200 << 10, "KiB"


def test_a_flood_of_one_server_leaves_room_for_others(cluster):
    cluster.start(Talk, "loud")
    cluster.start(Talk, "quiet")
    client = cluster.client()
    loud = client.submit("loud.many", FLOOD // 5)
    for x in range(20):
        client.call("quiet.say", x)
    loud.result(60)
    assert said(cluster, "info 19", "quiet") and not sum(r.dropped for r in records(cluster, "quiet"))


OWNER = """
import sys
sys.path.insert(0, {tests!r})
from test_logs import *

if __name__ == "__main__":
    with palm.Cluster({name!r}) as cluster:
        cluster.start(Talk)
        future = cluster.client().submit("talk.many", int(sys.argv[1]))
        print("began", flush=True)
        print("over", future.result(), flush=True)
"""


@contextlib.contextmanager
def owner(name: str, *args: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A script with a cluster, whose only server talks much."""
    code = OWNER.format(tests=str(Path(__file__).parent), name=name)
    options = {"stdout": subprocess.PIPE, "text": True, **options}
    process = subprocess.Popen([sys.executable, "-c", code, *args], **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
        eventually(lambda: name not in places.clusters() and not (places.base() / name).exists())


def test_an_owner_that_does_not_read_holds_up_nobody_for_ever():
    """A pipe that stays full is emptied by who writes into it, and what that cost is counted."""
    with owner("stopped", "30000") as process:
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGSTOP)
        client = palm.Client("stopped")
        counters = eventually(lambda: client.status()["servers"][0]["counters"], 60)
        eventually(lambda: client.status()["servers"][0]["work"]["state"] == "idle", 60)
        assert counters["messages_in"] == 1
        client.close()
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=60)
        assert "over" in out
    found = everything(log_files.of("stopped"))
    lines = [r for r in found if r.text.startswith(("record ", "line ")) and not r.dropped]
    assert len(lines) + sum(r.dropped for r in found) == 60_000


def test_a_terminal_that_stands_still_holds_up_nobody():
    """Our standard output is a pipe that nobody reads; what was left out is told."""
    with owner("still", "20000", stderr=subprocess.PIPE) as process:
        client = eventually(lambda: "still" in places.clusters() and connected("still"))
        eventually(lambda: client.status()["servers"], 20)
        eventually(lambda: sum(s["counters"]["messages_out"] for s in client.status()["servers"]), 60)
        client.close()
        out, _ = process.communicate(timeout=60)
        assert "over" in out


def connected(name: str) -> palm.Client | None:
    with contextlib.suppress(palm.Disconnected):
        return palm.Client(name, timeout=1.0)
    return None


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
from test_logs import *

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


# ------------------------------------------------------------------------------------------------------- palm.serve


SERVED = """
import sys
sys.path.insert(0, {tests!r})
from test_logs import *

if __name__ == "__main__":
    palm.serve({template}, address={address!r})
    assert not logging.getLogger("palm").handlers and logging.lastResort is logging._defaultLastResort
    print("done")
"""


@contextlib.contextmanager
def killed(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize("template", ["Talk", "Halves"])
def test_a_server_that_serves(cluster, template, tmp_path):
    """Its prints stay on its own terminal, its records come; of the leader that it has started, both."""
    script = tmp_path / "script.py"
    script.write_text(SERVED.format(tests=str(Path(__file__).parent), template=template, address=cluster.address))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "backslashreplace"}
    with subprocess.Popen([sys.executable, str(script)], **pipes) as process, killed(process):
        client = cluster.client()
        client.wait_for(template.lower())
        if template == "Talk":
            job = client.job("talk.say", [3])
            assert list(job) == [3]
            [record] = said(cluster, "warning 3")
            assert (record.pid, record.job, record.message) == (process.pid, job.id, [0])
            client.call("talk.show", 8)
        else:
            client.call("halves.same", 5)
            [printed] = said(cluster, "scattered too")
            [record] = eventually(lambda: [r for r in records(cluster, "halves") if r.text == "scattered"])
            assert (record.worker, printed.worker, printed.stream) == (None, None, "stdout")
            assert record.pid == printed.pid != process.pid
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "done\n" in out, err
    if template == "Talk":
        assert "by print 8" in out and "warning 3\n" in err
        assert not [r for r in records(cluster) if "by print" in r.text]


def test_strangers_at_the_socket_of_the_log(cluster):
    """What they say is no hello, or brings the wrong fds."""
    import socket

    path = str(places.directory_of(cluster.address) / "logs")
    hello = {"server": "s", "worker": None, "pid": 1, "streams": ["stdout"]}
    worker = json.dumps({**hello, "worker": [1]}).encode()
    for said_, count in [
        (b"", 0),
        (b"\xff", 1),
        (b"[]", 2),
        (json.dumps(hello).encode(), 3),
        (b"x" * 9000, 1),
        (worker, 1),
    ]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(path)  # one is heard later than it has come
            ends = [os.pipe() for _ in range(count)]
            socket.send_fds(s, [said_], [r for r, _ in ends])
            for end in ends:
                os.close(end[0]), os.close(end[1])
    cluster.start(Talk)
    said(cluster, "in setup")


# --------------------------------------------------------------------------------------------------------- the files


def record(text: str, **more: Any) -> bytes:
    fields = {"time": 1.0, "level": "INFO", "number": 20, "server": "a", "pid": 1, **more}
    return encoded(Record(text=text, **fields))


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


# ---------------------------------------------------------------------------------------------------------- decisions


def lines(n: int, size: int = 10) -> bytes:
    return b"".join(b"%0*d\n" % (size, k) for k in range(n))


def test_floods():
    flood = Flood(0.0)
    kept = flood.admit("stdout", lines(20_000), 0.0)
    assert BURST // (LINE + 11) < len(kept) < BURST // LINE and kept[-1] == b"%010d" % (len(kept) - 1)
    assert flood.due() == 1.0
    dropped, last = flood.tell()
    assert dropped == 20_000 - len(kept) - LAST and last[-1] == ("stdout", b"%010d" % 19_999) and len(last) == LAST
    assert flood.due() is None and flood.tell() == (0, [])
    assert not flood.admit("stderr", lines(5), 0.0) and flood.tell() == (
        0,
        [("stderr", b"%010d" % k) for k in range(5)],
    )
    kept = flood.admit("stdout", lines(20_000), 2.0)
    assert 2 * RATE // (LINE + 11) <= len(kept) <= 2 * RATE // LINE


def test_floods_of_long_lines():
    flood = Flood(0.0)
    assert len(flood.admit("stdout", lines(100, BURST), 0.0)) == 1
    assert flood.tell() == (99, [])
    flood.admit("stdout", lines(100, LAST_BYTES // 4), 0.0)
    dropped, last = flood.tell()
    assert dropped + len(last) == 100 and all(len(line) == LAST_BYTES // 4 for _, line in last) and len(last) == 3


def test_lines_that_were_lost_before_they_came():
    flood = Flood(0.0)
    flood.left_out(7, 3.0)
    assert flood.due() == 4.0 and flood.tell() == (7, [])


def test_levels_in_words():
    assert [level_of(t) for t in ("debug", "WARNING", "warn", "35")] == [10, 30, 30, 35]
    for text in ("loud", "", "-1", "1e3"):
        with pytest.raises(ValueError, match="no level"):
            level_of(text)


@pytest.mark.parametrize("server", ["", "a", "a/1", "ab", "a/"])
def test_who_is_wanted(server):
    processes = [("a", None), ("a", 1), ("a", 11), ("ab", None)]
    found = [p for p in processes if Wanted(server).has(decoded(record("x", server=p[0], worker=p[1])))]
    assert found == {"": processes, "a": processes[:3], "a/1": processes[1:2], "ab": processes[3:], "a/": []}[server]


def test_a_handler_never_waits(capsys, monkeypatch):
    """It counts what finds no room, tells of it as soon as there is some, and of nobody when nobody reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    logger = logging.getLogger("palm.some")
    monkeypatch.setattr(logging.getLogger("palm"), "propagate", False)
    handler = Handler(write, Order(Talk, "some", "", ""))
    with installed(handler):
        for k in range(2000):
            logger.info("%s %s", k, "x" * 300)
        assert "palm-log" in {t.name for t in threading.enumerate()}
        kept = lost = 0
        while kept + lost < 2000:
            got = os.read(read, 65536)
            lost += sum(map(int, MARK.findall(got)))
            kept += MARK.sub(b"", got).count(b"\n")
        assert (kept + lost, lost > 1000) == (2000, True)
        eventually(lambda: "palm-log" not in {t.name for t in threading.enumerate()})
        logger.info("again")
        assert b"again" in os.read(read, 65536)
        logger.info("%d", "no number")
        os.close(read)
        logger.info("nobody reads")
    assert "Logging error" in capsys.readouterr().err
    with pytest.raises(OSError):
        os.fstat(write)


def test_what_the_terminal_cannot_take_is_left_out(monkeypatch):
    read, write = os.pipe()
    monkeypatch.setattr(log_echo, "MOST", 1 << 20)
    monkeypatch.setattr(log_echo, "_OUT", write)
    monkeypatch.setattr(log_echo, "_ERR", write)
    echo = log_echo.Echo()
    for _ in range(64):
        echo.put("stdout", b"x" * (64 << 10))
    got = b""
    while got.count(b"x") < 1 << 20:
        got += os.read(read, 1 << 20)
    eventually(lambda: not echo._size)
    echo.put("stderr", b"the end\n")
    while not got.endswith(b"the end\n"):
        got += os.read(read, 1 << 20)
    left_out = int(got.partition(b"palm: ")[2].split()[0])
    assert got.count(b"x") + left_out == 4 << 20
    os.close(read)
    echo.put("stdout", b"nobody")
    eventually(lambda: write not in echo._open)
    echo.close()
    os.close(write)


def test_a_line_without_end(cluster):
    cluster.start(Talk)
    pid = cluster.status()["servers"][0]["pid"]
    with open(f"/proc/{pid}/fd/1", "wb") as f:
        f.write(b"y" * (3 * MOST_LINE))
    eventually(lambda: sum(r.text.count("y") for r in records(cluster, "talk")) > 2 * MOST_LINE)
    assert max(len(r.text) for r in records(cluster, "talk")) <= MOST_LINE


# ---------------------------------------------------------------------------------------------------------- palm logs


class Shell:
    """Runs `palm`."""

    def __init__(self, cluster: palm.Cluster) -> None:
        self.cluster = cluster

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from palm.cli import main; main()", "logs", *args]
        env = {**os.environ, "PALM_CLUSTER": self.cluster.name}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=env, **{**pipes, **options})

    def run(self, *args: str, code: int = 0) -> list[str]:
        """Lines of standard output, or of standard error if it fails."""
        with self.start(*args) as process, killed(process):
            out, err = process.communicate(timeout=60)
        assert process.returncode == code, (out, err)
        return (err if code else out).splitlines()


@pytest.fixture(scope="module")
def spoken() -> Iterator[Shell]:
    """Of a cluster in which something has been said."""
    with palm.Cluster("spoken") as cluster:
        cluster.start(Talk)
        cluster.start(Crew, workers=2)
        client = cluster.client()
        list(client.job("crew.say", range(40)))
        client.call("talk.show", 1)
        client.call("talk.fail", 1)
        said(cluster, "no text"), said(cluster, "by a child"), said(cluster, "it failed"), said(cluster, "printed 39")
        yield Shell(cluster)


def test_lines_for_people(spoken):
    out = spoken.run("talk")
    [error] = [k for k, line in enumerate(out) if "it failed 1" in line]
    job = records(spoken.cluster, "talk", level=40)[0].job
    assert out[error].split()[2:] == ["ERROR", "talk/0", f"{job[:8]}:0", "it", "failed", "1"]
    assert (
        out[error + 1] == "    Traceback (most recent call last):" and out[error + 4] == "    ValueError: no such film"
    )
    assert any(line.endswith("stderr   talk/0       \\xffno text\\x1b[2J") for line in out), "it clears no screen"
    assert len(out[0].split()) > 3 and out[0].startswith("20")


def test_which_are_shown(spoken):
    everything = [json.loads(line) for line in spoken.run("-n", "0", "--json")]
    assert {r["server"] for r in everything} == {"talk", "crew"} and len(everything) > 80
    assert [json.loads(line) for line in spoken.run("-n", "3", "--json")] == everything[-3:]
    one = [json.loads(line) for line in spoken.run("--json", "crew/1")]
    assert one == [r for r in everything if r["server"] == "crew" and r["worker"] == 1][-100:]
    job = next(r["job"] for r in everything if r["server"] == "crew" and "job" in r)
    assert len(spoken.run("--job", job[:6], "-n", "0")) == 40 == len(spoken.run("--job", job, "-n", "0", "crew"))
    assert all(json.loads(line)["number"] >= 30 for line in spoken.run("--level", "warning", "--json"))
    assert len(spoken.run("--level", "ERROR", "--json")) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["tlak"], "there is no server 'tlak' in this log; there are: crew, crew/0, crew/1, talk, talk/0, registry"),
        (["crew/7"], "there is no server 'crew/7'"),
        (["--level", "loud"], "'loud' is no level: debug, info"),
        (["-n", "-1"], "-1 is not in the range"),
    ],
)
def test_wrong_questions(spoken, args, words):
    assert words in spoken.run(*args, code=2)[-1]


def test_who_has_said_nothing_is_no_error(spoken):
    assert spoken.run("--level", "critical", "registry") == []


def test_it_follows_until_ctrl_c(spoken):
    with spoken.start("-f", "-n", "1", "talk") as process, killed(process):
        assert process.stdout.readline()
        spoken.cluster.client().call("talk.say", "live")
        while "info live" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err.strip()) == (130, "palm: interrupted")


@pytest.mark.parametrize("args", [["-n", "0"], ["-f", "-n", "1"]])
def test_a_reader_that_goes_away(spoken, args):
    """`| head -1`: quietly; also while nothing comes."""
    with spoken.start(*args) as process, killed(process):
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0 and process.stderr.read() == ""


def test_it_follows_through_deaths_of_the_registry_and_to_the_end():
    with palm.Cluster("followed") as cluster:
        cluster.start(Talk)
        said(cluster, "in setup")
        with Shell(cluster).start("-f") as process, killed(process):
            assert "in setup" in process.stdout.readline()
            os.kill(cluster.status()["registry"]["pid"], signal.SIGKILL)
            cluster.client().call("talk.say", "after it")
            while "info after it" not in process.stdout.readline():
                pass
            cluster.close()
            out, err = process.communicate(timeout=30)
            assert "torn down" in out and (process.returncode, err) == (0, "")


def test_of_a_cluster_that_has_ended():
    with palm.Cluster("ended") as cluster:
        cluster.start(Talk)
    shell = Shell(cluster)
    assert [line.split()[-2:] for line in shell.run("-f")] == [["in", "setup"], ["torn", "down"]]
    assert "there are: talk, talk/0, registry" in shell.run("nobody", code=2)[-1]
    cluster.name = "never-was"
    assert "there is no running cluster 'never-was'" in shell.run(code=3)[-1]


def test_in_a_terminal(spoken):
    """Colours, and lines as long as they are."""
    import pty

    parent, child = pty.openpty()
    with spoken.start("-n", "1", "--level", "error", stdout=child) as process, killed(process):
        os.close(child)
        said_ = b""
        with contextlib.suppress(OSError):  # EIO: its end
            while data := os.read(parent, 65536):
                said_ += data
        os.close(parent)
        assert process.wait(30) == 0
    assert b"\x1b[31mERROR" in said_ and b"ValueError: no such film" in said_


def test_up_in_the_background_says_it_in_the_log_alone(tmp_path):
    """The file that has what the owner itself says does not grow by what servers print."""
    (tmp_path / "cluster.toml").write_text('[cluster]\nname = "quiet"\n[servers.talk]\nclass = "test_logs:Talk"\n')
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", "from palm.cli import main; main()"]
    subprocess.run([*command, "up", "-d"], cwd=tmp_path, env=env, check=True, capture_output=True)
    try:
        with palm.Client("quiet") as client:
            client.call("talk.show", 1)
        following = [*command, "logs", "-f", "--cluster", "quiet"]
        with subprocess.Popen(following, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert any("by print 1" in line for line in process.stdout)
            process.terminate()
    finally:
        subprocess.run([*command, "down", "quiet"], check=True, capture_output=True)
    own = places.base() / "quiet.log"
    text = own.read_text()
    own.unlink()
    assert "by print" not in text


def test_as_many_files_as_are_needed():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = log_pipes.Pipes()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * max(first.writes), before[1]))
        several = [log_pipes.Pipes() for _ in range(max(first.writes))]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        for pipes in several:
            pipes.close()
    finally:
        first.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_last_turn(tmp_path, monkeypatch):
    """What is in a pipe when the log is closed, is in the log."""
    monkeypatch.setattr(logs, "PAUSE", 30.0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    directory = tmp_path / "some"
    directory.mkdir()
    log = logs.Logs(directory)
    pipes = log.pipes()
    out, _, to_records = pipes.writes
    os.write(out, b"first\n")
    log.hear("a", 0, 1, pipes)
    eventually(lambda: everything(log.path))  # then it rests
    os.write(out, b"unended")
    os.write(to_records, b"Q" + record("a record"))
    log.close()
    pipes.given()
    assert [r.text for r in everything(log.path)] == ["first", "a record", "unended"]


def test_a_module_that_has_its_own_standard_output(cluster, tmp_path, monkeypatch):
    (tmp_path / "muted.py").write_text(
        "import os, sys\nimport palm\nprint('at import')\nsys.stdout = sys.stderr = open(os.devnull, 'w')\n"
        "class Muted(palm.Server):\n    @palm.function\n    def say(self, x):\n"
        "        print('lost'); os.write(2, b'by fd\\n')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cluster.start("muted:Muted")
    cluster.client().call("muted.say", 1)
    said(cluster, "by fd")
    assert [r.text for r in records(cluster, "muted")] == ["at import", "by fd"]
