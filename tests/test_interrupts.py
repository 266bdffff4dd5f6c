# SPDX-License-Identifier: BSD-3-Clause
"""Signal handlers that raise at any moment: nothing is lost by it, and nothing is left locked (R6, R7)."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import palm
from palm._core import dtypes
from palm._core.lock import Condition, check_signals

# The alarm that ends a test that hangs is a signal too, and these tests need it.
pytestmark = pytest.mark.timeout(120, method="thread")
COMPILED = "_core.dtypes calls client connection delivery errors futures job ledger message".split()
COMPILED += "names reduce_client remote window work".split()


class Break(BaseException):
    """As Ctrl-C is: no Exception, which a dtype that is none would raise."""


class Interrupted(Exception):
    pass


class Echo(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def size(self, x):
        return len(x)

    @palm.function
    def made(self, name, n):
        return np.zeros(3, [(f"{name} {i}", "<i4") for i in range(n)])

    @palm.function
    def several(self, n):
        yield from range(n)


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Echo)
        with cluster.client() as client:  # once mapped, its memory stays so while it lives
            client.call("echo.same", 1)
        yield cluster


@pytest.fixture
def client(servers: palm.Cluster) -> Iterator[palm.Client]:
    with servers.client() as client:
        yield client


class Alarms:
    """Signals at random moments, as long as it is armed; the handler raises."""

    def __init__(self, seed: int) -> None:
        self._random, self.armed, self.raised = random.Random(seed), False, 0

    def handler(self, number: int, frame: object) -> None:
        if self.armed:
            self.armed = False
            self.raised += 1
            raise Interrupted

    def set(self, most: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + self._random.random() * most)


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    alarms = Alarms(7)
    before = signal.signal(signal.SIGALRM, alarms.handler)
    yield alarms
    alarms.armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def iterate(job: palm.Job, alarms: Alarms, most: float) -> list[object]:
    """All results; whenever an alarm has interrupted it, it goes on, and sets the next one."""
    got: list[object] = []
    append = got.append  # `for` stores a result before a handler can run, and the call ends before one can
    while True:
        try:
            alarms.armed = True
            alarms.set(most)
            for value in job:
                append(value)
            alarms.armed = False
            return got
        except Interrupted:
            pass


def test_what_must_not_be_interrupted_is_compiled():
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    for name in COMPILED:
        assert str(importlib.import_module(f"palm.{name}").__file__).endswith(suffixes), name


def test_no_other_takes_the_connection_s_lock():
    """A handler that runs while its own thread holds it would wait for itself."""
    for path in Path(palm.__path__[0]).glob("*.py"):
        if "connection.changed" in path.read_text():
            spec = importlib.util.find_spec(f"palm.{path.stem}")
            assert str(spec.origin).endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)), path.name


@pytest.mark.parametrize("ordered", [False, True])
def test_a_job_that_is_interrupted_all_the_time_loses_nothing(client, alarms, ordered):
    for _ in range(15):
        got = iterate(client.job("echo.same", range(20000), timeout=60, ordered=ordered), alarms, 0.01)
        assert (got if ordered else sorted(got)) == list(range(20000))
    assert alarms.raised > 15


def test_a_job_over_arrays_and_generators_that_is_interrupted(client, alarms):
    for _ in range(5):
        arrays = (np.full(10000, float(i)) for i in range(200))
        got = iterate(client.job("echo.same", arrays, timeout=60), alarms, 0.005)
        assert sorted(x[0] for x in got) == list(range(200))
        del got
        got = iterate(client.job("echo.several", [300] * 20, timeout=60, window=64), alarms, 0.005)
        assert sorted(got) == sorted(list(range(300)) * 20)
    assert alarms.raised > 10


@pytest.mark.parametrize("ordered", [False, True])
def test_an_event_that_was_interrupted_is_taken_in_again(client, monkeypatch, ordered):
    """There is some Python in it where a dtype is seen first."""
    dtype = np.dtype([("a", "<i4"), (f"only {ordered}", "<f8", (3,))])
    list(client.job("echo.same", [np.zeros(3, [(f"other {ordered}", "<i4"), ("b", "<i2")])]))
    known, raised = dtypes.of_text, []

    def interrupted(text: str) -> np.dtype:
        if not raised and threading.current_thread() is threading.main_thread():
            raised.append(text)
            raise Break
        return known(text)

    monkeypatch.setattr(dtypes, "of_text", interrupted)
    inputs = iter([1, 2, np.zeros(5, dtype), np.ones(4, dtype), 3])  # which a thread reads
    job = client.job("echo.same", inputs, timeout=30, ordered=ordered)
    got: list[object] = []
    with pytest.raises(Break):
        got.extend(job)
    got.extend(job)
    assert raised and sorted(np.size(x) for x in got) == [1, 1, 1, 4, 5]
    assert job.progress.done == 5


def test_results_that_nobody_got_are_for_who_asks_next(client):
    """Who takes results does what others had to do later, which may raise."""

    def raises() -> None:
        raise Interrupted

    job, got = client.job("echo.same", [1, 2, 3], timeout=30, ordered=True), []
    client._connection.wait(lambda: len(job._work.results) == 3)
    client._connection.later.append(raises)
    with pytest.raises(Interrupted):
        got.extend(job)
    got.extend(job)
    assert got == [1, 2, 3]


def test_calls_that_are_interrupted_harm_nobody(client, alarms):
    """Three threads use the same client; the main thread's calls are interrupted, and mostly by the others' events."""
    stop = threading.Event()
    rounds = [0, 0, 0]
    wrong: list[object] = []

    def use(k: int) -> None:
        while not stop.is_set() and not wrong:
            try:
                futures = [client.submit("echo.same", i) for i in range(20)]
                assert [f.result(30) for f in futures] == list(range(20))
                assert list(client.job("echo.same", range(200), ordered=True, timeout=30)) == list(range(200))
            except BaseException as e:
                wrong.append(e)
            rounds[k] += 1

    def call_until_interrupted() -> None:
        """Python 3.13 does not catch what a handler raises at the end of a loop that is the last thing in a `with`."""
        alarms.armed = True
        alarms.set(0.01)
        while alarms.armed:  # what a handler raises where nothing may be raised, as in `__del__`, never comes here
            assert client.call("echo.same", 5) == 5

    threads = [threading.Thread(target=use, args=(k,)) for k in range(3)]
    for t in threads:
        t.start()
    while alarms.raised < 1000 and not wrong:
        with contextlib.suppress(Interrupted):
            call_until_interrupted()
    alarms.armed = False
    stop.set()
    for t in threads:
        t.join(60)
    assert not wrong and not any(t.is_alive() for t in threads) and all(rounds)
    assert all(not w.futures for w in client._connection.works.values()), "calls that nobody waits for"


def test_jobs_that_are_interrupted_while_they_are_made_or_left(client, alarms):
    for _ in range(200):
        try:
            alarms.armed = True
            alarms.set(0.003)
            with client.job("echo.same", range(300), window=32) as job:
                next(job)
            alarms.armed = False
        except Interrupted:
            pass
    assert client.call("echo.same", 1, timeout=30) == 1
    eventually(lambda: all(t.name != "palm-inputs" for t in threading.enumerate()))
    eventually(lambda: not any(hasattr(w, "options") for w in client._connection.works.values()))


def test_a_client_that_is_interrupted_while_it_closes_is_closed(servers, alarms):
    for _ in range(30):
        client = servers.client()
        future = client.submit("echo.same", 1)
        try:
            alarms.armed = True
            alarms.set(0.004)
            client.close()
        except Interrupted:
            client.close()
        alarms.armed = False
        assert future.exception(10) is None or isinstance(future.exception(), palm.Disconnected)
        assert client._connection.closed
        with pytest.raises(ValueError, match="closed"):
            client._connection.node.link("")


def test_a_cluster_that_is_interrupted_while_it_closes_is_closed(alarms):
    for n in range(12):
        cluster = palm.Cluster()
        directory = Path(cluster.address.removeprefix("ipc://")).parent
        try:
            with cluster:
                cluster.start(Echo)
                alarms.armed = True
                alarms.set(0.01 * (n + 1))
        except Interrupted:
            pass
        alarms.armed = False
        assert not directory.exists()
    assert alarms.raised  # those of a machine on which closing takes long are more


def test_a_handler_may_use_the_client_that_it_interrupts(client):
    """It runs where nothing is locked and nobody receives: what it waits for comes."""
    answers: list[object] = []
    enough = False
    keys = {f"it's {i}": i for i in range(500)}  # their names in errors have to be quoted

    def ask(*_: object) -> None:  # not again before it has ended: on a slow machine that would go ever deeper
        answers.append(client.call("echo.same", len(answers), timeout=20))
        if not enough:  # an alarm after the test would find no handler, and end the process
            signal.setitimer(signal.ITIMER_REAL, 0.002)

    before = signal.signal(signal.SIGALRM, ask)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        while len(answers) < 50:
            assert sorted(client.job("echo.same", range(2000), timeout=60)) == list(range(2000))
            assert client.call("echo.same", 5, timeout=60) == 5
            for _ in range(20):
                assert client.call("echo.same", keys, timeout=60) == keys
    finally:
        enough = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(answers) >= 50 and all(0 <= a < len(answers) for a in answers)


@pytest.fixture
def no_callbacks_of_the_collector() -> Iterator[None]:
    """As Hypothesis has one: with Python 3.11, it runs wherever an object is made, and handlers in it."""
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = callbacks


def test_a_handler_may_call_the_step_whose_call_it_interrupts(client, no_callbacks_of_the_collector):
    """A dtype that is sent first is described by Python, in which it may run."""
    answers: list[object] = []

    def ask(*_: object) -> None:
        answers.append(client.call("echo.size", "abc", timeout=20))

    before = signal.signal(signal.SIGALRM, ask)
    try:
        for i in range(300):
            x = np.zeros(3, [(f"{name}{i}", "<i4") for name in "abcdefgh"])
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + i % 10 * 5e-5)
            assert client.call("echo.size", x, timeout=60) == 3
            eventually(lambda n=i: len(answers) > n)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert answers == [3] * 300


def test_a_handler_may_use_the_client_that_reads_a_dtype(client, no_callbacks_of_the_collector):
    """Of what it sees first, with the lock that the handler's own call needs."""
    answers: list[object] = []

    def ask(*_: object) -> None:
        answers.append(client.call("echo.size", "abc", timeout=20))

    client.call("echo.made", "none", 0)
    before = signal.signal(signal.SIGALRM, ask)
    try:
        for i in range(300):
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + i % 20 * 5e-5)
            assert client.call("echo.made", f"{i}", 40, timeout=60).shape == (3,)
            eventually(lambda n=i: len(answers) > n)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert answers == [3] * 300


def test_a_handler_may_cancel_the_job_that_it_interrupts(client):
    job = client.job("echo.same", iter(int, 1))
    before = signal.signal(signal.SIGALRM, lambda *_: job.cancel())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(palm.Cancelled):
            for _ in job:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_wait_for_a_condition_hears_a_signal_and_does_not_raise(alarms):
    condition = Condition()
    alarms.armed = True
    threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGALRM)).start()
    with pytest.raises(Interrupted):
        while True:
            with condition:
                condition.wait(30)
                assert condition.locked() and alarms.raised == 0
            check_signals()
    assert not condition.locked()


def test_who_is_notified_gets_on():
    condition, woken = Condition(), [0]

    def wait() -> None:
        with condition:
            condition.wait(1.0)
            woken[0] += 1

    began = time.monotonic()
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for t in threads:
        t.start()
    while woken[0] < 3:
        with condition:
            condition.notify()
            condition.notify_all()
    for t in threads:
        t.join()
    assert time.monotonic() >= began
