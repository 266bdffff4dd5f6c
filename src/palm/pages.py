# SPDX-License-Identifier: BSD-3-Clause
"""What the processes of this host do and have: read off their pages and /proc, so that none of them is asked, or waited
for (DESIGN 5.10).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palm._core import space as core_space

_HEAP = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
UNKNOWN: Mapping[str, Any] = {"counters": {}, "memory": {}, "cpu_seconds": 0.0}  # of a process that cannot be read


def read(page: Sequence[int]) -> dict[str, Any]:
    """A process with its memory.

    Parameters
    ----------
    page : sequence of int
        Its pid, and where the page is (`palm._core.space.identity`).

    Returns
    -------
    dict
        ``counters`` (empty: it cannot be read from here); ``memory`` in bytes: ``arena``, arrays of its own that
        somebody has; ``arena_idle``, kept for the next ones for some seconds; ``mapped``, arrays of others that it has;
        ``heap``, the rest, 0 if that is not known; ``cpu_seconds``; ``suspended``, by a signal.
    """
    try:
        c = core_space.read_counters_of(*page)
    except (OSError, core_space.CoreError):
        return dict(UNKNOWN)
    pid = page[0]
    memory = {
        "arena": c.pop("arena_in_use"),
        "arena_idle": c.pop("arena_idle"),
        "mapped": c.pop("mapped"),
        "heap": _heap(pid),
    }
    letter, cpu_seconds = _of_stat(pid)
    return {"counters": c, "memory": memory, "cpu_seconds": cpu_seconds, "suspended": letter == b"T"}


def _of_stat(pid: int) -> tuple[bytes, float]:
    """Its state, and the seconds that all of its threads have had of cores, in user and kernel mode."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return b"", 0.0
    return after_name[0], (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _heap(pid: int) -> int:
    """Bytes of memory that the process shares with no other."""
    try:
        found = _HEAP.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
