# SPDX-License-Identifier: BSD-3-Clause
"""Random check of the fixed reduction tree: the same expression for any order of arrival and of merging, any restart.

A leaf has a path: (number, place in a fan-out, ...). The tree is a trie: over the bits of a component, from the highest
that can differ down, then over the next component. Two items are combined when the smallest trie node that holds both
has nothing unsettled in it (all that will ever arrive there has arrived, or is known to be void or of another key). No
total is needed.
"""

from __future__ import annotations

import os.path
import random

BITS = 64


def digits(path):
    """The path as trie address; each component is a fixed number of bits, a node is a prefix of the address."""
    return "".join(f"{c:0{BITS}b}" for c in path)


def lca(a, b):
    return os.path.commonprefix((a, b))


def canonical(leaves):
    """The definition: the value of a trie node is that of its only child, or left (+) right."""
    items = sorted((digits(p), str(p)) for p in leaves)

    def value(part):
        if len(part) == 1:
            return part[0][1]
        d = len(lca(part[0][0], part[-1][0]))
        left, right = ([i for i in part if i[0][d] == bit] for bit in "01")
        return f"({value(left)}+{value(right)})"

    return value(items) if items else None


class Reducer:
    """What the leader keeps: partials of each key in order of their address, and what is not settled yet."""

    def __init__(self, unsettled):
        self.unsettled = set(unsettled)  # addresses; in the product: the gaps above the watermark, and all beyond
        self.parts, self.covered = {}, set()

    def absorb(self, path, key):
        if path in self.covered:
            return  # a repeat
        self.covered.add(path)
        self.unsettled.discard(digits(path))
        self.parts.setdefault(key, []).append((digits(path), str(path)))
        self.parts[key].sort()

    def void(self, path):
        self.unsettled.discard(digits(path))

    def merge(self, rnd, most):
        """Combines up to `most` pairs, in random order, wherever it is allowed."""
        for parts in self.parts.values():
            for _ in range(most):
                ready = [i for i in range(len(parts) - 1) if self.ready(parts, i)]
                if not ready:
                    break
                i = rnd.choice(ready)
                (a, x), (b, y) = parts[i : i + 2]
                parts[i : i + 2] = [(lca(a, b), f"({x}+{y})")]

    def ready(self, parts, i):
        node = lca(parts[i][0], parts[i + 1][0])
        inside = [j for j, (a, _) in enumerate(parts) if a.startswith(node)]
        if len(inside) > 2:  # something closer has to be combined first
            return False
        return not any(u.startswith(node) for u in self.unsettled)

    def checkpoint(self):
        return {k: list(p) for k, p in self.parts.items()}, set(self.covered)


def trial(seed):
    rnd = random.Random(seed)
    leaves, events = [], []
    for n in range(rnd.randint(1, 70)):
        kind = rnd.random()
        if kind < 0.15:  # a fan-out, closed by a notice when its generator has ended
            mine = [(n, i) for i in range(rnd.randint(0, 6))]
            events += [("leaf", p, n) for p in mine] + [("void", (n, 1 << 63), n)]
            leaves += mine
        elif kind < 0.3:  # dropped before it came here
            events.append(("void", (n,), n))
        else:
            events.append(("leaf", (n,), n))
            leaves.append((n,))
    keys = {p: rnd.randrange(rnd.choice((1, 1, 3))) for p in leaves}
    window, order, todo = rnd.randint(1, 16), [], list(events)
    while todo:  # out of order within the window
        near = [e for e in todo if e[2] < todo[0][2] + window]
        order.append(todo.pop(todo.index(rnd.choice(near))))
    red, saved, told, i = Reducer(digits(e[1]) for e in events), ({}, set()), set(), 0
    while i < len(order):
        kind, path, _ = order[i]
        if kind == "void":
            red.void(path)
            told.add(path)  # the client knows, and says it again to a new leader
        else:
            red.absorb(path, keys[path])
            if rnd.random() < 0.2:
                red.absorb(path, keys[path])  # a repeat
        red.merge(rnd, rnd.randint(0, 3) if rnd.random() < 0.5 else 99)
        if rnd.random() < 0.1:
            saved = red.checkpoint()
        i += 1
        if rnd.random() < 0.05:  # the leader dies: restored from the checkpoint, what it lacks comes again
            red = Reducer(digits(e[1]) for e in events if e[1] not in saved[1] and e[1] not in told)
            red.parts, red.covered = {k: list(p) for k, p in saved[0].items()}, set(saved[1])
            order, i = [e for e in order[:i] if e[0] == "leaf" and e[1] not in saved[1]] + order[i:], 0
    red.merge(rnd, 10_000)
    for key in set(keys.values()):
        want = canonical([p for p in leaves if keys[p] == key])
        assert [x for _, x in red.parts[key]] == [want], (seed, key, red.parts[key], want)


def bound(n, window):
    """One key, numbers 0..n-1, none further ahead of the oldest missing one than the window: the most partials."""
    rnd = random.Random(n)
    red = Reducer(digits((i,)) for i in range(n))
    todo, peak = list(range(n)), 0
    while todo:
        near = [i for i in todo if i < todo[0] + window]
        red.absorb((todo.pop(todo.index(rnd.choice(near))),), 0)
        red.merge(rnd, 10_000)
        peak = max(peak, len(red.parts[0]))
    return peak, n.bit_length() + window


def main():
    for seed in range(400):
        trial(seed)
    print("ok  400 random streams (fan-outs, voids, keys, repeats, restarts): the same expression each time")
    for n, window in ((64, 1), (256, 8), (500, 16)):
        peak, limit = bound(n, window)
        assert peak <= limit, (n, window, peak, limit)
        print(f"ok  {n} leaves, window {window}: at most {peak} partials, bound {limit}")
    ready = Reducer.ready  # seeded error: neighbours are combined as they come
    Reducer.ready = lambda self, parts, i: True
    caught = 0
    for seed in range(40):
        try:
            trial(seed)
        except AssertionError:
            caught += 1
    Reducer.ready = ready
    print(
        f"{'caught' if caught else 'MISSED'} seeded error: combining neighbours as they come "
        f"({caught} of 40 streams differ)"
    )
    return not caught


if __name__ == "__main__":
    raise SystemExit(main())
