# SPDX-License-Identifier: BSD-3-Clause
"""Watches the processes of a cluster, starts again those that die, and finds out in which message they died.

One thread, which waits for fds and for moments, never for a process: servers that die at the same time start again at
the same time.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from palm import places
from palm.births import Births
from palm.child import Child, EndOfWork
from palm.deaths import OomKills, reason_of
from palm.errors import Disconnected, PalmError, Timeout
from palm.own_names import REGISTRY
from palm.polling import readable
from palm.suspects import Suspects

SETTLED = 5.0  # seconds for the nursery to be ready: sooner than a process would be that is executed beside it
SWEEP = 1.0  # seconds between two looks for sockets of dead clients (R15: 3 s)


class Supervisor:
    """Of one cluster.

    Parameters
    ----------
    directory : Path
        With the cluster's sockets.
    tell : callable
        Called with a function of the registry and what it gets: `left` after each death, `started` when the registry
        itself was started again. Must not wait.
    births : Births
        Of all its children; its own from now on.
    note : callable
        Called with server, worker, pid, level and text: for the log. Must not wait.
    """

    def __init__(
        self,
        directory: Path,
        tell: Callable[..., object],
        births: Births,
        note: Callable[[str, int | None, int, int, str], None],
    ) -> None:
        self._directory, self._tell, self._births, self._note = directory, tell, births, note
        self._children: dict[str, Child] = {}
        self._lock = threading.RLock()  # of the children and all that is known of them
        self._suspects = Suspects()
        self._excused: set[int] = set()
        self._ooms = OomKills()
        self._sweep_at = 0.0
        self._closed = False
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="palm-supervisor", daemon=True)
        self._thread.start()

    def names(self) -> list[str]:
        """Of all servers that are not stopped, those too that were given up."""
        with self._lock:
            return list(self._children)

    def start(self, child: Child) -> None:
        """`begin`; returns when it is ready.

        Raises
        ------
        ValueError
            There is one of this name.
        PalmError
            It has died instead; says how, with its traceback.
        Timeout
        """
        self.begin(child)
        try:
            child.started.result(child.timeout)
        except BaseException as e:
            if self.remove(child.name, child) is not None:
                child.end(1.0)
            if isinstance(e, TimeoutError) and not isinstance(e, PalmError):
                raise Timeout(f"{child.name!r} was not ready within {child.timeout:g} s") from None
            raise

    def begin(self, child: Child) -> None:
        """From now on it is started, and watched; ValueError if there is one of this name."""
        self._births.settled.wait(min(SETTLED, child.timeout))
        with self._lock:
            if self._closed:
                raise Disconnected("the cluster is closed")
            if child.name in self._children:
                raise ValueError(f"there is a server {child.name!r} already: give another name, or replace=True")
            child.spawn([])
            self._children[child.name] = child
            self._wake()

    def remove(self, name: str, child: Child | None = None) -> Child | None:
        """From now on the caller's own, who ends it; `child`: only if it is this one."""
        with self._lock:
            found = self._children.get(name)
            if found is None or (child is not None and found is not child):
                return None
            del self._children[name]
            self._suspects.forget(name)
            if not found.started.done():
                found.started.set_exception(PalmError(f"{name!r} was stopped before it was ready"))
            return found

    def given_up(self) -> set[str]:
        """Names of those that are dead, and not started again."""
        with self._lock:
            return {child.name for child in self._children.values() if child.is_given_up}

    def excuse(self, pid: int) -> None:
        """Its death, which is at hand, says nothing against its message nor against its server."""
        self._excused.add(pid)  # seen by who finds it dead: it lives until its killer has called this

    def _wake(self) -> None:
        os.write(self._wake_write, b"x")

    # ----------------------------------------------------------------------------------------------- the loop

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                due_at = self._do_what_is_due()
                watched = self._watched()
            for fd in readable([*watched, self._wake_read], due_at - time.monotonic()):
                if fd == self._wake_read:
                    os.read(fd, 4096)
                    continue
                with self._lock:
                    watched[fd]()

    def _watched(self) -> dict[int, Callable[[], None]]:
        watched: dict[int, Callable[[], None]] = {fd: self._births.look for fd in self._births.fds()}
        for child in self._children.values():
            look = functools.partial(self._look_at, child)
            watched |= {fd: look for fd in (child.pidfd, child.report) if fd >= 0}
        return watched

    def _do_what_is_due(self) -> float:
        """Returns when there is something to do again."""
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP
            self._ooms.look()
            self._remove_dead_sockets()
        self._births.do_what_is_due(now)
        due = [self._sweep_at, *self._births.due()]
        for child in list(self._children.values()):
            try:
                child.do_what_is_due(now, self._suspects)
            except OSError as e:
                self._again(child, f"there can be no process: {e}", child.restarts.failed())
            due += child.due()
        return min(due)

    def _remove_dead_sockets(self) -> None:
        with contextlib.suppress(OSError):
            places.remove_dead_sockets(self._directory)

    def _look_at(self, child: Child) -> None:
        if self._closed or self._children.get(child.name) is not child:
            return  # it has been taken from us meanwhile
        if child.hear():
            self._is_ready(child)
        if child.is_dead():
            self._died(child)

    # -------------------------------------------------------------------------------------------- life and death

    def _is_ready(self, child: Child) -> None:
        child.restarts.ready()
        child.end_told = None
        if not child.started.done():
            child.started.set_result(None)
        elif child.name == REGISTRY:
            self._tell_again()

    def _tell_again(self) -> None:
        """A new registry does not know who is missing; those that are there tell it themselves."""
        others = [c for c in self._children.values() if c.name != REGISTRY and c.started.done()]
        self._tell("started", [c.name for c in others])
        for child in others:
            if child.end_told is not None:
                self._tell("left", child.name, *child.end_told)

    def _died(self, child: Child) -> None:
        assert child.process is not None and child.process.returncode is not None
        reason = reason_of(child.process.returncode, self._ooms, child.memory())
        failure = child.failure()
        self._remove_dead_sockets()
        if not child.started.done():
            del self._children[child.name]
            self._log(child, logging.ERROR, f"did not start: {failure or reason}")
            child.forget()
            why = failure or reason
            gap = "\n" if "\n" in why else " "
            child.started.set_exception(PalmError(f"{child.name!r} did not start:{gap}{why}"))
            return
        end = child.end_of_work()
        if end is not None:
            reason = end.reason
        clean = not failure and end is None and child.process.returncode == 0
        delay = child.restarts.failed() if failure else self._blame(child, reason, end, clean)
        self._excused.discard(child.pid)
        self._log(child, *_in_words(failure, reason, delay))
        child.forget()
        if failure:
            print(f"palm: {child.name!r} did not start:\n{failure}", file=sys.stderr)
        reason = failure.splitlines()[-1] if failure else reason
        if child.doomed:
            self._give_up(child, child.doomed, "stopped" if child.is_worker else "failed")
        elif not failure and child.restarts.policy.forbids(clean):
            self._give_up(
                child, f'{reason}; restart = "{child.restarts.policy.when}"', "stopped" if clean else "failed"
            )
        else:
            self._again(child, reason, delay)

    def _log(self, child: Child, level: int, text: str) -> None:
        self._note(child.server, child.worker, child.pid, level, text)

    def _blame(self, child: Child, reason: str, end: EndOfWork | None, clean: bool) -> float | None:
        """The message in which it died, if there is one; returns after how many seconds it is started again, or
        None."""
        suspect, several = child.suspect(), child.suspects_together()
        excused = child.pid in self._excused
        if several is not None and (end.to_blame if end is not None else not excused):
            self._suspects.suspect_together(child.server, *several, reason)
        if end is not None:
            if suspect is not None and end.to_blame:
                self._suspects.blame(child.server, suspect[0], reason, suspect[1], final=True)
            return child.restarts.ended()
        if suspect is not None and not excused:
            self._suspects.blame(child.server, suspect[0], reason, suspect[1])
        # No process ends itself by SIGKILL while it does nothing: that came from outside, and says nothing against it.
        harmless = excused or (suspect is None and several is None and reason == "SIGKILL")
        return child.restarts.died(harmless or child.made_progress(), clean)

    def _again(self, child: Child, reason: str, delay: float | None) -> None:
        """Starts it again after `delay` seconds; None: gives it up."""
        if delay is None:
            self._give_up(child, reason, "failed")
        else:
            child.spawn_at = time.monotonic() + delay
            self._tell_of_end(child, reason, "restarting")

    def _give_up(self, child: Child, reason: str, state: str) -> None:
        """And those that are of no use without it: the workers of a leader, the leader of which it was the last
        worker."""
        child.spawn_at = None
        print(f"palm: {child.name!r} is given up: {reason}", file=sys.stderr)
        self._tell_of_end(child, reason, state)
        crew = [c for c in self._children.values() if c.server == child.server and c.is_worker and c is not child]
        others = [c for c in crew if not c.is_given_up]
        if not child.is_worker:
            for worker in others:
                self._doom(worker, f"its leader is given up: {reason}", signal.SIGTERM)
        elif not others and (leader := self._children.get(child.server)) is not None and not leader.is_given_up:
            self._doom(leader, f"no worker is left: {reason}", signal.SIGKILL)  # softly, it would wait for one

    def _doom(self, child: Child, why: str, number: int) -> None:
        child.doom(why, number)
        if child.spawn_at is not None:  # it is dead already
            self._give_up(child, why, "stopped" if child.is_worker else "failed")

    def _tell_of_end(self, child: Child, reason: str, state: str) -> None:
        child.end_told = child.pid, reason, state
        if child.name != REGISTRY:
            self._tell("left", child.name, *child.end_told)

    # ------------------------------------------------------------------------------------------------ the end

    def close(self) -> list[Child]:
        """Watches no more; the children are the caller's own. Again: without effect."""
        if self._closed:
            return []
        with self._lock:
            self._closed = True
            self._wake()
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._births.close()
        with self._lock:
            return [child for name in self.names() if (child := self.remove(name)) is not None]


def _in_words(failure: str, reason: str, delay: float | None) -> tuple[int, str]:
    """Level and text of an end, for the log."""
    what = f"did not start: {failure}" if failure else f"died: {reason}"
    if delay is None:
        return logging.ERROR, f"{what}; it is given up"
    return logging.WARNING, f"{what}; it is started again{f' in {delay:.1g} s' if delay else ''}"
