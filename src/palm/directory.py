# SPDX-License-Identifier: BSD-3-Clause
"""What a client knows of its cluster: it asks the registry, checks steps, and has links to servers."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from palm import contracts, places
from palm._core import space as core_space
from palm.calls import Calls, Retired
from palm.connection import Connection
from palm.contracts import Contract
from palm.errors import Crashed, Disconnected, NotFound, PalmError, PayloadError, RemoteError, Timeout
from palm.fitting import Fitting
from palm.own_names import REGISTRY
from palm.remote import Route
from palm.step import Step

COMING = ("restarting", "unreachable")  # states of servers that may be there again
_T = TypeVar("_T")
AWAY = 60.0  # seconds that a repeat waits for a registry that does not answer; then the job has failed
AGAIN = 0.05  # seconds before it is asked again
REASON_WAIT = 2.0  # seconds that a supervisor has to tell why a process died


class Directory:
    """Of one cluster, over one connection.

    Parameters
    ----------
    connection : Connection
    address : str
        Endpoint of the registry; it stays the same when the registry is started again.
    timeout : float
        Seconds for a question.
    """

    def __init__(self, connection: Connection, address: str, timeout: float) -> None:
        self._connection, self.address, self.timeout = connection, address, timeout
        self._known: dict[str, dict[str, Any]] = {}  # servers by name
        self._linked: dict[int, str] = {}
        self._questions: dict[str, Calls] = {}
        self._lock = threading.RLock()
        self._shown = False
        self.registry = connection.link(address, timeout)  # link to it
        self._owned_by = places.owner_of(address)
        connection.on_gone.append(self._forget)

    def is_lost(self) -> bool:
        """True if the registry has died since it was last asked."""
        return self._connection.is_gone(self.registry)

    def is_closed(self) -> bool:
        """True if nobody will answer any more."""
        return (
            self._connection.closed
            or self._connection.has_left(self.registry)
            or places.is_abandoned(self.address, self._owned_by)
        )

    # --------------------------------------------------------------------------------------------- asking

    def ask(self, function: str, *values: Any, timeout: float | None = None) -> Any:
        """Asks the registry; if it dies meanwhile, its successor. All its questions may be asked twice."""
        limit = self.timeout if timeout is None else timeout
        try:
            return self._question(function, limit).wait(values, limit)
        except Retired:
            pass
        except Crashed as e:
            if e.server != REGISTRY:
                raise
        try:
            return self._question(function, limit).wait(values, limit)
        except (Crashed, Retired):
            raise Disconnected(f"the registry at {self.address} is gone") from None

    def patiently(self, ask: Callable[[], _T], over: Callable[[], bool] = lambda: False) -> _T:
        """What `ask` returns. A registry that is away or silent is asked again for a while, unless it has left in good
        order, as it does when its cluster is closed, or it is `over`."""
        end = time.monotonic() + AWAY
        while True:
            try:
                return ask()
            except (Disconnected, Timeout):
                if over() or self.is_closed() or time.monotonic() >= end:
                    raise
                time.sleep(AGAIN)

    def _question(self, function: str, timeout: float) -> Calls:
        with self._lock:
            self._reconnect(timeout)
            calls = self._questions.get(function)
            if calls is None or calls.retired:
                registry = {REGISTRY: {"address": self.address, "pid": 0}}
                route = Route([Step(f"{REGISTRY}.{function}")], registry, self.registry, {REGISTRY: self.registry}, {})
                calls = self._questions[function] = Calls(self._connection, None, route)
            return calls

    def _reconnect(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self.is_lost():
            if self.is_closed():
                raise Disconnected(f"the cluster of {self.address} has ended")
            try:
                self.registry = self._connection.link(self.address, max(0.1, end - time.monotonic()))
            except Disconnected:
                if time.monotonic() >= end:
                    raise

    # --------------------------------------------------------------------------------------------- servers

    def route(self, steps: Sequence[Step], patience: float | None = None) -> Route:
        """Steps, checked, with links to all their servers; NotFound, PayloadError, Disconnected. patience: seconds to
        wait for servers that are being started again."""
        servers = self.servers_of(steps, patience)
        links = {name: self._link(name, server) for name, server in servers.items()}
        pids = {server["address"]: pid_here(server) for server in servers.values()}
        return Route(list(steps), servers, links[steps[0].server], links, pids)

    def route_to(self, server: dict[str, Any], function: str) -> Route:
        """To a server as the registry describes it, unchecked."""
        name = server["name"]
        link = self._link(name, server)
        return Route([Step(f"{name}.{function}")], {name: server}, link, {name: link}, {})

    def servers_of(self, steps: Sequence[Step], patience: float | None = None) -> dict[str, dict[str, Any]]:
        """What is known of the servers of these steps, each checked to have the function and the constants, and to
        be able to take what the one before it gives."""
        names = sorted({s.server for s in steps})
        servers = {n: known for n in names if (known := self._known.get(n)) is not None}
        missing = [n for n in names if n not in servers]
        if missing:
            found = self.find(missing, patience)
            self._known |= found
            servers |= found
        for s in steps:
            check_step(s, servers[s.server])
        check_route(steps, servers)
        return servers

    def find(self, names: list[str], patience: float | None = None) -> dict[str, dict[str, Any]]:
        """What the registry says; a server that is being started again is waited for."""
        end = time.monotonic() + (self.timeout if patience is None else patience)
        while True:
            found = self.ask("lookup", names)
            servers: dict[str, dict[str, Any]] = found["servers"]
            absent = [n for n in names if n not in servers]
            if not absent:
                return servers
            states, left = found["states"], end - time.monotonic()
            if left <= 0 or any(states.get(n) not in COMING for n in absent):
                lost = min(absent, key=lambda n: states.get(n) in COMING)
                raise NotFound(no_server(lost, found["names"], states.get(lost, ""), found["ends"].get(lost, "")))
            limit = min(left, self.timeout)
            self.ask("wait_again", absent, limit, timeout=limit + self.timeout)

    def describe(self, name: str) -> dict[str, Any]:
        """What a server has told of itself; NotFound."""
        server, told = self.find([name])[name], self.ask("docs", name)
        functions = {
            n: {"signature": contracts.abridged(f["text"]), "doc": told["docs"].get(n, "")}
            for n, f in server["functions"].items()
        }
        known = ("name", "template", "module", "class", "host", "pid", "address", "versions")
        return {k: server[k] for k in known} | {"doc": told["doc"], "functions": functions}

    def show_client(self) -> None:
        """Tells the registry that there is this client, so that `palm status` has it: once, and if it can be told."""
        if self._shown or self.is_lost():
            return
        self._shown = True
        pid = os.getpid()
        with contextlib.suppress(PalmError):
            page = core_space.identity()
            client = {"where": places.pid_namespace(), "pid": pid, "began": places.start_time(pid), "page": list(page)}
            self.ask("show", client)

    def wait_for(self, names: Sequence[str], workers: int, timeout: float) -> list[str]:
        """The names that are not there after `timeout` seconds."""
        missing: list[str] = self.ask("wait_for", list(names), workers, timeout, timeout=timeout + self.timeout)
        return missing

    def _link(self, name: str, server: dict[str, Any]) -> int:
        try:
            if pid_here(server):
                link = self._connection.link_to_living(server["address"], server["pid"])
            else:
                link = self._connection.link(server["address"], self.timeout)
        except Disconnected:
            self._known.pop(name, None)
            raise
        self._linked[link] = name  # without the connection's lock: a signal's handler may run here, and come here again
        if self._connection.is_gone(link):  # before it was written down
            self._forget(link)
        return link

    def _forget(self, link: int) -> None:
        """Its successor has another address. Again: without effect."""
        self._known.pop(self._linked.pop(link, ""), None)

    # ---------------------------------------------------------------------------------------------- deaths

    def explain(self, error: BaseException) -> BaseException:
        """Gives a Crashed its reason."""
        if isinstance(error, Crashed) and not error.reason:
            error.reason = self._reason(error.server, error.pid)
            error.args = (f"the process of {error.server!r} is gone: {error.reason}",)
        return error

    def _reason(self, server: str, pid: int) -> str:
        """Why a process died, as its supervisor saw it."""
        end = time.monotonic() + REASON_WAIT
        try:
            while time.monotonic() < end:
                reason: str = self.ask("reason", server, pid, timeout=REASON_WAIT)
                if reason:
                    return reason
                threading.Event().wait(0.05)
        except (Disconnected, Timeout, RemoteError):
            if self.is_closed():
                return "its cluster has ended"
        return "unknown: its supervisor has not told"


def pid_here(server: dict[str, Any]) -> int:
    """Of a server in this pid namespace; 0 of others."""
    return server["pid"] if server["where"] == places.pid_namespace() else 0


def check_step(s: Step, server: Mapping[str, Any]) -> None:
    """That the server has the function, and the function these constants, as its type hints have them; NotFound,
    PayloadError."""
    functions = server["functions"]
    if s.function not in functions:
        raise NotFound(_no_function(s, functions, server["hidden"]))
    constants, text = functions[s.function]["constants"], functions[s.function]["text"]
    for name in s.constants:
        if name not in constants:
            raise PayloadError(f"{s} has no constant {name!r}; its signature is {text}")
    missing = [name for name, has_default in constants.items() if not has_default and name not in s.constants]
    if missing:
        raise PayloadError(
            f"{s} needs the constant{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}: palm.step({str(s)!r}, "
            f"{', '.join(f'{name}=...' for name in missing)}); its signature is {text}"
        )
    if s.constants:
        Fitting(f"{s}{_signature(s, server)}", _contract(s, server), s.constants)


def check_route(steps: Sequence[Step], servers: Mapping[str, Mapping[str, Any]]) -> None:
    """That each step can take what the one before it gives, as far as type hints tell; PayloadError."""
    for giver, taker in itertools.pairwise(steps):
        given, taken = _contract(giver, servers[giver.server]).sent(), _contract(taker, servers[taker.server]).message()
        if found := contracts.misfit(given, taken):
            gives, takes = (f"{s}{_signature(s, servers[s.server])}" for s in (giver, taker))
            raise PayloadError(
                f"{gives} gives {contracts.text(given)}, but the next step, {takes}, takes {contracts.text(taken)}, by "
                f"their type hints: {found.what}. In {giver}, {found.do}; or put a step between them, or correct the "
                "hint that is wrong"
            )


def _signature(s: Step, server: Mapping[str, Any]) -> str:
    return contracts.abridged(server["functions"][s.function]["text"])


def _contract(s: Step, server: Mapping[str, Any]) -> Contract:
    return contracts.read(server["functions"][s.function]["contract"])


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    import difflib  # 1 ms that others need not wait for

    same = [n for n in names if n.lower() == name.lower()]
    near = same or difflib.get_close_matches(name, names, 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def no_server(name: str, names: Iterable[str], state: str, end: str = "") -> str:
    """What to say of a server that is not there, or not running: its state, and how it came to its end."""
    names = sorted(names)
    if state:
        return f"the server {name!r} is not running; its state is: {state}{f' ({end})' if end else ''}"
    there = f"There are: {', '.join(names)}" if names else "There are none: start one with cluster.start"
    return f"there is no server {name!r}.{_did_you_mean(name, names)} {there}"


def _no_function(s: Step, functions: dict[str, Any], hidden: Sequence[str]) -> str:
    there = ", ".join(sorted(functions)) or "none"
    if s.function in hidden:
        return (
            f"{s}: {s.function!r} is a method of the server, but not exposed; put @palm.function before it. "
            f"Exposed are: {there}"
        )
    near = _did_you_mean(s.function, list(functions))
    return f"{s}: the server {s.server!r} has no function {s.function!r}.{near} It has: {there}"
