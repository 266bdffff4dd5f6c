# SPDX-License-Identifier: BSD-3-Clause
"""The server that has the caches of all others (docs/decisions/cache.md). It runs no function of a user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palm import places
from palm._core import space
from palm.shelf import Shelf
from palm.template import Server, function

WITHOUT_ARENA = 1 << 30  # bytes of all caches where nobody can say how much memory there is


class CacheServer(Server):
    """A process of its own in each cluster, supervised by whoever started that.

    Parameters
    ----------
    directory : str
        Of the cluster; its owner says there which caches are in files (`places.cache_files`). Nobody else can.
    """

    def setup(self, directory: str) -> None:
        self._directory = Path(directory)
        # beside what is kept, there is what others still read of what has gone
        self._shelf = Shelf(space.stats()["arena_bound"] // 2 or WITHOUT_ARENA)
        self._shelf.keep(places.cache_files(self._directory))

    def teardown(self) -> None:
        self._shelf.close()

    @function
    def ask(self, server: Any, bound: Any, operation: Any, values: Any) -> tuple[str, Any]:
        """(name of an exception or "", answer): who asks may ask for what is not there, or be anybody."""
        try:
            with space.arena():  # what is kept is lent as it lies, again and again: nobody writes to it
                return "", self._shelf.do(server, bound, operation, values)
        except KeyError as e:
            return "KeyError", e.args[0]
        except MemoryError as e:
            return "MemoryError", str(e)
        except (OverflowError, ValueError) as e:
            return "ValueError", str(e)
        except TypeError as e:
            return "TypeError", str(e)
        except OSError as e:
            return "OSError", str(e)

    @function
    def look(self, server: Any) -> str:
        """The owner has said anew which caches are in files, and that of this server has to be read; returns what is
        wrong with it."""
        self._shelf.keep(places.cache_files(self._directory))
        try:
            with space.arena():
                self._shelf.open(server)
        except (OSError, MemoryError, ValueError) as e:
            return str(e) or type(e).__name__
        return ""

    @function
    def drop(self, server: Any) -> bool:
        """Of a server that was stopped."""
        self._shelf.keep(places.cache_files(self._directory))
        if type(server) is str:
            self._shelf.drop(server)
        return True
