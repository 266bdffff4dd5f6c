# SPDX-License-Identifier: BSD-3-Clause
"""That somebody in this process waits for room, shown on its page of counters: one wait, the first that began (R19)."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from palm._core import space as core_space

_lock = threading.Lock()
_waits: dict[object, list[str]] = {}  # in the order in which they began


def begin(who: object, servers: Iterable[str]) -> None:
    """`who` waits for room in one of these servers. Again: without effect."""
    with _lock:
        if who not in _waits:
            _waits[who] = list(servers)
            if len(_waits) == 1:
                core_space.wait_begin(_waits[who])


def end(who: object) -> None:
    """Again: without effect."""
    with _lock:
        if who not in _waits:
            return
        shown = next(iter(_waits))
        del _waits[who]
        if shown is not who:
            return
        if _waits:
            core_space.wait_begin(next(iter(_waits.values())))
        else:
            core_space.wait_end()
