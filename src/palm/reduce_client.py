# SPDX-License-Identifier: BSD-3-Clause
"""The client's half of Reduce (DELIVERY 4): it holds what a leader would need to go on after a death, and says when a
reduction is complete.

A *family* is the reductions of the job at one Reduce with the same route still to go. Its leader tells which messages
it has absorbed together with the items they have become (a checkpoint): from then on these are settled, and their
inputs need not be kept. When nothing else is open, the client has the family flushed: the leader then is a generator,
whose children are the totals. The flush has a name of its own: of a reduction of the whole job the number behind the
last input; of one that is per input its lowest message, which is not settled before (*parked*).

In each new epoch the families are opened anew. A leader that lives answers with all it has; another one asks for it.
With the connection's lock, but for `routes` and what is said so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from palm._core import node as core
from palm._core.book import OVER
from palm.message import INDEX_BITS, input_of, places
from palm.names import Name, Names, Range, first_one
from palm.remote import NO_MESSAGE, Route
from palm.step import Step

if TYPE_CHECKING:
    from palm.delivery import Delivery
    from palm.directory import Directory

Path = tuple[int, ...]
END = 1 << INDEX_BITS  # behind all inputs that a job without any may have


class Held(msgspec.Struct):
    """An item of a leader's."""

    key: Any
    name: Name
    count: int
    value: Any
    failed: bool
    flush: Name | None = None  # which sends it on: it is a total


class Family(msgspec.Struct):
    """See above."""

    steps: list[Step]  # the Reduce's, and the route still to go
    hop: int
    per_input: bool
    keeper: tuple[int, int] = (-1, 0)  # the link to its leader, and what that calls the job
    number: int = 0  # what its leader calls it
    told: int = 0  # the number of its last checkpoint
    known: bool = False  # the leader of this epoch has said what it has
    names: Names = msgspec.field(default_factory=Names)
    items: dict[int, Held] = {}
    coming: dict[int, Held] = {}  # items of a checkpoint that is not complete
    parked: dict[int, Name] = {}  # by input: the lowest message, which is not settled
    flushed: dict[int, dict[Name, int | None]] = {}  # what is not complete: by number; input
    totals: dict[Name, list[int]] = {}  # by flush: items
    unflushed: bool = False  # it has absorbed something since


class Reductions:
    """Of one job.

    Parameters
    ----------
    delivery : Delivery
    settle : callable
        What to do with a message that a leader has absorbed, and the client holds.
    begin : callable
        Begins a flush of the whole job: returns its number, which is that of no input.
    fail : callable
        What to do with an error of a key whose total cannot be had, before it comes in its place.
    """

    def __init__(
        self,
        delivery: Delivery,
        settle: Callable[[int, Path], None],
        begin: Callable[[], int],
        fail: Callable[[Any], None],
    ) -> None:
        self._delivery, self._settle, self._begin, self._fail = delivery, settle, begin, fail
        self._families: dict[str, Family] = {}
        self.children = 1  # of a job without inputs: how many its first function has made
        self._lowest: dict[int, list[Name]] = {}  # by the number of a flush: the messages that its totals are named by

    def __bool__(self) -> bool:
        return bool(self._families)

    def leads(self, link: int) -> bool:
        """True of the link to the leader of a family."""
        return any(f.keeper[0] == link for f in self._families.values())

    def absorbed(self) -> int:
        """How many messages, by all that leaders have told."""
        return sum([f.names.count for f in self._families.values()])

    def number_of(self, number: int, path: Path) -> int:
        """The input by which a result is named: of a reduction the lowest."""
        lowest = self._lowest.get(number)
        if not lowest:
            return self._input(number, path)
        name = lowest[places(path[:1])[0]] if path else min(lowest)
        return self.number_of(name[0], name[1:]) if name[0] in self._lowest else name[0]

    def waits_for(self, name: tuple[int, Path]) -> bool:
        """True if something of the first input of all is parked, and waits for children of this message."""
        number = self._input(*name)
        return any(number in f.parked for f in self._families.values()) and number == self._first()

    def _input(self, number: int, path: Path) -> int:
        return input_of(number, path, self._delivery.start)[0]

    def _wire(self, name: Name) -> tuple[int, Path]:
        """A name as it travels: leaders name messages as users see them."""
        is_yielded = self._delivery.start and name[0] < self.n_inputs()
        return (0, name) if is_yielded else (name[0], name[1:])

    def n_inputs(self) -> int:
        """How many there are; flushes of the whole job have the numbers behind them."""
        if not self._delivery.start:
            return self._delivery.sent
        return END if 0 in self._delivery.book else self.children

    def _oldest(self) -> int:
        """The first input that is not done."""
        return min(self._first(), self.n_inputs())

    def _first(self) -> int:
        """The same, or a flush that is not, if all inputs are."""
        first = self._delivery.book.first()
        if self._delivery.start and first == 0:
            ranges = self._delivery.book.ranges(0)[1]
            return ranges[0][1] if ranges and not ranges[0][0] else 0
        return END if first is None else first

    # ------------------------------------------------------------------------------------------------ what comes

    def receive(self, event: core.Event, epoch: int, tree: Any) -> None:
        """What a leader tells."""
        if epoch != self._delivery.epoch or type(tree) is not tuple or not tree:
            return
        if tree[0] == "opened":
            self._opened(event, *tree[1:])
            return
        family = self._of(event, tree[1])
        if family is None:
            return
        if tree[0] == "item":
            id, key, name, count, value, failed, flush = tree[2:]
            family.coming[id] = Held(key, tuple(name), count, value, failed, None if flush is None else tuple(flush))
        elif tree[0] == "taken":
            self._taken(family, *tree[2:])
        elif tree[0] == "totals":
            self._totals(family, *tree[2:])
        elif tree[0] == "failed":
            self._fail(tree[2])

    def _of(self, event: core.Event, number: int) -> Family | None:
        keeper = event.link, event.handle
        return next((f for f in self._families.values() if f.keeper == keeper and f.number == number), None)

    def _opened(
        self, event: core.Event, number: int, text: str, hop: int, per_input: bool, knows: bool, steps: list[Any]
    ) -> None:
        family = self._families.get(text)
        if family is None:
            route = [Step(f"{server}.{function}", constants) for server, function, constants in steps]
            family = self._families[text] = Family(route, hop, per_input)
        family.keeper, family.number, family.known = (event.link, event.handle), number, False
        family.coming.clear()
        if not knows:
            self._tell_state(family)

    def _taken(
        self,
        family: Family,
        ranges: list[Any],
        removed: list[int],
        whole: bool,
        items: int,
        told: int,
        count: int,
        hop: int | None,
    ) -> None:
        """A checkpoint is complete, unless something of it, or one before, was lost on the way."""
        if len(family.coming) != items or not (whole or told == family.told + 1):
            self._spoil(family)
            return
        family.told = told
        family.hop = family.hop if hop is None else hop
        if whole:
            if count < family.names.count:  # it is no successor of what is known here
                self._spoil(family)
                return
            family.items.clear()
            family.totals.clear()
            family.known = True
        for id in removed:
            family.items.pop(id, None)
        family.items |= family.coming
        family.coming = {}
        self._absorbed(family, [(tuple(before), begin, end) for before, begin, end in ranges])
        self._tell_watermark(family)
        if whole:
            for flushes in family.flushed.values():
                for name, instance in flushes.items():
                    self._tell_flush(family, name, instance)

    def spoil(self, event: core.Event) -> None:
        """Something of a leader cannot be read."""
        for family in self._families.values():
            if family.keeper == (event.link, event.handle):
                self._spoil(family)

    def _spoil(self, family: Family) -> None:
        """What it tells in this epoch is not to be believed any more: it tells all in the next one."""
        family.keeper = -1, 0
        self._delivery.reported(NO_MESSAGE, (), self._delivery.epoch)

    def _absorbed(self, family: Family, ranges: list[Range]) -> None:
        names = [
            name
            for before, begin, end in ranges
            if not family.names.covers((before, begin, end))
            for name in ((*before, last) for last in range(begin, end))
            if family.names.add(name)
        ]
        family.unflushed |= bool(names)
        for name in names:
            self._settle_or_park(family, name)
        if family.per_input:
            for number in {name[0] for name in names}:
                self.flush_input(number)

    def _settle_or_park(self, family: Family, name: Name) -> None:
        if family.per_input and not self._is_over(self._whole(name[0])):
            parked = family.parked.get(name[0])
            if parked is None:
                family.parked[name[0]] = name
                return
            if name < parked:
                family.parked[name[0]], name = name, parked
        self._settle(*self._wire(name))

    def _totals(self, family: Family, name: list[int], ids: list[int], lowest: list[list[int]]) -> None:
        """What a flush sends on: its items, and the numbers they are known by, in the order of keys."""
        flush = tuple(name)
        if not family.per_input:
            self._lowest[flush[0]] = [tuple(n) for n in lowest]
        family.totals[flush] = ids
        for id in ids:
            if id in family.items:
                family.items[id].flush = flush

    # ------------------------------------------------------------------------------------------------- what is told

    def _tell(self, family: Family, *tree: Any) -> None:
        batch = core.Batch()
        batch.put((tree[0], family.number, *tree[1:]), 0)
        self._send(family, batch)

    def _send(self, family: Family, batch: core.Batch) -> None:
        if not self._delivery.connection.closed:
            link, handle = family.keeper
            self._delivery.connection.send(link, core.RELEASE, handle, family.hop, batch)

    def _tell_state(self, family: Family) -> None:
        """All that a new leader needs to know."""
        batch = core.Batch()
        for held in family.items.values():
            flush = None if held.flush is None else list(held.flush)
            item = held.key, list(held.name), held.count, held.value, held.failed
            batch.put(("item", family.number, *item, flush), 0)
            if batch.full:
                self._send(family, batch)
        ranges = [[list(before), begin, end] for before, begin, end in family.names.ranges()]
        hop = family.hop if family.names.count else None
        batch.put(("state", family.number, ranges, family.names.count, self._oldest(), len(family.items), hop), 0)
        self._send(family, batch)

    def _tell_watermark(self, family: Family) -> None:
        """Of inputs before it nothing comes any more."""
        watermark = self._oldest()
        if watermark > family.names.floor:
            family.names.forget(watermark)
            self._tell(family, "settled", watermark)

    def _tell_flush(self, family: Family, name: Name, instance: int | None) -> None:
        if family.known:
            self._tell(family, "flush", list(name), instance, family.names.count)

    # --------------------------------------------------------------------------------------------------- flushing

    def flush_input(self, number: int) -> None:
        """If nothing of this input is open but what is parked, that is flushed: what is farthest from the end first,
        and one after the other, since what comes of one may go to any."""
        parked = {text: f for text, f in self._families.items() if number in f.parked}
        if parked and self._delivery.book.unsettled(*self._wire((number,))) == len(parked):
            family = first_one(parked, _route)
            wire, path = self._wire(family.parked.pop(number))
            self._flush(family, (wire, *path), number)

    def flush(self) -> bool:
        """Nothing is open any more: what has been absorbed is flushed, one after the other. False: there is nothing."""
        unflushed = {text: f for text, f in self._families.items() if f.unflushed and not f.per_input}
        if unflushed:
            family = first_one(unflushed, _route)
            family.unflushed = False
            self._flush(family, (self._begin(),), None)
        return bool(unflushed)

    def _flush(self, family: Family, name: Name, instance: int | None) -> None:
        family.flushed.setdefault(self._input(name[0], name[1:]), {})[name] = instance
        self._tell_flush(family, name, instance)

    def settled(self, wire: int, path: Path) -> None:
        """This message has come to its end: flushes may be complete, whose totals are held no longer, and of its input
        nothing may be left but what is parked."""
        number = self._input(wire, path)
        for family in self._families.values():
            if number in family.parked and self._is_over(self._whole(number)):
                del family.parked[number]
            for name in list(family.flushed.get(number, ())):
                if self._is_over(name):
                    del family.flushed[number][name]
                    for id in family.totals.pop(name, None) or [i for i, h in family.items.items() if h.flush == name]:
                        family.items.pop(id, None)
            if not family.flushed.get(number, True):
                del family.flushed[number]
        self.flush_input(number)

    def _whole(self, number: int) -> Name:
        """All of this input."""
        wire, path = self._wire((number,))
        return wire, *path

    def _is_over(self, name: Name) -> bool:
        number, path = name[0], name[1:]
        return number not in self._delivery.book or self._delivery.book.ranges(number, path)[0] == OVER

    # ------------------------------------------------------------------------------------------------- a new epoch

    def routes(self, directory: Directory, patience: float) -> dict[str, Route]:
        """Where the families' servers are now; without the lock."""
        with self._delivery.connection.changed:
            steps = {text: f.steps for text, f in self._families.items()}
        return {text: directory.route(s, patience) for text, s in steps.items()}

    def knows_all(self, routes: dict[str, Route]) -> bool:
        """False if there is one more now, whose servers are not among these."""
        return self._families.keys() <= routes.keys()

    def open(self, routes: dict[str, Route]) -> None:
        """In the delivery's new epoch; with its lock, and without the connection's."""
        delivery = self._delivery
        with delivery.connection.changed:
            for text in routes:
                self._families[text].known = False
            hops = {text: self._families[text].hop for text in routes}
        for text, route in routes.items():
            delivery.open_route(route, hops[text])


def _route(family: Family) -> tuple[str, ...]:
    return tuple(family.steps)
