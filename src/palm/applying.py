# SPDX-License-Identifier: BSD-3-Clause
"""A cluster is made what a `Configuration` says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress

from msgspec.structs import replace

from palm import cpus
from palm.amounts import parse_memory
from palm.cluster import Cluster
from palm.config import Configuration
from palm.errors import ConfigError
from palm.options import Options, Spec
from palm.restarts import Policy
from palm.settings import CacheTable, ServerTable


def open_cluster(configuration: Configuration) -> Cluster:
    """The cluster, still without servers; ConfigError if it cannot listen where the file says."""
    try:
        return Cluster(configuration.name, _listen=configuration.listen)
    except ConfigError as e:
        raise configuration.error(("cluster", "listen"), str(e)) from None


def start(configuration: Configuration, cluster: Cluster) -> None:
    """Start all servers in `cluster`; returns when they are ready.

    Raises
    ------
    ConfigError
        There is no such class, or its `setup` does not take what the file gives.
    PalmError
        A server did not start; has its traceback.
    """
    configuration.check()
    for name in configuration.servers:
        start_one(configuration, cluster, name)


def apply(configuration: Configuration, cluster: Cluster, running: dict[str, ServerTable]) -> list[str]:
    """Start, stop, scale and replace servers of a cluster, so that it is as the file says; returns what was done. Jobs
    wait for those that are replaced. Code is not compared: processes go on with what they have imported, and new
    ones import what is there now.

    Parameters
    ----------
    running : dict
        What runs, by name; kept up to date, when something is raised too.

    Raises
    ------
    ConfigError, PalmError
        As `start`. What the file says wrong is found before anything is done.
    """
    configuration.forget_modules(running.values())
    configuration.check()
    done = []
    for name in [name for name in running if name not in configuration.servers]:
        with suppress(LookupError):  # it may have been given up
            cluster.stop(name)
        del running[name]
        done.append(f"{name} stopped")
    there = {s["name"] for s in cluster.status()["servers"] if s["state"] not in ("failed", "stopped")}
    for name, server in configuration.servers.items():
        before = running.pop(name, None)  # when what has to be done fails, nobody knows what there is
        if what := _apply(configuration, cluster, name, before if name in there else None):
            done.append(f"{name} {what}")
        running[name] = server
    return done


def _apply(configuration: Configuration, cluster: Cluster, name: str, before: ServerTable | None) -> str:
    """What had to be done; "" if nothing had."""
    server = configuration.servers[name]
    if before is None:
        start_one(configuration, cluster, name, instead=True)  # of one that was given up
        return "started"
    if replace(before, workers=server.workers) != server:
        start_one(configuration, cluster, name, instead=True)
        return "replaced"
    if cluster.workers(name) != server.workers:
        cluster.scale(name, server.workers)
        return f"has {server.workers} worker{'s' * (server.workers > 1)}"
    return ""


def start_one(
    configuration: Configuration, cluster: Cluster, name: str, *, instead: bool = False, is_led: bool = False
) -> None:
    """instead: of the one of this name that runs. is_led: its leader is elsewhere, and gets more workers."""
    configuration.check_class(name)
    server = configuration.servers[name]
    try:
        cluster._prepare(name, _options(configuration, server))
    except OSError as e:
        raise configuration.error(("servers", name, "cache", "path"), f"cache: {e}") from None
    try:
        cluster._start(_spec(name, server), replace=instead, is_led=is_led)
    except (TypeError, ValueError) as e:
        raise configuration.of_arguments(name, e) from None


def _spec(name: str, server: ServerTable) -> Spec:
    return Spec(server.template, name, server.workers, server.setup, server.cores, server.memory, server.env)


def _options(configuration: Configuration, server: ServerTable) -> Options:
    r, c = server.restart, server.cache
    policy = Policy(r) if isinstance(r, str) else Policy(r.policy, r.limit, r.max_delay)
    size, path = (c.size, str(configuration.path.parent / c.path)) if isinstance(c, CacheTable) else (c, "")
    on = cpus.parse(server.cpus) if server.cpus else ()
    return Options(parse_memory(size), path, policy, parse_memory(server.memory_limit), on)


def serve_metrics(configuration: Configuration, cluster: Cluster) -> AbstractContextManager[object]:
    """Until it is left; of nothing, where the file does not say so. ConfigError if the address cannot be had."""
    if configuration.metrics is None:
        return nullcontext()
    from palm.exporter import Exporter

    try:
        return Exporter(cluster, configuration.metrics)
    except OSError as e:
        text = f"metrics = {configuration.metrics!r} cannot be had: {e.strerror or e}"
        raise configuration.error(("cluster", "metrics"), text) from None


def fixed(configuration: Configuration, key: str, value: object) -> ConfigError:
    """That a key of [cluster] is what it was when the cluster began."""
    text = f"{key} is {value!r} as long as the cluster runs: palm down {configuration.name}, then palm up"
    return configuration.error(("cluster", key), text)
