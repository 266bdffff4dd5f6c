# SPDX-License-Identifier: BSD-3-Clause
"""Servers are born in the nursery, and cannot be told from executed ones but by the time that it takes."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import platform
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from conftest import children, eventually
from helpers_logs import said

import palm
from palm import nurseries, places
from palm.births import Born
from palm.nurseries import Nursery

MADE_HERE = ("socket:", "pipe:", "anon_inode:", "/memfd:palm", "/proc")  # by PALM and libzmq in each process
GET_ROBUST_LIST = {"x86_64": 274, "aarch64": 100}


class Told(palm.Server):
    @palm.function
    def facts(self, x):
        blas = [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
        return {
            "pid": os.getpid(),
            "born": is_born("self"),
            "parent": os.getppid(),
            "blas": blas,
            "environ": dict(os.environ),
            "directory": os.getcwd(),
            "umask": int(status_of("self")["Umask"], 8),
            "cores": list(resource.getrlimit(resource.RLIMIT_CORE)),
            "stdout": os.readlink("/proc/self/fd/1"),
            "fds": sorted(t for t in fds_of("self") if not t.startswith(MADE_HERE)),
            "signals": {k: v for k, v in status_of("self").items() if k in ("SigBlk", "SigIgn", "SigCgt")},
        }

    @palm.function
    def draws(self, x):
        return [random.random(), float(np.random.random())]

    @palm.function
    def clock(self, x):
        """Of the thread, which libc finds by the id that it remembers."""
        return time.clock_gettime(time.pthread_getcpuclockid(threading.get_ident())) > 0

    @palm.function
    def native_id(self, x):
        return threading.get_native_id() == os.getpid() == threading.main_thread().native_id

    @palm.function
    def robust(self, x):
        """The kernel knows where this thread has its robust mutexes."""
        head, size = ctypes.c_void_p(), ctypes.c_size_t()
        number = GET_ROBUST_LIST[platform.machine()]
        return ctypes.CDLL(None).syscall(number, 0, ctypes.byref(head), ctypes.byref(size)) == 0 and bool(head.value)

    @palm.function
    def raises(self, x):
        """A signal, handled."""
        heard = []
        before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
        ctypes.CDLL(None)["raise"](int(signal.SIGUSR1))
        signal.raise_signal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
        return heard == [signal.SIGUSR1] * 2

    @palm.function
    def forks(self, x):
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

    @palm.function
    def multiprocesses(self, x):
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0,))
        process.start()
        process.join()
        return process.exitcode == 0 and multiprocessing.parent_process() is None

    @palm.function
    def terminates(self, x):
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join(10)
        return process.exitcode == -signal.SIGTERM or process.kill()

    @palm.function
    def threads(self, x):
        there = []
        thread = threading.Thread(target=lambda: there.append(threading.current_thread() is threading.main_thread()))
        thread.start()
        thread.join()
        return there == [False]

    @palm.function
    def multiplies(self, n):
        return float((np.ones((n, n)) @ np.ones((n, n)))[0, 0])

    @palm.function
    def ends(self, how):
        {
            "abort": os.abort,
            "segfault": faulthandler._sigsegv,
            "exit": lambda: sys.exit(3),
            "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "raise": lambda: signal.raise_signal(signal.SIGBUS),
        }[how]()


def fds_of(pid):
    """What they are; some may go meanwhile."""
    found = []
    for p in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(p))
    return found


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}


def is_born(pid):
    return b"palm.nursery" in Path(f"/proc/{pid}/cmdline").read_bytes()


def facts(cluster, **start):
    name = cluster.start(Told, **{"replace": True, **start})
    return cluster.client().call(f"{name}.facts", 1)


# ------------------------------------------------------------------------------------------------- where they come from


def test_all_servers_are_born_as_children_of_the_owner(cluster):
    told = facts(cluster)
    status = cluster.status()
    pids = {status["registry"]["pid"], told["pid"]}
    assert all(map(is_born, pids)) and told["parent"] == os.getpid()
    assert children() >= pids | {cluster._births.pid}
    assert [s["name"] for s in status["servers"]] == ["told"], "the nursery is no server"


def test_the_nursery_has_nothing_but_imports(cluster):
    facts(cluster)
    pid = cluster._births.pid
    assert status_of(pid)["Threads"] == "1"
    assert len(fds_of(pid)) == 4, "standard input, output and errors, and the socket: what it was asked for is closed"
    assert "palm" not in "".join(fds_of(pid))


def test_what_is_born_does_not_keep_the_nursery_s_socket(cluster):
    pids = facts(cluster)["pid"], cluster._births.pid
    servers, nurserys = ({t for t in fds_of(pid) if t.startswith("socket:")} for pid in pids)
    assert len(nurserys) == 1 and not servers & nurserys


def test_a_successor_is_born(cluster):
    pid = facts(cluster)["pid"]
    os.kill(pid, signal.SIGKILL)
    child = cluster._supervisor._children["told"]
    eventually(lambda: child.is_ready and child.pid != pid)
    assert is_born(child.pid) and isinstance(child.process, Born)


def test_nothing_can_be_told_from_outside(cluster):
    """But for what a process is born with, it is as one that was executed."""
    born, executed = (facts(cluster, cores=1, env=env) for env in (None, {"SOME": "thing"}))
    assert (born.pop("born"), executed.pop("born")) == (True, False)
    assert executed["environ"].pop("SOME") == "thing"
    assert all(born.pop(what) != executed.pop(what) for what in ("pid", "stdout")), "a pipe of its own each"
    assert born == executed


def test_what_the_owner_has_become(cluster, tmp_path, monkeypatch, capfd):
    """What a process inherits is the owner's at the start of the server, not at that of the nursery."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    cpus, umask = os.sched_getaffinity(0), os.umask(0o027)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLOUR", "red")
    monkeypatch.delenv("HOME", raising=False)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (min(hard, 4096) if hard >= 0 else 4096, hard))
        os.sched_setaffinity(0, {min(cpus)})
        told = facts(cluster, cores=2)
        assert told["born"]
        assert told["cores"] == list(resource.getrlimit(resource.RLIMIT_CORE))
        assert set(told["blas"]) == {1}, "as many as there are cpus for it"
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
        os.sched_setaffinity(0, cpus)
        os.umask(umask)
    assert told["directory"] == str(tmp_path) and told["umask"] == 0o027
    assert told["environ"]["COLOUR"] == "red" and "HOME" not in told["environ"]


# -------------------------------------------------------------------------------------------------- a life as any other


@pytest.mark.parametrize(
    "what", ["clock", "native_id", "robust", "raises", "forks", "multiprocesses", "terminates", "threads"]
)
def test_a_process_as_any_other(cluster, what):
    cluster.start(Told)
    assert cluster.client().call(f"told.{what}", 1) is True


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("abort", "SIGABRT"),
        ("segfault", "SIGSEGV"),
        ("exit", "exit code 3"),
        ("kill", "SIGKILL"),
        ("raise", "SIGBUS"),
    ],
)
def test_why_it_died(cluster, how, reason):
    assert facts(cluster)["born"]
    with pytest.raises(palm.Crashed) as e:
        cluster.client().call("told.ends", how)
    assert e.value.reason == reason


def test_stopped_in_good_order(cluster):
    pid = facts(cluster)["pid"]
    child = cluster._supervisor._children["told"]
    cluster.stop("told")
    assert child.process.returncode == 0 and not places.start_time(pid)


def test_threads_of_blas(cluster):
    """As many as an executed server would have, whatever the nursery has (R28)."""
    for cores in (1, 2):
        born, executed = (facts(cluster, cores=cores, env=env) for env in (None, {"SOME": "thing"}))
        assert born["born"] and not executed["born"]
        assert born["blas"] == executed["blas"] != []
        assert cluster.client().call("told.multiplies", 300) == 300


def test_no_two_draw_the_same_numbers(cluster):
    drawn = []
    for name in ("a", "b", "c"):
        cluster.start(Told, name)
        drawn += cluster.client().call(f"{name}.draws", 1)
    assert len(set(drawn)) == 6


def test_numpy_random_in_the_nursery_is_seeded_anew(tmp_path, monkeypatch):
    """Where numpy imports it with itself, or a user's start-up file does."""
    monkeypatch.setenv("PYTHONPATH", start_up(tmp_path, "import numpy.random"))
    with palm.Cluster() as cluster:
        test_no_two_draw_the_same_numbers(cluster)
        assert cluster._births.pid


TWIN = """
import palm

class Twin(palm.Server):
    @palm.function
    def who(self, x):
        return {who!r}
"""


def test_templates_by_name_come_from_their_own_path(cluster, tmp_path, monkeypatch):
    for who in ("castor", "pollux"):
        (tmp_path / who).mkdir()
        (tmp_path / who / "twin.py").write_text(TWIN.format(who=who))
        with monkeypatch.context() as m:
            m.syspath_prepend(tmp_path / who)
            m.delitem(sys.modules, "twin", raising=False)
            cluster.start("twin:Twin", who)
        assert is_born(cluster._supervisor._children[who].pid)
    assert [cluster.client().call(f"{who}.who", 1) for who in ("castor", "pollux")] == ["castor", "pollux"]


def test_templates_by_value(cluster):
    class Local(palm.Server):
        @palm.function
        def double(self, x):
            return 2 * x

    cluster.start(Local)
    assert is_born(cluster._supervisor._children["local"].pid)
    assert cluster.client().call("local.double", 4) == 8


# --------------------------------------------------------------------------------------------------- those that are not


def test_an_environment_of_its_own_needs_a_process_of_its_own(cluster):
    told = facts(cluster, env={"SOME": "thing"})
    assert not told["born"] and told["environ"]["SOME"] == "thing"


def test_so_does_what_was_read_already(cluster, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    assert not facts(cluster)["born"]
    monkeypatch.delenv("PYTHONWARNINGS")
    assert facts(cluster)["born"]


def start_up(directory, source):
    """The PYTHONPATH with which the nursery, and nobody else, runs this at its start."""
    (directory / "sitecustomize.py").write_text(
        f"import sys\nif any('palm.nursery' in a for a in sys.orig_argv):\n    {source}\n"
    )
    return os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])


def test_a_nursery_with_threads_is_none(tmp_path, monkeypatch):
    source = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    monkeypatch.setenv("PYTHONPATH", start_up(tmp_path, source))
    with palm.Cluster() as cluster:
        assert "there are threads" in cluster._births.why_none and not cluster._births.pid
        assert said(cluster, "each server imports all by itself: RuntimeError: there are threads", "registry/nursery")
        assert not facts(cluster)["born"]
        assert cluster._births.due() == [], "it would be the same again"


def test_a_nursery_that_cannot_begin(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", start_up(tmp_path, "import os; os._exit(1)"))
    with palm.Cluster() as cluster:
        assert not facts(cluster)["born"]
        eventually(lambda: not cluster._births.pid and not cluster._births.due())


# ------------------------------------------------------------------------------------------------------- its own deaths


def is_ready(births):
    return births.is_ready


def test_the_nursery_is_killed(cluster):
    births = cluster._births
    dead = births.pid
    os.kill(dead, signal.SIGKILL)
    eventually(lambda: births.pid != dead)
    assert facts(cluster)["parent"] == os.getpid(), "born or executed"
    eventually(lambda: is_ready(births))
    assert facts(cluster)["born"]


def test_killed_and_nobody_has_noticed(cluster, monkeypatch):
    """The request finds it dead: the server is executed."""
    births = cluster._births
    monkeypatch.setattr(births, "look", lambda: None)
    with cluster._supervisor._lock:
        os.kill(births.pid, signal.SIGKILL)
        births._nursery._process.wait()
        told = threading.Thread(target=facts, args=(cluster,))
        told.start()
    told.join()
    assert not is_born(cluster._supervisor._children["told"].pid)
    monkeypatch.undo()
    eventually(lambda: is_ready(births))


def test_killed_again_and_again_it_is_given_up(cluster):
    births = cluster._births
    with cluster._supervisor._lock:
        births._restarts._most = 2
    for _ in range(2):
        eventually(lambda: is_ready(births))
        dead, births._bore = births.pid, False
        os.kill(dead, signal.SIGKILL)
        eventually(lambda dead=dead: births.pid != dead)
    eventually(lambda: not births.pid and not births.due())
    assert not facts(cluster)["born"]


def test_a_nursery_that_is_stopped_is_replaced(cluster):
    births = cluster._births
    stopped = births.pid
    os.kill(stopped, signal.SIGSTOP)
    assert not facts(cluster)["born"]
    assert not places.start_time(stopped)
    eventually(lambda: is_ready(births))


def test_its_death_after_the_birth_loses_nobody(cluster, monkeypatch):
    """The pid is in the order, even if the nursery never comes to tell it."""
    answered = Nursery.has_answered
    monkeypatch.setattr(Nursery, "has_answered", lambda *args: answered(*args) and False)
    told = facts(cluster)
    assert told["born"] and cluster._supervisor._children["told"].pid == told["pid"]


def test_killed_at_any_moment(cluster):
    """While servers are being born; each start succeeds, and the ledger finds nobody who was lost."""
    births, end = cluster._births, threading.Event()

    def kill():
        while not end.wait(random.random() * 0.02):
            pid = births.pid
            if pid and is_ready(births):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    births._restarts._most = 1000
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for _ in range(10):
            assert facts(cluster)["parent"] == os.getpid()
    finally:
        end.set()
        killer.join()


# -------------------------------------------------------------------------------------------------------------- the end


def test_the_next_cluster_has_it_too():
    with palm.Cluster() as cluster:
        kept = cluster._births.pid
    assert nurseries.spare().pid == kept
    assert not any(t.startswith("pipe:") for t in fds_of(kept)), "nobody reads there any more"
    with palm.Cluster() as cluster:
        assert cluster._births.pid == kept and not nurseries.spare()
        assert facts(cluster)["born"]
        with palm.Cluster() as other:
            others = other._births.pid
            assert others != kept and facts(other)["born"]
    assert nurseries.spare().pid == others and not places.start_time(kept)


def test_one_is_kept():
    with palm.Cluster() as first, palm.Cluster() as second:
        pids = {first._births.pid, second._births.pid}
    assert {nurseries.spare().pid} < pids
    assert sum(bool(places.start_time(pid)) for pid in pids) == 1


def test_it_is_heard_by_the_next_cluster():
    with palm.Cluster():
        pass
    with palm.Cluster() as cluster:
        pipes = {t for t in fds_of(cluster._births.pid) if t.startswith("pipe:")}
        assert len(pipes) == 2 and pipes <= {*fds_of("self")}


@pytest.mark.parametrize("what", ["dead", "stopped", "another environment", "another identity", "ended"])
def test_it_is_kept_in_vain(what, monkeypatch):
    with palm.Cluster():
        pass
    kept = nurseries.spare().pid
    match what:
        case "dead":
            os.kill(kept, signal.SIGKILL)
        case "stopped":
            os.kill(kept, signal.SIGSTOP)
        case "another environment":
            monkeypatch.setenv("PALM_LINK", "sockets")
        case "another identity":
            monkeypatch.setattr(os, "getresuid", lambda: (1, 1, 1))
        case "ended":
            nurseries.end()
    with palm.Cluster() as cluster:
        assert facts(cluster)["born"] and cluster._births.pid != kept
    assert not places.start_time(kept)


def test_without_file_descriptors_it_is_ended(monkeypatch):
    with palm.Cluster() as cluster:
        pid = cluster._births.pid
        monkeypatch.setattr(nurseries, "_hears_nothing", lambda nursery: os.open("/nowhere", os.O_WRONLY))
    assert cluster._closed and not nurseries.spare() and not places.start_time(pid)


def test_a_forked_owner_has_a_nursery_of_its_own():
    """What the other one bore would be children of its parent."""
    with palm.Cluster():
        pass
    kept = nurseries.spare().pid
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            own = nurseries.taken([1, 2])
            code = int(own.pid == kept)
            own.end()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert nurseries.spare().pid == kept and places.start_time(kept)


SLOW = """
import os, palm
print("imported by", os.getpid())

class Slow(palm.Server):
    @palm.function
    def who(self, x):
        return x
"""


def test_modules_that_it_imports_for_a_user(tmp_path, monkeypatch, capfd):
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PALM_PRELOAD", "slow, no_such_module")
    with palm.Cluster() as cluster:
        for name in ("a", "b"):
            cluster.start("slow:Slow", name)
            assert is_born(cluster._supervisor._children[name].pid)
        assert cluster.client().call("b.who", 3) == 3
        here = {os.getpid(), cluster._births.pid}
    out, err = capfd.readouterr()
    assert set(map(int, re.findall("imported by (.*)", out + err))) == here, "not by the servers"
    assert "PALM_PRELOAD: no_such_module: ModuleNotFoundError" in out + err


BORN = """
import os, sys
import palm

found = set()
os.register_at_fork(after_in_child=lambda: found.update(sys.modules))

class Born(palm.Server):
    @palm.function
    def imported(self):
        return sorted(set(sys.modules) - found)
"""


def test_a_server_imports_nothing_more(tmp_path, monkeypatch):
    """Each module that the nursery lacks is imported by each process: `hashlib` alone took 9 ms of 40."""
    (tmp_path / "born.py").write_text(BORN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PALM_PRELOAD", "born")
    with palm.Cluster() as cluster:
        cluster.start("born:Born")
        assert cluster.client().call("born.imported") == []


ENDS = """
import atexit, logging, os, sys, threading, time
import palm

at_import = open(PATH + "-at-import", "w")

class Freed:
    def __init__(self, path):
        self.itself, self.fd = self, os.open(path, os.O_WRONLY | os.O_CREAT)

    def __del__(self):
        os.write(self.fd, b"freed")

def handler():
    import json
    at_the_end.write(f"handler {json.dumps([1])} ")

def later():
    time.sleep(0.2)
    at_the_end.write("thread ")

class Odd:
    def write(self, text):
        pass

    def flush(self):
        os.write(flushed, b"flushed")

class Ends(palm.Server):
    def setup(self):
        global at_the_end, freed, full, flushed
        at_the_end = open(PATH, "w")  # which nobody flushes
        freed = Freed(PATH + "-freed")
        atexit.register(handler)
        full = os.fdopen(os.pipe()[1], "wb")
        threading.Thread(target=full.write, args=[bytes(1 << 20)], daemon=True).start()  # it waits for ever
        globals()[1] = "no name"
        flushed = os.open(PATH + "-flushed", os.O_WRONLY | os.O_CREAT)
        sys.stdout = Odd()

    def teardown(self):
        threading.Thread(target=later).start()

    @palm.function
    def write(self, x):
        at_the_end.write(x)
        at_import.write(x)
"""
HELD = """
logging.getLogger("ends").addFilter(handler)  # so that something of this module is never freed
"""


@pytest.mark.parametrize("held", ["", HELD], ids=["free", "held"])
@pytest.mark.parametrize(
    ("env", "preloaded"), [(None, False), ({"A": "1"}, False), (None, True)], ids=["born", "executed", "preloaded"]
)
def test_what_a_user_has_ends_as_in_any_interpreter(tmp_path, monkeypatch, env, preloaded, held):
    """Threads, then handlers; objects in cycles too, and files that are open. Of what is preloaded, files alone."""
    path = tmp_path / "said"
    module = "ends_held" if held else "ends"  # each is preloaded once
    (tmp_path / f"{module}.py").write_text(ENDS.replace("PATH", repr(str(path))) + held)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PALM_PRELOAD", module if preloaded else "")
    with palm.Cluster() as cluster:
        cluster.start(f"{module}:Ends", "ends", env=env)
        child = cluster._supervisor._children["ends"]
        assert is_born(child.pid) == (env is None)
        cluster.client().call("ends.write", "call ")
        cluster.stop("ends")
        assert child.process.returncode == 0
    sys.modules.pop(module).at_import.close()
    assert path.read_text() == "call thread handler [1] "
    assert (tmp_path / "said-at-import").read_text() == "call "
    assert (tmp_path / "said-flushed").read_text() == "flushed"
    if not held:  # else names are all that is left
        assert (tmp_path / "said-freed").read_text() == ("" if preloaded else "freed")


OWNER = """
import sys, time
import palm
cluster = palm.Cluster()
print(cluster._births.pid, flush=True)
time.sleep(60)
"""


def test_the_nursery_ends_with_its_owner():
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert places.start_time(pid)
        owner.kill()
    eventually(lambda: not places.start_time(pid))
