# SPDX-License-Identifier: BSD-3-Clause
"""Whether a function that runs for long holds the GIL (B9): the pulse, which needs none, asks for it once a second; a
thread that sleeps otherwise takes it and says when. Who looks sees how long the question has been open."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from palm._core import space


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """While functions may run in this process."""
    asks, over = os.eventfd(0, os.EFD_CLOEXEC), threading.Event()
    thread = threading.Thread(target=_answer, args=(asks, over), name="palm-gil", daemon=True)
    thread.start()
    space.ask_for_gil(asks)
    try:
        yield
    finally:
        space.ask_for_gil(-1)
        over.set()
        os.eventfd_write(asks, 1)
        thread.join()
        os.close(asks)


def _answer(asks: int, over: threading.Event) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the user's threads
    while True:
        os.read(asks, 8)  # without the GIL; it returns with it
        if over.is_set():
            return
        space.had_gil()
