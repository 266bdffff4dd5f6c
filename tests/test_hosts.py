"""A cluster over three hosts: what it computes, and what it stands."""

import json
import time
from pathlib import Path

import pytest
from conftest import eventually
from helpers_hosts import STEPS, First, Second, Third, inputs
from hosts import Host, configuration, hosts, join, keys, line_of, status, terminate, up

import palm
import palm.testing

__all__ = ["hosts", "keys"]


def three(hosts: list[Host]):
    """Returns the address, and whose end is that of a host's part."""
    address, first = up(hosts[0], {"first": 1})
    short = "tcp://" + address.partition("@")[2]  # the key is ours
    said, second = join(hosts[1], short, {"first": 1, "second": 2})
    assert said == ["first: is running on h1 already", "second: runs here"]
    said, third = join(hosts[2], address, {"second": 1, "third": 1})
    assert said == ["second: has 1 worker more", "third: runs here"]
    return short, [first, second, third]


def expected(n: int) -> list[list[object]]:
    servers = {"first": First(), "second": Second(), "third": Third()}
    return [[i, t, list(shape)] for i, (t, shape) in enumerate(palm.testing.run(servers, STEPS, inputs(n)))]


def job(host: Host, address: str, n: int):
    return host.start("-m", "helpers_hosts", address, str(n))


def result(process) -> list[list[object]]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return sorted(json.loads(out.splitlines()[-1]))


def test_the_same_as_on_one(hosts, keys):
    """Though one of the hosts is cut off for 3 s meanwhile: nothing is lost, nothing comes twice."""
    address, _ = three(hosts)
    found = status(hosts[0], address)
    places = {s["name"]: (s["host"], s["state"]) for s in found["servers"]}
    assert places == {"first": ("h1", "running"), "second": ("h2", "running"), "third": ("h3", "running")}
    running = job(hosts[0], address, 300)
    line_of(running, "half")
    hosts[1].cut()
    time.sleep(3)
    hosts[1].heal()
    assert result(running) == expected(300)


def states(host: Host, address: str) -> dict[str, str]:
    found = {s["name"]: s["state"] for s in status(host, address)["servers"]}
    return found | {
        f"{s['name']}/{w['number']}": w["state"] for s in status(host, address)["servers"] for w in s["workers"]
    }


def test_a_host_gone_for_good(hosts, keys):
    """Its workers had messages; others do them. It is not heard any more, as the status says."""
    address, _ = up(hosts[0], {"first": 1, "second": 1, "third": 1})
    join(hosts[1], address, {"second": 1})
    running = job(hosts[0], address, 200)
    line_of(running, "half")
    hosts[1].cut()
    assert result(running) == expected(200)
    found = states(hosts[0], address)
    assert found["second/0"] == "running" and found["second/1"] == "unreachable"
    hosts[1].heal()
    eventually(lambda: states(hosts[0], address)["second/1"] == "running", 30)


def test_a_server_elsewhere_is_killed(hosts, keys):
    """And started again there. Then its part leaves the cluster, and the cluster ends, and its other part with it."""
    address, [_, staying, leaving] = three(hosts)
    running = job(hosts[0], address, 200)
    line_of(running, "half")
    [third] = [s for s in status(hosts[2], address)["servers"] if s["name"] == "third"]
    hosts[2].run("kill", "-9", str(third["pid"]))
    assert result(running) == expected(200)
    terminate(leaving)
    assert leaving.wait(20) == 0
    assert sorted(states(hosts[0], address)) == ["first", "first/0", "second", "second/0", "second/1"]
    assert [h["host"] for h in status(hosts[0], address)["hosts"]] == ["h1", "h2"]
    down = hosts[0].palm("down", "wide")
    assert down.wait(20) == 0, down.stderr.read()
    assert staying.wait(20) == 0
    assert "it has been stopped" in staying.stdout.read()
    for host in hosts:
        assert list((host.runtime / "palm").iterdir()) == []


LARGE = """
import sys

import numpy as np

import palm
import palm.delivery

palm.delivery.FRUITLESS = 3  # for a quicker end
with palm.Client(sys.argv[1]) as client:
    client.wait_for("first", "third")
    print(float(client.call("third.total", np.ones(1 << 20))[0]))
    try:
        client.call("first.scaled", np.ones(15 << 20))
    except palm.Crashed as e:
        print(e)
    print(client.call("first.scaled", 1.0))
"""


def test_more_than_a_receiver_may_have(hosts, keys):
    """An array that its `memory_limit` has no room for breaks each connection by which it comes. So it is an error in
    the end, and whoever can be reached still is."""
    address, _ = up(hosts[0], {"third": 1})
    small = configuration(hosts[1].hosts.directory, 2, {"first": 1})
    with open(small, "a") as tables:
        tables.write('memory_limit = "96MiB"\n')
    line_of(hosts[1].palm("join", address, small), "joined")
    out, err = hosts[0].start("-c", LARGE, address).communicate(timeout=60)
    total, error, scaled = out.splitlines() or [err, "", ""]
    assert total == "1048576.0"
    assert "on its way to 'first', on another host, was lost 3 times in a row, though its process lives" in error
    assert scaled == "2.0"


LARGE_BEYOND = """
import sys

import palm
import palm.delivery

palm.delivery.FRUITLESS_BEYOND = 3  # for a quicker end
with palm.Client(sys.argv[1]) as client:
    client.wait_for("first", "third", "sums")
    for step in sys.argv[2:]:
        try:
            list(client.job(["third.ones", step], [10, 15 << 20]))
        except palm.Crashed as e:
            print(e)
        print([len(x) for x in client.job(["third.ones", step], [10])])
"""


def test_more_than_the_receiver_of_a_server_may_have(hosts, keys):
    """The same where the array goes from a server to the next one, on another host."""
    address, _ = up(hosts[0], {"third": 1})
    small = configuration(hosts[1].hosts.directory, 2, {"first": 1, "sums": 1})
    text = Path(small).read_text()
    Path(small).write_text(text.replace("workers = 1\n", 'workers = 1\nmemory_limit = "96MiB"\n'))
    line_of(hosts[1].palm("join", address, small), "joined")
    out, err = hosts[0].start("-c", LARGE_BEYOND, address, "first.scaled", "sums.total").communicate(timeout=60)
    first, scaled, second, total = out.splitlines() or [err, "", "", ""]
    assert "on its way to 'first', on another host, was lost 3 times in a row, though its process lives" in first
    assert "on its way to 'sums', on another host, was lost 3 times in a row, though its process lives" in second
    assert scaled == total == "[10]"


def test_strangers(hosts, keys):
    """Who has another key, or none, is refused, and that is logged."""
    address, owner = up(hosts[0], {"first": 1})
    short = "tcp://" + address.partition("@")[2]
    nobody = hosts[1].palm("status", "--cluster", short, keys="none")
    assert nobody.wait(20) == 2
    assert "there is no key" in nobody.stderr.read()
    made = hosts[1].palm("keys", keys="others")
    assert made.wait(20) == 0
    other = made.stdout.read().strip()
    plain = short.replace("tcp", "plaintext")
    for wrong in (address, plain):
        stranger = hosts[1].start("-c", f"import palm; palm.Client({wrong!r}, timeout=1.0)", keys="others")
        assert stranger.wait(20) == 1
        assert "nobody answers" in stranger.stderr.read()
    terminate(owner)
    said = owner.communicate(timeout=20)[1]
    assert f"from 10.77.2.2, whose key {other} is not allowed" in said


def test_another_key_is_let_in(hosts, keys):
    made = hosts[1].palm("keys", keys="others")
    assert made.wait(20) == 0
    other = made.stdout.read().strip()
    let_in = hosts[0].palm("keys", "--allow", f"{other} of somebody")
    assert let_in.wait(20) == 0
    address, _ = up(hosts[0], {"first": 1})
    found = hosts[1].palm("status", "--cluster", address, keys="others")
    out, err = found.communicate(timeout=30)
    assert "first" in out, err


def test_plain_text(hosts):
    """Has to be asked for, and is no secret then."""
    refused = hosts[0].palm("up", configuration(hosts[0].hosts.directory, 1, {}, 'listen = "10.77.1.2"'))
    assert refused.wait(20) == 2
    assert "1.toml:2: there is no key" in refused.stderr.read()
    up(hosts[0], {"first": 1}, "plaintext://10.77.1.2:4711")
    found = hosts[1].palm("status", "--cluster", "plaintext://10.77.1.2:4711")
    out, err = found.communicate(timeout=30)
    assert "first" in out, err


@pytest.mark.parametrize(
    ("listen", "says"),
    [("10.77.9.9", "no IPv4 address '10.77.9.9'; it has: lo 127.0.0.1, v 10.77.1.2"), ("eth7", "'eth7'")],
)
def test_nowhere_to_listen(hosts, keys, listen, says):
    refused = hosts[0].palm("up", configuration(hosts[0].hosts.directory, 1, {}, f'listen = "{listen}"'))
    assert refused.wait(20) == 2
    assert says in refused.stderr.read()


@pytest.mark.parametrize("listen", ["10.77.1.0/30", "v", "10.77.1.2:4711"])
def test_ways_to_listen(hosts, keys, listen):
    assert "@10.77.1.2:" in up(hosts[0], {}, listen)[0]
