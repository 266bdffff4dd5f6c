# SPDX-License-Identifier: BSD-3-Clause
"""What a Reduce has of one reduction: its operands by key, and which of them are to be combined next (DELIVERY 4).

An *item* is a value with what went into it: one message, or several that were combined. Per key the items stand in
the order of their names. `tasks` takes runs of items out, for a worker to combine; `done` puts one item in their place.

The tree of a deterministic reduction is the trie of names, over the bits of the number from the highest down, then of
the components of the path: a node's value is that of its only child, or f(left, right). It depends on the set of names
alone. Two neighbours are combined when no other name can come between them or into their node: when all its numbers are
*settled*. Otherwise any items of a key are combined.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import bisect
import collections
import heapq
import itertools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from palm.names import Name, Names, Range, Spans

COMBINING = 1 << 16  # beside the hop, on the page of who combines: names are those of operands
PUSH, COMBINE = 0, 1  # what a worker does: takes the next operand; makes one of the last two
TOGETHER = 64  # operands of a task, at most: some 10 us each are the way there and back
TOGETHER_BYTES = 1 << 26  # likewise; what different workers have combined has to go from cache to cache once more
LEAST_BYTES = 1 << 22  # of a task, before workers share what there is: some 1 ms of additions
MOST_ITEMS = 1 << 21  # of all keys of a reduction: 1 KiB each, here and at the client
_WORD = 64

Key = Any  # None, int, str, bytes, or a tuple of these
_name_of = operator.attrgetter("name")


class Full(Exception):
    """There are more keys than a reduction holds."""


@dataclass(eq=False, slots=True)
class Item:
    """A value, and what went into it."""

    id: int
    row: Row
    name: Name  # the lowest of what went into it
    count: int
    value: Any
    nbytes: int = 0
    failed: bool = False  # the value is why its key has no total


@dataclass(eq=False, slots=True)
class Task:
    """Items that a worker makes one of."""

    row: Row
    items: list[Item]
    program: bytes
    names: list[Name]  # of each combination: the lowest name of its right operand, which no other one has

    @property
    def name(self) -> Name:
        return self.items[0].name


@dataclass(eq=False, slots=True)
class Row:
    """All of one key."""

    key: Key
    group: Group
    elements: list[Item | Task] = field(default_factory=list)  # by name
    single: bool = True  # one item or none: there is nothing to combine

    def is_single(self) -> bool:
        return not self.elements or (len(self.elements) == 1 and type(self.elements[0]) is Item)

    def has_failed(self) -> bool:
        return bool(self.elements) and isinstance(self.elements[0], Item) and self.elements[0].failed

    @property
    def total(self) -> Item:
        """Of a group that is complete."""
        [item] = self.elements
        assert isinstance(item, Item)
        return item


@dataclass(eq=False, slots=True)
class Group:
    """All keys that come out together: of the reduction, or of one input of it."""

    instance: int | None
    rows: dict[Key, Row] = field(default_factory=dict)
    busy: int = 0  # rows that are not single
    items: int = 0
    nbytes: int = 0  # of these
    ended: bool = False  # nothing more comes

    def in_order(self) -> list[Row]:
        """Its keys, in an order that depends on them alone."""
        return sorted(self.rows.values(), key=lambda row: rank(row.key))


@dataclass
class Changes:
    """Since the last time."""

    added: list[Item]
    removed: list[int]
    names: list[Range]


class Reduction:
    """Of one job, at one step, with one route still to go.

    Parameters
    ----------
    deterministic : bool
    per_input : bool
        Groups are inputs.
    """

    def __init__(self, deterministic: bool, per_input: bool) -> None:
        self._deterministic, self._per_input = deterministic, per_input
        self.names = Names()
        self.groups: dict[int | None, Group] = {}
        self.items: dict[int, Item] = {}
        self.running: dict[Task, None] = {}
        self._planned: collections.deque[Task] = collections.deque()  # of those, what nobody has been given yet
        self.fresh_bytes = 0  # of messages since the last changes
        self._ids = itertools.count()
        self._settled = Spans()  # numbers of which nothing new can come
        self._dirty: dict[Row, None] = {}
        self._waiting: list[tuple[int, int, Row]] = []  # a heap: rows by the number before which all has to be settled
        self._order = itertools.count()
        self._fresh_items: dict[int, Item] = {}
        self._fresh_names = Names()
        self._removed: list[int] = []

    # ------------------------------------------------------------------------------------------------- coming in

    def absorb(self, name: Name, key: Key, value: Any, nbytes: int = 0) -> bool:
        """A message; False: it was here before. Full: there are too many."""
        if name in self.names:
            return False
        if len(self.items) >= MOST_ITEMS:
            raise Full
        self.names.add(name)
        self._fresh_names.add(name)
        if len(name) == 1:
            self._settled.add(name[0], name[0] + 1)
        row = self._row(self._group(name[0] if self._per_input else None), key)
        self.fresh_bytes += nbytes
        if not row.has_failed():
            self._put(Item(next(self._ids), row, name, 1, value, nbytes), fresh=True)
        return True

    def restore(
        self,
        name: Name,
        key: Key,
        count: int,
        value: Any,
        nbytes: int = 0,
        failed: bool = False,
        into: Group | None = None,
    ) -> None:
        """An item of a predecessor; `into` a group that has been taken out."""
        group = self._group(name[0] if self._per_input else None) if into is None else into
        self._put(Item(next(self._ids), self._row(group, key), name, count, value, nbytes, failed), fresh=False)

    def know(self, ranges: list[Range], count: int) -> None:
        """The names of a predecessor; `count` of them there were in all."""
        for before, begin, end in ranges:
            self.names.add_range((before, begin, end))
            if not before:
                self._settled.add(begin, end)
        self.names.count = count

    def settle(self, below: int) -> None:
        """All inputs before that one are done with, or are in here as far as they ever will be."""
        self.names.forget(below)
        if below:
            self._settled.add(0, below)
        for instance in [i for i, g in self.groups.items() if i is not None and i < below and not g.ended]:
            for row in self.groups.pop(instance).rows.values():  # which an error has ended
                self._clear(row)

    def end(self, instance: int | None) -> None:
        """Nothing more comes of this group."""
        group = self._group(instance)
        group.ended = True
        self._dirty |= {row: None for row in group.rows.values() if not row.single}

    def _group(self, instance: int | None) -> Group:
        group = self.groups.get(instance)
        if group is None:
            group = self.groups[instance] = Group(instance)
        return group

    def _row(self, group: Group, key: Key) -> Row:
        row = group.rows.get(key)
        if row is None:
            row = group.rows[key] = Row(key, group)
        return row

    def _put(self, item: Item, fresh: bool) -> None:
        self.items[item.id] = item
        item.row.group.items += 1
        item.row.group.nbytes += item.nbytes
        if fresh:
            self._fresh_items[item.id] = item
        elements = item.row.elements
        if elements and elements[-1].name > item.name:
            bisect.insort(elements, item, key=_name_of)
        else:
            elements.append(item)
        self._changed(item.row)

    def _changed(self, row: Row) -> None:
        single = row.is_single()
        if single != row.single:
            row.group.busy += 1 if row.single else -1
            row.single = single
        if not single:
            self._dirty[row] = None

    def _take_out(self, item: Item) -> None:
        del self.items[item.id]
        item.row.group.items -= 1
        item.row.group.nbytes -= item.nbytes
        if self._fresh_items.pop(item.id, None) is None:
            self._removed.append(item.id)

    # ------------------------------------------------------------------------------------------------- combining

    def task(self, workers: int = 1) -> Task | None:
        """What can be combined now, if there is anything: it is `done`, `failed` or given `back` later. workers: that
        there are to share what there is."""
        while self._waiting and self._settled.covers(0, self._waiting[0][0]):
            self._dirty[heapq.heappop(self._waiting)[2]] = None
        while True:
            while self._planned:
                task = self._planned.popleft()
                if task in self.running:  # else its group is gone
                    return task
            if not self._dirty:
                return None
            row = next(iter(self._dirty))
            del self._dirty[row]
            self._plan(row, workers)

    def _plan(self, row: Row, workers: int) -> None:
        most = min(max(LEAST_BYTES, self._held_bytes() // workers), TOGETHER_BYTES)
        plans = self._tree(row, most) if self._deterministic else _chunks(row.elements, most)
        tasks = [Task(row, p.items, bytes(p.program), p.names) for p in plans if len(p.items) > 1]
        if tasks:
            taken = {item.id for task in tasks for item in task.items}
            left = [e for e in row.elements if type(e) is Task or e.id not in taken]  # type: ignore[union-attr]
            row.elements = sorted([*left, *tasks], key=_name_of)
            self.running |= dict.fromkeys(tasks)
            self._planned.extend(tasks)

    def _tree(self, row: Row, most: int) -> list[_Plan]:
        """The largest parts of the tree that can be computed."""
        tree = _Tree(_EVERYTHING if row.group.ended else self._settled, most)
        plans = tree.plans_of(row.elements)
        if tree.needs is not None:
            heapq.heappush(self._waiting, (tree.needs, next(self._order), row))
        return plans

    def done(self, task: Task, value: Any, nbytes: int = 0) -> None:
        """The items of a task have become one."""
        if self._ended(task):
            for item in task.items:
                self._take_out(item)
            count = sum(item.count for item in task.items)
            self._put(Item(next(self._ids), task.row, task.name, count, value, nbytes), fresh=True)

    def failed(self, task: Task, failure: Any) -> None:
        """Its key has no total: all that came of it, and still comes, is let go of."""
        if self._ended(task):
            row = task.row
            row.elements.append(task)
            count = self._clear(row)
            self._put(Item(next(self._ids), row, task.name, count, failure, failed=True), fresh=True)

    def _clear(self, row: Row) -> int:
        """Lets go of all that there is of a key; returns how many messages it was."""
        elements, row.elements = row.elements, []
        items = [item for e in elements for item in (e.items if isinstance(e, Task) else [e])]
        for item in items:
            self._take_out(item)
        for e in elements:
            if isinstance(e, Task):
                self.running.pop(e, None)
        return sum(item.count for item in items)

    def back(self, task: Task) -> None:
        """It is not done: its items are there again."""
        if self._ended(task):
            row = task.row
            row.elements = sorted([*row.elements, *task.items], key=_name_of)
            self._changed(row)

    def _ended(self, task: Task) -> bool:
        """False: it has been before."""
        if task not in self.running:
            return False
        del self.running[task]
        task.row.elements.remove(task)
        return True

    # --------------------------------------------------------------------------------------------------- the end

    def is_complete(self, instance: int | None) -> bool:
        """Each key of a group that has ended has its total."""
        group = self.groups.get(instance)
        return group is None or (group.ended and not group.busy)

    def take(self, instance: int | None) -> Group:
        """A group that is complete, taken out: what still comes of its keys makes another one. Its items are held."""
        return self.groups.pop(instance, None) or Group(instance)

    def drop(self, group: Group) -> None:
        """One that has been taken out."""
        for row in group.rows.values():
            self._clear(row)

    # ---------------------------------------------------------------------------------------------------- changes

    def has_changed(self) -> bool:
        return bool(self._fresh_names or self._fresh_items or self._removed)

    def changes(self, whole: bool = False) -> Changes:
        """What the client is told, so that it can be restored: since the last time, or all that there is."""
        if whole:
            found = Changes(list(self.items.values()), [], self.names.ranges())
        else:
            found = Changes(list(self._fresh_items.values()), self._removed, self._fresh_names.ranges())
        self._fresh_items, self._removed, self._fresh_names, self.fresh_bytes = {}, [], Names(), 0
        return found

    def n_fresh(self) -> int:
        return self._fresh_names.count

    def n_uncombined(self) -> int:
        """Items beyond one a key, those of groups that have been taken out excepted."""
        return sum(g.items - len(g.rows) for g in self.groups.values())

    def uncombined_bytes(self) -> int:
        """Of these, as if all items had the same size."""
        items = sum(g.items for g in self.groups.values())
        return self._held_bytes() * self.n_uncombined() // max(1, items)

    def _held_bytes(self) -> int:
        return sum(g.nbytes for g in self.groups.values())


def run_program(
    program: bytes, operands: Iterable[Any], names: Iterable[Any], combine: Callable[[Any, Any, Any], Any]
) -> Any:
    """What a worker does for a task: calls ``combine(left, right, name)`` as its program says."""
    operand, name, stack = iter(operands), iter(names), []
    for code in program:
        if code == PUSH:
            stack.append(next(operand))
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(combine(left, right, next(name)))
    return stack.pop()


# ------------------------------------------------------------------------------------------------------------- plans


@dataclass(slots=True)
class _Plan:
    """How to make one of some items; without items, what cannot be combined now."""

    name: Name
    items: list[Item] = field(default_factory=list)
    program: list[int] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)

    def and_then(self, other: _Plan) -> _Plan:
        return _Plan(
            self.name,
            self.items + other.items,
            [*self.program, *other.program, COMBINE],
            [*self.names, *other.names, other.name],
        )

    def fits_with(self, other: _Plan, most: int) -> bool:
        both = self.items + other.items
        return len(both) <= TOGETHER and (len(both) == 2 or sum(item.nbytes for item in both) <= most)


def _leaf(element: Item | Task) -> _Plan:
    return _Plan(element.name, [element], [PUSH]) if isinstance(element, Item) else _Plan(element.name)


def _chunks(elements: list[Item | Task], most: int) -> list[_Plan]:
    """As many at a time as go together, one after the other. most: bytes."""
    plans: list[_Plan] = []
    nbytes = 0
    for e in elements:
        if isinstance(e, Task):
            continue
        plan = plans[-1] if plans else None
        if plan is None or len(plan.items) == TOGETHER or (len(plan.items) > 1 and nbytes + e.nbytes > most):
            plans.append(_leaf(e))
            nbytes = e.nbytes
            continue
        plan.items.append(e)
        plan.program += [PUSH, COMBINE]
        plan.names.append(e.name)
        nbytes += e.nbytes
    return plans


class _Tree:
    """The largest parts of the tree over a row that can be computed."""

    def __init__(self, settled: Spans, most: int) -> None:
        self._settled, self._most = settled, most
        self._plans: list[_Plan] = []
        # The way from the root to the last element: each with the bits that it has in common with the one before it,
        # which grow.
        self._stack: list[tuple[_Plan, int]] = []
        self.needs: int | None = None  # there is more to combine when all before this number is settled

    def plans_of(self, elements: list[Item | Task]) -> list[_Plan]:
        for e in elements:
            common = _common_bits(self._stack[-1][0].name, e.name) if self._stack else -1
            self._combine(above=common)
            self._stack.append((_leaf(e), common))
        self._combine(above=-1)
        return [*self._plans, *(plan for plan, _ in self._stack)]

    def _combine(self, above: int) -> None:
        while len(self._stack) > 1 and self._stack[-1][1] > above:
            right, common = self._stack.pop()
            left, before = self._stack.pop()
            if self._can(left, right, common):
                self._stack.append((left.and_then(right), before))
            else:
                self._plans += [left, right]
                self._stack.append((_Plan(left.name), before))

    def _can(self, left: _Plan, right: _Plan, common: int) -> bool:
        begin, end = _numbers(left.name, common)
        if not self._settled.covers(begin, end):
            self.needs = end if self.needs is None else min(self.needs, end)
            return False
        return bool(left.items and right.items) and left.fits_with(right, self._most)


_EVERYTHING = Spans()
_EVERYTHING.add(0, 1 << _WORD)


def _common_bits(a: Name, b: Name) -> int:
    """How many bits two names begin with that are the same."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return _WORD * (i + 1) - (x ^ y).bit_length()
    return _WORD * min(len(a), len(b))


def _numbers(name: Name, common: int) -> tuple[int, int]:
    """The numbers of all names that begin with so many bits of this one."""
    width = max(0, _WORD - common)
    begin = name[0] >> width << width
    return begin, begin + (1 << width)


# -------------------------------------------------------------------------------------------------------------- keys


def checked_key(key: Any) -> Key:
    """As a key is compared and sent: exact types; TypeError if it is none."""
    kind = type(key)
    if key is None or kind is str or kind is bytes or kind is int:
        return key
    if kind is tuple:
        return tuple(checked_key(k) for k in key)
    if isinstance(key, str):
        return str(key)
    if isinstance(key, bytes):
        return bytes(key)
    if isinstance(key, np.bool_):
        return int(key)
    if hasattr(key, "__index__") and getattr(key, "ndim", 0) == 0:  # bool, and numpy's integers
        return operator.index(key)
    raise TypeError(f"a key is None, an int, a str, bytes or a tuple of these, not {key!r} ({kind.__name__})")


def rank(key: Key) -> Any:
    """What keys are sorted by: None, then int, bytes, str, tuple, each in its own order."""
    if key is None:
        return (0,)
    if type(key) is int:
        return 1, key
    if type(key) is bytes:
        return 2, key
    if type(key) is str:
        return 3, key
    return 4, tuple(rank(k) for k in key)
