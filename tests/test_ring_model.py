# SPDX-License-Identifier: BSD-3-Clause
"""No wake-up is lost: all interleavings of the accesses in csrc/src/ring.c and node.c, by two senders and a receiver.

A sender may be killed between any two. All words that they share are sequentially consistent there, so the order of
accesses is all there is. A search that cannot fail shows nothing: there are five protocols that it has to find fault
with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

SENT = 2  # envelopes by each sender
SENDERS = (0, 1)
CALL = ["is it marked", "mark", "does it sleep", "write"]
PROGRAM = {"": ["put", *CALL]}
PROGRAM["looks before it marks"] = ["put", *CALL[2:], *CALL[:2]]
PROGRAM["marks before it puts"] = [*CALL[:2], "put", *CALL[2:]]
PROGRAM["one wakes for all"] = ["put", *CALL[:2], "take its sleep", "write"]


@dataclass(frozen=True)
class State:
    head: tuple[int, int] = (0, 0)
    tail: tuple[int, int] = (0, 0)
    marked: frozenset[int] = frozenset()
    sleeping: bool = False
    woken: frozenset[int] = frozenset()  # senders that have woken it from this sleep; in ring.c sleeps are numbered
    pipe: bool = False
    stopped: frozenset[int] = frozenset()  # senders that go on no more, and nobody knows
    dead: frozenset[int] = frozenset()  # senders of whose death the kernel has told, which wakes as the pipe does
    at: tuple[int, int] = (0, 0)  # accesses of each sender so far, those left out included
    receiver: str = "collect"
    found: frozenset[int] = frozenset()  # marked rings that the receiver has collected


def changed(values: tuple[int, int], i: int, by: int) -> tuple[int, int]:
    a, b = values
    return (a + by, b) if i == 0 else (a, b + by)


def send(s: State, me: int, program: list[str]) -> State | None:
    """The next access of a sender; None: it is done, or dead."""
    if s.at[me] >= SENT * len(program):
        return None
    step, skip = program[s.at[me] % len(program)], 1
    words: dict[str, object] = {}
    if step == "put":
        words["head"] = changed(s.head, me, 1)
    elif step == "is it marked":
        skip = 2 if me in s.marked else 1
    elif step == "mark":
        words["marked"] = s.marked | {me}
    elif step == "does it sleep":
        skip = 1 if s.sleeping and me not in s.woken else 2
        words["woken"] = s.woken | {me} if s.sleeping else s.woken
    elif step == "take its sleep":  # then nobody else wakes it
        skip = 1 if s.sleeping else 2
        words["sleeping"] = False
    elif step == "write":
        words["pipe"] = True
    return replace(s, at=changed(s.at, me, skip), **words)


def receive(s: State, looks_again: bool) -> State | None:
    """The next access of the receiver; None: it sleeps."""
    if s.receiver == "collect":
        found = s.found | s.marked
        return replace(s, found=found, marked=frozenset(), receiver="read" if found else "lie down")
    if s.receiver == "read":
        ring = min(s.found)
        if s.tail[ring] < s.head[ring]:
            return replace(s, tail=changed(s.tail, ring, 1))
        return replace(s, found=s.found - {ring}, receiver="read" if s.found - {ring} else "collect")
    if s.receiver == "lie down":
        return replace(s, sleeping=True, woken=frozenset(), receiver="look again" if looks_again else "sleep")
    if s.receiver == "look again":
        return replace(s, receiver="rise" if s.marked else "sleep")
    if s.receiver == "rise":
        return replace(s, sleeping=False, woken=frozenset(), receiver="collect")
    if s.pipe or s.dead:  # the ring of who has died is read, marked or not
        return replace(s, pipe=False, found=s.found | s.dead, dead=frozenset(), receiver="rise")
    return None


def next_states(s: State, broken: str, ends: str) -> Iterator[State]:
    program = PROGRAM.get(broken, PROGRAM[""])
    received = receive(s, broken != "does not look again")
    if received is not None:
        yield received
    for me in SENDERS:
        sent = send(s, me, program)
        if sent is not None:
            yield sent
        end = changed(s.at, me, SENT * len(program))
        if sent is not None and ends == "deaths":
            yield replace(s, at=end, dead=s.dead if broken == "nobody tells of deaths" else s.dead | {me})
        if sent is not None and ends == "stops":
            yield replace(s, at=end, stopped=s.stopped | {me})


def search(broken: str = "", ends: str = "") -> tuple[int, list[State]]:
    """How many states there are, and those in which the receiver sleeps for ever while something lies in a ring.

    `ends`: senders may end before they are done, by "deaths" or by "stops", of which nobody is told; then what they
    have put themselves may stay.
    """
    seen, to_do, lost = {State()}, [State()], []
    while to_do:
        s = to_do.pop()
        after = set(next_states(s, broken, ends))
        if not after and any(s.head[n] != s.tail[n] for n in SENDERS if n not in s.stopped):
            lost.append(s)
        to_do += after - seen
        seen |= after
    return len(seen), lost


@pytest.mark.parametrize("ends", ["", "deaths", "stops"])
def test_no_wake_up_is_lost(ends: str) -> None:
    states, lost = search(ends=ends)
    assert states > 10_000
    assert not lost, lost[0]


@pytest.mark.parametrize(
    ("broken", "ends"),
    [
        ("does not look again", ""),
        ("looks before it marks", ""),
        ("marks before it puts", ""),
        ("nobody tells of deaths", "deaths"),
        ("one wakes for all", "stops"),
    ],
)
def test_the_search_finds(broken: str, ends: str) -> None:
    assert search(broken, ends)[1]
