# SPDX-License-Identifier: BSD-3-Clause
"""A server's place in its cluster: it tells the registry that it is there, and again one that has been restarted."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Any

from palm.calls import Calls
from palm.client import Client
from palm.directory import pid_here
from palm.errors import Disconnected, PalmError

JOINS = 10.0  # seconds in which a leader has to answer


class Membership:
    """Of the server in this process.

    Parameters
    ----------
    registry : str
        Its endpoint.
    describe : callable
        What the registry is told.
    """

    def __init__(self, registry: str, describe: Callable[[], dict[str, Any]]) -> None:
        self.client = Client(registry)  # functions use it too: `self.client`
        self._describe = describe
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._stay, name="palm-membership", daemon=True)

    def join(self) -> None:
        """PalmError if the registry refuses."""
        refusal = self.client._directory.ask("join", self._describe())
        if refusal:
            raise PalmError(refusal)
        self._thread.start()

    def _stay(self) -> None:
        directory, connection = self.client._directory, self.client._connection
        try:
            while connection.wait(lambda: directory.is_lost() or self._stop.is_set()) and not self._stop.is_set():
                self._join_again()
        except Disconnected:
            pass  # closed

    def _join_again(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self.client._directory.ask("join", self._describe())
                return
            except PalmError:
                self.client._connection.check()

    def description(self) -> dict[str, Any]:
        return self._describe()

    def resolve(self, name: str) -> tuple[str, int]:
        """Where a server is, for `palm.to`: its endpoint, and its pid if that means something here, else 0. Waits
        for one that is being started again, and for the registry; any thread."""
        directory = self.client._directory
        server = directory.patiently(lambda: directory.find([name], math.inf))[name]
        return str(server["address"]), pid_here(server)

    def close(self) -> None:
        self._stop.set()
        self.client._connection.nudge()
        if self._thread.is_alive():
            self._thread.join(0.3)  # it may be looking for a registry that is gone
        self.client.close(0.2)


class Enlistment:
    """A worker's place with its leader: it tells the leader that it is there, and again one that has been restarted.

    Parameters
    ----------
    membership : Membership
    leader, function : str
        The server's name, and the function by which one joins it.
    """

    def __init__(self, membership: Membership, leader: str, function: str) -> None:
        self._membership, self._leader, self._function = membership, leader, function
        self._link = -1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._stay, name="palm-enlistment", daemon=True)

    def join(self) -> None:
        """Returns when the leader knows; PalmError if there is none."""
        self._join(JOINS)
        self._thread.start()

    def _join(self, timeout: float) -> None:
        client = self._membership.client
        directory = client._directory
        server = directory.patiently(lambda: directory.find([self._leader], timeout))[self._leader]
        route = directory.route_to(server, self._function)
        self._link = route.link
        Calls(client._connection, None, route).wait((self._membership.description(),), timeout)

    def _stay(self) -> None:
        connection = self._membership.client._connection
        with contextlib.suppress(Disconnected):  # closed
            while connection.wait(lambda: connection.is_gone(self._link) or self._stop.is_set()):
                if self._stop.is_set():
                    return
                with contextlib.suppress(PalmError):
                    self._join(JOINS)
                self._stop.wait(0.02)

    def close(self) -> None:
        self._stop.set()
        self._membership.client._connection.nudge()
        if self._thread.is_alive():
            self._thread.join(0.3)
