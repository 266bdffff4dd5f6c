# SPDX-License-Identifier: BSD-3-Clause
"""Runs the generators of a server, each for a slice of time, and keeps and repeats what they have made.

How far each may go and what it keeps is `palm.making.Making`'s to know.
"""

from __future__ import annotations

import collections
import logging
import time

from palm._core import node as core
from palm.assignment import Assignment, JobHere
from palm.making import Kept, Making
from palm.message import child
from palm.outcomes import Outcomes
from palm.outlets import Outlets
from palm.step import To

log = logging.getLogger("palm")
SLICE = 0.001  # seconds that a generator runs before other messages have their turn
GENERATED = 64  # messages of a generator in an envelope: then others have their turn


class Generators:
    """Of one server."""

    def __init__(self, node: core.Node, outlets: Outlets, outcomes: Outcomes) -> None:
        self._node, self._outlets, self._outcomes = node, outlets, outcomes
        self._turns: collections.deque[Making] = collections.deque()
        self.running: Making | None = None

    def __bool__(self) -> bool:
        return bool(self._turns)

    def can_make(self) -> bool:
        return any(m.has_room() for m in self._turns)

    def add(self, m: Making) -> None:
        m.assignment.job.making[m.name] = m
        self._turns.append(m)
        if m.is_to_stop():
            self._stop(m)
        else:
            self._ask(m)

    def make_more(self) -> None:
        """Each generator for a slice of time, those that have room."""
        for _ in range(len(self._turns)):
            if not self._turns:
                return
            m = self._turns[0]
            self._turns.rotate(-1)
            if m.has_room():
                self._turn(m)

    def repeat(self, m: Making, a: Assignment) -> None:
        """Its message has come again, in a newer epoch: what its children have become may be lost."""
        if m.assignment.epoch == a.epoch:
            return
        m.assignment = a
        try:
            for kept in m.kept:
                self._send(m, kept)
        except Exception as e:  # where `palm.to` sent them cannot be found any more
            self._outcomes.failed(a, m.name, e, m.made)
            return
        if m.ended:
            self._outcomes.closed(a.job, m.name, m.made)

    def drop(self, m: Making) -> None:
        """What it keeps is not wanted any more, nor what it would make."""
        m.assignment.job.making.pop(m.name, None)
        m.unwanted = True
        if m is not self.running:
            self._close(m)

    def drop_all(self, job: JobHere) -> None:
        for m in list(job.making.values()):
            self.drop(m)

    def stop(self, job: JobHere) -> None:
        """Those of the first step end where they are, as if they had come to their end."""
        job.stopped = True
        for m in job.making.values():
            if m.is_to_stop() and m is not self.running:  # that one has just looked
                self._stop(m)
        self._outlets.flush(job.report)

    def close(self) -> None:
        for m in list(self._turns):
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
        elif m.wants():
            self._ask(m)
        self._outlets.flush(m.assignment.job.report)

    def _run(self, m: Making) -> None:
        made: dict[int | None, Kept] = {None: Kept(None, [], core.Batch())}  # by the handle of `palm.to`
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
            m.ended = True
            capsule = self._outcomes.capsule(m.assignment, m.value, m.message, e)
            self._outcomes.failed(m.assignment, m.name, e, m.made, capsule)
        if not m.unwanted:
            for kept in made.values():
                self._keep(m, kept)

    def _advance(self, m: Making, made: dict[int | None, Kept]) -> None:
        """The next child, into what goes along its route; one that was settled before is only counted."""
        a, kept = m.assignment, made[None]
        known = m.is_settled(m.made)
        out = core.Batch() if known else kept.batch
        path = child(m.path, m.message.stage, m.made)
        value = core.advance(
            m.generator, out, m.number, path, m.deadline, To, self._node, a.job.key, m.message.stage, a.index
        )
        if value is None:
            return  # never sent, in any position
        if known:
            m.made += 1
            return
        if value is not True:
            outlet = self._outlets.routed(a, value.route)  # while its failure is the function's
            kept = made.setdefault(outlet.handle, Kept(outlet.route, [], core.Batch()))
            kept.batch.put_out_of(value, m.number, m.deadline, path)
        kept.indices.append(m.made)
        m.made += 1

    def _keep(self, m: Making, kept: Kept) -> None:
        if kept.indices:
            m.kept.append(kept)
            self._send(m, kept)

    def _send(self, m: Making, kept: Kept) -> None:
        a = m.assignment
        outlet = self._outlets.onward(a) if kept.route is None else self._outlets.routed(a, kept.route)
        if outlet.waiting is not None:
            outlet.waiting.names += [(m.number, child(m.path, m.message.stage, i)) for i in kept.indices]
        self._outlets.send_kept(outlet, kept.batch)

    def _ask(self, m: Making) -> None:
        m.asked = True
        self._outcomes.asked(m.assignment.job, m.name, m.granted)

    def _stop(self, m: Making) -> None:
        self._close(m)
        self._outcomes.closed(m.assignment.job, m.name, m.made)

    def _close(self, m: Making) -> None:
        m.ended, m.value = True, None
        if m in self._turns:
            self._turns.remove(m)
        try:
            m.generator.close()
        except Exception:
            log.exception("a generator of %s raised when it was closed", m.message.step)
