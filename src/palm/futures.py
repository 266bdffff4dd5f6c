# SPDX-License-Identifier: BSD-3-Clause
"""The futures of `Client.submit`, the thread that settles them, and those in which their callbacks run."""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from palm._core.lock import Condition, Lock, check_signals
from palm.calls import Calls, is_late
from palm.connection import Connection, start_thread
from palm.errors import Crashed, Disconnected

if TYPE_CHECKING:
    from palm.client import Client

log = logging.getLogger("palm")
IDLE = 1.0  # seconds that a thread waits for the next thing to do before it ends


class Call:
    """What a future waits for. once: the calls are of this one alone."""

    def __init__(self, calls: Calls, once: bool, number: int, timeout: float | None) -> None:
        self.calls, self._once, self._number, self.timeout = calls, once, number, timeout
        self._timer: threading.Timer | None = None

    def start_timer(self, passed: Callable[[], None]) -> None:
        if self.timeout is not None:
            self._timer = threading.Timer(self.timeout, passed)
            self._timer.daemon = True
            self._timer.start()

    def give_up(self) -> None:
        """Its time is over, which servers know by themselves."""
        self.calls.give_up(self._number)
        self._let_go()

    def cancel(self) -> None:
        """Nobody waits any more: servers are told."""
        self.calls.cancel(self._number)
        self._let_go()

    def _let_go(self) -> None:
        self.end()
        self.calls.connection.nudge()  # who receives for it alone need not

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        once, self._once = self._once, False
        if once:
            self.calls.end()


class CallFuture(concurrent.futures.Future[Any]):
    """Of a call; to cancel it gives the call up.

    Parameters
    ----------
    client : Client
        Lives as long as the call is open.
    direct : bool
        Its callbacks are quick, and PALM's own: they run in the thread that settles it. Others may take their time, or
        wait for other futures, so they run in a thread of their own.
    """

    def __init__(self, client: Client, *, direct: bool = False) -> None:
        super().__init__()
        self._client: Client | None = client
        self._direct = direct
        self._guard = Lock()
        self._over = False  # somebody has settled or cancelled it, or is about to
        self._call: Call | None = None
        self._settler = 0  # the thread that settles it
        self._handed_over: list[Callable[[Any], object]] = []

    def begin(self, call: Call) -> None:
        """It has been sent, and may have been answered already."""
        with self._guard:
            if not self._over:
                self._call = call
        if not self._over:
            call.start_timer(self._time_out)
        if self._over:
            call.end()

    def _claim(self) -> tuple[bool, Call | None]:
        """Whether it is the caller's to end, and what has to be done for the call then."""
        with self._guard:
            mine, self._over = not self._over, True
            call, self._call = self._call, None
            self._client = None
        return mine, call

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Never in the main thread: `concurrent.futures` does not bear what signal handlers raise."""
        client = self._client
        if client is not None and isinstance(error, Crashed) and not error.reason:  # to ask for it takes a while
            explain = client._directory.explain
            threading.Thread(target=lambda: self._settle(None, explain(error)), daemon=True).start()
        else:
            self._settle(value, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        mine, call = self._claim()
        if call is not None:
            call.end()
            if error is not None and is_late(error):
                error = call.calls.timed_out(call.timeout)
        if mine:
            self._finish(value, error)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        if not self.set_running_or_notify_cancel():
            return
        self._settler = threading.get_ident()
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(value)
        self._settler = 0
        if self._handed_over:
            callbacks.run(self, self._handed_over)

    def _time_out(self) -> None:
        mine, call = self._claim()
        if mine and call is not None:
            call.give_up()
            self._finish(None, call.calls.timed_out(call.timeout))

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        mine, call = self._claim()
        if call is not None:
            call.cancel()
        if mine:
            self.set_running_or_notify_cancel()  # for those in `concurrent.futures.wait`
        return True

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        super().add_done_callback(fn if self._direct else lambda _: self._call_back(fn))

    def _call_back(self, fn: Callable[[Any], object]) -> None:
        if self._settler == threading.get_ident():
            self._handed_over.append(fn)
        else:
            fn(self)


class Callbacks:
    """Threads in which callbacks run, another one whenever all are busy: a callback may wait for what others settle."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle = 0  # threads that nothing has been put into the queue for
        self._queue: queue.SimpleQueue[tuple[CallFuture, list[Callable[[Any], object]]]] = queue.SimpleQueue()

    def run(self, future: CallFuture, fns: list[Callable[[Any], object]]) -> None:
        with self._lock:
            self._queue.put((future, fns))
            fewer = self._idle == 0
            self._idle -= not fewer
        if fewer:
            start_thread(self._work, "palm-callbacks")

    def _work(self) -> None:
        while True:
            try:
                future, fns = self._queue.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        return
                continue
            for fn in fns:
                _call(fn, future)
            del future, fns
            with self._lock:
                self._idle += 1


def _call(fn: Callable[[Any], object], future: CallFuture) -> None:
    try:
        fn(future)
    except BaseException:  # SystemExit too: the thread is not the callback's
        log.exception("a callback of %r has raised", future)


callbacks = Callbacks()


class Background:
    """The thread that settles futures, and receives while some are open and nobody else does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._changed = Condition()
        self._wanted = self._running = False

    def want(self) -> None:
        """There may be an open future."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()
            start, self._running = not self._running, True
        if start:
            start_thread(self._run, "palm-client")

    def stop(self, timeout: float) -> None:
        """After the connection was closed: settles what is left, for at most so many seconds."""
        end = time.monotonic() + timeout
        while self._running and time.monotonic() < end:
            with self._changed:
                self._changed.notify_all()
                self._changed.wait(0.1)
            check_signals()

    def _run(self) -> None:
        while self._is_wanted():
            try:
                self._serve()
            except (Disconnected, ValueError):
                self._settle()  # closed: `Client.close` has resolved them
            except Exception:
                log.exception("futures wait until the next is submitted")

    def _is_wanted(self) -> bool:
        with self._changed:
            if not self._wanted and not self._connection.closed:
                self._changed.wait(IDLE)
            self._running, self._wanted = self._wanted, False
            self._changed.notify_all()
            return self._running

    def _serve(self) -> None:
        connection = self._connection
        while connection.settled or connection.awaited:
            connection.wait(lambda: bool(connection.settled) or not connection.awaited)
            self._settle()

    def _settle(self) -> None:
        settled = self._connection.settled
        while settled:
            future, value, error = settled.popleft()
            future.settle(value, error)
