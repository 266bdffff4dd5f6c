# SPDX-License-Identifier: BSD-3-Clause
"""What a server is started with: the arguments of `Cluster.start`, and what a cluster.toml says beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from palm import places
from palm.restarts import Policy
from palm.template import Server


class Spec(NamedTuple):
    """A server, as who starts it describes it: arguments of `Cluster.start`."""

    template: type[Server] | str
    name: str | None  # None: the class's
    workers: int
    setup: Mapping[str, Any]
    cores: int | None
    memory: str | None
    env: Mapping[str, str]


class Options(msgspec.Struct, frozen=True):
    """Of one server."""

    cache: int = 0  # bytes that its cache may take; 0: the default
    cache_file: str = ""  # where its cache is too; empty: nowhere
    restart: Policy = Policy()
    memory_limit: int = 0  # bytes of private memory of each process; 0: as many as there are
    cpus: tuple[int, ...] = ()  # on which its processes run; none: on all


class Prepared:
    """Those of the servers of a cluster, by name.

    Parameters
    ----------
    directory : Path
        Of the cluster; says to the process of the caches which of them are in files.
    look : callable
        Called with a server's name, when its cache has to be read anew from its file; returns what is wrong with it.
    """

    def __init__(self, directory: Path, look: Callable[[str], str]) -> None:
        self._directory, self._look = directory, look
        self._options: dict[str, Options] = {}

    def of(self, name: str) -> Options:
        return self._options.get(name, Options())

    def set(self, name: str, options: Options) -> None:
        """From now on a server of this name is started so. OSError if its cache cannot be had from the file: then all
        is as it was."""
        before = self.of(name)
        if wrong := self._put(name, options):
            self._put(name, before)
            raise OSError(wrong)

    def _put(self, name: str, options: Options) -> str:
        """Returns what is wrong."""
        self._options[name] = options
        return self._look(name) if self._tell() else ""

    def forget(self, name: str) -> None:
        """It was stopped."""
        if self._options.pop(name, None) is not None:
            self._tell()

    def _tell(self) -> bool:
        """False: the same caches are in the same files as before."""
        files = {name: (o.cache_file, o.cache) for name, o in self._options.items() if o.cache_file}
        if files == places.cache_files(self._directory):
            return False
        places.set_cache_files(self._directory, files)
        return True
