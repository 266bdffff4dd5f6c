# SPDX-License-Identifier: BSD-3-Clause
"""The client of a server's own functions, `self.client`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from palm.client import Client
from palm.errors import PalmError, Timeout
from palm.step import one_step


class InnerClient(Client):
    """What a function asks for has no more time than its message, and a function does not wait for its own server.

    Parameters
    ----------
    registry, server : str
        The registry's endpoint, and the name of the server.
    left : callable
        Seconds that the message at work has.
    """

    def __init__(self, registry: str, server: str, left: Callable[[], float]) -> None:
        super().__init__(registry)
        self._server, self._left = server, left

    def call(self, step: str, /, *values: Any, timeout: float | None = None) -> Any:
        self._check_other(step)
        return super().call(step, *values, timeout=self._seconds(timeout))

    async def acall(self, step: str, /, *values: Any, timeout: float | None = None) -> Any:
        self._check_other(step)
        return await super().acall(step, *values, timeout=timeout)

    def _seconds(self, timeout: Any) -> float | None:
        timeout, left = super()._seconds(timeout), self._left()
        if not left:
            raise Timeout("the message at work has no time left, and so has nothing that is asked for it")
        return timeout if left == math.inf else left if timeout is None else min(timeout, left)

    def _check_other(self, step: str) -> None:
        """PalmError if a server would call itself, in the thread that runs its functions."""
        s = one_step(step)
        if s.server == self._server and threading.current_thread() is threading.main_thread():
            raise PalmError(
                f"{s} is of the server that calls it, and would wait until that has nothing to do: call the method"
            )
