# SPDX-License-Identifier: BSD-3-Clause
"""``palm join``: this host becomes a part of a cluster that was begun on another one.

It starts what a configuration names: of a parallel server that runs already, more workers; another server only if
there is none of its name. Their supervisor is here, and tells the registry of their deaths.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from palm import applying, places
from palm.cluster import Cluster
from palm.config import Configuration
from palm.directory import AWAY
from palm.errors import Disconnected, Timeout
from palm.own_names import MACHINE
from palm.process import load


class Part:
    """Of a cluster, on this host; context manager.

    Parameters
    ----------
    address : str
        The registry's endpoint, or the name of a cluster that this host is a part of.
    """

    def __init__(self, address: str) -> None:
        self._cluster = Cluster(_part_of=places.find(address))
        self._servers: list[str] = []
        self._is_over = False
        self._own = MACHINE + self._cluster.name  # there may be another part on this host
        log = str(self._cluster._logs.path)
        try:
            self._cluster._begin_own("palm.machine_server:JoinedMachine", self._own, {"log": log})
        except BaseException:
            self._cluster.close()
            raise

    @property
    def name(self) -> str:
        """By which it is found on this host."""
        return self._cluster.name

    @property
    def address(self) -> str:
        return self._cluster.address

    def start(self, configuration: Configuration) -> Iterator[str]:
        """Starts what there is to start; yields, as it is done, what has become of each server.

        Raises
        ------
        ConfigError, PalmError
            As `applying.start`.
        """
        configuration.check()
        client = self._cluster.client()
        there = {server["name"]: server for server in client._directory.ask("status")["servers"]}
        for name in configuration.servers:
            yield f"{name}: {self._start(configuration, name, there.get(name))}"

    def _start(self, configuration: Configuration, name: str, running: dict[str, Any] | None) -> str:
        if running is None or running["state"] in ("stopped", "failed"):
            applying.start_one(configuration, self._cluster, name)
            self._servers.append(name)
            return "runs here"
        if not _is_parallel(configuration, name, running):
            return f"is {running['state']} on {running['host'] or 'another host'} already"
        applying.start_one(configuration, self._cluster, name, is_led=True)
        self._servers.append(name)
        workers = configuration.servers[name].workers
        return f"has {workers} worker{'s' * (workers > 1)} more"

    def wait(self) -> str:
        """Returns why the cluster is over, when it is."""
        client = self._cluster.client()
        directory = client._directory
        while True:
            client._connection.wait(directory.is_lost)
            try:
                directory.patiently(lambda: directory.ask("servers"))
            except (Disconnected, Timeout) as e:
                self._is_over = True
                return (
                    "it has been stopped" if directory.is_closed() else f"nothing was heard of it for {AWAY:g} s: {e}"
                )

    def close(self, timeout: float = 10.0) -> None:
        """Stops what it has started, in good order, and tells the registry so, if that can be told."""
        if not self._is_over:
            for name in self._servers:
                with contextlib.suppress(LookupError):  # it was given up
                    self._cluster._stop(name, timeout)
            self._cluster._end_own(self._own, timeout)
        self._cluster.close(timeout)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _is_parallel(configuration: Configuration, name: str, running: dict[str, Any]) -> bool:
    """Nobody but the file knows it of a server that is restarting or unreachable."""
    if running["template"]:
        return running["template"] not in ("Server", "Source")
    configuration.check_class(name)
    return load(configuration.servers[name].template)._is_parallel
