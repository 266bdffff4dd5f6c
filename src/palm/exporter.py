# SPDX-License-Identifier: BSD-3-Clause
"""``metrics = "127.0.0.1:9100"``: the counters of all processes of a cluster, as Prometheus reads them.

They are read from the processes' pages when somebody asks, so that nobody is disturbed by it (DESIGN 5.10).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from palm.errors import PalmError

if TYPE_CHECKING:
    from palm.cluster import Cluster

LABELS = ["server", "worker"]  # of a leader: worker="leader"
COUNTERS = {  # by our names: theirs, and what they are
    "messages_in": ("palm_messages_received", "Messages that have come, those that came again included"),
    "messages_out": ("palm_messages_sent", "Messages that were sent on, to the client too"),
    "bytes_in": ("palm_received_bytes", "Of payload, what is read where it lies included"),
    "bytes_out": ("palm_sent_bytes", "Of payload, what is lent included"),
    "bytes_copied": ("palm_copied_bytes", "Of arrays, between processes of one host"),
    "by_ring": ("palm_ring_envelopes", "Envelopes that were sent through rings in shared memory"),
    "by_socket": ("palm_socket_envelopes", "Envelopes that were sent through libzmq"),
    "errors": ("palm_errors", "Messages that have failed"),
    "retries": ("palm_retries", "Messages that were sent, or run, again"),
    "rejected": ("palm_rejected", "Envelopes that were malformed, or came from nobody"),
    "dropped": ("palm_dropped", "Messages for which a branch that may not hold up the job had no room"),
    "busy_seconds": ("palm_busy_seconds", "Seconds in functions"),
    "idle_seconds": ("palm_idle_seconds", "Seconds in which nothing came; what is left is PALM's own"),
}
OWN_BUCKETS = slice(0, 41, 4)  # of those: 2^-20 to 2^20, by factors of 16
BUCKETS = slice(10, 38, 2)  # of the 40 there are: 1 us to 69 s, by factors of 4


class Exporter:
    """Serves them at ``http://host:port/metrics`` until it is closed.

    Parameters
    ----------
    cluster : Cluster
    address : str
        ``"host:port"``; port 0: any that is free.

    Raises
    ------
    OSError
        The address cannot be had.
    """

    def __init__(self, cluster: Cluster, address: str) -> None:
        host, _, port = address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(Counters(cluster))
        self._server, self._thread = start_http_server(int(port), host, registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Counters(Collector):
    """Asks the cluster anew each time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def describe(self) -> Iterator[Metric]:
        """None: that is not to be asked for them at once."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        registry = GaugeMetricFamily("palm_registry_up", "1: the registry answers; else there is nothing but this")
        try:
            status = self._cluster.status()
        except PalmError:
            registry.add_metric([], 0)
            yield registry
            return
        registry.add_metric([], 1)
        yield registry
        yield _hosts(status)
        yield from _metrics(list(_processes(status)))


def _hosts(status: dict[str, Any]) -> Metric:
    up = GaugeMetricFamily(
        "palm_host_up", "1: the host answers; else there are no counters of its processes", labels=["host"]
    )
    for host in status["hosts"]:
        up.add_metric([host["host"]], float(host["state"] == "running"))
    return up


def _processes(status: dict[str, Any]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Those of users' servers: labels, and what the status says."""
    for server in status["servers"]:
        for worker in server["workers"]:
            yield [server["name"], str(worker["number"])], worker
        if not server["workers"]:  # none that is known: it is not there
            yield [server["name"], "0"], server
        elif server["leads"]:
            yield [server["name"], "leader"], server


def _metrics(processes: list[tuple[list[str], dict[str, Any]]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("palm_up", "1: the process runs", labels=LABELS)
    running = GaugeMetricFamily(
        "palm_running_seconds", "How long the function at work has run; 0: none is", labels=LABELS
    )
    queued = GaugeMetricFamily("palm_queued_messages", "That have come, and have not been begun", labels=LABELS)
    memory = GaugeMetricFamily(
        "palm_memory_bytes",
        "Of arrays of its own, kept for new ones, of others, and of the rest",
        labels=[*LABELS, "kind"],
    )
    counters = {k: CounterMetricFamily(name, what, labels=LABELS) for k, (name, what) in COUNTERS.items()}
    own = CounterMetricFamily(
        "palm_user", "Counters of the functions themselves (self.count)", labels=[*LABELS, "name"]
    )
    observed = HistogramMetricFamily(
        "palm_user_values", "What they have observed (self.observe)", labels=[*LABELS, "name"]
    )
    times = HistogramMetricFamily("palm_function_seconds", "That calls have taken", labels=[*LABELS, "function"])
    for labels, process in processes:
        up.add_metric(labels, float(process["state"] == "running"))
        c = process["counters"]
        if not c:
            continue
        work = process["work"]
        running.add_metric(labels, work["seconds"] if work["state"] == "running" else 0.0)
        queued.add_metric(labels, c["backlog"] + c["queue_depth"])
        for kind, n in process["memory"].items():
            memory.add_metric([*labels, kind], n)
        for key, family in counters.items():
            family.add_metric(labels, c[key])
        for function, f in c["functions"].items():
            took = f["service_time"]
            times.add_metric(
                [*labels, function], _buckets(took["le_seconds"], took["counts"], BUCKETS), f["busy_seconds"]
            )
        for name, value in c["own"].items():
            if isinstance(value, dict):
                buckets = _buckets(value["le"], value["counts"], OWN_BUCKETS)
                observed.add_metric([*labels, name], buckets, value["sum"])
            else:
                own.add_metric([*labels, name], value)
    yield from (up, running, queued, memory, *counters.values(), times, own, observed)


def _buckets(bounds: list[float | None], counts: list[int], some: slice) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus has them: how many were at most so large; at some of the bounds."""
    below = list(itertools.accumulate(counts))
    return [*((str(le), float(n)) for le, n in list(zip(bounds, below, strict=True))[some]), ("+Inf", float(below[-1]))]
