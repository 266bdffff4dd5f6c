# SPDX-License-Identifier: BSD-3-Clause
"""Before a run: by which ways the messages of a route will go, from process to process, and what is copied on them.

Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palm import contracts
from palm.step import Step

_GIVE_BACK = ("ScatterGather", "Reduce")  # templates whose workers give what they make to their leader


@dataclass(frozen=True)
class Process:
    """As far as it matters for ways.

    Attributes
    ----------
    where : bytes
        Of a host, and of its namespace of pids.
    arena : bool
        It has shared memory.
    link : str
        $PALM_LINK of the process.
    """

    name: str
    host: str
    where: bytes
    arena: bool = True
    link: str = ""


@dataclass(frozen=True)
class Hop:
    """From one process to the next.

    Attributes
    ----------
    by : str
        What carries the envelopes.
    arrays : str
        What becomes of large arrays.
    copies : int
        Of such an array, on this hop.
    carries : str
        The messages, by the type hints of both sides.
    """

    giver: str
    taker: str
    host: str
    by: str
    arrays: str
    copies: int
    carries: str


def process_of(server: Mapping[str, Any], name: str = "") -> Process:
    """From what the registry knows of it."""
    return Process(name or server["name"], server["host"], server["where"], server["arena"], server["link"])


def hops(
    steps: Sequence[Step], servers: Mapping[str, Mapping[str, Any]], workers: Mapping[str, int], client: Process
) -> list[Hop]:
    """The ways of a job's messages, in their order.

    Parameters
    ----------
    steps : sequence of Step
    servers : mapping
        What the registry knows of their servers, by name.
    workers : mapping
        How many workers those have that lead some.
    client : Process
        Who submits the job.
    """
    found: list[Hop] = []
    giver, given = client, contracts.Contract().gives
    for s in steps:
        server = servers[s.server]
        contract = contracts.read(server["functions"][s.function]["contract"])
        leader = process_of(server)
        found.append(hop(giver, leader, _carries(given, contract.message())))
        giver = leader
        if server["leads"]:
            n = workers.get(s.server, 0)
            crew = process_of(server, f"{s.server}: {n} worker{'s' * (n != 1)}")
            found.append(hop(leader, crew, _carries((), contract.message())))
            if server["template"] in _GIVE_BACK:
                found.append(hop(crew, leader, _carries(contract.sent(), ())))
            else:
                giver = crew
        given = contract.sent()
    return [*found, hop(giver, client, _carries(given, ()))]


def _carries(given: contracts.Hint, taken: contracts.Hint) -> str:
    words = dict.fromkeys(contracts.text(hint) for hint in (given, taken) if hint)
    return " as ".join(words) or "anything"


def hop(giver: Process, taker: Process, carries: str) -> Hop:
    """The way from one process to another."""
    is_here = giver.where == taker.where
    links = (giver.link, taker.link)
    names = (giver.name, taker.name, f"here, {giver.host}" if is_here else f"{giver.host} to {taker.host}")
    if not is_here:
        return Hop(*names, "TCP", "frames, through the network", 2, carries)
    if "frames" in links or not (giver.arena and taker.arena):
        return Hop(*names, "socket", "frames, through the socket", 2, carries)
    by = "socket" if "sockets" in links else "ring in shared memory"
    return Hop(*names, by, "shared memory, as they lie", 0, carries)
