# SPDX-License-Identifier: BSD-3-Clause
"""What a message may take: `timeout`, `retry_on` of a function, jobs that are cancelled, deadlines that have passed."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm
from palm import process
from palm.restarts import DEATHS
from palm.retries import FIRST, LONGEST, Retries, Retry, pause

HOWS = ["sleep", "sum", "regex"]  # the last two hold the GIL
GRACE = 0.3  # seconds, for these tests
REASON = "overran its timeout of 0.2 s"


def hang(how):
    """Looks at nothing, for much longer than any test."""
    if how == "sleep":
        time.sleep(3600)
    elif how == "sum":
        sum(range(10**14))
    elif how == "regex":
        re.match(r"(a*)*b", "a" * 40)


def note(path, text="x"):
    with open(path, "a") as f:
        f.write(text)


class Limited(palm.Server):
    @palm.function(timeout=0.2)
    def stuck(self, how, path):
        note(path)
        hang(how)
        return [os.getpid(), self.message.attempt]

    @palm.function(timeout=0.2)
    def stuck_later(self, how, n):
        """Children as before, then no more."""
        yield from range(n)
        hang(how)

    @palm.function(timeout=0.2)
    def long_in_all(self, naps):
        for n in range(naps):
            time.sleep(0.01)
            yield n

    @palm.function(timeout=0.2)
    def long_at_the_end(self, n):
        """Yields in the end, a little too late: not always, but mostly between two looks of the pulse."""
        yield from range(n)
        time.sleep(0.21)
        yield n

    @palm.function
    def any_time(self, how, path):
        """Hangs, unless `how` is a path that is there."""
        note(path)
        while how.startswith("/") and not Path(how).exists():
            time.sleep(0.002)
        hang(how)
        return [os.getpid(), self.message.attempt]

    @palm.function
    def any_time_later(self, how, path):
        yield 0
        note(path)
        hang(how)

    @palm.function
    def stubborn(self, path):
        """Looks at what it is told, and goes on."""
        note(path)
        while True:
            if self.cancelled:
                Path(f"{path}.told").touch()
            time.sleep(0.002)

    @palm.function
    def obedient(self, path):
        note(path)
        while not self.cancelled:
            time.sleep(0.002)
        Path(f"{path}.told").touch()

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def attempt(self, x):
        return self.message.attempt

    @palm.function
    def split(self, n):
        yield from range(n)

    @palm.function
    def pair(self, x):
        yield x
        yield x

    @palm.function
    def deadline(self, x):
        return self.message.deadline


class Flaky(palm.Server):
    @palm.function
    def forward(self, how, path):
        return palm.to("limited.any_time", (how, path))

    @palm.function
    def hold(self, gate, path):
        """Until the gate is there, whatever else is said."""
        note(path)
        while not Path(gate).exists():
            time.sleep(0.002)

    @palm.function
    def note(self, path):
        note(path)

    @palm.function(retry_on=(OSError,))
    def returns(self, failures, path):
        note(path)
        if self.message.attempt <= failures:
            raise OSError(f"no luck at {self.message.attempt}")
        return self.message.attempt

    @palm.function(retry_on=(OSError,))
    def yields(self, n, at, failures, path):
        """n children, but an error before child `at` in its first executions."""
        note(path)
        for k in range(n):
            if k == at and self.message.attempt <= failures:
                raise OSError(f"no luck at {self.message.attempt}")
            yield [k, float(self.rng.random())]
        if at >= n and self.message.attempt <= failures:
            raise OSError(f"no luck at {self.message.attempt}")

    @palm.function(retry_on=(OSError,))
    def fickle(self, first, then):
        yield from range(first if self.message.attempt == 1 else then)
        if self.message.attempt == 1:
            raise OSError("once")

    @palm.function(retry_on=(OSError,))
    def array(self, x):
        if self.message.attempt == 1:
            raise OSError("once")
        return x + 1

    @palm.function(retry_on=(OSError,), attempts=40)
    def never(self, path):
        note(path)
        raise OSError("no luck")

    @palm.function(retry_on=(OSError,), attempts=3)
    def dies_then_fails(self, path):
        note(path, str(self.message.attempt))
        if self.message.attempt == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(f"at {self.message.attempt}")

    @palm.function(retry_on=(TypeError,))
    def cannot_be_sent(self, path):
        note(path)
        return object()

    @palm.function(retry_on=(LookupError, OSError))
    def other(self, path):
        note(path)
        raise ValueError("no matter of luck")

    @palm.function
    def same(self, x):
        return x


@pytest.fixture
def client(cluster: palm.Cluster, monkeypatch: pytest.MonkeyPatch) -> palm.Client:
    monkeypatch.setattr(process, "WORK_GRACE", GRACE)
    for template in (Limited, Flaky):
        cluster.start(template)
    return cluster.client()


def pid_of(client, name="limited"):
    return next(s["pid"] for s in client.status()["servers"] if s["name"] == name)


def counters_of(client, name):
    return next(s["counters"] for s in client.status()["servers"] if s["name"] == name)


def is_at_work(path, times=1, client=None):
    """`client`: receives meanwhile, for jobs whose results nobody waits for."""

    def is_it():
        if client is not None:
            client.status()
        return Path(path).exists() and len(Path(path).read_text()) >= times

    return eventually(is_it)


def suspects(cluster):
    return cluster._supervisor._suspects.of("limited")


# ------------------------------------------------------------------------------------------------- the timeout


@pytest.mark.parametrize("how", HOWS)
def test_who_overruns_is_ended_and_nobody_else(client, tmp_path, how):
    """It runs once; those behind it in its batch, of other calls and of other jobs, are repeated free of blame."""
    ran = tmp_path / "ran"
    inputs = [("", str(tmp_path / "fine")), (how, str(ran)), *[("", str(tmp_path / "fine"))] * 20]
    job = client.job("limited.stuck", inputs, on_error="skip")
    is_at_work(ran)
    others = [client.submit("limited.attempt", n) for n in range(20)]
    assert [attempt for _, attempt in job] == [1] * 21
    [error] = job.errors
    assert isinstance(error, palm.Crashed) and (error.reason, error.number) == (REASON, 1)
    assert str(error).startswith(f"it {REASON}, and was ended with its process (in limited.stuck, input 1)")
    assert [f.result(10) for f in others] == [1] * 20
    assert ran.read_text() == "x", "it is not run again"


def test_however_many_overrun_the_server_is_not_given_up(client, tmp_path):
    n = DEATHS + 1
    job = client.job("limited.stuck", [("sleep", str(tmp_path / "ran"))] * n, on_error="skip")
    assert list(job) == [] and {e.reason for e in job.errors} == {REASON} and len(job.errors) == n
    assert (tmp_path / "ran").read_text() == "x" * n
    assert client.call("limited.same", 1, timeout=20) == 1


@pytest.mark.parametrize("how", HOWS)
def test_a_generator_that_overruns(client, how):
    """What it had made has arrived, or is pruned with it; the message has failed."""
    job = client.job("limited.stuck_later", [(how, 3)], on_error="skip")
    assert set(job) <= {0, 1, 2}
    assert [(type(e), e.reason) for e in job.errors] == [(palm.Crashed, REASON)]


def test_the_steps_of_a_generator_count_together(client):
    """None of them is long; a process in which nothing is stuck need not be replaced."""
    pid = pid_of(client)
    with pytest.raises(palm.Crashed) as caught:
        client.call("limited.long_in_all", 1000)
    assert caught.value.reason == REASON
    assert client.call("limited.long_in_all", 2) == [0, 1]
    assert pid_of(client) == pid


def test_a_generator_that_overruns_between_two_children(cluster):
    """What it has made by then is counted with what it had made before: it fails once, of that alone."""
    cluster.start(Limited)
    with cluster.client() as client:
        job = client.job("limited.long_at_the_end", [3] * 8, on_error="skip")
        results = [value for _, value in job.items()]
        assert 3 in results and set(results) <= {0, 1, 2, 3} and job.progress.failed == 8
        assert [e.type for e in job.errors] == ["Crashed"] * 8
        assert all("overran its timeout of 0.2 s" in str(e) for e in job.errors)


def test_the_wait_of_a_generator_for_room_does_not_count(client):
    """Its consumer is slow, not the function."""
    job = client.job("limited.long_in_all", [10], window=1)
    found = []
    for x in job:
        found.append(x)
        time.sleep(0.05)  # in all longer than it may take
    assert found == list(range(10))


def test_without_a_supervisor(cluster, tmp_path):
    """Under palm.serve the process ends, and says why; what is cancelled or late is not ended."""
    script = tmp_path / "serving.py"
    script.write_text(
        "import sys, time, palm\n"
        "from pathlib import Path\n"
        "class Lonely(palm.Server):\n"
        "    @palm.function(timeout=1.0)\n"
        "    def stuck(self): sum(range(10**14))\n"
        "    @palm.function\n"
        "    def slow(self, path):\n"
        "        Path(path).touch()\n"
        "        while not Path(path + '.go').exists(): time.sleep(0.002)\n"
        "        return 1\n"
        f"palm.serve(Lonely, address={cluster.address!r})\n"
    )
    serving = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True)
    try:
        client = cluster.client()
        client.wait_for("lonely")
        slow = str(tmp_path / "slow")
        with pytest.raises(palm.Timeout):
            client.call("lonely.slow", slow, timeout=0.2)
        future = client.submit("lonely.slow", f"{slow}2")
        eventually(Path(slow).exists)
        time.sleep(0.5)  # that it is not ended takes time to see
        Path(f"{slow}.go").touch()
        eventually(Path(f"{slow}2").exists)
        Path(f"{slow}2.go").touch()
        assert future.result(10) == 1
        with pytest.raises(palm.Crashed):
            client.call("lonely.stuck", timeout=30)
        _, said = serving.communicate(timeout=10)
    finally:
        serving.kill()
        serving.wait()
    assert serving.returncode == 124
    assert "palm: stuck has overrun its timeout: this process ends, and nobody is there to start it again" in said


@pytest.mark.parametrize("wrong", [0, -1.0])
def test_a_timeout_is_positive(wrong):
    with pytest.raises(ValueError, match="seconds"):
        palm.function(timeout=wrong)


# --------------------------------------------------------------------------- cancelled, late, or nobody is there


def end_by_cancel(client, step, value):
    job = client.job(step, [value])
    return job.cancel


def end_by_leaving(client, step, value):
    job = client.job(step, [value])
    return lambda: job.__exit__()


def end_by_deadline_of_a_job(client, step, value):
    job = client.job(step, [value], timeout=1.0)

    def end():
        with pytest.raises(palm.Timeout):
            job.wait()

    return end


def end_by_future(client, step, value):
    future = client.submit(step, *value) if isinstance(value, tuple) else client.submit(step, value)

    def end():
        assert future.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(10)

    return end


def end_by_timeout_of_a_call(client, step, value):
    future = client.submit(step, *(value if isinstance(value, tuple) else (value,)), timeout=1.0)

    def end():
        with pytest.raises(palm.Timeout):
            future.result(10)

    return end


def end_by_closing(client, step, value):
    other = palm.Client(client.address)
    other.submit(step, *(value if isinstance(value, tuple) else (value,)))
    return other.close


ENDS = [
    end_by_cancel,
    end_by_leaving,
    end_by_deadline_of_a_job,
    end_by_future,
    end_by_timeout_of_a_call,
    end_by_closing,
]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("end", ENDS)
def test_what_nobody_waits_for_is_ended(client, cluster, tmp_path, end, how):
    """Hard, after the time of grace; what others had there is done by the successor."""
    pid, ran = pid_of(client), tmp_path / "ran"
    over = end(client, "limited.any_time", (how, str(ran)))
    is_at_work(ran)
    others = [client.submit("limited.attempt", n) for n in range(20)]
    job = client.job(["limited.same", "flaky.same"], range(100))
    over()
    assert [f.result(20) for f in others] == [1] * 20
    assert sorted(job) == list(range(100)) and not job.errors
    assert pid_of(client) != pid and ran.read_text() == "x"
    assert suspects(cluster) == []


@pytest.mark.parametrize("end", ENDS)
def test_who_listens_is_not_ended(client, tmp_path, end):
    pid, ran = pid_of(client), tmp_path / "ran"
    over = end(client, "limited.obedient", str(ran))
    is_at_work(ran)
    over()
    eventually(Path(f"{ran}.told").exists)
    assert client.call("limited.same", 1) == 1 and pid_of(client) == pid


@pytest.mark.parametrize("end", ENDS)
def test_who_hears_and_goes_on_is_ended(client, tmp_path, end):
    """Softly first."""
    pid, ran = pid_of(client), tmp_path / "ran"
    over = end(client, "limited.stubborn", str(ran))
    is_at_work(ran)
    over()
    assert client.call("limited.same", 1, timeout=20) == 1 and pid_of(client) != pid
    assert Path(f"{ran}.told").exists()


@pytest.mark.parametrize("end", ENDS)
def test_a_generator_in_a_step_is_ended(client, tmp_path, end):
    pid, ran = pid_of(client), tmp_path / "ran"
    over = end(client, "limited.any_time_later", ("sum", str(ran)))
    is_at_work(ran, client=client)
    over()
    assert client.call("limited.same", 1, timeout=20) == 1 and pid_of(client) != pid


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("steps", [["flaky.same", "limited.any_time"], ["flaky.forward"]])
def test_behind_the_first_step(client, tmp_path, steps, how):
    """Those who hold something of a job further on are told as well, and those to whom `palm.to` has sent it."""
    ran = tmp_path / "ran"
    job = client.job(steps, [(how, str(ran))])
    is_at_work(ran)
    pid = pid_of(client)
    job.cancel()
    assert client.call("limited.same", 1, timeout=20) == 1 and pid_of(client) != pid


def test_a_cancelled_call_that_waits_is_not_begun(client, tmp_path):
    """It lies behind a function that takes its time, with others of the same handle."""
    gate, ran = str(tmp_path / "gate"), str(tmp_path / "ran")
    pid = pid_of(client)
    received = counters_of(client, "limited")["messages_in"]
    first = client.submit("limited.any_time", gate, ran)
    is_at_work(ran)
    waiting = [client.submit("limited.any_time", "", ran) for _ in range(10)]
    assert all(f.cancel() for f in waiting[::2])
    last = client.submit("limited.same", 1)  # comes after all that was cancelled
    eventually(lambda: counters_of(client, "limited")["messages_in"] == received + 12)
    Path(gate).touch()
    assert first.result(10) == [pid, 1]
    assert [f.result(10) for f in waiting[1::2]] == [[pid, 1]] * 5
    assert len(Path(ran).read_text()) == 6 and last.result(10) == 1


def test_the_grace_is_what_a_setup_takes(cluster, tmp_path, monkeypatch):
    """To replace a process whose setup is long costs more than to wait for a while."""
    monkeypatch.setattr(process, "WORK_GRACE", 0.1)
    order = process.Order("nowhere:Nothing", "none", "", "", work_grace=0.1, owner_fd=3)
    assert process._work_grace(order, 7.0) == 7.0 and process._work_grace(order, 0.01) == 0.1
    order.owner_fd = -1
    assert process._work_grace(order, 7.0) < 0


@pytest.mark.parametrize("what", ["call", "job", "wait"])
@pytest.mark.parametrize("how", ["sleep", "sum"])
def test_ctrl_c_ends_what_runs_and_leaves_the_cluster(client, cluster, tmp_path, what, how):
    ran = str(tmp_path / "ran")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, palm\n"
        f"client = palm.Client({cluster.address!r})\n"
        "try:\n"
        + {
            "call": f"    client.call('limited.any_time', {how!r}, {ran!r})\n",
            "job": f"    job = client.job('limited.any_time', [({how!r}, {ran!r})]); next(job)\n",
            "wait": f"    job = client.job('limited.any_time', [({how!r}, {ran!r})]); job.wait()\n",
        }[what]
        + "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
        "    sys.stdin.read()\n"  # it lives on, and holds the job
    )
    pid = pid_of(client)
    running = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        is_at_work(ran)
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "interrupted\n"
        assert client.call("limited.same", 1, timeout=20) == 1 and pid_of(client) != pid
        assert running.poll() is None
    finally:
        running.communicate("")
    assert running.returncode == 0


# --------------------------------------------------------------------------------------------------- deadlines


@pytest.mark.parametrize("steps", [["flaky.same", "limited.deadline"], ["limited.split", "limited.deadline"]])
def test_a_deadline_travels(client, steps):
    """To the second step, and to children."""
    before = time.time()
    found = list(client.job(steps, [3], timeout=1000.0))
    assert found and all(before + 1000 <= d <= time.time() + 1000 for d in found)
    assert list(client.job(steps, [3])) == [], "there is none, and None is never sent"


@pytest.mark.parametrize("first", ["limited.same", "limited.pair"])
def test_a_deadline_is_honoured_at_the_second_step(client, tmp_path, first):
    """What has passed the first step in time, and waits for the second when its time is over, is not begun there: a
    message, and the children of one."""
    gate, ran, held = str(tmp_path / "gate"), str(tmp_path / "ran"), str(tmp_path / "held")
    busy = client.submit("flaky.hold", gate, held)
    is_at_work(held)
    job = client.job([first, "flaky.note"], [ran] * 3, timeout=1.0)
    passed = 3 if first == "limited.same" else 6
    eventually(lambda: counters_of(client, "limited")["messages_out"] >= passed)
    with pytest.raises(palm.Timeout):
        job.wait()
    Path(gate).touch()
    busy.result(10)
    assert client.call("flaky.same", 1, timeout=10) == 1
    assert not Path(ran).exists()


# ---------------------------------------------------------------------------------------------------- retry_on


def test_the_pause_grows():
    assert [pause(n) for n in (1, 2, 3)] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert pause(1000) == LONGEST


def test_retries_come_when_they_are_due():
    class Assignment:
        stale = False

    class Event:
        def number(self, record):
            return record

        def path(self, record):
            return ()

    retries, a = Retries(), Assignment()
    a.job, a.tried = object(), {(0, ()): 2, (3, ()): 1}
    assert not retries and retries.due() == float("inf") and retries.take(1e9) is None
    for due, record in ((3.0, 0), (1.0, 1), (1.0, 2), (2.0, 3)):
        retries.add(due, Retry(Event(), record, a))
    assert retries.due() == 1.0 and retries.take(0.9) is None
    assert [retries.take(1.0).record, retries.take(1.0).record, retries.take(1.0)] == [1, 2, None]
    retries.drop(a.job, 3)
    assert retries.due() == 3.0 and a.tried == {(0, ()): 2}
    a.stale = True
    retries.drop_stale()
    assert not retries and not a.tried


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_attempts_and_the_last_exception(client, tmp_path, failures):
    ran = tmp_path / "ran"
    pid = pid_of(client, "flaky")
    if failures < 3:
        assert client.call("flaky.returns", failures, str(ran)) == failures + 1
    else:
        with pytest.raises(palm.RemoteError, match="no luck at 3") as caught:
            client.call("flaky.returns", failures, str(ran))
        assert (caught.value.type, caught.value.capsule is not None) == ("OSError", True)
    assert ran.read_text() == "x" * min(failures + 1, 3)
    assert pid_of(client, "flaky") == pid, "by the same server"


def test_some_of_a_batch_are_run_again(client, tmp_path):
    inputs = [(n % 4, str(tmp_path / f"{n}")) for n in range(200)]
    job = client.job("flaky.returns", inputs, on_error="return", ordered=True)
    found = list(job)
    assert len(found) == 200 and len(job.errors) == 50
    for n, x in enumerate(found):
        assert x == n % 4 + 1 if n % 4 < 3 else str(x).startswith("OSError: no luck at 3")
        assert (tmp_path / f"{n}").read_text() == "x" * min(n % 4 + 1, 3)


def test_others_have_their_turn_meanwhile(client, tmp_path):
    ran = str(tmp_path / "ran")
    future = client.submit("flaky.never", ran)
    for n in range(4, 8):
        is_at_work(ran, n)
        assert client.call("flaky.same", n, timeout=10) == n and not future.done()
    assert future.cancel()


def test_what_is_cancelled_is_not_run_again(client, tmp_path):
    for end in ENDS:
        ran = str(tmp_path / end.__name__)
        over = end(client, "flaky.never", ran)
        is_at_work(ran, 2)
        over()
        client.call("flaky.same", 1)
        n = len(Path(ran).read_text())
        time.sleep(4 * LONGEST if "deadline" in end.__name__ else 0.3)
        assert len(Path(ran).read_text()) <= n + 1, end


def test_arrays_outlive_the_wait(client):
    """What was sent is there at the next attempt, and is let go of then (the ledger)."""
    with palm.arena():
        x = np.arange(100_000.0)
    for y in client.job("flaky.array", (x + n for n in range(5)), ordered=True):
        assert (y - y[0] == x).all()


@pytest.mark.parametrize(("function", "kind"), [("cannot_be_sent", "PayloadError"), ("other", "ValueError")])
def test_what_is_no_matter_of_luck_is_not_run_again(client, tmp_path, function, kind):
    with pytest.raises(palm.RemoteError) as caught:
        client.call(f"flaky.{function}", str(tmp_path / "ran"))
    assert caught.value.type == kind and (tmp_path / "ran").read_text() == "x"


@pytest.mark.parametrize("at", [0, 1, 150, 299, 300])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_generator_begins_anew_and_sends_nothing_twice(client, tmp_path, at, failures):
    ran = tmp_path / "ran"
    steps = ["flaky.yields", "limited.same"]
    job = client.job(steps, [(300, at, failures, str(ran))], ordered=True, seed=5)
    found = list(job)
    assert counters_of(client, "limited")["functions"]["same"]["calls"] == 300
    plain = list(client.job("flaky.yields", [(300, 0, 0, str(tmp_path / "plain"))], ordered=True, seed=5))
    assert found == plain and [k for k, _ in found] == list(range(300)) and not job.errors
    assert ran.read_text() == "x" * (failures + 1)


def test_a_generator_that_has_no_luck(client, tmp_path):
    """What it had made stays made."""
    job = client.job("flaky.yields", [(300, 150, 3, str(tmp_path / "ran"))], on_error="skip", ordered=True)
    assert [k for k, _ in job] == list(range(150))
    assert [str(e).split(" (")[0] for e in job.errors] == ["OSError: no luck at 3"]
    assert (tmp_path / "ran").read_text() == "xxx"


def test_a_generator_that_makes_less_the_second_time_is_told(client):
    job = client.job("flaky.fickle", [(100, 40)], on_error="skip")
    list(job)
    assert [e.type for e in job.errors] == ["Nondeterministic"]
    assert list(client.job("flaky.fickle", [(40, 100)], ordered=True)) == list(range(100))


def test_deaths_and_exceptions_count_together(client, tmp_path):
    ran = tmp_path / "ran"
    with pytest.raises(palm.RemoteError, match="at 3"):
        client.call("flaky.dies_then_fails", str(ran))
    assert ran.read_text() == "123"


def test_a_server_that_stops_does_first_what_it_owes(client, cluster, tmp_path):
    ran = tmp_path / "ran"
    future = client.submit("flaky.returns", 2, str(ran))
    is_at_work(ran)
    cluster.stop("flaky")
    assert future.result(10) == 3


@pytest.mark.parametrize("wrong", [OSError, [OSError], (1,), ("OSError",), (int,)])
def test_retry_on_is_a_tuple_of_exceptions(wrong):
    with pytest.raises(TypeError, match="no tuple of classes of exceptions"):
        palm.function(retry_on=wrong)
