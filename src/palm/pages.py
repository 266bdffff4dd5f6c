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

_STATUS = re.compile(r"^(RssAnon|Cpus_allowed_list):\s+(\S+)", re.MULTILINE)
# of a process that cannot be read
UNKNOWN: Mapping[str, Any] = {"counters": {}, "memory": {}, "cpu_seconds": 0.0, "cpus": ""}


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
        ``heap``, the rest, 0 if that is not known; ``limit``, its bound, if it has one; ``cpu_seconds``; ``cpus``, on
        which it may run, as ``"0-3,8"``; ``suspended``, by a signal.
    """
    try:
        c = core_space.read_counters_of(*page)
    except (OSError, core_space.CoreError):
        return dict(UNKNOWN)
    pid = page[0]
    status, limit = _status(pid), c.pop("memory_limit")
    memory = {
        "arena": c.pop("arena_in_use"),
        "arena_idle": c.pop("arena_idle"),
        "mapped": c.pop("mapped"),
        "heap": int(status.get("RssAnon", 0)) * 1024,
        **({"limit": limit} if limit else {}),
    }
    letter, cpu_seconds = _of_stat(pid)
    told = {"counters": c, "memory": memory, "cpu_seconds": cpu_seconds}
    return told | {"cpus": status.get("Cpus_allowed_list", ""), "suspended": letter == b"T"}


def _of_stat(pid: int) -> tuple[bytes, float]:
    """Its state, and the seconds that all of its threads have had of cores, in user and kernel mode."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return b"", 0.0
    return after_name[0], (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int) -> dict[str, str]:
    """RssAnon: kB of memory that the process shares with no other; and its CPUs."""
    try:
        return dict(_STATUS.findall(Path(f"/proc/{pid}/status").read_text()))
    except OSError:
        return {}
