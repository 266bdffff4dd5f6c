# SPDX-License-Identifier: BSD-3-Clause
"""Processes of a cluster that are killed again and again (PALM_SEED)."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator

from conftest import eventually

import palm

SEED = int(os.environ.get("PALM_SEED", "1"))


class Unrest:
    """Kills one of these servers' processes again and again, while it is entered."""

    def __init__(self, cluster: palm.Cluster, every: float, *names: str) -> None:
        self._cluster, self._every, self._names = cluster, every, names
        self._over, self._chance, self.killed = threading.Event(), random.Random(SEED), 0
        self._thread = threading.Thread(target=self._go)

    def _pids(self) -> list[int]:
        servers = [s for s in self._cluster.status()["servers"] if s["name"].partition(".")[0] in self._names]
        return [p["pid"] for s in servers for p in (s, *s["workers"]) if p["pid"]]

    def _go(self) -> None:
        while not self._over.wait(self._every):  # the moment is the input of these tests, not a synchronisation
            if there := self._pids():
                try:
                    os.kill(self._chance.choice(there), signal.SIGKILL)
                    self.killed += 1
                except ProcessLookupError:
                    pass

    def __enter__(self) -> Unrest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def spread(self, inputs, times: int = 5) -> Iterator[object]:
        """So that somebody has died so often before the last of them."""
        inputs = list(inputs)
        for k in range(times):
            yield from inputs[k * len(inputs) // times : (k + 1) * len(inputs) // times]
            eventually(lambda k=k: self.killed > k, 60)
