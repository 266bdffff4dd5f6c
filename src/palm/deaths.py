# SPDX-License-Identifier: BSD-3-Clause
"""Why a process of this host died (R9)."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NamedTuple

from palm.units import bytes_text

_CGROUPS = Path("/sys/fs/cgroup")
OUT_OF_MEMORY = "out of memory"


class Memory(NamedTuple):
    """Of a dead process, in bytes; 0: not known."""

    limit: int = 0  # `memory_limit`
    had: int = 0  # of that
    lacked: bool = False  # it died for want of it
    peak: int = 0  # of all its memory, what it shared included


def reason_of(code: int, ooms: OomKills, memory: Memory | None = None) -> str:
    """From what `subprocess.Popen.wait` returns: "exit code 3", "SIGSEGV", "out of memory (limit 4.0 GiB, had 3.9 GiB):
    SIGABRT"."""
    memory, end = memory or Memory(), _end(code)
    if -code == signal.SIGKILL and ooms.is_one():
        return _out_of_memory({"limit": memory.limit, "peak": memory.peak}, end)
    if memory.lacked:
        return _out_of_memory({"limit": memory.limit, "had": memory.had}, end)
    return end


def _end(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _out_of_memory(known: dict[str, int], end: str) -> str:
    details = ", ".join(f"{word} {bytes_text(n)}" for word, n in known.items() if n)
    return f"{OUT_OF_MEMORY} ({details}): {end}" if details else OUT_OF_MEMORY


class OomKills:
    """How many processes the kernel has killed for want of memory in our cgroup, in which our children live.

    It counts before the killed process is dead, and it does not say whom it killed; so a kill is one of these if the
    count has gone up since the last look but one, and not for an earlier death.

    Parameters
    ----------
    path : Path, optional
        The file with a line ``oom_kill N``; None: that of this process's memory cgroup. Without one, none is known.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or _counter_of_this_process()
        self._before = self._last = self._read()

    def look(self) -> None:
        """To be called every second or so; what was counted before the last look is nobody's any more."""
        self._before, self._last = max(self._before, self._last), self._read()

    def is_one(self) -> bool:
        """True if a process that has just died by SIGKILL is likely to be one of those."""
        if self._read() <= self._before:
            return False
        self._before += 1
        return True

    def _read(self) -> int:
        return 0 if self._path is None else _count(self._path)


def _count(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(n) for key, _, n in (line.partition(" ") for line in lines) if key == "oom_kill"), 0)


def _counter_of_this_process() -> Path | None:
    return next((p for p in _counters() if p.exists()), None)


def _counters() -> list[Path]:
    """Where the count may be, cgroups of version 1 and 2. In a container what is mounted may be our own cgroup,
    whatever its path is outside."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if "memory" in controllers.split(","):
            found += [_CGROUPS / "memory" / p / "memory.oom_control" for p in (path.strip("/"), ".")]
        elif not controllers:
            found += [_CGROUPS / p / "memory.events" for p in (path.strip("/"), ".")]
    return found
