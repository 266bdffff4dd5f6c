# SPDX-License-Identifier: BSD-3-Clause
"""``palm top``: a cluster at work, in a terminal as a live table, in a pipe as one table each interval."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live

from palm.cli_up import Stopped, raise_on_signals
from palm.client import Client
from palm.rates import Interval, between, plain
from palm.top_view import View, screen
from palm.watch import Watch

GLANCE = 0.2  # seconds between two looks at the keys, the size of the terminal and the clock
_KEYS = {"[A": "up", "[B": "down", "[C": "right", "[D": "left", "[5~": "page up", "[6~": "page down", "": "escape"}


def top(client: Client, interval: float, iterations: int | None, view: View, as_json: bool) -> int:
    """Until it is told to end, or so many intervals are over; returns the exit code."""
    console = Console()
    raise_on_signals()
    try:
        if as_json or not console.is_terminal:
            _print(Watch(client), interval, iterations, view, as_json)
        else:
            _live(Watch(client), interval, iterations, view, console)
    except Stopped as e:
        return e.code
    except BrokenPipeError:  # who read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# ---------------------------------------------------------------------------------------------------------- in a pipe


def _print(watch: Watch, interval: float, iterations: int | None, view: View, as_json: bool) -> None:
    console = Paper()
    before = watch.look()
    while iterations is None or iterations > 0:
        time.sleep(interval)
        after = watch.look()
        found = between(before, after)
        if as_json:
            print(_json(found, after), flush=True)
        else:
            console.print(screen(after["cluster"], found, view, watch.away, console.width, None))
        before, iterations = after, None if iterations is None else iterations - 1


class Paper(Console):
    """Who has read enough is no error."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _json(found: Interval, status: dict[str, Any]) -> str:
    """One line."""
    return json.dumps(
        {"cluster": status["cluster"], "time": time.time(), "registry": status["registry"]["state"]} | plain(found)
    )


# ------------------------------------------------------------------------------------------------------ in a terminal


def _live(watch: Watch, interval: float, iterations: int | None, view: View, console: Console) -> None:
    before, found, due = watch.look(), None, time.monotonic() + min(interval, 1.0)
    with Terminal(console) as terminal:
        while iterations is None or iterations > 0:
            size = console.size
            terminal.show(screen(watch.cluster, found, view, watch.away, *size))
            while time.monotonic() < due and console.size == size:
                keys = terminal.keys(min(GLANCE, max(0.0, due - time.monotonic())))
                if any([view.press(key) for key in keys]):
                    return
                if keys:
                    break
            if time.monotonic() < due:
                continue
            due = time.monotonic() + interval
            if not view.paused:
                after = watch.look()
                found, before = between(before, after), after
                iterations = None if iterations is None else iterations - 1


class Terminal:
    """Draws on the alternate screen, and gets keys one by one; leaves the terminal as it was, whatever ends it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
        self._fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
        self._before: list[Any] = []
        self._suspended = False
        self._keys_ended = self._fd < 0

    def __enter__(self) -> Terminal:
        signal.signal(signal.SIGTSTP, self._suspend)
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        self._end()

    def _begin(self) -> None:
        if self._fd >= 0:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)  # Ctrl-C stays a signal
        self._live.start()

    def _end(self) -> None:
        try:
            self._live.stop()
        finally:
            if self._before:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._suspended = True

    def show(self, what: Any) -> None:
        self._live.update(what, refresh=True)

    def keys(self, timeout: float) -> list[str]:
        """Those that come within so many seconds."""
        if self._suspended:
            self._stop_here()
        if self._keys_ended:
            time.sleep(timeout)
            return []
        if not select.select([self._fd], [], [], timeout)[0]:
            return []
        got = os.read(self._fd, 1024)
        self._keys_ended = not got
        return list(split(got.decode(errors="replace")))

    def _stop_here(self) -> None:
        """Ctrl-Z: the shell gets its terminal, until it has us go on."""
        self._suspended = False
        self._end()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._begin()


def split(text: str) -> Iterator[str]:
    """Characters, and names of keys that send several."""
    while text:
        if text[0] != "\x1b":
            yield text[0]
            text = text[1:]
            continue
        text = text[1:].replace("O", "[", 1) if text[1:2] == "O" else text[1:]
        sequence = max((s for s in _KEYS if text.startswith(s)), key=len)
        yield _KEYS[sequence]
        text = text[len(sequence) :]
