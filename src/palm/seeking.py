# SPDX-License-Identifier: BSD-3-Clause
"""Finds servers beside the loop of the server that wants to send to them: to ask takes a while, and one that is being
started again is waited for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from palm._core import node as core

Place = tuple[str, int]  # endpoint, and pid; 0: of another pid namespace


class Seeking:
    """Of one server.

    Parameters
    ----------
    node : Node
        Woken when something has been found.
    resolve : callable
        Where a server is, by its name; called in a thread of its own, may wait and raise.
    """

    def __init__(self, node: core.Node, resolve: Callable[[str], Place]) -> None:
        self._node, self._resolve = node, resolve
        self._sought: set[str] = set()
        self._found: queue.SimpleQueue[tuple[str, Place | Exception]] = queue.SimpleQueue()

    def seek(self, server: str) -> None:
        """`found` will have it; a server that is sought already is not sought twice."""
        if server not in self._sought:
            self._sought.add(server)
            threading.Thread(target=self._seek, args=(server,), name="palm-seeking", daemon=True).start()

    def _seek(self, server: str) -> None:
        found: Place | Exception
        try:
            found = self._resolve(server)
        except Exception as e:  # whatever it is, somebody waits for an answer
            found = e
        self._found.put((server, found))
        self._node.wake()

    def found(self) -> dict[str, Place | Exception]:
        """What has been found since the last time; or why it was not."""
        new: dict[str, Place | Exception] = {}
        while not self._found.empty():
            server, found = self._found.get()
            self._sought.discard(server)
            new[server] = found
        return new
