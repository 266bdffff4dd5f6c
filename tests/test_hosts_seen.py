"""A cluster over two hosts, seen from either: what its processes do, and what they say."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from conftest import eventually
from helpers_hosts import STEPS
from hosts import Host, join, made, make_keys, status, terminate, up

N = 40  # inputs of the job whose messages are counted
CLIENT = """
import json, sys, time, palm
with palm.Client(sys.argv[1]) as client:
    for line in sys.stdin:
        began = time.monotonic()
        server, _, text = line.strip().partition(" ")
        if server == "?":
            found = [(h["host"], h["pid"]) for h in client._directory.ask("hosts")]
        else:
            found = client.call(f"{server}.say", text) if server else client.status()
        print(json.dumps([time.monotonic() - began, found]), flush=True)
"""
SCRAPE = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9177/metrics').read().decode())"


class Wide(NamedTuple):
    head: Host
    far: Host
    address: str
    client: "subprocess.Popen[str]"  # at the head

    def _ask(self, line: str) -> tuple[float, Any]:
        """Seconds, and the answer."""
        self.client.stdin.write(f"{line}\n")
        self.client.stdin.flush()
        return json.loads(self.client.stdout.readline())

    def look(self) -> tuple[float, dict[str, Any]]:
        """At the cluster."""
        return self._ask("")

    def hosts(self) -> dict[str, int]:
        """Pids of what answers for them."""
        return dict(self._ask("?")[1])

    def say(self, server: str, text: str) -> None:
        assert self._ask(f"{server} {text}")[1] == text


@pytest.fixture(scope="module")
def wide() -> Iterator[Wide]:
    """`first` and `chat` at the head, `third`, `talk` and half of the workers of `second` far away; a job has run."""
    with made(2) as (head, far):
        make_keys(head)
        address, _ = up(head, {"first": 1, "second": 1, "chat": 1}, more='metrics = "127.0.0.1:9177"')
        join(far, address, {"second": 1, "third": 1, "talk": 1})
        job = head.start("-m", "helpers_hosts", address, str(N))
        assert job.communicate(timeout=60)[1] == ""
        yield Wide(head, far, address, head.start("-c", CLIENT, address, stdin=subprocess.PIPE))


def processes(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of a status, by name; a leader by that of its server."""
    servers = {s["name"]: s for s in found["servers"]}
    return servers | {f"{n}/{w['number']}": w for n, s in servers.items() if s["leads"] for w in s["workers"]}


def calls(found: dict[str, Any]) -> dict[str, int]:
    """Of the steps of the job, where that is known. (To messages that have come, those that open a job are counted.)"""
    functions = {n: p["counters"]["functions"] for n, p in processes(found).items() if p["counters"]}
    steps = {step.partition(".")[2] for step in STEPS}
    return {n: sum(f["calls"] for name, f in of_it.items() if name in steps) for n, of_it in functions.items()}


@pytest.mark.parametrize("at", ["head", "far"])
def test_counters_of_all_hosts_add_up(wide, at):
    found = status(getattr(wide, at), wide.address)
    done, seen = calls(found), processes(found)
    assert done["first"] == done["third"] == N and done["second/0"] + done["second/1"] == N
    assert done["second/0"] and done["second/1"]
    assert all(0 <= seen[n]["counters"]["messages_in"] - count <= 5 for n, count in done.items() if count), (
        "and openings"
    )
    assert {n: p["host"] for n, p in seen.items() if n in ("second/0", "second/1", "third")} == {
        "second/0": "h1",
        "second/1": "h2",
        "third": "h2",
    }
    assert [(h["host"], h["state"]) for h in found["hosts"]] == [("h1", "running"), ("h2", "running")]
    assert all(h["cores"] > 0 for h in found["hosts"])
    assert seen["third"]["counters"]["links"]["TCP"], "to the client, at the other host"
    assert not any(seen[n]["counters"]["links"]["socket"] for n in ("first", "third"))
    assert all(p["memory"]["heap"] > 1 << 20 and p["queue"] is not None for p in seen.values())
    for process in seen.values():
        assert 0 < found["now_ns"] - process["counters"]["serves_since_ns"] < 120e9, "by the clock of who looks"


def test_tables_rates_and_prometheus(wide):
    commands = [["status"], ["top", "--json", "-n", "1", "--interval", "0.2"]]
    started = [wide.head.palm(*command, "--cluster", wide.address) for command in commands]
    table, top = (process.communicate(timeout=20)[0] for process in started)
    [row] = [line.split() for line in table.splitlines() if line.startswith("third")]
    assert row[:4] == ["third", "h2", "running", "idle"] and int(row[5]) > N
    found = json.loads(top)
    [third] = [s for s in found["servers"] if s["name"] == "third"]
    assert third["rates"] is not None and 0.0 <= third["busy"] <= 1.0 and found["unknown_hosts"] == {}
    metrics = scraped(wide)
    assert metrics['palm_host_up{host="h1"}'] == metrics['palm_host_up{host="h2"}'] == 1
    assert metrics['palm_function_seconds_count{function="total",server="third",worker="0"}'] == N


def scraped(wide: Wide) -> dict[str, float]:
    """What Prometheus reads."""
    text = wide.head.start("-c", SCRAPE).communicate(timeout=20)[0]
    return {k: float(v) for k, v in re.findall(r"^(palm_\S+) (\S+)$", text, re.MULTILINE)}


def records(host: Host, address: str, *arguments: str) -> list[dict[str, Any]]:
    out, err = host.palm("logs", "--cluster", address, "--json", *arguments).communicate(timeout=20)
    assert not err
    return [json.loads(line) for line in out.splitlines()]


def test_the_log_is_that_of_all_hosts(wide):
    """In order of time, also where one asks elsewhere; filters apply everywhere."""
    for number, server in enumerate(("talk", "chat", "talk")):
        wide.say(server, f"words {number}")

    def words(host: Host) -> list[dict[str, Any]]:
        found = [r for r in records(host, wide.address, "-n", "0") if "words" in r["text"]]
        return found if len(found) == 6 else []

    found = eventually(lambda: words(wide.head), 20)
    assert {(r["text"], r["host"]) for r in found if r.get("stream")} == {
        ("printed words 0", "h2"),
        ("printed words 1", "h1"),
        ("printed words 2", "h2"),
    }
    logged = [(r["text"], r["host"]) for r in found if not r.get("stream")]
    assert logged == [("logged words 0", "h2"), ("logged words 1", "h1"), ("logged words 2", "h2")]
    assert words(wide.far) == found
    some = records(wide.head, wide.address, "talk", "--level", "warning", "-n", "1")
    assert [r["text"] for r in some] == ["logged words 2"]


def test_what_answers_for_a_host_is_started_again(wide):
    before = wide.hosts()
    wide.far.run("kill", "-9", str(before["h2"]))
    eventually(lambda: wide.hosts()["h2"] not in (0, before["h2"]), 20)
    eventually(lambda: calls(wide.look()[1]).get("third") == N, 20)
    assert wide.hosts()["h1"] == before["h1"]


def test_a_host_that_is_cut_off_and_comes_back(wide):
    """Nothing is shown of it then, nobody waits for it, and others are shown as ever."""
    assert "third" in calls(wide.look()[1])
    following = wide.head.palm("logs", "-f", "--cluster", wide.address, "-n", "1")
    following.stdout.readline()
    wide.far.cut()
    took, found = wide.look()
    seen = processes(found)
    assert {n: seen[n]["state"] for n in ("first", "second", "third", "second/0", "second/1")} == {
        "first": "running",
        "second": "running",
        "second/0": "running",
        "second/1": "unreachable",
        "third": "unreachable",
    }
    assert seen["third"]["reason"] == "h2 does not answer"
    assert (seen["third"]["counters"], seen["third"]["memory"], seen["third"]["queue"]) == ({}, {}, None)
    assert [(h["state"], bool(h["cores"])) for h in found["hosts"]] == [("running", True), ("unreachable", False)]
    assert calls(found).keys() == {"first", "second", "second/0", "chat"}, "what was known of others is in no sum"
    again, _ = wide.look()
    assert again < took / 2, "it is not waited for twice"
    table = wide.head.palm("status", "--cluster", wide.address).communicate(timeout=20)[0]
    assert "host h2: unreachable, nothing is known of its processes" in table
    assert re.search(r"^third +(h2|-) +unreachable +- ", table, re.MULTILINE)
    metrics = scraped(wide)
    assert metrics['palm_host_up{host="h2"}'] == metrics['palm_up{server="third",worker="0"}'] == 0
    assert not any("_total{" in name and "third" in name for name in metrics)
    assert "h2 does not answer" in following.stderr.readline()
    wide.say("chat", "meanwhile")
    assert "h1" in line_with(following, "printed meanwhile")
    wide.far.heal()
    assert "h2 answers again" in following.stderr.readline()
    eventually(lambda: calls(wide.look()[1]).get("third") == N, 30)
    wide.say("talk", "at last")
    assert "h2" in line_with(following, "printed at last")
    terminate(following)
    following.communicate(timeout=20)


def line_with(process: Any, text: str) -> str:
    while text not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    return line
