# SPDX-License-Identifier: BSD-3-Clause
"""Looks at a cluster again and again, though its registry may be away for a while: pages are read without it."""

from __future__ import annotations

import time
from typing import Any

from palm.client import Client
from palm.errors import Disconnected, PalmError

PATIENCE = 0.25  # seconds that the registry has to answer; else what it said last will do


class Watch:
    """Of the cluster that `client` is connected to.

    Attributes
    ----------
    cluster : str
        Its name.
    away : float
        Seconds for which the registry has not answered; 0: it has.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked = client._directory.ask("status")
        self.cluster = str(self._asked["cluster"])
        self._heard = time.monotonic()
        self.away = 0.0

    def look(self) -> dict[str, Any]:
        """The cluster as of now, like `Client.status`. `Disconnected` if it has been closed."""
        directory = self._client._directory
        try:
            self._asked = directory.ask("status", timeout=PATIENCE)
            self._heard, self.away = time.monotonic(), 0.0
        except PalmError:
            if directory.is_closed():
                raise Disconnected(f"the cluster {self.cluster} is down") from None
            self.away = time.monotonic() - self._heard
        status = self._client._overview.look(self._asked)
        if self.away:
            status["registry"] = status["registry"] | {"state": "away"}
            for server in status["servers"]:
                for process in (server, *server["workers"]):
                    process["state"] = _state(process)
        return status


def _state(process: dict[str, Any]) -> str:
    """Of one of which nobody has told anything lately."""
    known = process["counters"] or not process["pid"] or process["state"] == "unreachable"
    return str(process["state"]) if known else "unknown"
