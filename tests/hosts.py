"""Three hosts on one machine, and a router between them: each has a network, pids, a clock since boot and a name of its
own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


class Host:
    """One of them.

    Parameters
    ----------
    hosts : Hosts
    number : int
        From 1; the last part of its address, too.
    """

    def __init__(self, hosts: "Hosts", number: int) -> None:
        self.hosts, self.number, self.name = hosts, number, f"{hosts.prefix}h{number}"
        self.address, router = f"10.77.{number}.2", f"10.77.{number}.1"
        self.runtime = hosts.directory / f"h{number}"  # of clusters
        self.runtime.mkdir(mode=0o700)
        self._processes: list[subprocess.Popen[str]] = []
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("link", "add", "v", "netns", self.name, "type", "veth", "peer", "name", f"p{number}", "netns", hosts.router)
        ip("-n", self.name, "addr", "add", f"{self.address}/30", "dev", "v")
        ip("-n", self.name, "link", "set", "v", "up")
        ip("-n", self.name, "route", "add", "default", "via", router)
        ip("-n", hosts.router, "addr", "add", f"{router}/30", "dev", f"p{number}")
        ip("-n", hosts.router, "link", "set", f"p{number}", "up")
        ip("-n", hosts.router, "route", "add", "blackhole", f"10.77.{number}.0/30", "metric", "1000")  # while it is cut
        clock = ["--time", "--monotonic", str(100_000 * (number - 1))]  # seconds since boot
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", *clock]
        forever = ["sh", "-c", f"hostname h{number}; echo; exec sleep infinity"]
        self._first = subprocess.Popen(["ip", "netns", "exec", self.name, *unshare, *forever], stdout=subprocess.PIPE)
        assert self._first.stdout is not None
        with self._first.stdout as said:
            said.readline()
        [pid] = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()
        self._enter = ["nsenter", "--target", pid, "--pid", "--mount", "--net", "--uts", "--time"]

    def cut(self) -> None:
        """From now on nothing comes or goes, and nobody is told."""
        ip("-n", self.hosts.router, "link", "set", f"p{self.number}", "down")

    def heal(self) -> None:
        ip("-n", self.hosts.router, "link", "set", f"p{self.number}", "up")

    def start(self, *arguments: str, keys: str = "keys", stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
        """Python with these arguments, there."""
        env = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "PALM_KEYS": str(self.hosts.directory / keys),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [*self._enter, sys.executable, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=self.hosts.directory,
        )
        self._processes.append(process)
        return process

    def palm(self, *arguments: str, keys: str = "keys") -> "subprocess.Popen[str]":
        return self.start("-P", "-c", "from palm.cli import main; main()", *arguments, keys=keys)

    def run(self, *command: str) -> None:
        """A command there, whose pids are those of the host."""
        subprocess.run([*self._enter, *command], check=True, capture_output=True, timeout=10)

    def close(self) -> None:
        self._first.kill()  # with it go all others
        self._first.wait()
        for process in self._processes:
            process.communicate()
        ip("netns", "del", self.name)


def terminate(process: "subprocess.Popen[str]") -> None:
    """What `Host.start` has started is nsenter's child."""
    [pid] = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(pid, signal.SIGTERM)


class Hosts:
    def __init__(self) -> None:
        self.prefix = f"palm{os.getpid()}-"
        self.directory = Path(tempfile.mkdtemp(prefix="palm-h-", dir="/tmp"))
        self.router = f"{self.prefix}r"
        self._all: list[Host] = []
        ip("netns", "add", self.router)

    def begin(self, count: int) -> list[Host]:
        ip("netns", "exec", self.router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for number in range(1, count + 1):
            self._all.append(Host(self, number))
        return self._all

    def close(self) -> None:
        for host in self._all:
            host.close()
        ip("netns", "del", self.router)
        shutil.rmtree(self.directory)


def configuration(directory: Path, number: int, servers: dict[str, int], cluster: str = "") -> str:
    path = directory / f"{number}.toml"
    tables = "".join(
        f'[servers.{name}]\nclass = "helpers_hosts:{name.title()}"\nworkers = {n}\n' for name, n in servers.items()
    )
    path.write_text(f"[cluster]\n{cluster}\n{tables}")
    return str(path)


def line_of(process, begin: str) -> str:
    """The first line that begins so."""
    seen = []
    while line := process.stdout.readline():
        if line.startswith(begin):
            return line
        seen.append(line)
    raise AssertionError(f"no line {begin!r} in {seen} {process.stderr.read()}")


def up(host: Host, servers: dict[str, int], listen: str = "", more: str = ""):
    """Returns the address at which other hosts find the cluster, and its owner."""
    directory = host.hosts.directory
    cluster = f'name = "wide"\nlisten = "{listen or host.address}"\n{more}'
    owner = host.palm("up", configuration(directory, host.number, servers, cluster))
    line_of(owner, "cluster wide is up")
    return (host.runtime / "palm" / "wide" / "address").read_text(), owner


def join(host: Host, address: str, servers: dict[str, int]):
    """Returns what it says, and the process that has joined."""
    process = host.palm("join", address, configuration(host.hosts.directory, host.number, servers))
    said = []
    while not (line := process.stdout.readline()).startswith("joined"):
        assert line, process.stderr.read()
        said.append(line.rstrip())
    return said, process


def status(host: Host, address: str) -> dict:
    out, err = host.palm("status", "--cluster", address, "--json").communicate(timeout=20)
    return json.loads(out)


@contextlib.contextmanager
def made(count: int) -> Iterator[list[Host]]:
    """So many, or the test is skipped where namespaces cannot be made."""
    try:
        subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--time", "true"], check=True, capture_output=True
        )
        found = Hosts()
    except (OSError, subprocess.SubprocessError) as e:
        pytest.skip(f"no namespaces of hosts can be made here: {e}")
    try:
        yield found.begin(count)
    finally:
        found.close()


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with made(3) as three:
        yield three


def make_keys(host: Host) -> None:
    process = host.palm("keys")
    assert process.wait(20) == 0, process.stderr.read()


@pytest.fixture
def keys(hosts: list[Host]) -> None:
    make_keys(hosts[0])
