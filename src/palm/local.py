# SPDX-License-Identifier: BSD-3-Clause
"""A server object without a cluster: what `palm.testing.run` and `palm replay` give it in place of a running host."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from palm._core.frame import pack, unpack
from palm._core.stack import Rows, kind_of, stacked
from palm.errors import PayloadError
from palm.message import NO_ONE_MESSAGE, Message
from palm.template import Server


def arrived(value: Any, what: str) -> Any:
    """A payload as the next process would have it: its own, arrays read-only.

    Raises
    ------
    PayloadError
        It could not be sent; begins with `what`.
    """
    try:
        frame = pack(value)
    except PayloadError as e:
        raise PayloadError(f"{what}: {e}") from None
    return unpack(frame)


class LocalHost:
    """Answers what functions ask their template about; calls them one at a time, in this thread.

    Parameters
    ----------
    server : Server
    name : str
        What the server is called from now on.
    """

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name
        self.counts: collections.Counter[str] = collections.Counter()
        self.observed: dict[str, list[float]] = {}
        self.now: Message | None = None  # what `self.message` is
        self._several = False  # in a batch function, there is none

    def install(self) -> None:
        """The server object has this host from now on."""
        self.server._host = self
        self.server.name = self.name

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """While the server object has this host."""
        before = self.server._host
        self.install()
        try:
            yield
        finally:
            self.server._host = before

    @contextlib.contextmanager
    def at_work_on(self, message: Message) -> Iterator[None]:
        """While `self.message` of the server is this one."""
        before, self.now = self.now, message
        try:
            yield
        finally:
            self.now = before

    def call(self, function: str, value: Any, constants: Mapping[str, Any], sender: str = "") -> Any:
        """What a function returns for a message; rule 2 says how the message becomes its parameters. A batch function
        gets a batch of this one."""
        signature = type(self.server)._exposed[function]
        values, method = signature.spread(self.name, value), getattr(self.server, function)
        signature.fitting(self.name, constants, sender).check(values)
        if not signature.batch:
            return method(*values, **constants)
        what = signature.what(self.name)
        kind_of(values, what)
        with self._at_work_on_several():
            result = method(*stacked([values]), **constants)
        return None if result is None else Rows(result, 1, what)[0]

    @contextlib.contextmanager
    def _at_work_on_several(self) -> Iterator[None]:
        self._several = True
        try:
            yield
        finally:
            self._several = False

    # -------------------------------------------------------------------------- what functions ask the template

    def message(self) -> Message:
        if self._several:
            raise RuntimeError(NO_ONE_MESSAGE)
        if self.now is None:
            raise RuntimeError("there is a message in functions alone, while they work on one")
        return self.now

    def cancelled(self) -> bool:
        return False

    def cache(self) -> None:
        """It has none but the object's own."""

    def client(self) -> Any:
        raise RuntimeError(f"{self.name!r} runs without a cluster: there is nobody to call")

    def count(self, name: str, n: float) -> None:
        self.counts[name] += n  # type: ignore[assignment]

    def observe(self, name: str, value: float) -> None:
        self.observed.setdefault(name, []).append(value)
