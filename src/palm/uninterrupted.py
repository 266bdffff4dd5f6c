# SPDX-License-Identifier: BSD-3-Clause
"""Work that Ctrl-C must not leave half done."""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable

from palm.connection import start_thread


def uninterrupted(call: Callable[[], None], patience: float) -> None:
    """Calls it in a thread of its own, in which no signal handler runs, and waits for its end. What a handler raises
    meanwhile is raised then; else what it has raised itself. (A handler that raises in one of the few lines in here may
    have it return sooner: who wants to be sure calls it again.)

    A second interrupt is raised at once, and after `patience` seconds it returns: the call goes on in its thread. If we
    are in a signal handler, it may wait for a lock that our caller holds.
    """
    outcome: list[BaseException | None] = []  # when it is over
    gate = _thread.allocate_lock()
    gate.acquire()

    def run() -> None:
        raised = None
        try:
            call()
        except BaseException as e:
            raised = e
        outcome.append(raised)
        gate.release()

    try:
        start_thread(run, "palm-close")
    except RuntimeError:  # no more threads, or the interpreter is ending
        run()
    interrupt = None
    end = time.monotonic() + patience
    while not outcome and (left := end - time.monotonic()) > 0:
        try:
            gate.acquire(timeout=left)
        except BaseException as e:
            if interrupt is not None:
                raise
            interrupt = e
    error = interrupt or (outcome[0] if outcome else None)
    if error is not None:
        raise error
