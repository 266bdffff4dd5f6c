# SPDX-License-Identifier: BSD-3-Clause
"""A server object without a cluster: what `palm.testing.run` and `palm replay` give it in place of a running host."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from types import GeneratorType
from typing import Any

from palm._core.frame import pack, unpack
from palm._core.stack import Rows, kind_of, stacked
from palm.errors import PayloadError
from palm.message import NO_ONE_MESSAGE, Message
from palm.scattergather import ScatterGather, parts_of
from palm.step import To
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
        signature = type(self.server)._called()[function]
        values, method = signature.spread(self.name, value), getattr(self.server, function)
        signature.fitting(self.name, constants, sender).check(values)
        if not signature.batch:
            return method(*values, **constants)
        what = signature.what(self.name)
        kind_of(values, what)
        with self._at_work_on_several():
            result = method(*stacked([values]), **constants)
        return None if result is None else Rows(result, 1, what)[0]

    def scatter_and_gather(self, function: str, value: Any, constants: Mapping[str, Any], sender: str = "") -> Any:
        """What a step of a `palm.ScatterGather` returns for the message at work, whose parts are computed here."""
        assert isinstance(self.server, ScatterGather) and self.now is not None
        cls, step, message = type(self.server), f"{self.name}.{function}", self.now
        whole, called = cls._step(function), cls._called()
        assert whole is not None
        values = whole.spread(self.name, value)
        whole.fitting(self.name, constants, sender).check(values)
        scattered = self.server.scatter(*values, **called["scatter"].own(constants))
        given = (part for part in parts_of(scattered, f"{cls.__qualname__}.scatter") if part is not None)
        parts = [arrived(part, f"{step}, part {k} of its scatter") for k, part in enumerate(given, 1)]
        own, results = called[function].own(constants), []
        for k, part in enumerate(parts):
            with self.at_work_on(dataclasses.replace(message, path=(*message.path, k), rest=())):
                result = self.call(function, part, own, f"{self.name}.scatter")
            if isinstance(result, To | GeneratorType):
                raise TypeError(f"{step} has to return one value: no generator, no palm.to")
            results.append(None if result is None else arrived(result, f"{step}, of part {k + 1}"))
        more = (value,) if len(called["gather"].parameters) > 1 else ()
        return self.server.gather(results, *more, **called["gather"].own(constants))

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
