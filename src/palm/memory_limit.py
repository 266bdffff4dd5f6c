# SPDX-License-Identifier: BSD-3-Clause
"""The bound of this process's private memory (`memory_limit`). Beyond it an allocation fails, not the process.

The kernel counts what is asked for, not what is touched. So what was reserved and not touched when the limit began
(stacks of threads, buffers of BLAS) is added to it, as are PALM's own tables (`csrc/src/memory_limit.c`): the limit is
of what can be seen as memory of the process, nearly.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from palm._core import space as core_space
from palm.errors import ConfigError
from palm.units import bytes_text

MIB = 1 << 20
LEAST = 16 * MIB  # left for `setup` and functions when the limit begins
OURS = 24 * MIB  # threads that PALM starts later: mostly stacks, of which hardly anything is touched

_NUMBERS = re.compile(r"^(VmData|RssAnon):\s+(\d+) kB", re.MULTILINE)

_server, _limit = "", 0  # of this process; 0: there is none
_telling = _told = False
_had = 0  # when somebody began to tell


def begin(server: str, limit: int) -> None:
    """From now on this process has no more than `limit` bytes; 0: as many as there are. Again: what was reserved since
    does not count either. ConfigError if it has more already than leaves something for its work."""
    global _server, _limit
    if not limit:
        return
    data, touched = _memory()
    if touched + LEAST > limit:
        least = math.ceil((touched + LEAST) / MIB)
        raise ConfigError(
            f"memory_limit = {bytes_text(limit)} of {server!r} is too small: before its setup it has "
            f"{bytes_text(touched)}, with Python and the modules it imports; give it {least} MiB or more"
        )
    if not _limit:  # a fork copies what it shared; and what it does is not our work
        os.register_at_fork(before=core_space.memory_room, after_in_parent=lambda: core_space.memory_room(0))
    _server, _limit = server, limit
    core_space.limit_memory(limit, max(0, data - touched) + OURS)


def watch() -> None:
    """And it is seen from outside, when the process has died too."""
    if _limit:
        core_space.watch_memory(_limit)


def advice(error: BaseException) -> str:
    """What to say of an error besides; "": it has nothing to do with the limit."""
    if not _limit or not isinstance(error, MemoryError):
        return ""
    had = _had if _telling else core_space.memory_had()
    return (
        f"the memory_limit of {_server!r} is {bytes_text(_limit)}, of which it had {bytes_text(had)}: "
        "raise memory_limit, make messages smaller, or spread them over more hosts"
    )


@contextlib.contextmanager
def room_to_tell(error: BaseException) -> Iterator[None]:
    """No limit for those who tell that it was reached, while all that the function had is still there: they make a
    capsule of the message, and much of what encodes it crashes where it gets no memory."""
    global _telling, _told, _had
    if not _limit or _telling or not isinstance(error, MemoryError):
        yield
        return
    _telling, _had = True, core_space.memory_had()
    core_space.memory_room()
    try:
        yield
    finally:
        core_space.memory_room(0)
        _telling, _told = False, True


def settle() -> None:
    """After somebody was told, and all that the function had is gone: what malloc keeps of it, in pieces, is reserved
    and not touched from now on. Else PALM's threads would get nothing. But functions may have these pieces again: so
    that the process does not grow each time, no more of them counts as reserved than the limit allows anew."""
    global _told
    if not _told:
        return
    _told = False
    core_space.trim_memory()
    data, touched = _memory()
    core_space.keep_memory(max(0, data - touched) + OURS, _limit)


def note_end(error: BaseException) -> None:
    """The process ends of this error."""
    if _limit and isinstance(error, MemoryError):
        core_space.ended_for_want_of_memory()


def _memory() -> tuple[int, int]:
    """What the kernel counts, and what of the process's private memory is there in fact."""
    found = {name: int(n) * 1024 for name, n in _NUMBERS.findall(Path("/proc/self/status").read_text())}
    return found["VmData"], found["RssAnon"]
