# SPDX-License-Identifier: BSD-3-Clause
"""What Prometheus reads: names by its conventions, and the same numbers as the status has."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import eventually
from helpers_watching import Work
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

import palm
from palm.exporter import Exporter


class Twice(Work):
    @palm.function
    def measured(self, x):
        self.count("frames")
        self.count("photons", max(x, 0) / 2)
        self.observe("snr", x)

    @palm.function
    def misuse(self, how):
        if how == "too many":
            for i in range(40):
                self.count(f"number {i}")
        elif how == "both":
            self.count("x")
            self.observe("x", 1.0)
        else:
            method, *args = {
                "less": ("count", "y", -1),
                "nan": ("observe", "z", float("nan")),
                "long": ("count", "y" * 64),
            }[how]
            getattr(self, method)(*args)


class Plain(palm.Server):
    @palm.function
    def odd(self, x):
        if x == 7:
            raise ValueError("no 7")
        return x if x % 2 else None


@pytest.fixture
def exporter(cluster: palm.Cluster) -> Iterator[Exporter]:
    cluster.start(Twice, workers=2)
    cluster.start(Plain)
    with Exporter(cluster, "127.0.0.1:0") as exporter:
        yield exporter


class Gone:
    """A cluster whose registry does not answer."""

    def status(self):
        raise palm.Disconnected("no registry")


def test_without_a_registry_it_says_so():
    with Exporter(Gone(), "127.0.0.1:0") as exporter:
        found = families(exporter)
    assert [(f.name, [s.value for s in f.samples]) for f in found.values()] == [("palm_registry_up", [0])]


def scrape(exporter: Exporter) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def families(exporter: Exporter) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(scrape(exporter))}


def total(family: Metric, name: str, /, **labels: str) -> float:
    """Of the samples of this name whose labels are these, among others."""
    return sum(s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items())


def received(found: dict[str, Metric], **labels: str) -> float:
    return total(found["palm_messages_received"], "palm_messages_received_total", **labels)


def test_the_sums_are_what_the_job_has_sent(cluster, exporter):
    client, before = cluster.client(), families(exporter)  # that they have joined is known by messages too
    list(client.job(["twice.twice", "plain.odd"], range(1000), on_error="skip"))
    found = families(exporter)
    of_leader, of_workers, of_plain = (
        received(found, **labels) - received(before, **labels)
        for labels in ({"worker": "leader"}, {"server": "twice"}, {"server": "plain"})
    )
    assert (of_leader, of_workers, of_plain) == (1000, 2000, 1000)
    times = found["palm_function_seconds"]
    assert times.type == "histogram"
    assert total(times, "palm_function_seconds_count", server="twice", function="twice") == 1000
    assert total(times, "palm_function_seconds_bucket", server="plain", function="odd", le="+Inf") == 1000
    buckets = [s.value for s in times.samples if s.name.endswith("_bucket") and s.labels["function"] == "odd"]
    assert buckets == sorted(buckets) and len(buckets) == 15
    assert total(found["palm_memory_bytes"], "palm_memory_bytes", server="plain", kind="heap") > 1 << 20
    assert total(found["palm_up"], "palm_up") == 4 and total(found["palm_registry_up"], "palm_registry_up") == 1


def test_what_functions_count_and_observe(cluster, exporter):
    list(cluster.client().job("twice.measured", [-1.0, 0.5, 1.0, 3.0, 1e9]))
    found = families(exporter)
    own, values = found["palm_user"], found["palm_user_values"]
    assert total(own, "palm_user_total", name="frames", server="twice") == 5
    assert total(own, "palm_user_total", name="photons") == (0.5 + 1.0 + 3.0 + 1e9) / 2
    assert (values.type, total(values, "palm_user_values_count", name="snr")) == ("histogram", 5)
    assert total(values, "palm_user_values_sum", name="snr") == -1.0 + 0.5 + 1.0 + 3.0 + 1e9
    up_to = [total(values, "palm_user_values_bucket", name="snr", le=le) for le in ("1.0", "16.0", "+Inf")]
    assert up_to == [3, 4, 5]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("less", "a counter only grows: 'y' cannot be counted by -1"),
        ("nan", "'z': nan is in no bucket"),
        ("long", "is longer than 63 bytes"),
        ("both", "'x' is longer than 63 bytes, or counts and observes at the same time"),
        ("too many", "there are 32 counters and histograms of your own in this process: no 'number 32' besides"),
    ],
)
def test_counters_that_cannot_be(cluster, how, says):
    cluster.start(Twice)
    with pytest.raises(palm.RemoteError, match=says):
        cluster.client().call("twice.misuse", how)


def test_errors_are_counted(cluster, exporter):
    list(cluster.client().job("plain.odd", range(10), on_error="skip"))
    assert total(families(exporter)["palm_errors"], "palm_errors_total", server="plain") == 1


def test_a_function_that_computes_for_long_is_shown_at_work(cluster, exporter, tmp_path):
    gate = tmp_path / "gate"
    future = cluster.client().submit("twice.until", str(gate))
    try:
        name = "palm_running_seconds"
        eventually(lambda: total(families(exporter)[name], name, server="twice") > 0.1)
    finally:
        gate.touch()
    assert future.result(10) is None
    eventually(lambda: total(families(exporter)[name], name, server="twice") == 0)


def test_a_worker_that_is_gone_is_down(cluster, exporter):
    [pid, _] = [w["pid"] for s in cluster.status()["servers"] if s["name"] == "twice" for w in s["workers"]]
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: total(families(exporter)["palm_up"], "palm_up") == 3)
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: total(families(exporter)["palm_up"], "palm_up") == 4)


def test_the_registry_may_die(cluster, exporter):
    registry = cluster.status()["registry"]["pid"]
    os.kill(registry, signal.SIGKILL)
    eventually(lambda: total(families(exporter)["palm_up"], "palm_up") == 4)
    assert total(families(exporter)["palm_registry_up"], "palm_registry_up") == 1


@pytest.mark.skipif(not shutil.which("promtool"), reason="it takes promtool (Debian's package prometheus)")
def test_promtool_finds_nothing(cluster, exporter):
    list(cluster.client().job(["twice.twice", "plain.odd"], range(10), on_error="skip"))
    found = subprocess.run(["promtool", "check", "metrics"], input=scrape(exporter), capture_output=True, text=True)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("prometheus"), reason="it takes Prometheus (Debian's package prometheus)")
def test_prometheus_reads_it(cluster, exporter, tmp_path):
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: palm, static_configs: [{{targets: ['127.0.0.1:{exporter.port}']}}]}}]\n"
    )
    list(cluster.client().job("twice.twice", range(1000)))
    port, log = free_port(), tmp_path / "log"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"]
    with open(log, "w") as output:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=output, stderr=output)
    try:
        query = "sum(palm_function_seconds_count%7Bfunction%3D%22twice%22%7D)"
        url = f"http://127.0.0.1:{port}/api/v1/query?query={query}"
        assert eventually(lambda: answered(url), 60) == 1000
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def answered(url: str) -> float | None:
    """The value of a query, when there is one."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:
        return None
    return float(found[0]["value"][1]) if found else None
