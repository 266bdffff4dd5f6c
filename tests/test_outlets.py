# SPDX-License-Identifier: BSD-3-Clause
"""What goes together when messages leave a server, alone: little shares an envelope, much is not copied, what lends too
much for one envelope goes in two."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import palm
from palm._core import node as core
from palm._core.space import LENT
from palm.assignment import Outlet
from palm.branch import Queued
from palm.branches import Branches
from palm.outlets import LITTLE, Outlets

PARTS = 1024  # arrays that an envelope lends at most


class Wire:
    """As much of `Node` as `Outlets` sends by."""

    def __init__(self) -> None:
        self.sent: list[int] = []  # messages in each envelope

    def send(self, link, kind, handle, hop, batch):
        self.send_kept(link, kind, handle, hop, batch)
        batch.clear()

    def send_kept(self, link, kind, handle, hop, batch):
        self.sent.append(len(batch))


@pytest.fixture
def outlets() -> Outlets:
    return Outlets(Wire(), None)


def batch_of(*values) -> core.Batch:
    batch = core.Batch()
    for i, value in enumerate(values):
        batch.put(value, i)
    return batch


def lending(n: int) -> core.Batch:
    """A message with so many arrays that are not copied."""
    with palm.arena():
        return batch_of([np.zeros(LENT, np.uint8)] * n)


def sent(outlets: Outlets) -> list[int]:
    return outlets._node.sent


def test_little_shares_an_envelope(outlets):
    outlet, kept = Outlet(0, 1, 0), batch_of(*range(LITTLE))
    for _ in range(3):
        outlets.add_kept(outlet, kept)
    assert sent(outlets) == [] and len(kept) == LITTLE
    outlets.flush(outlet)
    assert sent(outlets) == [3 * LITTLE]


def test_what_is_more_goes_by_itself_behind_what_is_there(outlets):
    outlet = Outlet(0, 1, 0)
    outlets.add_kept(outlet, batch_of(1))
    outlets.add_kept(outlet, batch_of(*range(LITTLE + 1)))
    assert sent(outlets) == [1, LITTLE + 1]


def test_a_large_one_is_not_copied(outlets):
    outlet, large = Outlet(0, 1, 0), batch_of(*["x" * 200_000] * 2)  # each lies in the body: larger ones are lent
    outlets.add_kept(outlet, batch_of(1))
    outlets.add_kept(outlet, large)
    assert sent(outlets) == [1, 2] and outlet.batch.size() == 0


def test_what_lends_too_much_for_one_goes_in_two(outlets):
    outlet = Outlet(0, 1, 0)
    few, many = lending(1), lending(PARTS)
    for batch in (few, many, few):
        outlets.add_kept(outlet, batch)
    outlets.flush(outlet)
    assert sent(outlets) == [1, 1, 1]


def test_a_branch_loses_nothing_that_lends_much(outlets):
    waiting = [Queued((i, ()), lending(n)) for i, n in enumerate((1, PARTS, 1))]
    branch = SimpleNamespace(outlet=Outlet(0, 1, 0), next=lambda now: waiting.pop(0) if waiting else None)
    Branches(outlets._node, outlets, None)._send(branch)
    assert sent(outlets) == [1, 1, 1]
