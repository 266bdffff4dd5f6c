# SPDX-License-Identifier: BSD-3-Clause
"""The leader of a `palm.Reduce`: absorbs messages, has workers combine them, and sends the totals on (DELIVERY 4).

What it has is `palm.reduce_state.Reduction`'s to know. The client is told of it in checkpoints, so that a successor can
go on from there, and says when a reduction is complete: then the leader is a generator of the totals.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from palm._core import loop
from palm._core import node as core
from palm._core.decode import BlockLost
from palm.assignment import Assignment, JobHere
from palm.assignment import Name as WireName
from palm.errors import Crashed, PalmError, PayloadError
from palm.execution import Post
from palm.making import ChildEnded, Making
from palm.message import input_of
from palm.names import Name
from palm.reduce_state import COMBINING, MOST_ITEMS, Full, Group, Item, Reduction, Row, checked_key
from palm.reduce_state import Task as Combination
from palm.remote import died_in, text_of
from palm.suspects import Blame, of_job
from palm.task_leader import TaskLeader
from palm.tasks import Task
from palm.template import Reduce, Signature

ABSORBED, ABSORBED_BYTES = 256, 1 << 22  # messages, after which the client is told at the latest,
# unless more wait to be combined: each would be told, and they have no bound
UNCOMBINED, UNCOMBINED_BYTES = 32, 1 << 27
AN_ARRAY = 1 << 14  # bytes that one counts for at least: an envelope has 8192 arrays at most, and a task 64 MiB
AT_A_TIME = 16  # envelopes taken in before workers are given anything, if more are there: it costs as much as one
TASK = 1 << 63  # tasks have numbers of their own


class Absorbed:
    """What absorbing a message returns: there is nothing to send on."""


@dataclass(eq=False)
class Family:
    """The reductions of a job at one step, with the same route still to go."""

    assignment: Assignment  # of the newest epoch
    text: str
    number: int  # by which its client knows it
    reduction: Reduction
    is_new: bool  # its client may know what a former leader had
    hop: int | None = None  # of the first message that came: a route may be opened by which nothing comes
    told: int = 0  # checkpoints
    restored: int = 0  # items that its client has told of
    early: list[core.Event] = field(default_factory=list)  # what has come before that is known
    flushes: dict[Name, int | None] = field(default_factory=dict)  # asked for, not complete: of which input
    emitting: dict[Name, Group] = field(default_factory=dict)  # whose totals are to be sent on
    begun: set[Name] = field(default_factory=set)  # of these, those that are


class Emission:
    """The totals of a group, one at a time, as a generator; a key that has failed fails alone."""

    def __init__(self, reduce: Reduce, rows: list[Row]) -> None:
        self._reduce, self._rows = reduce, iter(rows)

    def __next__(self) -> Any:
        item = next(self._rows).total
        if item.failed:
            raise ChildEnded(item.value)
        try:
            value = self._reduce.finish(item.row.key, item.value, item.count)
        except Exception as e:
            raise ChildEnded from e
        if value is None:
            raise ChildEnded
        return value

    def close(self) -> None:
        self._rows = iter(())


class ReduceLeader(TaskLeader):
    """
    Parameters
    ----------
    reduce : Reduce
        An object of the user's class, set up: for `key` and `finish`.
    """

    def __init__(self, reduce: Reduce, post: Post) -> None:
        super().__init__(type(reduce), post)
        self._reduce = reduce
        reduce._host, reduce.name = self, post.name
        self._has_key = type(reduce).key is not Reduce.key
        self._functions += list(type(reduce)._exposed)
        self.node.name_functions(self._functions)
        self._families: dict[tuple[bytes, str], Family] = {}
        self._numbers = itertools.count(1)
        self._serials = itertools.count()
        self._probe = core.Batch()
        self._put_off = 0  # how much has come since workers were given something

    # ---------------------------------------------------------------------------------- what a handle means

    def _bind_step(self, a: Assignment, signature: Signature, constants: dict[str, Any]) -> None:
        server, name = a.steps[0][:2]
        if a.calls:
            a.refusal = PalmError(
                f"{server}.{name} makes one of the messages of a job: it is for client.job, which knows when all are "
                "there, not for a call"
            )
            return
        quiet = copy.copy(signature)  # of what the leader itself does, nothing is run again
        quiet.retry_on, quiet.timeout = (), 0.0
        try:
            fitting = signature.fitting(self.name, constants, a.sender or ("" if a.hop else "the client"))
        except PayloadError as e:
            a.refusal = e
            return
        a.signature, a.parameters, a.fitting = quiet, 1, fitting
        a.work = loop.Work(a.job.key, a.hop, self._functions.index(name), a.job.report.link, 0)
        self._find_refused(a)

    def _open(self, event: core.Event) -> None:
        super()._open(event)
        a = self._assignments.get((event.link, event.handle))
        if a is None or a.stale or a.refusal is not None or a.signature is None or self._is_own(a):
            return
        text = _text_of(a)
        a.function = self._absorbing(a, text)
        family = self._families.get((a.job.key, text))
        if family is None:
            cls = type(self._reduce)
            family = Family(a, text, next(self._numbers), Reduction(cls.deterministic, cls.per_input), is_new=True)
            self._families[a.job.key, text] = family
            self._say_opened(family)
        elif family.assignment.epoch != a.epoch:
            self._begin_epoch(family, a)
        elif a.hop == family.hop:
            family.assignment = a

    def _begin_epoch(self, family: Family, a: Assignment) -> None:
        """All that its workers have at work is given to them anew."""
        family.assignment = a
        for event in family.early:
            event.done()
        family.early.clear()
        for task in list(family.reduction.running):
            family.reduction.back(task)
        family.flushes.clear()  # they come again
        if family.is_new:
            self._begin_anew(family)
        self._say_opened(family)
        if not family.is_new:
            self._say_all(family)

    def _begin_anew(self, family: Family) -> None:
        """The client tells all once more."""
        cls = type(self._reduce)
        family.reduction, family.restored = Reduction(cls.deterministic, cls.per_input), 0
        family.emitting.clear()

    def _say_opened(self, family: Family) -> None:
        a, cls = family.assignment, type(self._reduce)
        steps = [[s[0], s[1], a.constants[s[3]] if s[3] is not None else {}] for s in a.steps]
        self._say(family, "opened", family.text, a.hop, cls.per_input, not family.is_new, steps)
        self._outlets.flush(a.job.report)

    # -------------------------------------------------------------------------------------------- messages

    def _absorbing(self, a: Assignment, text: str) -> Any:
        def absorb(value: Any) -> Absorbed:
            return self._absorb(self._families[a.job.key, text], a, value)

        return absorb

    def _data(self, event: core.Event) -> None:
        a = self._assignments.get((event.link, event.handle))
        family = self._families.get((a.job.key, _text_of(a))) if a is not None and a.function is not None else None
        if a is None or a.stale or family is None:
            super()._data(event)
        elif family.is_new:
            family.early.append(event)
            self._kept = event
        else:
            super()._data(event)

    def _run(self, event: core.Event, a: Assignment, first: int, end: int) -> None:
        if self._is_own(a):
            super()._run(event, a, first, end)
            return
        assert a.function is not None and a.work is not None
        out, job = self._outlets.onward(a).batch, a.job
        loop.run(
            *(event, first, end, a.function, 1, a.work, out, self, Absorbed),
            *(job.making, a.refused, a.tried, job.given_up),
        )

    def spread(self, function: Any, value: Any) -> Any:
        if self.place.assignment is not None and not self._is_own(self.place.assignment):
            raise PayloadError(f"{self.name} got an empty message: there is nothing to combine")
        return super().spread(function, value)

    def make(self, i: int, result: Any) -> None:
        if not isinstance(result, Absorbed):
            super().make(i, result)

    def _capsule(self, i: int, error: Exception) -> str | None:
        """None: `palm replay` would call the function with the one message that `key` has failed for."""
        return None

    def _absorb(self, family: Family, a: Assignment, value: Any) -> Absorbed:
        number, path = input_of(*self._record(self.at)[1], a.start)
        name = (number, *path)
        if name in family.reduction.names:
            return Absorbed()
        assert a.fitting is not None
        a.fitting.check((value, value))
        key = self._key_of(value) if self._has_key else None
        kept, nbytes = _kept(value)
        if family.hop is None:
            family.hop, family.assignment = a.hop, a
        try:
            family.reduction.absorb(name, key, kept, nbytes)
        except Full:
            raise PalmError(
                f"{self.name} has {MOST_ITEMS} values that wait to be combined, and may have no more: too many keys"
            ) from None
        return Absorbed()

    def _key_of(self, value: Any) -> Any:
        key = checked_key(self._reduce.key(value))
        self._probe.put((key,), 0)  # what cannot be sent fails its message, and not when the client is told
        self._probe.clear()
        return key

    # ------------------------------------------------------------------------------------------- combining

    def _patience(self) -> float:
        """Workers are given what has come, and the client is told what there is, as soon as nothing else comes."""
        tells = any(
            f.reduction.has_changed() and not (f.is_new or f.reduction.running or f.assignment.stale)
            for f in self._families.values()
            if f.assignment.hop == f.hop
        )
        return 0.0 if tells or self._put_off else super()._patience()

    def _go_on(self, others: bool) -> None:
        self._put_off = (self._put_off + 1) % AT_A_TIME if others else 0
        if self._put_off:
            return
        for family in list(self._families.values()):
            a = family.assignment
            if not family.is_new and not a.stale and a.hop == family.hop:
                self._combine(family)
                self._end_flushes(family)
                self._say_changes(family, idle=not others)
        super()._go_on(others)

    def _combine(self, family: Family) -> None:
        """No sooner than a worker has room: the longer one waits, the more there is to combine at once."""
        function = family.assignment.steps[0][1]
        while not len(self._tasks) and self._crew.next(function, 1) is not None:
            combination = family.reduction.task(len(self._crew))
            if combination is None:
                return
            self._give_to_worker(family, combination)
            self._give_out()

    def _give_to_worker(self, family: Family, combination: Combination) -> None:
        batch, values = core.Batch(), [item.value for item in combination.items]
        try:
            batch.put((combination.program, [list(n) for n in combination.names], *values), number := self._serial())
        except PayloadError as e:  # each could be sent, but not so many together, or so deep
            self._failed(family, combination, self._outcomes.tree_of(family.assignment, e))
            return

        def ended(task: Task, value: Any, error: Any) -> None:
            if error is not None:
                self._failed(family, combination, error)
            else:
                family.reduction.done(combination, *_kept(value))

        self.submit(Reducing(family.assignment, (number, ()), 0, batch, ended, tuple(values), names=combination.names))

    def _serial(self) -> int:
        return TASK | next(self._serials)

    def _failed(self, family: Family, combination: Combination, error: dict[str, Any]) -> None:
        family.reduction.failed(combination, error)
        self._say(family, "failed", error)
        self._outlets.flush(family.assignment.job.report)

    def _blame_of(self, task: Task) -> Blame | None:
        """Of any of the combinations in it."""
        a = task.assignment
        if not self._suspects or not isinstance(task, Reducing) or a.signature is None:
            return None
        blamed = of_job(self._suspects, a.job.key, a.hop | COMBINING)
        found = (blame for name in task.names if (blame := blamed.get((name[0], name[1:]))) is not None)
        return next((b for b in found if b.final or b.times >= a.signature.attempts), None)

    def _refuse(self, task: Task, blame: Blame) -> None:
        """With the operands, if these are the two that kill."""
        if len(task.value) == 2:
            super()._refuse(task, blame)
        else:
            self._fail(task, Crashed(died_in(*blame), reason=blame.reason))

    # ---------------------------------------------------------------------------------- what the client is told

    def _say(self, family: Family, *tree: Any) -> None:
        report = family.assignment.job.report
        report.batch.reduced((tree[0], family.number, *tree[1:]), family.assignment.epoch)
        if report.batch.full:
            self._outlets.flush(report)

    def _say_changes(self, family: Family, idle: bool, now: bool = False) -> None:
        """When there is much, or nothing else to do; but not while more waits to be combined than workers can do."""
        r = family.reduction
        if not r.has_changed():
            return
        much = r.n_fresh() >= ABSORBED or r.fresh_bytes >= ABSORBED_BYTES
        little = r.n_uncombined() < UNCOMBINED and r.uncombined_bytes() < UNCOMBINED_BYTES
        if now or (idle and not r.running) or (much and little):
            self._say_items(family, whole=False)

    def _say_all(self, family: Family) -> None:
        self._say_items(family, whole=True)
        for name, group in family.emitting.items():
            self._say_totals(family, name, group)

    def _say_items(self, family: Family, whole: bool) -> None:
        changes = family.reduction.changes(whole)
        family.told += 1
        flushes = {group: list(name) for name, group in family.emitting.items()}
        for item in changes.added:
            self._say_item(family, item, flushes.get(item.row.group))
        ranges = [[list(before), begin, end] for before, begin, end in changes.names]
        counts = len(changes.added), family.told, family.reduction.names.count
        self._say(family, "taken", ranges, changes.removed, whole, *counts, family.hop)
        self._outlets.flush(family.assignment.job.report)

    def _say_item(self, family: Family, item: Item, flush: list[int] | None) -> None:
        what = family, "item", item.id, item.row.key, list(item.name), item.count
        try:
            self._say(*what, item.value, item.failed, flush)
        except PayloadError as e:  # it could be sent, but not so deep
            item.value, item.failed = self._outcomes.tree_of(family.assignment, e), True
            self._say(*what, item.value, item.failed, flush)

    def _say_totals(self, family: Family, name: Name, group: Group) -> None:
        totals = [row.total for row in group.in_order()]
        ids, lowest = [item.id for item in totals], [list(item.name) for item in totals]
        self._say(family, "totals", list(name), ids, lowest)
        self._outlets.flush(family.assignment.job.report)

    # ---------------------------------------------------------------------------------- what the client says

    def _release(self, event: core.Event) -> None:
        job = self._reports.get(event.handle)
        if job is None or job.report.link != event.link or not len(event) or event.form(0) != core.TREE:
            super()._release(event)
            return
        for i in range(len(event)):
            try:
                self._told(job, event.value(i))
            except BlockLost:
                self._outcomes.lost(job)
            except (IndexError, KeyError, TypeError, ValueError) as e:
                self._complain(f"what a client says of a reduction cannot be used: {e!r}")

    def _told(self, job: JobHere, tree: Any) -> None:
        family = next((f for f in self._families.values() if f.number == tree[1] and f.assignment.job is job), None)
        if family is None:
            return
        if tree[0] == "item":
            self._restore(family, *tree[2:])
        elif tree[0] == "state":
            self._begin_from(family, *tree[2:])
        elif tree[0] == "settled":
            family.reduction.settle(tree[2])
        elif tree[0] == "flush":
            self._flush(family, *tree[2:])

    def _restore(
        self, family: Family, key: Any, name: list[int], count: int, value: Any, failed: bool, flush: list[int] | None
    ) -> None:
        if family.is_new:
            family.restored += 1
            into = None if flush is None else family.emitting.setdefault(tuple(flush), Group(None))
            family.reduction.restore(tuple(name), checked_key(key), count, *_kept(value), failed, into)

    def _begin_from(
        self, family: Family, ranges: list[Any], count: int, settled: int, items: int, hop: int | None
    ) -> None:
        """The client has told all that it knows."""
        if not family.is_new:
            return
        if family.restored != items:
            self._outcomes.lost(family.assignment.job)  # it is told once more, in the next epoch
            return
        family.is_new, family.hop = False, hop
        family.reduction.know([(tuple(before), begin, end) for before, begin, end in ranges], count)
        family.reduction.settle(settled)
        self._say_all(family)
        early, family.early = family.early, []
        for event in early:
            super()._data(event)
            event.done()

    def _flush(self, family: Family, name: list[int], instance: int | None, count: int) -> None:
        flush = tuple(name)
        a = family.assignment
        if family.is_new or count > family.reduction.names.count:
            self._outcomes.lost(a.job)  # this is no successor of what the client knows
        elif (making := a.job.making.get((flush[0], flush[1:]))) is not None:
            self._generators.repeat(making, a)
            self._outlets.flush_all(a)
        elif flush in family.emitting:
            self._emit(family, flush)
        else:
            family.flushes[flush] = instance
            family.reduction.end(instance)

    # -------------------------------------------------------------------------------------------------- totals

    def _end_flushes(self, family: Family) -> None:
        for name, instance in list(family.flushes.items()):
            if family.reduction.is_complete(instance):
                del family.flushes[name]
                family.emitting[name] = family.reduction.take(instance)
                self._say_changes(family, idle=True, now=True)
                self._say_totals(family, name, family.emitting[name])
                self._emit(family, name)
        making = family.assignment.job.making
        for name in [n for n in family.begun if (n[0], n[1:]) not in making]:
            family.begun.remove(name)
            family.reduction.drop(family.emitting.pop(name))

    def _emit(self, family: Family, name: Name) -> None:
        """As if the message of this name had come, and its function were a generator of the totals."""
        a = family.assignment
        wire: WireName = name[0], name[1:]
        family.begun.add(name)
        if a.refused is not None and wire in a.refused:  # a total of which processes have died
            blame = a.refused[wire]
            self._outcomes.failed(a, wire, Crashed(died_in(*blame), reason=blame.reason))
            self._outlets.flush(a.job.report)
            return
        emission: Any = Emission(self._reduce, family.emitting[name].in_order())
        self._generators.add(Making(emission, a, *wire, 0, self._described(a, wire, 0, 1)))
        self._outlets.flush_all(a)

    # ------------------------------------------------------------------------------------------------- the end

    def _end(self, job: JobHere) -> None:
        super()._end(job)
        self._families = {k: f for k, f in self._families.items() if k[0] != job.key}

    def _teardown(self) -> None:
        self._reduce.teardown()

    def close(self, linger: float = 2.0) -> None:
        super().close(linger)
        self._reduce._host = None


class Reducing(Task):
    """A task, and the names of its combinations."""

    def __init__(self, *args: Any, names: list[Name]) -> None:
        super().__init__(*args)
        self.names = names


def _text_of(a: Assignment) -> str:
    if not a.text:
        a.text = text_of((f"{s[0]}.{s[1]}", a.constants[s[3]] if s[3] is not None else {}) for s in a.steps)
    return a.text


def _kept(value: Any) -> tuple[Any, int]:
    """A value to be held for long, and its bytes; what is small is copied out of what it came in."""
    if isinstance(value, np.ndarray):
        return (value.copy() if value.nbytes <= core.LITTLE_PART else value), max(value.nbytes, AN_ARRAY)
    if isinstance(value, (bytes, str)):
        return value, len(value)
    if isinstance(value, (tuple, list)):
        kept = [_kept(v) for v in value]
        return type(value)(v for v, _ in kept), 8 + sum(n for _, n in kept)
    if isinstance(value, dict):
        held = {k: _kept(v) for k, v in value.items()}
        return {k: v for k, (v, _) in held.items()}, 8 + sum(n for _, n in held.values())
    return value, 8
