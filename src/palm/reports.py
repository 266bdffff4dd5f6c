# SPDX-License-Identifier: BSD-3-Clause
"""What a supervisor has to tell the registry, told by a thread of its own: the registry may be dead itself, and who
waits for it cannot start it again."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from palm.errors import PalmError

log = logging.getLogger("palm")
Report = tuple[Any, ...]  # a function of the registry, and what it gets


class Reports:
    """In order.

    Parameters
    ----------
    tell : callable
        Called in the thread with the report; PalmError: nobody could be told.
    """

    def __init__(self, tell: Callable[..., object]) -> None:
        self._tell = tell
        self._queue: queue.SimpleQueue[tuple[Report, threading.Event] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()  # of what comes into the queue, and that nothing does any more
        self._thread = threading.Thread(target=self._run, name="palm-reports", daemon=True)
        self._thread.start()

    def put(self, function: str, *values: Any) -> threading.Event:
        """Set when it has been told, or cannot be."""
        told = threading.Event()
        with self._lock:
            if self._closed:
                told.set()
            else:
                self._queue.put(((function, *values), told))
        return told

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            report, told = item
            try:
                if not self._closed:
                    self._tell(*report)
            except (PalmError, OSError):
                pass
            except Exception:  # others are told all the same, and who waits goes on
                log.exception("the registry was not told %s", report)
            finally:
                told.set()

    def close(self, timeout: float) -> None:
        """What has not been told is not any more. Again: without effect."""
        with self._lock:
            self._closed = True
            self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)
