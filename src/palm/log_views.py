# SPDX-License-Identifier: BSD-3-Clause
"""Where the log of a cluster can be read: of one that runs at its hosts, of one that has ended in its files here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palm import log_files
from palm.errors import Disconnected
from palm.log_files import Page
from palm.log_record import Wanted
from palm.machines import Machines, Question
from palm.own_names import REGISTRY

if TYPE_CHECKING:
    from palm.client import Client

PATIENCE = 1.0  # seconds that a host has to answer; then it is waited for no more until it does
LOOK_FOR_HOSTS = 1.0  # seconds between two looks for hosts that have joined
Questions = Mapping[str, tuple[str, tuple[Any, ...]]]  # by host's server: function and values


class Files:
    """Of a cluster that has ended, those that its own host has."""

    silent: frozenset[str] = frozenset()

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Of the processes that are in it."""
        return log_files.names(self.path)

    def hosts(self) -> dict[str, str]:
        """Names of hosts, by that of who answers for them."""
        return {REGISTRY: ""}

    def ask(self, questions: Questions) -> dict[str, Page]:
        """What those have answered that have."""
        function, (cursor, wanted, *most) = questions[REGISTRY]
        if function == "log_on":
            return {REGISTRY: log_files.look_on(self.path, cursor, Wanted(*wanted))}
        return {REGISTRY: log_files.look_back(self.path, cursor, Wanted(*wanted), *most)}


class Running:
    """What the hosts of a running cluster show. While its registry is started again, one waits.

    Attributes
    ----------
    silent : set of str
        Hosts that did not answer when they were last asked.
    """

    def __init__(self, client: Client) -> None:
        self._directory, self._far = client._directory, Machines(client._connection)
        self._servers: dict[str, dict[str, Any]] = {}
        self._looked = 0.0
        self.silent: frozenset[str] = frozenset()
        told = self._ask_all({name: ("log_names", ()) for name in self.hosts()})
        self.path = Path(told[REGISTRY]["path"])
        self._names = {name for answer in told.values() for name in answer["names"]}

    def names(self) -> list[str]:
        """Of those too that have said nothing yet."""
        found = self._directory.patiently(lambda: self._directory.ask("lookup", []))["names"]
        return sorted({*self._names, *found})

    def hosts(self) -> dict[str, str]:
        """Of those too that do not answer."""
        if time.monotonic() >= self._looked + LOOK_FOR_HOSTS or not self._servers:
            found = self._directory.patiently(lambda: self._directory.ask("hosts"))
            self._servers = {server["name"]: server for server in found}
            self._looked = time.monotonic()
        return {name: str(server["host"]) for name, server in self._servers.items()}

    def ask(self, questions: Questions) -> dict[str, Page]:
        """`Disconnected` when the cluster has ended."""
        if self._directory.is_closed():
            raise Disconnected("the cluster has come to its end")
        return {name: Page(*answer) for name, answer in self._ask_all(questions).items()}

    def _ask_all(self, questions: Questions) -> dict[str, Any]:
        far = {
            name: Question(server, *question)
            for name, question in questions.items()
            if name != REGISTRY and (server := self._servers[name])["state"] == "running"
        }
        function, values = questions[REGISTRY]
        told = {REGISTRY: self._directory.patiently(lambda: self._directory.ask(function, *values))}
        told |= {name: reply.value for name, reply in self._far.ask(far, PATIENCE).items()} if far else {}
        self.silent = frozenset(str(self._servers[name]["host"]) for name in questions if name not in told)
        return told
