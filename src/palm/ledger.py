# SPDX-License-Identifier: BSD-3-Clause
"""The book of a job, and beside it one in which what has gone aside counts as settled.

What is in a branch that holds up nobody has to come to its end before the job has, and is repeated after a loss: the
`book` says so. But it holds no slot, and the order of results does not wait for it: that is what `order` is asked for.
They are one as long as nothing has gone aside. Pure: no I/O.
"""

from __future__ import annotations

from palm._core.book import OVER, Book

Path = tuple[int, ...]


class Ledger:
    """Takes the events of `palm._core.book.Book`, whose verdicts are the `book`'s."""

    def __init__(self) -> None:
        self.book = self.order = Book()
        self.parted = False  # True if something has gone aside: events are for two books

    def aside(self, number: int, path: Path) -> None:
        """Nothing waits for this message any more, but for the job's end."""
        if number in self.book and self.book.ranges(number, path)[0] != OVER:
            if not self.parted:
                self.order, self.parted = self.book.copy(), True
            self.order.prune(number, path)

    def is_aside(self, number: int, path: Path) -> bool:
        """True if it, or a message that it stems from, has gone aside, and is not settled."""
        return self.parted and self.order.ranges(number, path)[0] == OVER and self.book.ranges(number, path)[0] != OVER

    def begin(self, first: int, n: int) -> None:
        self.book.begin(first, n)
        if self.parted:
            self.order.begin(first, n)

    def skip(self, following: int) -> None:
        """The numbers before this one that have not begun are done."""
        self.book.skip(following)
        if self.parted:
            self.order.skip(following)

    def settle(self, number: int, path: Path) -> int:
        if self.parted:
            self.order.settle(number, path)
        return self.book.settle(number, path)

    def close(self, number: int, path: Path, children: int) -> int:
        if self.parted:
            self.order.close(number, path, children)
        return self.book.close(number, path, children)

    def prune(self, number: int, path: Path) -> int:
        if self.parted:
            self.order.prune(number, path)
        return self.book.prune(number, path)

    def grant(self, number: int, path: Path, upto: int) -> None:
        if self.parted:
            self.order.grant(number, path, upto)
        self.book.grant(number, path, upto)

    def forget(self, number: int) -> None:
        if self.parted:
            self.order.forget(number)
        self.book.forget(number)
