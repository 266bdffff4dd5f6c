# SPDX-License-Identifier: BSD-3-Clause
"""Looks at a cluster while a job runs, for its report: at the beginning, at the end, and at what waits in between."""

from __future__ import annotations

import threading
import time
from typing import Any

from palm.client import Client
from palm.errors import PalmError
from palm.watch import Watch

PERIOD = 0.2  # seconds between two looks at first
MOST = 500  # looks that are kept: when there are more, every second one goes, and they come half as often


class Recording:
    """From when it is made to `close`. Its thread waits for nobody who works on the job.

    Attributes
    ----------
    before, after : dict
        The cluster as of the first and the last look, like `Client.status`.
    queues : list of (float, dict)
        Seconds since the beginning, and how many messages waited before each server.
    """

    def __init__(self, client: Client, period: float = PERIOD) -> None:
        self._watch, self._period = Watch(client), period
        self._began = time.monotonic()
        self.before = self.after = self._watch.look()
        self.queues: list[tuple[float, dict[str, int]]] = [(0.0, _queues(self.before))]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="palm-recording", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Looks for the last time, as far as there is still something to see. Again: without effect."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        self._look()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._over.wait(self._period):
            if not self._look():
                return

    def _look(self) -> bool:
        try:
            self.after = self._watch.look()
        except (PalmError, ValueError):  # closed: what has been seen has to do
            return False
        self.queues.append((time.monotonic() - self._began, _queues(self.after)))
        if len(self.queues) > MOST:
            del self.queues[1::2]
            self._period *= 2
        return True


def _queues(status: dict[str, Any]) -> dict[str, int]:
    """Of a server with workers, what waits at these too; as far as it is known."""
    return {
        s["name"]: sum(p["queue"] or 0 for p in (s, *(s["workers"] if s["leads"] else ()))) for s in status["servers"]
    }
