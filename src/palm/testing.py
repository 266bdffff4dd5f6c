# SPDX-License-Identifier: BSD-3-Clause
"""For the tests of those who write servers: a pipeline without a cluster, and faults in a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from palm._core.decode import NOTHING
from palm._core.node import MAX_PATH
from palm.chaos import Hit, chaos
from palm.directory import check_route, check_step, no_server
from palm.errors import NotFound, PalmError
from palm.local import LocalHost, arrived
from palm.message import Message
from palm.names import first_one
from palm.reduce_local import LocalReduction
from palm.remote import text_of
from palm.scattergather import ScatterGather
from palm.step import Step, To, route_of
from palm.template import Reduce, Server, exposure

__all__ = ["Hit", "chaos", "run"]


def run(
    servers: Mapping[str, Server],
    steps: str | Sequence[str],
    inputs: Iterable[Any] | None = None,
    *,
    seed: int = 0,
) -> list[Any]:
    """Run a pipeline of plain objects in this thread, as a cluster would: no processes, no sockets, and pdb works.

    Parameters
    ----------
    servers : mapping of str to Server
        By name, objects that are set up: `setup` is yours to call.
    steps : str or sequence of str
        The route: ``"server.function"`` or `palm.step`.
    inputs : iterable, optional
        None: one empty message, for a pipeline that begins with a function that yields.
    seed : int
        Of `Server.rng`: the numbers are those of a job of a cluster with the same seed.

    Returns
    -------
    list
        The results in order, by input and then by place in what was yielded. Values are copied between steps, as
        between processes: arrays arrive read-only.

    Raises
    ------
    NotFound, PayloadError
        A step or its constants are wrong, or one cannot take what the one before it gives, by their type hints; a
        value cannot be sent, or does not fit the hints: the message names where it is.
    Exception
        Whatever inputs and functions raise, as it is.

    Examples
    --------
    >>> class Double(palm.Server):
    ...     @palm.function
    ...     def double(self, x, *, gain=2.0): return x * gain
    >>> palm.testing.run({"d": Double()}, palm.step("d.double", gain=3.0), [1, 2])
    [3.0, 6.0]
    """
    if not isinstance(servers, Mapping):
        raise TypeError(f'servers are objects by name, {{"spectrum": spectrum}}, not {type(servers).__name__}')
    return _Run(servers, seed).job(route_of(steps), inputs)


@dataclass(frozen=True)
class _Bound:
    """A step, and who is to do it."""

    step: Step
    host: LocalHost
    constants: dict[str, Any]


@dataclass
class _Sent:
    """A message on its way."""

    value: Any
    route: Sequence[_Bound]  # still to go
    number: int
    path: tuple[int, ...]
    stage: int
    sender: str


@dataclass
class _Making:
    """A generator that has not ended."""

    generator: Generator[Any, Any, Any]
    of: _Sent
    message: Message
    made: int = 0


class _Run:
    """One job. Its stack holds the message that is next, over the generators that others come from: depth first."""

    def __init__(self, servers: Mapping[str, Server], seed: int) -> None:
        self._hosts = {name: _host_of(server, name) for name, server in servers.items()}
        if len({id(host.server) for host in self._hosts.values()}) < len(self._hosts):
            raise ValueError("one object has two names: a server has its own, as it has its own process")
        self._seed, self._job = seed, secrets.token_hex(16)
        self._stack: list[_Sent | _Making] = []
        self._results: list[tuple[tuple[int, ...], Any]] = []
        self._start, self._yielded = False, 1  # without inputs: what there is in their stead
        self._reductions: dict[str, tuple[LocalReduction, _Sent]] = {}

    def job(self, steps: list[Step], inputs: Iterable[Any] | None) -> list[Any]:
        route = [self._bound(s) for s in steps]
        check_route(steps, {name: exposure(type(host.server)) for name, host in self._hosts.items()})
        with contextlib.ExitStack() as cleanup:
            if isinstance(inputs, Generator):
                cleanup.callback(inputs.close)
            for host in self._hosts.values():
                cleanup.enter_context(host.installed())
            cleanup.callback(self._close_generators)
            self._start, number = inputs is None, -1
            for number, value in enumerate([NOTHING] if inputs is None else inputs):
                self._stack.append(_Sent(arrived(value, f"input {number}"), route, number, (number,), 0, "the inputs"))
                self._go()
            self._flush_all(self._yielded if self._start else number + 1)
        return [value for _, value in sorted(self._results, key=lambda r: r[0])]

    def _go(self) -> None:
        """Until all that is under way has come to its end, what was reduced of it too."""
        while self._stack or self._flush_inputs():
            if self._stack:  # else `finish` gave nothing
                self._advance(self._stack.pop())

    def _bound(self, s: Step) -> _Bound:
        if s.server not in self._hosts:
            raise NotFound(no_server(s.server, self._hosts, ""))
        host = self._hosts[s.server]
        check_step(s, exposure(type(host.server)))
        return _Bound(s, host, {k: arrived(v, f"{s}, its constant {k!r}") for k, v in s.constants.items()})

    def _close_generators(self) -> None:
        """Those that an error has left open."""
        while self._stack:
            m = self._stack.pop()
            if isinstance(m, _Making):
                with m.of.route[0].host.at_work_on(m.message):
                    m.generator.close()

    # ----------------------------------------------------------------------------------------------- messages

    def _advance(self, top: _Sent | _Making) -> None:
        if isinstance(top, _Making):
            self._make(top)
        elif top.route:
            self._call(top)
        else:
            self._results.append((top.path, top.value))

    def _call(self, m: _Sent) -> None:
        step = m.route[0]
        message = self._message(m)
        if isinstance(step.host.server, Reduce):
            self._reduction_of(m, message).absorb(message, m.value)
            return
        with step.host.at_work_on(message):
            call = step.host.scatter_and_gather if isinstance(step.host.server, ScatterGather) else step.host.call
            result = call(step.step.function, m.value, step.constants, m.sender)
        if type(result) is not GeneratorType:
            self._send(m, result, m.path)
        elif len(m.path) > MAX_PATH:
            raise PalmError(f"more than {MAX_PATH} fan-outs on one way")
        else:
            self._stack.append(_Making(result, m, message))

    def _make(self, making: _Making) -> None:
        self._stack.append(making)
        if self._start and not making.message.stage and self._flush_inputs():
            return  # of the input before the one that comes next
        with making.of.route[0].host.at_work_on(making.message):
            try:
                value = next(making.generator)
            except StopIteration:
                self._stack.pop()
                if self._start and making.of.path == (0,):
                    self._yielded = max(1, making.made)
                return
        if self._send(making.of, value, (*making.of.path, making.made)):
            making.made += 1

    def _send(self, m: _Sent, value: Any, path: tuple[int, ...]) -> bool:
        """On from the first step of the route that `m` came by. False: there is nothing to send."""
        route, what = m.route[1:], str(m.route[0].step)
        if type(value) is To:
            route, value, what = self._rerouted(route, value), value.value, f"{what}, palm.to"
        if value is None:
            return False
        self._stack.append(_Sent(arrived(value, what), route, m.number, path, m.stage + 1, str(m.route[0].step)))
        return True

    def _rerouted(self, rest: Sequence[_Bound], to: To) -> list[_Bound]:
        """The route of `palm.to`: steps that the job would still have gone keep their constants."""
        bound = {str(b.step): b for b in rest}
        return [self._bound(s) if s.constants or str(s) not in bound else bound[str(s)] for s in to.route]

    # -------------------------------------------------------------------------------------------- reductions

    def _reduction_of(self, m: _Sent, message: Message) -> LocalReduction:
        name = text_of((str(b.step), b.constants) for b in m.route)
        found = self._reductions.get(name)
        if found is None:
            step = m.route[0]
            reduction = LocalReduction(step.host, step.step.function, step.constants, message, m.sender)
            found = self._reductions[name] = reduction, m
        return found[0]

    def _flush_inputs(self) -> bool:
        """What is reduced of each input comes out when there is nothing else of it; False: there was nothing."""
        return self._flush(True, 0)

    def _flush_all(self, number: int) -> None:
        """What is reduced of the job, and of what comes of that. `number`: behind the last input."""
        while self._flush(False, number):
            self._go()
            number += 1

    def _flush(self, per_input: bool, number: int) -> bool:
        """One to which nothing comes of others."""
        waiting = {text: r for text, (r, _) in self._reductions.items() if r.per_input is per_input and r.inputs()}
        if not waiting:
            return False
        r = first_one(waiting, lambda r: r.route)
        m = next(m for other, m in self._reductions.values() if other is r)
        totals = [(path, value) for instance in r.inputs() for path, value in r.flush(instance, number)]
        for path, value in reversed(totals):
            path = (0, *path) if self._start and r.per_input else path
            self._send(dataclasses.replace(m, number=path[0]), value, path)
        return True

    def _message(self, m: _Sent) -> Message:
        inner = self._start and m.number == 0 and len(m.path) > 1  # what the first function yields are the inputs
        path = m.path[1:] if inner else m.path
        return Message(
            job=self._job,
            number=path[0],
            path=path,
            stage=m.stage,
            step=str(m.route[0].step),
            rest=tuple(str(b.step) for b in m.route[1:]),
            client="",
            deadline=None,
            attempt=1,
            seed=self._seed,
        )


def _host_of(server: Server, name: str) -> LocalHost:
    if not isinstance(server, Server):
        raise TypeError(f"the server {name!r} is an object of a template, as Spectrum(), not {server!r}")
    type(server)._check_complete()
    return LocalHost(server, name)
