# SPDX-License-Identifier: BSD-3-Clause
"""What became of each input: the client's record, by which it knows when a job is complete (R3). Pure: no I/O.

An input is a tree of names. A leaf settles by a result, a drop or an error; a generator's message is a node, complete
when its close has said how many children it has and all of them are complete. Every event may come again, and in any
order: the first outcome of a name counts, later ones are told apart by `settle` returning False.
"""

from __future__ import annotations

from palm.message import INDEX_BITS

Path = tuple[int, ...]
_INDEX = (1 << INDEX_BITS) - 1


class _Node:
    """A generator's message: which children are complete, as a range from 0 and a set of those beyond it."""

    __slots__ = ("below", "beyond", "children", "granted")

    def __init__(self) -> None:
        self.children: int | None = None  # how many there are, once the close has come
        self.below = self.granted = 0
        self.beyond: set[int] = set()

    def has(self, index: int) -> bool:
        return index < self.below or index in self.beyond

    def add(self, index: int) -> None:
        self.beyond.add(index)
        while self.below in self.beyond:
            self.beyond.remove(self.below)
            self.below += 1

    def complete(self) -> bool:
        return self.children is not None and self.below >= self.children


class Book:
    """The open inputs of a job; they are begun in the order of their numbers."""

    def __init__(self) -> None:
        # None: nothing but the root, the common case; who settles such an input without a path may delete it here
        self.open: dict[int, dict[Path, _Node] | None] = {}

    def __len__(self) -> int:
        return len(self.open)

    @property
    def live(self) -> int:
        return len(self.open) + sum(
            max(0, (n.granted if n.children is None else n.children) - n.below - len(n.beyond))
            for t in self.open.values()
            if t
            for n in t.values()
        )

    def first(self) -> int | None:
        return next(iter(self.open), None)

    def any_open(self, first: int, end: int) -> bool:
        return any(n in self.open for n in range(first, end))

    def grant(self, number: int, path: Path, more: int) -> int:
        if number not in self.open or self._known(number, path):
            return 0
        node = self._node(number, path)
        node.granted += more
        return node.granted

    def is_complete(self, number: int, path: Path) -> bool:
        return number not in self.open or self._known(number, path)

    def is_head(self, number: int, path: Path) -> bool:
        """True if the next child that may be granted is the smallest name that is not settled."""
        node = (self.open.get(number) or {}).get(path)
        index = 0 if node is None else node.granted
        return self.is_next(number, (*path, index))

    def ranges(self, number: int, path: Path) -> list[tuple[int, int]]:
        node = (self.open.get(number) or {}).get(path)
        if node is None:
            return []
        return ([(0, node.below)] if node.below else []) + [(i, i + 1) for i in sorted(node.beyond)]

    def __contains__(self, number: int) -> bool:
        return number in self.open

    def numbers(self) -> list[int]:
        return list(self.open)

    def begin(self, number: int, n: int = 1) -> None:
        """`n` inputs are on their way, `number` and those after it."""
        self.open.update(dict.fromkeys(range(number, number + n)))

    def forget(self, number: int) -> None:
        """Whatever still comes of this input is unknown from now on."""
        self.open.pop(number, None)

    def settle(self, number: int, path: Path) -> bool:
        """A leaf has come to its end; False if that, or the end of a node above it, was known already."""
        if number not in self.open:
            return False
        if not path:
            del self.open[number]
            return True
        if self._known(number, path):
            return False
        self._complete(number, path)
        return True

    def close(self, number: int, path: Path, children: int) -> bool:
        """A generator has ended after so many children; False if that was known already."""
        if number not in self.open or self._known(number, path):
            return False
        node = self._node(number, path)
        new = node.children is None
        node.children = children
        if node.complete():
            self._complete(number, path)
        return new

    def is_next(self, number: int, path: Path) -> bool:
        """True if no result can come any more that sorts before this one."""
        first = next(iter(self.open), None)
        if first is None or number < first:
            return True
        if number > first:
            return False
        nodes = self.open[number] or {}
        for depth in range(len(path)):
            node = nodes.get(path[:depth])
            if (node.below if node is not None else 0) < path[depth] & _INDEX:
                return False
        return True

    def _node(self, number: int, path: Path) -> _Node:
        nodes = self.open[number]
        if nodes is None:
            nodes = self.open[number] = {}
        return nodes.setdefault(path, _Node())

    def _known(self, number: int, path: Path) -> bool:
        nodes = self.open[number] or {}
        return any(
            (node := nodes.get(path[:depth])) is not None and node.has(path[depth] & _INDEX)
            for depth in range(len(path))
        )

    def _complete(self, number: int, path: Path) -> None:
        while path:
            nodes = self.open[number]
            if nodes is not None:
                nodes.pop(path, None)
            parent = self._node(number, path[:-1])
            parent.add(path[-1] & _INDEX)
            path = path[:-1]
            if not parent.complete():
                return
        del self.open[number]
