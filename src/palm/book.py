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
    __slots__ = ("children", "complete")

    def __init__(self) -> None:
        self.children: int | None = None  # how many there are, once the close has come
        self.complete: set[int] = set()   # which of them are complete


class Book:
    """The open inputs of a job."""

    def __init__(self) -> None:
        self._open: dict[int, dict[Path, _Node] | None] = {}  # None: nothing but the root, the common case

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def numbers(self) -> list[int]:
        return list(self._open)

    def begin(self, number: int) -> None:
        """An input has been sent."""
        self._open[number] = None

    def forget(self, number: int) -> None:
        self._open.pop(number, None)

    def settle(self, number: int, path: Path) -> bool:
        """A leaf has come to its end; False if that, or a node above it, was known already."""
        if number not in self._open:
            return False
        if not path:
            del self._open[number]
            return True
        if self._known(number, path):
            return False
        self._complete(number, path)
        return True

    def close(self, number: int, path: Path, children: int) -> None:
        """A generator has ended after so many children."""
        if number not in self._open or self._known(number, path):
            return
        node = self._node(number, path)
        node.children = children
        if len(node.complete) >= children:
            self._complete(number, path)

    def _nodes(self, number: int) -> dict[Path, _Node]:
        nodes = self._open[number]
        if nodes is None:
            nodes = self._open[number] = {}
        return nodes

    def _node(self, number: int, path: Path) -> _Node:
        return self._nodes(number).setdefault(path, _Node())

    def _known(self, number: int, path: Path) -> bool:
        nodes = self._nodes(number)
        while path:
            parent = nodes.get(path[:-1])
            if parent is not None and path[-1] & _INDEX in parent.complete:
                return True
            path = path[:-1]
        return False

    def _complete(self, number: int, path: Path) -> None:
        nodes = self._nodes(number)
        while path:
            nodes.pop(path, None)
            parent = self._node(number, path[:-1])
            parent.complete.add(path[-1] & _INDEX)
            path = path[:-1]
            if parent.children is None or len(parent.complete) < parent.children:
                return
        del self._open[number]
