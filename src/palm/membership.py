# SPDX-License-Identifier: BSD-3-Clause
"""A server's place in its cluster: it tells the registry that it is there, and again one that has been restarted."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from palm.calls import Calls, Retired
from palm.directory import pid_here
from palm.errors import Disconnected, PalmError

if TYPE_CHECKING:
    from palm.client import Client

JOINS = 10.0  # seconds in which a leader has to answer
LEAVES = 2.0  # seconds in which the registry has to, if it is to be told of an end


class Membership:
    """Of the server in this process.

    Parameters
    ----------
    client : Client
        Functions use it too: `self.client`.
    describe : callable
        What the registry is told.
    on_end : callable, optional
        Called when the cluster has come to its end, or does not want this server any more.
    """

    def __init__(
        self, client: Client, describe: Callable[[], dict[str, Any]], on_end: Callable[[], None] | None = None
    ) -> None:
        self.client, self._describe, self._on_end = client, describe, on_end
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
                if not self._join_again() and self._on_end is not None:
                    self._on_end()
                    return
        except Disconnected:
            pass  # closed

    def _join_again(self) -> bool:
        """False: there is no cluster any more, or another one has this server's place."""
        directory = self.client._directory
        while not self._stop.wait(0.05):
            try:
                if self._on_end is not None and directory.is_closed():
                    return False
                return not directory.ask("join", self._describe())
            except PalmError:
                self.client._connection.check()
        return True

    def leave(self, state: str, reason: str) -> None:
        """Tells the registry, if it can be told, that this server is gone."""
        told, directory = self._describe(), self.client._directory
        if not directory.is_closed():
            with contextlib.suppress(PalmError):
                directory.ask("left", told["name"], told["pid"], reason, state, timeout=LEAVES)

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
        self.server: dict[str, Any] = {}  # the leader, as the registry has described it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._stay, name="palm-enlistment", daemon=True)

    def join(self) -> None:
        """Returns when the leader knows; PalmError if there is none."""
        self._join(JOINS)
        self._thread.start()

    def _join(self, timeout: float) -> None:
        client = self._membership.client
        self.server = self._find(timeout)
        route = client._directory.route_to(self.server, self._function)
        self._link = route.link
        calls = Calls(client._connection, None, route)
        try:
            calls.wait((self._membership.description(),), timeout)
        except Retired:
            raise Disconnected(f"the leader of {self._leader!r} is gone") from None
        finally:
            calls.end()

    def _find(self, timeout: float) -> dict[str, Any]:
        """The leader, as the registry describes it."""
        directory = self._membership.client._directory
        return directory.patiently(lambda: directory.find([self._leader], timeout))[self._leader]

    def _stay(self) -> None:
        with contextlib.suppress(Disconnected):  # closed
            while self._membership.client._connection.wait(self._has_to_act):
                if self._stop.is_set() or self._is_over():
                    return
                with contextlib.suppress(PalmError):
                    self._join(JOINS)
                self._stop.wait(0.02)

    def _has_to_act(self) -> bool:
        return self._stop.is_set() or self._membership.client._connection.is_gone(self._link)

    def _is_over(self) -> bool:
        """It stays with no leader any more."""
        return False

    def close(self) -> None:
        self._stop.set()
        self._membership.client._connection.nudge()
        if self._thread.is_alive():
            self._thread.join(0.3)
