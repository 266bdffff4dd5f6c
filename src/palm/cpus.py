# SPDX-License-Identifier: BSD-3-Clause
"""On which CPUs processes run: lists of them as text, who gets which, and that a process keeps to its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from palm.errors import ConfigError

_NUMBER = "[0-9]{1,4}"
_RANGE = rf"\s*{_NUMBER}(-{_NUMBER}(:[1-9][0-9]{{0,3}})?)?\s*"
LIST = rf"{_RANGE}(,{_RANGE})*"  # as taskset, numactl and cpusets have it
_PARTS = re.compile(rf"\s*({_NUMBER})(?:-({_NUMBER})(?::([1-9][0-9]{{0,3}}))?)?\s*")


def parse(said: str) -> tuple[int, ...]:
    """``"0-3,8"`` are CPUs 0, 1, 2, 3 and 8; ``"0-6:2"`` is every second one. ValueError if it is no such list."""
    found: set[int] = set()
    for part in said.split(","):
        if (match := _PARTS.fullmatch(part)) is None:
            raise ValueError(f'{said!r} is no list of CPUs: write it as "0-3,8"')
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(f'{part.strip()!r} in {said!r} goes backwards: write "{last}-{first}"')
        found.update(range(first, last + 1, int(match[3] or 1)))
    return tuple(sorted(found))


def text(cpus: Iterable[int]) -> str:
    """``"0-3,8"``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def check_allowed(cpus: Iterable[int]) -> None:
    """ValueError if this process, and so a child of it, may not run on all of these."""
    allowed = os.sched_getaffinity(0)
    if missing := set(cpus) - allowed:
        raise ValueError(f"there is no CPU {text(missing)} for this process, which may use {text(allowed)}")


def shares(cpus: Sequence[int], each: int, workers: int) -> list[tuple[int, ...]]:
    """Worker n gets the share n; beyond the last, the first again. each: how many CPUs a worker is to have. Where there
    are not enough for all of them, there is one share, which is everybody's."""
    if each < 1 or each * workers > len(cpus):
        return [tuple(cpus)]
    return [tuple(cpus[i : i + each]) for i in range(0, len(cpus) - each + 1, each)]


def keep_to(cpus: Iterable[int]) -> None:
    """All threads of this process, those too that BLAS has started already; others inherit it. No CPUs: as it is.
    ConfigError if they are not there any more."""
    if not (cpus := tuple(cpus)):
        return
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread), cpus)
        except ProcessLookupError:
            pass  # it has ended meanwhile
        except OSError as e:
            raise ConfigError(f"cpus = {text(cpus)!r}: the process may not run there: {e.strerror}") from None
