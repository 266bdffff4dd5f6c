# SPDX-License-Identifier: BSD-3-Clause
"""Work that Ctrl-C must not leave half done."""

from __future__ import annotations

import _thread
from collections.abc import Callable

from palm.connection import start_thread


def uninterrupted(call: Callable[[], None]) -> None:
    """Calls it in a thread of its own, in which no signal handler runs, and waits for its end. What handlers raise
    meanwhile is raised then; else what it has raised itself. (A handler that raises in one of the few lines in here may
    have it return sooner: who wants to be sure calls it again.)"""
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
    error = None
    while not outcome:
        try:
            gate.acquire()
        except BaseException as e:
            error = error or e
    error = error or outcome[0]
    if error is not None:
        raise error
