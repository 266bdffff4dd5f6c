# SPDX-License-Identifier: BSD-3-Clause
"""The server that knows the others (DESIGN 5.9). It holds no message of any job."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palm import places
from palm.directory import COMING
from palm.machine_server import MachineServer
from palm.own_names import CACHE, MACHINE, REGISTRY, is_own
from palm.store import Store
from palm.template import function
from palm.tenure import LINGER
from palm.vacancies import Holder, Vacancies

_REASONS = 4096  # deaths that are remembered
BLIND = 30.0  # seconds that one that was started again waits for its supervisor to tell whom it has
_NOWHERE: dict[str, Any] = {"where": b"", "page": [0, 0, 0, 0]}
JOINING = 1.0  # seconds in which others that have joined its predecessor join it too


class Registry(MachineServer):
    """Names, addresses, functions; a process of its own, supervised by whoever started the cluster. Answers for the
    host where that is."""

    def setup(self, cluster: str, address: str, log: str, again: bool = False, store: str = "") -> None:
        """log: where its files are. again: there has been another one before, and those who have joined that one do not
        know it yet. store: the file in which it has left what it knew."""
        self.cluster, self.address, self._log_files = cluster, address, Path(log)
        self._began = time.monotonic()
        kinds = ("known", "reasons", "states", "clients", "ends", "numbers", "hosts")
        self._store = Store(Path(store) if store else None, kinds, again)
        is_blind = again and not self._store.is_restored  # then who is not known may be on its way
        self._blind_until = self._began + (BLIND if is_blind else 0.0)
        self.known = self._store["known"]  # by name: what a server has told of itself
        self.reasons = self._store["reasons"]  # of deaths, by name and pid
        self.states = self._store["states"]  # of those that are not there
        self.clients = self._store["clients"]  # those that have waited for room
        self.ends = self._store["ends"]  # why they are not
        self._hosts = self._store["hosts"]  # that have joined: host and place, by the name of what answers for them
        if not self._store.is_restored:
            self.states[CACHE] = "restarting"  # who starts us starts that
        self._vacancies = Vacancies(_lives, self._store["numbers"])
        self._awaited: dict[str, float] = {}  # servers of workers that nobody watches, which have died; until when

    def teardown(self) -> None:
        self._store.close()

    @function
    def join(self, server: dict[str, Any]) -> str:
        """A server is ready, or tells so again to a registry that has been restarted."""
        old = self._alive().get(server["name"])
        if old is not None and (old["where"], old["pid"]) != (server["where"], server["pid"]):
            return (
                f"there is a running server {server['name']!r} (pid {old['pid']} on {old['host']}); only a parallel "
                "template can be served by several processes: as a palm.Butterfly, with nothing else changed, it can"
            )
        if server["worker"] is None and not server["leads"] and self._has_guests(server["name"]):
            return f"there are workers of a parallel server {server['name']!r}: give another name"
        self._vacancies.filled(server["name"])
        server["client"] = self.message.client
        self.known[server["name"]] = server
        self.states.pop(server["name"], None)
        if server["name"].startswith(MACHINE):
            self._note_machine(server)
        self._store.commit()
        return ""

    @function
    def started(self, names: list[str]) -> bool:
        """The supervisor tells a registry that was started again whom it has: those not there are on their way."""
        self._blind_until = min(self._blind_until, self._began + JOINING)
        for name in names:
            if name not in self.known:
                self.states.setdefault(name, "restarting")
        self._store.commit()
        return True

    @function
    def reserve(self, name: str, count: int, holder: Holder) -> Iterator[int]:
        """Yields numbers for new workers of a server, which nobody else gets."""
        while time.monotonic() < self._blind_until:
            yield None  # type: ignore[misc]  # others have their turn
            time.sleep(0.005)
        numbers = self._vacancies.reserve(name, count, holder, {*self._alive(), *self.states})
        self._store.commit()
        yield from numbers

    @function
    def lead(self, name: str, holder: Holder) -> bool:
        """A worker that nobody watches asks whether to start a leader: there is none, and nobody else does."""
        if name in self._alive() or self._is_started_again(name):
            return False
        return self._vacancies.claim(name, holder, time.monotonic())

    @function
    def left(self, name: str, pid: int, reason: str, state: str) -> bool:
        """A server is gone; `state`: "removed", or, if it is still shown, "restarting", "failed" or "stopped"."""
        self._alive()  # its workers that have died are not found later, and waited for anew
        self._note(name, pid, reason)
        if name in self.known and self.known[name]["pid"] == pid:
            del self.known[name]
        self._vacancies.filled(name)
        self._awaited.pop(name, None)
        if state == "removed":
            self._forget(name)
        elif name not in self.known:
            self.states[name], self.ends[name] = state, reason
        self._store.commit()
        return True

    def note_gone(self, clients: list[str]) -> None:
        """Nothing is heard any more from who has received there. Of one on another host that is all that can be known,
        until it joins again, or its supervisor tells what has become of it."""
        for name, s in list(self.known.items()):
            if s["client"] in clients and not _is_here(s):
                del self.known[name]
                self.states[name], self.ends[name] = "unreachable", f"{s['host']} is not heard any more"
        self._store.commit()

    def _note_machine(self, server: dict[str, Any]) -> None:
        """Under another name it may have been here, and been cut off or killed as a whole."""
        gone = [n for n, h in self._hosts.items() if h["host"] == server["host"] and n not in self.known]
        for name in [n for n in gone if self.states.get(n) == "unreachable"]:
            self._forget(name)
        self._hosts[server["name"]] = {key: server[key] for key in ("name", "host", "where")}

    def _forget(self, name: str) -> None:
        """One that is not there is shown no more."""
        for of_it in (self.states, self.ends, self._hosts):
            of_it.pop(name, None)

    def _note(self, name: str, pid: int, reason: str) -> None:
        self.reasons[name, pid] = reason
        while len(self.reasons) > _REASONS:
            del self.reasons[next(iter(self.reasons))]

    @function
    def reason(self, name: str, pid: int) -> str:
        """Why a process of this server died; empty if nobody has told."""
        self._alive()
        return str(self.reasons.get((name, pid), ""))

    @function
    def show(self, client: dict[str, Any]) -> bool:
        """A client has waited for room: its page says whether it does."""
        self.clients[client["where"], client["pid"]] = client
        self._store.commit()
        return True

    @function
    def lookup(self, names: list[str]) -> dict[str, Any]:
        alive = self._alive()
        states = {n: state for n, state in self.states.items() if not is_own(n) or n in names}
        return {
            "servers": {n: _without_docs(alive[n]) for n in names if n in alive},
            "names": sorted({*(n for n in alive if not _is_worker(n)), *self._absent()}),
            "states": states | {n: "restarting" for n in names if self._is_coming(n)},
            "ends": {n: self.ends[n] for n in self.states if n in self.ends},
        }

    @function
    def docs(self, name: str) -> dict[str, Any]:
        """Docstrings of a server and its functions; none if it is not there."""
        server = self._alive().get(name, {})
        return {"doc": server.get("doc", ""), "docs": server.get("docs", {})}

    @function
    def servers(self) -> list[dict[str, Any]]:
        return [s for n, s in self._alive().items() if not _is_worker(n)]

    @function
    def wait_for(self, names: list[str], workers: int, timeout: float) -> Iterator[str]:
        """Yields the names that are still missing when all are there or the time is over."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and any(self._workers_of(n) < workers for n in names):
            yield None  # type: ignore[misc]  # others have their turn
            time.sleep(0.005)
        yield from (n for n in names if self._workers_of(n) < workers)

    def _workers_of(self, name: str) -> int:
        """How many processes run its functions."""
        alive = self._alive()
        server = alive.get(name)
        if server is None:
            return 0
        return sum(_is_worker(n, name) for n in alive) if server["leads"] else 1

    @function
    def wait_again(self, names: list[str], timeout: float) -> Iterator[str]:
        """Yields nothing, when these servers are there again, or are not being started again, or the time is over."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and any(self._is_coming(n) for n in names):
            yield None  # type: ignore[misc]  # others have their turn
            time.sleep(0.002)

    @function
    def status(self) -> dict[str, Any]:
        alive = self._alive()
        servers = [
            {
                "name": s["name"],
                "template": s["template"],
                "state": "running",
                "host": s["host"],
                "pid": s["pid"],
                "address": s["address"],
                "functions": sorted(s["functions"]),
                "leads": s["leads"],
                "workers": self._crew(s, alive),
                "where": s["where"],
                "page": s["page"],
            }
            for n, s in alive.items()
            if not _is_worker(n)
        ]
        servers += [
            {
                "name": n,
                "template": "",
                "state": state,
                "host": "",
                "pid": 0,
                "address": "",
                "functions": [],
                "leads": bool(workers := self._workers(n, alive)),
                "workers": workers,
                **_NOWHERE,
                "reason": self.ends.get(n, ""),
            }
            for n, state in self._absent().items()
        ]
        return {
            "cluster": self.cluster,
            "registry": {"pid": os.getpid(), "address": self.address, "state": "running"},
            "servers": sorted(servers, key=lambda s: str(s["name"])),
            "clients": [{k: c[k] for k in ("pid", "where", "page")} for c in self._clients_alive()],
            "hosts": self.hosts(),
        }

    @function
    def hosts(self) -> list[dict[str, Any]]:
        """What answers for them (`MachineServer`): this registry, and a server on each that has joined."""
        here: dict[str, Any] = {"name": REGISTRY, "host": socket.gethostname(), "where": places.pid_namespace()}
        here |= {"address": self.address, "pid": os.getpid(), "state": "running"}
        return [here, *(h | self._of_host(n) for n, h in self._hosts.items())]

    def _of_host(self, name: str) -> dict[str, Any]:
        server = self._alive().get(name)
        if server is None:
            return {"address": "", "pid": 0, "state": self.states.get(name, "unreachable")}
        return {"address": server["address"], "pid": server["pid"], "state": "running"}

    def _crew(self, server: dict[str, Any], alive: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """The processes that run its functions: itself, or its workers."""
        return self._workers(server["name"], alive) if server["leads"] else [_worker(0, server)]

    def _workers(self, of: str, alive: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
        numbers = sorted(int(n.rpartition("/")[2]) for n in {*alive, *self.states} if _is_worker(n, of))
        return [
            _worker(i, w)
            if (w := alive.get(n := f"{of}/{i}")) is not None
            else {
                "number": i,
                "pid": 0,
                "host": "",
                "state": self.states[n],
                **_NOWHERE,
                "reason": self.ends.get(n, ""),
            }
            for i in numbers
        ]

    def _absent(self) -> dict[str, str]:
        """The states of servers that are not there."""
        led = {n.partition("/")[0] for n, s in self.known.items() if _is_guest(s)}
        states = {n: state for n, state in self.states.items() if not _is_worker(n)}
        states |= {n: "restarting" for n in {*led, *self._awaited} if self._is_led_again(n)}
        return {n: state for n, state in states.items() if n not in self.known}

    def _clients_alive(self) -> list[dict[str, Any]]:
        for key, client in list(self.clients.items()):
            if not _lives(client):
                del self.clients[key]
        return list(self.clients.values())

    def _is_coming(self, name: str) -> bool:
        """It is not there, but will be: it is being started again, or this registry is too young to know it."""
        return name not in self._alive() and (self._is_started_again(name) or self._is_led_again(name))

    def _is_led_again(self, name: str) -> bool:
        """It has workers one of which starts a leader, or such may come."""
        return self._has_guests(name) or time.monotonic() < self._awaited.get(name, 0.0)

    def _has_guests(self, name: str) -> bool:
        """Workers that nobody watches, one of which starts a leader."""
        return any(_is_guest(s) and _is_worker(n, name) for n, s in self._alive().items())

    def _is_started_again(self, name: str) -> bool:
        unknown = name not in self.states and time.monotonic() < self._blind_until
        return unknown or self.states.get(name) in COMING

    def _alive(self) -> Mapping[str, dict[str, Any]]:
        """Those known, without the dead of this host. The supervisor of a dead one will tell what becomes of it."""
        for name, s in list(self.known.items()):
            if not _lives(s):
                del self.known[name]
                if s["supervised"]:
                    self.states.setdefault(name, "restarting")
                else:
                    if s["leads"] or _is_guest(s):
                        self._awaited[name.partition("/")[0]] = time.monotonic() + LINGER
                    self._note(name, s["pid"], "nobody has watched it; its standard error may say more (palm.serve)")
        return self.known


def _worker(number: int, server: dict[str, Any]) -> dict[str, Any]:
    """As the status has it."""
    return {"number": number, "state": "running", **{key: server[key] for key in ("pid", "host", "where", "page")}}


def _without_docs(server: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in server.items() if k not in ("doc", "docs")}


def _lives(process: dict[str, Any]) -> bool:
    """As far as that can be seen from here."""
    return not _is_here(process) or places.start_time(process["pid"]) == process["began"]


def _is_here(process: dict[str, Any]) -> bool:
    here: bool = process["where"] == places.pid_namespace()
    return here


def _is_guest(server: dict[str, Any]) -> bool:
    """A worker that nobody watches."""
    return server["worker"] is not None and not server["supervised"]


def _is_worker(name: str, of: str | None = None) -> bool:
    """Of this server, or of any; users do not call it. So it is with PALM's own that are no registry."""
    server, slash, _ = name.partition("/")
    return bool(slash) and of in (None, server)
