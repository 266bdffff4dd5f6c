# SPDX-License-Identifier: BSD-3-Clause
"""Runs the generators of a server, each for a slice of time, and keeps and repeats what they have made.

How far each may go and what it keeps is `palm.making.Making`'s to know.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from types import GeneratorType
from typing import Any, Literal

from palm._core import loop
from palm._core import node as core
from palm.assignment import Assignment, JobHere
from palm.branch import Queued
from palm.branches import Branches
from palm.errors import PalmError, PayloadError
from palm.making import ChildEnded, Kept, Making, Ranges
from palm.message import child
from palm.outcomes import Outcomes
from palm.outlets import Outlets
from palm.remote import overrun
from palm.retries import pause
from palm.step import To
from palm.turns import Turns

log = logging.getLogger("palm")
SLICE = 0.001  # seconds that generators run before other messages have their turn
GENERATED = 64  # messages of a generator in an envelope: then others have their turn


class Generators:
    """Of one server.

    Parameters
    ----------
    node, outlets, outcomes, branches
    call : callable
        Calls the function of an assignment with a message, anew.
    """

    def __init__(
        self,
        node: core.Node,
        outlets: Outlets,
        outcomes: Outcomes,
        branches: Branches,
        call: Callable[[Assignment, Any], Any],
    ) -> None:
        self._node, self._outlets, self._outcomes, self._branches = node, outlets, outcomes, branches
        self._call = call
        self._turns = Turns()
        self._rest = 0.0  # until when other messages have their turn, monotonic
        self.running: Making | None = None

    def due(self) -> float:
        """When one of them can go on, monotonic; never, if none has room."""
        return self._turns.due()

    def waits_for(self) -> list[str] | None:
        """The servers one of which is full, if a generator waits for room; none of them: the client."""
        m = self._turns.waiting()
        return [s[0] for s in m.assignment.steps[1:]] if m is not None else None

    def add(self, m: Making) -> None:
        m.assignment.job.making[m.name] = m
        if m.is_to_stop():
            self._stop(m)
        else:
            self._ask(m)
            self._turns.put(m)

    def make_more(self, others: bool) -> None:
        """Those that have room by turns, for a slice of time in all. `others`: there may be other messages, which have
        their turn until they have had as much time as the last slice took."""
        if self._turns.due() == math.inf:
            return
        start = now = time.monotonic()
        if others and start < self._rest:
            return
        end, ran = start + SLICE, dict[int, Assignment]()
        try:
            for m in self._turns.take(now):
                a = m.assignment
                if a.is_slow:
                    self._flush(ran)
                ran[id(a)] = a
                self._turn(m)
                began, now = now, time.monotonic()
                a.is_slow = now - began >= SLICE
                if now >= end:
                    break
        finally:
            self._flush(ran)
        self._rest = 2 * now - start

    def _flush(self, ran: dict[int, Assignment]) -> None:
        for a in ran.values():
            self._outlets.flush_all(a)
        ran.clear()

    def release(self, m: Making, ranges: Ranges, granted: int) -> None:
        """The client has told what is settled, and how many children there is room for."""
        m.release(ranges, granted)
        if m is not self.running:
            self._turns.put(m)

    def repeat(self, m: Making, a: Assignment) -> None:
        """Its message has come again, in a newer epoch: what its children have become may be lost."""
        if m.assignment.epoch == a.epoch:
            return
        m.assignment = a
        try:
            for kept in list(m.kept):  # what a branch drops is kept no longer
                self._send(m, kept)
            for index in m.vain:
                self._tell_in_vain(m, index)
        except Exception as e:  # where `palm.to` sent them cannot be found any more
            m.failure = self._outcomes.tree_of(a, e)
            self._close(m)
        if m.failure is not None:
            self._outcomes.failed_with(a, m.name, m.failure, m.sent)
        elif m.ended:
            self._outcomes.closed(a.job, m.name, m.sent)
        else:
            if m.asked:
                self._ask(m)  # the answer may have been lost
            self._turns.put(m)

    def drop(self, m: Making) -> None:
        """What it keeps is not wanted any more, nor what it would make."""
        m.assignment.job.making.pop(m.name, None)
        m.unwanted = True
        if m is not self.running:
            self._close(m)

    def drop_all(self, job: JobHere, number: int | None = None) -> None:
        """Of a job, or of one input of it."""
        for m in list(job.making.values()):
            if number is None or m.number == number:
                self.drop(m)

    def stop(self, job: JobHere) -> None:
        """Those of the first step end where they are, as if they had come to their end."""
        job.stopped = True
        for m in list(job.making.values()):  # what a generator does at its end may have others dropped
            if m.is_to_stop() and m is not self.running:  # that one has just looked
                self._stop(m)
        self._outlets.flush(job.report)

    def close(self) -> None:
        for m in self._turns.all():
            self.drop(m)

    def _turn(self, m: Making) -> None:
        self.running = m
        try:
            self._run(m)
        finally:
            self.running = None
        if m.unwanted or m.ended:
            self._close(m)
        elif m.is_to_stop():
            self._stop(m)
        else:
            if m.wants():
                self._ask(m)
            self._turns.put(m)

    def _run(self, m: Making) -> None:
        made: dict[int | None, Kept] = {None: Kept(None, "block", [], core.Batch())}  # by the handle of `palm.to`
        end, most = time.monotonic() + SLICE, m.made + GENERATED
        try:
            while time.monotonic() < end and m.made < most and m.has_room() and not (m.unwanted or m.is_to_stop()):
                self._advance(m, made)
                if any(kept.batch.full for kept in made.values()):
                    break
        except StopIteration:
            m.ended = True
            self._outcomes.closed(m.assignment.job, m.name, m.made)
        except Exception as e:
            if m.unwanted or not self._begin_again(m, e):
                self._fail(m, e)
        if not m.unwanted:
            for kept in made.values():
                self._keep(m, kept)

    def _fail(self, m: Making, error: Exception) -> None:
        m.ended = True
        capsule = self._outcomes.capsule(m.assignment, m.value, m.message, error)
        m.failure = self._outcomes.tree_of(m.assignment, error, capsule)
        self._outcomes.failed_with(m.assignment, m.name, m.failure, m.sent)

    def _begin_again(self, m: Making, error: Exception) -> bool:
        """True if its function says that it is to be run again after this exception, and it can be."""
        a = m.assignment
        if not a.tries_again(m.name, error):
            return False
        tried = a.tried[m.name]
        try:
            generator = self._call(a, m.value)
            if type(generator) is not GeneratorType:
                raise PalmError(f"it yielded, and when it was run again after {error!r} it returned {generator!r}")
        except Exception as e:  # of one that does something before it returns a generator
            self._fail(m, e)
            return True
        message = dataclasses.replace(m.message, attempt=tried + 1)
        m.begin_again(generator, message, time.monotonic() + pause(tried))
        return True

    def _advance(self, m: Making, made: dict[int | None, Kept]) -> None:
        """The next child, into what goes along its route; one that was settled before is only counted."""
        a, known = m.assignment, m.is_known(m.made)
        out = core.Batch() if known else made[None].batch
        path = child(m.path, m.message.stage, m.made)
        assert a.work is not None and a.signature is not None
        began = time.monotonic_ns() if a.signature.timeout else 0
        try:
            value = loop.advance(
                m.generator, out, m.number, path, m.deadline, To, self._node, a.work, m.message.attempt, m.spent
            )
        except ChildEnded as e:
            self._child_ended(m, e, known)
            return
        except PayloadError as e:
            if isinstance(m.generator, GeneratorType):
                raise
            self._child_ended(m, ChildEnded(self._outcomes.tree_of(a, e)), known)  # who goes on: see ChildEnded
            return
        if value is not None:  # which is never sent, in any position
            self._count(m, made, value, known, path)
        if began:
            m.spent += time.monotonic_ns() - began
            if m.spent > a.signature.timeout * 1e9:
                raise overrun(a.signature.timeout)

    def _child_ended(self, m: Making, end: ChildEnded, known: bool) -> None:
        if not known:
            cause = end.__cause__
            m.vain[m.made] = end.tree if cause is None else self._outcomes.tree_of(m.assignment, cause)
            self._tell_in_vain(m, m.made)
        m.made += 1

    def _tell_in_vain(self, m: Making, index: int) -> None:
        """A child that is an error, or nothing."""
        name, tree = (m.number, child(m.path, m.message.stage, index)), m.vain[index]
        if tree is None:
            self._outcomes.dropped(m.assignment.job, name)
        else:
            self._outcomes.failed_with(m.assignment, name, tree)

    def _count(
        self, m: Making, made: dict[int | None, Kept], value: To | Literal[True], known: bool, path: tuple[int, ...]
    ) -> None:
        """What has been made, and is in its batch already unless it goes another way."""
        kept = made[None]
        if value is not True and not known:
            outlet = self._outlets.routed(m.assignment, value.route, value.slow)  # while its failure is the function's
            kept = made.setdefault(outlet.handle, Kept(outlet.route, value.slow, [], core.Batch()))
            kept.batch.put_out_of(value, m.number, m.deadline, path)
        if not known:
            kept.indices.append(m.made)
        m.made += 1

    def _keep(self, m: Making, kept: Kept) -> None:
        for part in [kept] if kept.slow == "block" else kept.apart():
            if part.indices:
                m.kept.append(part)
                self._send(m, part)

    def _send(self, m: Making, kept: Kept) -> None:
        a = m.assignment
        if kept.route is not None and kept.slow != "block":
            [index] = kept.indices
            message = Queued((m.number, child(m.path, m.message.stage, index)), kept.batch)
            self._branches.put(self._branches.of(a, kept.route, kept.slow), message)
            return
        outlet = self._outlets.onward(a) if kept.route is None else self._outlets.routed(a, kept.route)
        if outlet.waiting is not None:
            outlet.waiting.names += [(m.number, child(m.path, m.message.stage, i)) for i in kept.indices]
        self._outlets.add_kept(outlet, kept.batch)

    def _ask(self, m: Making) -> None:
        m.asked = True
        self._outcomes.asked(m.assignment.job, m.name, m.granted)

    def _stop(self, m: Making) -> None:
        self._close(m)
        self._outcomes.closed(m.assignment.job, m.name, m.sent)

    def _close(self, m: Making) -> None:
        m.ended, m.value = True, None
        m.assignment.tried.pop(m.name, None)
        self._turns.remove(m)
        try:
            m.generator.close()
        except Exception:
            log.exception("a generator of %s raised when it was closed", m.message.step)
