# SPDX-License-Identifier: BSD-3-Clause
"""Answers for a machine, which users call a host: what its processes do, by their pages, and what its log has. It runs
no function of a user's.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from palm import log_files, pages
from palm.log_record import Wanted
from palm.template import Server, function


class MachineServer(Server):
    """A process on each machine of a cluster, which clients ask by `palm.machines`.

    Attributes
    ----------
    _log_files : Path
        Where the files are of what the processes say that are supervised there.
    """

    _log_files: Path

    @function
    def processes(self, wanted: Any) -> dict[str, Any]:
        """What stands on these pages, in their order (`pages.read`); ``now_ns``, CLOCK_MONOTONIC of this machine;
        ``cores``, which PALM may use here."""
        found = [pages.read(page) for page in wanted]
        return {"processes": found, "now_ns": time.monotonic_ns(), "cores": len(os.sched_getaffinity(0))}

    @function
    def log_names(self) -> dict[str, Any]:
        """Of the processes that have said anything; and where the files are."""
        return {"names": log_files.names(self._log_files), "path": str(self._log_files)}

    @function
    def log_on(self, cursor: str, wanted: tuple[str, str, int]) -> tuple[Any, ...]:
        """A look at the log from the cursor on (`log_files.look_on`)."""
        return tuple(log_files.look_on(self._log_files, _text(cursor), _wanted(wanted)))

    @function
    def log_back(self, cursor: str, wanted: tuple[str, str, int], most: int) -> tuple[Any, ...]:
        """A look at what is before it."""
        if type(most) is not int or most < 1:
            raise ValueError("a look finds a natural number of records at most")
        return tuple(log_files.look_back(self._log_files, _text(cursor), _wanted(wanted), most))


class JoinedMachine(MachineServer):
    """Of a machine that has joined; supervised by who has done that."""

    def setup(self, log: str) -> None:
        """log: where the files are."""
        self._log_files = Path(log)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("a cursor is a text")
    return value


def _wanted(value: Any) -> Wanted:
    """Of server, job and level."""
    if type(value) is not tuple or [type(v) for v in value] != [str, str, int]:
        raise TypeError("who asks for records names a server, a job and a level")
    return Wanted(*value)
