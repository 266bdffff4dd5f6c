# SPDX-License-Identifier: BSD-3-Clause
"""A node and the work that it carries: who waits, receives for all.

No thread of its own: a thread that waits for something pumps the node, and hands what comes to the work it belongs
to; when it has what it waited for, another one that waits takes over. So the answer to a call reaches the caller
without a change of threads. The lock of `changed` guards the connection and all work on it; it is not held while a
thread waits.

This module and those it hands events to are compiled (meson.build), so that no signal handler runs between two of their
lines: only in `wait`, where nothing is half done and no lock is held (docs/decisions/signals.md).
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import functools
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from palm import addresses, ways
from palm._core import node as core
from palm._core.decode import BlockLost
from palm._core.lock import Condition, check_signals, monotonic
from palm._core.node import FORGET, GONE, LOST, MESSAGE, OPEN, READY
from palm.errors import Disconnected

log = logging.getLogger("palm")
Settled = tuple[Any, Any, BaseException | None]  # future, value, error
LONG = 3600.0  # seconds: who waits for ever looks again so often
ASK_EACH = 20e-6  # seconds, for each work there is, between two looks at what they hold: some 50 times what it takes
ASK_MOST = 0.02  # seconds between two looks, however many there are


class Work(Protocol):
    """What a connection carries: a job, or the calls of one step."""

    key: bytes

    def receive(self, event: core.Event) -> None:
        """Something has come; with the lock. The event is the work's until this returns. If it raises it is called
        again, with the same event."""

    def broken(self, error: BaseException) -> None:
        """To receive an event has raised, and what was in it is lost; with the lock."""

    def lost(self, link: int, reason: int) -> None:
        """A link is gone: reason 0 in good order, 1 the peer died; with the lock."""

    def missed(self, link: int) -> None:
        """Not all that was sent over a link has arrived there; with the lock."""

    def idle(self) -> float:
        """Somebody is about to wait; without the lock. Returns after how many seconds it should be asked again."""


_pid = os.getpid()  # asked once: it takes a system call


def _in_child() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_in_child)


def finalise(end: Callable[[], object]) -> None:
    """For ``__del__``: has `end` called soon, by a thread of its own. The garbage collector runs in any thread, which
    may hold any lock, those that `end` needs too; so this waits for nothing. (`threading.Thread` does.) When the
    interpreter is ending there is nothing to do: peers see that the process has died."""
    if not sys.is_finalizing():
        with contextlib.suppress(RuntimeError):  # no more threads: likewise
            _thread.start_new_thread(end, ())


def start_thread(target: Callable[..., object], name: str, *args: Any) -> None:
    """Starts a daemon, whatever happens: `threading.Thread.start` is Python, in which a signal handler may raise, so it
    is done by a thread in which none does."""
    _thread.start_new_thread(_start_thread, (target, name, args))


def _start_thread(target: Callable[..., object], name: str, args: tuple[Any, ...]) -> None:
    try:
        threading.Thread(target=target, args=args, name=name, daemon=True).start()
    except RuntimeError:  # not another one
        target(*args)


def _first_of(calls: collections.deque[Callable[[], None]]) -> Callable[[], None] | None:
    try:
        return calls.popleft()
    except IndexError:
        return None


class Answer:
    """What a thread waits for that has nothing else to do: a future costs more than all the rest of a call."""

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None


class Connection:
    def __init__(self, endpoint: str, name: str) -> None:
        self.node = ways.open_node(endpoint, name)
        self.endpoint = self.node.endpoint
        self.changed = Condition()
        self.works: dict[bytes, Work] = {}
        self.later: collections.deque[Callable[[], None]] = collections.deque()  # to be called without the lock
        self.settled: collections.deque[Settled] = collections.deque()  # for a thread in which no handler runs
        self.awaited = 0  # futures that are open, which no thread waits for in `wait`
        self._incoming: dict[tuple[int, int], Work] = {}
        self._opened: dict[bytes, set[tuple[int, int]]] = {}  # by the key of the work: its places in `_incoming`
        self._ready: set[int] = set()
        self._gone: dict[int, int] = {}
        self.on_gone: list[Callable[[int], None]] = []  # with the lock
        self._handles = itertools.count()
        self._pumping = False
        self._waiters = 0  # threads in changed.wait
        self._patience = 1.0  # seconds between two looks at what the works hold
        self._ask_at = 0.0  # not sooner than then
        self.closed = False
        self._pid = _pid

    # -------------------------------------------------------------------------------------------------- links

    def link(self, endpoint: str, timeout: float) -> int:
        """The link to `endpoint`, when the route is usable (R1)."""
        self.check()
        number: int = self.node.link(addresses.for_core(endpoint))
        if self.node.ready(number):
            return number
        if not self.wait(lambda: number in self._ready or number in self._gone or self.node.ready(number), timeout):
            raise Disconnected(f"nobody answers at {endpoint} within {round(timeout, 2):g} s")
        if number in self._gone:
            raise Disconnected(f"{endpoint} went away during the hand-shake")
        return number

    def link_to_living(self, endpoint: str, pid: int) -> int:
        """The link to a process of this host that is known to live: what is sent waits until it answers, however long
        it is busy, or dies."""
        self.check()
        number: int = self.node.link(endpoint, pid)
        return number

    def handle(self) -> int:
        return next(self._handles) % 0xFFFFFFFF + 1  # 0 is for what concerns the link (docs/wire.md, 8)

    def is_gone(self, link: int) -> bool:
        return link in self._gone

    def has_left(self, link: int) -> bool:
        """True if its peer has ended in good order."""
        return self._gone.get(link) == 0

    def open(self, link: int, handle: int, meaning: dict[str, Any], hop: int = 0) -> None:
        """Tell the peer what a handle means."""
        batch = core.Batch()
        batch.put(meaning, 0)
        self.send(link, OPEN, handle, hop, batch)

    def send(self, link: int, says: int, handle: int, hop: int, batch: core.Batch) -> bool:
        stands = self.send_kept(link, says, handle, hop, batch)
        batch.clear()
        return stands

    def send_kept(self, link: int, says: int, handle: int, hop: int, batch: core.Batch) -> bool:
        """The batch stays as it is, to be sent again."""
        self.check()
        try:
            return self.node.send_kept(link, says, handle, hop, batch)
        except ValueError:
            self.check()  # it has been closed meanwhile
            raise

    def say(self, link: int, says: int, handle: int) -> None:
        """An envelope without records."""
        if not self.closed:
            self.node.send(link, says, handle, 0, core.Batch())

    # ------------------------------------------------------------------------------------------------ waiting

    def wait(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Receive until `condition`, which is called with the lock; False: `timeout` seconds have passed. Signal
        handlers run in between, and may use the connection."""
        return self._receive_until(condition, None, timeout)

    def wait_for(self, answer: Answer, timeout: float | None) -> bool:
        """As `wait`, until this answer has come."""
        return self._receive_until(None, answer, timeout)

    def _receive_until(self, condition: Any, answer: Any, timeout: float | None) -> bool:
        """One of the two."""
        end = None if timeout is None else monotonic() + timeout
        self._ask_idle()
        try:
            while True:
                self.changed.acquire()
                try:
                    if condition() if answer is None else answer.done:
                        return True
                    self.check()
                    left = LONG if end is None else end - monotonic()
                    if left <= 0:
                        return False
                    if self._pumping:
                        self._wait(left)
                    else:
                        self._pump(left)
                finally:
                    self.changed.release()
                check_signals()
                self.call_later()
        finally:
            if self._waiters:
                self._hand_over()

    def _hand_over(self) -> None:
        """Somebody else may have to pump now."""
        with self.changed:
            self.changed.notify()

    def _wait(self, timeout: float) -> None:
        self._waiters += 1
        try:
            self.changed.wait(timeout)
        finally:
            self._waiters -= 1

    def _ask_idle(self) -> None:
        """Not each time that somebody waits: what a call costs must not grow with what else is open."""
        now = monotonic()
        if now < self._ask_at:
            if self._patience > ASK_MOST:
                self._patience = ASK_MOST
            return
        works = list(self.works.values())
        self._ask_at = now + min(ASK_MOST, ASK_EACH * len(works))
        patience = LONG if works else 1.0
        for work in works:
            idle = work.idle()
            if idle < patience:  # `min` would parse its arguments for as long as all the rest takes
                patience = idle
        self._patience = patience

    def nudge(self) -> None:
        """What others wait for may have changed."""
        with self.changed:
            self.changed.notify_all()
            pumping = self._pumping and not self.closed
        if pumping:
            self.node.wake()

    def _pump(self, timeout: float) -> None:
        self._pumping = True
        try:
            self.changed.release()
            try:
                event = self.node.next(timeout if timeout < self._patience else self._patience, handlers=False)
                if event is None:
                    self._ask_idle()
            finally:
                self.changed.acquire()
            if event is not None:
                self._dispatch(event)
        finally:
            self._pumping = False
            if self._waiters:
                self.changed.notify_all()

    def call_later(self) -> None:
        """Does what has to be done without the lock: all of it, whatever some of it raises."""
        if not self.later:  # else an IndexError would be made, and thrown away, at each wait
            return
        raised: BaseException | None = None
        while (call := _first_of(self.later)) is not None:
            try:
                call()
            except BaseException as e:
                raised = raised or e
        if raised is not None:
            raise raised

    def _dispatch(self, event: core.Event) -> None:
        if event.is_data():
            self._data(event)
        elif event.kind == MESSAGE:
            self._message(event)
        elif event.kind == READY:
            self._ready.add(event.link)
        elif event.kind == GONE:
            self._gone[event.link] = event.reason
            for place in [place for place in self._incoming if place[0] == event.link]:
                self._shut(place)
            for told in self.on_gone:
                told(event.link)
            for work in list(self.works.values()):
                work.lost(event.link, event.reason)

    def _data(self, event: core.Event) -> None:
        work = self._incoming.get(event.origin())
        if work is not None:
            self._receive(work, event)
        elif not event.handle and len(event) and event.form(0) == LOST:
            for other in list(self.works.values()):
                other.missed(event.link)
        event.done()

    def _message(self, event: core.Event) -> None:
        if event.says == OPEN:
            self._open(event)
        elif event.says == FORGET:
            self._shut(event.origin())
        event.done()

    def _open(self, event: core.Event) -> None:
        try:
            meaning = event.value(0)
            work = self.works.get(meaning["job"])
        except (BlockLost, LookupError, TypeError, ValueError) as e:
            self.later.append(functools.partial(log.warning, "an OPEN that cannot be read: %s", str(e)))
            return
        place = event.origin()
        if work is not None:
            self._shut(place)
            self._incoming[place] = work
            self._opened.setdefault(work.key, set()).add(place)
        else:
            self.later.append(functools.partial(self._forget, event.link, meaning["job"]))

    def _shut(self, place: tuple[int, int]) -> None:
        work = self._incoming.pop(place, None)
        if work is not None:
            places = self._opened.get(work.key, set())
            places.discard(place)
            if not places:
                self._opened.pop(work.key, None)

    def _forget(self, link: int, job: Any) -> None:
        """Who has opened a handle for a job that is over has not heard of its end, or has lost who should have told."""
        with contextlib.suppress(Disconnected, ValueError, TypeError):  # the last: no name of a job
            self.forget({link}, job)

    def forget(self, links: Iterable[int], job: bytes) -> None:
        """Tells those that a job is over. Without the lock."""
        over = core.Batch()
        over.job(job)
        for link in links:
            self.send_kept(link, FORGET, 0, 0, over)

    def _receive(self, work: Work, event: core.Event) -> None:
        """A signal handler may raise in the little Python that there is in it, as where a dtype is seen first: what has
        been taken in is not new then, and the rest is not lost. What raises again is the work's own, not that of others
        whose thread happens to receive: but Ctrl-C is everybody's."""
        try:
            work.receive(event)
        except BaseException as first:
            try:
                work.receive(event)
            except BaseException as again:
                work.broken(again)
                if not isinstance(again, Exception):
                    raise
            else:
                raise first

    # -------------------------------------------------------------------------------------------------- work

    def add(self, work: Work) -> None:
        with self.changed:
            self.works[work.key] = work
            for link, reason in self._gone.items():  # since its route was made
                work.lost(link, reason)

    def remove(self, work: Work) -> set[int]:
        """Returns the links to all who have opened a handle for it; who does so later is told that it is over."""
        with self.changed:
            self.works.pop(work.key, None)
            places = self._opened.pop(work.key, set())
            for place in places:
                del self._incoming[place]
        return {link for link, _ in places}

    def is_forked(self) -> bool:
        """True in a child of the process that made it."""
        return _pid != self._pid

    def check(self) -> None:
        """RuntimeError in a forked child, Disconnected when it is closed."""
        if _pid != self._pid:
            raise RuntimeError(
                "a client cannot be used in a forked child: make a new one in a process started with spawn or exec"
            )
        if self.closed:
            raise Disconnected(
                "the client is closed: `close` was called, or its `with` or that of its cluster has been left"
            )

    def close(self, linger: float) -> int:
        """Flush up to `linger` seconds; returns the number of envelopes given up."""
        if self.closed or self.is_forked():
            return 0
        with self.changed:
            self.closed = True
            self.node.wake()
            while self._pumping:
                self.changed.wait(0.1)
            self.changed.notify_all()
        unsent: int = self.node.close(int(linger * 1000))
        return unsent
