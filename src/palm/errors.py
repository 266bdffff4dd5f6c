# SPDX-License-Identifier: BSD-3-Clause
"""The exceptions of PALM (API 3)."""

from __future__ import annotations

import concurrent.futures
from typing import Any

from palm._core.errors import PalmError, PayloadError

__all__ = [
    "Cancelled",
    "ConfigError",
    "Crashed",
    "Disconnected",
    "NotFound",
    "PalmError",
    "PayloadError",
    "RemoteError",
    "Timeout",
]


class RemoteError(PalmError):
    """A function raised.

    Attributes
    ----------
    server, function : str
        Where.
    number : int
        Of the input that failed.
    type : str
        Name of the exception's class, as ``"ValueError"``.
    traceback : str
        The remote traceback, as text.
    capsule : str or None
        File for ``palm replay``: the input, the function and this error; on the host of the server.
    """

    def __init__(
        self,
        message: str,
        *,
        server: str = "",
        function: str = "",
        number: int = 0,
        type: str = "",
        traceback: str = "",
        capsule: str | None = None,
    ) -> None:
        super().__init__(message)
        self.server, self.function, self.number, self.type = server, function, number, type
        self.traceback, self.capsule = traceback, capsule

    def __str__(self) -> str:
        own = self.type in ("", type(self).__name__)  # the class says it
        text = str(self.args[0]) if own else f"{self.type}: {self.args[0]}"
        if self.server:
            text += f" (in {self.server}.{self.function}, input {self.number})"
        if self.capsule:
            text += f"; palm replay {self.capsule}"
        return f"{text}\n\nRemote {self.traceback}" if self.traceback else text

    def __repr__(self) -> str:
        """On one line, with where it was, for lists of them."""
        return f"<{type(self).__name__} {str(self).partition(chr(10))[0]}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args[0], dict(self.__dict__))


class Crashed(RemoteError):
    """The process that worked on the message died, or was ended since the function took longer than its `timeout`;
    `reason` is what its supervisor saw: "SIGSEGV", "exit code 3", "out of memory (peak 7.9 GiB): SIGKILL", "overran its
    timeout of 600 s". Of a message that was set aside, it says how often."""

    def __init__(self, message: str, *, reason: str = "", pid: int = 0, **where: Any) -> None:
        super().__init__(message, **where)
        self.reason, self.pid = reason, pid


def _rebuild(cls: type[RemoteError], message: str, fields: dict[str, Any]) -> RemoteError:
    error = cls(message)
    error.__dict__.update(fields)
    return error


class Timeout(PalmError, TimeoutError):
    """The caller's limit has passed."""


class Cancelled(PalmError, concurrent.futures.CancelledError):
    """Somebody cancelled the job."""


class NotFound(PalmError, LookupError):
    """No such server, function or cluster, or one that is not exposed; says what there is."""


class Disconnected(PalmError, ConnectionError):
    """No cluster, or the connection to it is lost; says which addresses were tried."""


class ConfigError(PalmError, ValueError):
    """A wrong configuration: says the place, and the nearest valid word."""


for _name in __all__:
    globals()[_name].__module__ = "palm"
