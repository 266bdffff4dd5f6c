"""A cluster over three hosts: what it computes, and what it stands."""

import json
import time
from pathlib import Path

import pytest

import palm.testing
from helpers_hosts import STEPS, First, Second, Third, inputs
from hosts import Host, hosts

__all__ = ["hosts"]

FILES = {
    1: ("first", 1),
    2: ("second", 2),
    3: ("third", 1),
}


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


def up(host: Host, servers: dict[str, int], listen: str = "") -> str:
    """Returns the address at which other hosts find the cluster."""
    directory = host.hosts.directory
    cluster = f'name = "wide"\nlisten = "{listen or host.address}"'
    line_of(host.palm("up", configuration(directory, host.number, servers, cluster)), "cluster wide is up")
    return (host.runtime / "palm" / "wide" / "address").read_text()


def join(host: Host, address: str, servers: dict[str, int]) -> list[str]:
    process = host.palm("join", address, configuration(host.hosts.directory, host.number, servers))
    said = []
    while not (line := process.stdout.readline()).startswith("joined"):
        assert line, process.stderr.read()
        said.append(line.rstrip())
    return said


def three(hosts: list[Host]) -> str:
    address = up(hosts[0], {"first": 1})
    short = "tcp://" + address.partition("@")[2]  # the key is ours
    assert join(hosts[1], short, {"first": 1, "second": 2}) == ["first: runs on h1 already", "second: runs here"]
    assert join(hosts[2], address, {"second": 1, "third": 1}) == ["second: has 1 worker more", "third: runs here"]
    return short


@pytest.fixture
def keys(hosts):
    made = hosts[0].palm("keys")
    assert made.wait(20) == 0, made.stderr.read()


def expected(n: int) -> list[list[object]]:
    servers = {"first": First(), "second": Second(), "third": Third()}
    return [[i, t, list(shape)] for i, (t, shape) in enumerate(palm.testing.run(servers, STEPS, inputs(n)))]


def job(host: Host, address: str, n: int):
    return host.start("-m", "helpers_hosts", address, str(n))


def result(process) -> list[list[object]]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return sorted(json.loads(out.splitlines()[-1]))


def status(host: Host, address: str) -> dict:
    out, err = host.palm("status", "--cluster", address, "--json").communicate(timeout=20)
    return json.loads(out)


def test_the_same_as_on_one(hosts, keys):
    address = three(hosts)
    found = status(hosts[0], address)
    places = {s["name"]: (s["host"], s["state"]) for s in found["servers"]}
    assert places == {"first": ("h1", "running"), "second": ("h2", "running"), "third": ("h3", "running")}
    assert result(job(hosts[2], address, 40)) == expected(40)


def test_cut_and_healed(hosts, keys):
    address = three(hosts)
    running = job(hosts[0], address, 300)
    line_of(running, "half")
    hosts[1].cut()
    time.sleep(3)
    hosts[1].heal()
    assert result(running) == expected(300)
