# SPDX-License-Identifier: BSD-3-Clause
"""Exhaustive model of the window: can a job with fan-out, cycles and an ordered consumer stop for want of room?

A live name holds one slot from its birth (or admission) until it is settled: a result until the user has taken it, a
generator's message until the generator has ended. A child needs a slot of its own. The window has W slots and a reserve
that only the head may use: the generator whose next child is the smallest unsettled name. A function that returns
passes its slot on. Nothing else ever blocks: who receives a message that holds a slot has room for it.
"""

from __future__ import annotations

from palm._core.book import Book
from palm.message import INDEX_BITS


def explore(kinds, inputs, window, ordered, rule="head", capacity=None):
    """kinds: for each step (server, outputs): outputs 0 for `return`, n for a generator of n. rule: "head" | "none".
    capacity: instead of the window's promise, a limit on the queue of each server (the usual hop-by-hop back-pressure).
    Returns (states, largest number of live names, complaint)."""
    steps = len(kinds)
    start = (0, frozenset())  # inputs taken, live: (path, hop, next child or -1 if not begun)
    seen, todo, peak = {start}, [start], 0
    while todo:
        pulled, live = todo.pop()
        peak = max(peak, len(live))
        out = []
        if pulled < inputs and len(live) < window:
            out.append((pulled + 1, live | {((pulled,), 0, -1)}))
        if (
            capacity
            and pulled < inputs
            and sum(kinds[h][0] == kinds[0][0] for _, h, _ in live if h < steps) >= capacity
        ):
            out = []
        for m in live:
            path, hop, pos = m
            rest = live - {m}
            if hop == steps:  # a result at the client
                if not ordered or all(q[0] > path or path[: len(q[0])] == q[0] for q in rest):
                    out.append((pulled, rest))
                continue
            server, n = kinds[hop]
            full = (
                capacity
                and hop + 1 < steps
                and sum(kinds[h][0] == kinds[hop + 1][0] for _, h, _ in rest if h < steps) >= capacity
            )
            if n == 0:
                if not full:
                    out.append((pulled, rest | {(path, hop + 1, -1)}))
            elif pos == n:
                out.append((pulled, rest))
            else:
                p = max(pos, 0)
                c = path + (p,)
                head = all(q[0] > c or path[: len(q[0])] == q[0] for q in rest)
                if not full and (len(live) < window or (rule == "head" and head)):
                    out.append((pulled, rest | {(path, hop, p + 1), (c, hop + 1, -1)}))
        if not out and (live or pulled < inputs):
            return len(seen), peak, f"stuck with {sorted(live)}"
        for s in out:
            if s not in seen:
                seen.add(s)
                todo.append(s)
    return len(seen), peak, None


def component(hop, index):
    return hop << INDEX_BITS | index


def explore_book(kinds, inputs, window, ordered, reserve=True):
    """The same with the book in C as the only judge: it says how many slots are held and who is the head; grants go out
    one at a time. A generator's message holds its slot until all below it is complete, since its keeper has it so long.
    Returns (states, largest number of slots held, complaint)."""
    book = Book()
    start = (0, frozenset())  # inputs taken, under way: (number, path, hop, next child or -1 if not begun)
    seen, todo, peak = {(start, book.dump())}, [(start, book)], 0
    while todo:
        (pulled, live), book = todo.pop()
        peak = max(peak, book.live)
        out = []
        if pulled < inputs and book.live < window:
            after = book.copy()
            after.begin(pulled)
            out.append(((pulled + 1, live | {(pulled, (), 0, -1)}), after))
        for message in live:
            after = book.copy()
            then = advance(kinds, after, message, window, ordered, reserve)
            if then is not None:
                out.append(((pulled, live - {message} | then), after))
        if not out and (live or pulled < inputs):
            return len(seen), peak, f"stuck with {sorted(live)}"
        if not out and (len(book) or book.live):
            return len(seen), peak, f"all is done, and {book.live} slots are held"
        for state, after in out:
            key = state, after.dump()
            if key not in seen:
                seen.add(key)
                todo.append((state, after))
    return len(seen), peak, None


def advance(kinds, book, message, window, ordered, reserve):
    """What the message becomes; None: it has to wait."""
    number, path, hop, pos = message
    if hop == len(kinds):  # a result at the client: it holds its slot until the user has taken it
        if ordered and not book.is_next(number, path):
            return None
        book.settle(number, path)
        return frozenset()
    children = kinds[hop][1]
    if children == 0:
        return {(number, path, hop + 1, -1)}
    if pos == children:
        book.close(number, path, children)
        return frozenset()
    pos = max(pos, 0)
    below = (*path, component(hop, pos))
    book.grant(number, path, pos)  # it asks by name
    if not (book.live < window or (reserve and book.is_next(number, below))):
        return None
    book.grant(number, path, pos + 1)
    return {(number, path, hop, pos + 1), (number, below, hop + 1, -1)}


JOBS = {
    "A>B>A>B": [("A", 0), ("B", 0)] * 2,
    "fan-out": [("A", 4), ("B", 0)],
    "fan-out twice": [("A", 3), ("B", 2)],
    "fan-out, cyclic": [("A", 2), ("B", 2), ("A", 2)],
    "fan-out of fan-out of fan-out": [("A", 2), ("A", 2), ("A", 1)],
}
CASES = [
    (explorer, name, window, ordered)
    for explorer in (explore, explore_book)
    for name in JOBS
    for window in (1, 2, 3)
    for ordered in (False, True)
]
# Each has to be found.
ERRORS = {
    "no reserve": lambda: explore([("A", 2), ("B", 2)], 2, 2, False, "none"),
    "no reserve, by the book": lambda: explore_book([("A", 2), ("B", 2)], 2, 2, False, reserve=False),
    "queues bounded hop by hop": lambda: explore([("A", 0), ("B", 0)] * 2, 6, 99, False, "head", 2),
}


def depth(kinds):
    return sum(n > 0 for _, n in kinds)


def main():
    bad = 0
    for explorer, name, window, ordered in CASES:
        kinds = JOBS[name]
        states, peak, why = explorer(kinds, 2, window, ordered)
        ok = why is None and peak <= window + depth(kinds)
        bad += not ok
        print(
            f"{'ok ' if ok else 'BAD'} {explorer.__name__:12} {name:30} window {window} "
            f"{'ordered' if ordered else 'any order':9} states {states:7} "
            f"peak {peak} <= {window} + {depth(kinds)} {why or ''}"
        )
    for name, error in ERRORS.items():
        states, peak, why = error()
        bad += why is None
        print(f"{'caught' if why else 'MISSED'} seeded error: {name}: {why}")
    return bad


if __name__ == "__main__":
    raise SystemExit(main())
