# SPDX-License-Identifier: BSD-3-Clause
"""What others may ask the owner of a cluster for that runs under `palm up`: a socket in the cluster's directory, which
is this user's alone. A request is JSON and so is its answer; one at a time."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palm import places
from palm.errors import ConfigError, Disconnected, NotFound, PalmError, Timeout

if TYPE_CHECKING:
    from palm.cluster import Cluster

SOCKET = "control"  # in the cluster's directory
MOST = 65536  # bytes of a request
PATIENCE = 1.0  # seconds for a request to be there when its sender has connected

_KINDS: dict[str, type[Exception]] = {
    "NotFound": NotFound,
    "ValueError": ValueError,
    "ConfigError": ConfigError,
    "Timeout": Timeout,
    "Disconnected": Disconnected,
}


class Control:
    """The owner's side, from construction to `close`.

    Parameters
    ----------
    cluster : Cluster
    apply : callable
        Called with the path of a configuration that the cluster is to have from now on; returns what it did.
    """

    def __init__(self, cluster: Cluster, apply: Callable[[str], list[str]]) -> None:
        self._cluster, self._apply = cluster, apply
        self._path = cluster._directory / SOCKET
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._run, name="palm-control", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._path.exists():  # else closed
            with contextlib.suppress(OSError):  # who has asked may be gone
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    answer = json.dumps(self._answer(_all_of(connection, MOST))).encode()
                    connection.settimeout(None)
                    connection.sendall(answer)

    def _answer(self, request: bytes) -> dict[str, Any]:
        try:
            said = json.loads(request)
            if "apply" in said:
                return {"done": self._apply(str(said["apply"]))}
            server, workers = said["scale"]
            self._cluster.scale(str(server), workers)
        except BaseException as e:  # a module that is imported may call sys.exit
            kind = "NotFound" if isinstance(e, LookupError) else type(e).__name__
            return {"kind": kind, "text": str(e.args[0]) if isinstance(e, KeyError) and e.args else str(e)}
        return {"done": []}

    def close(self) -> None:
        """Nobody is answered any more who asks from now on."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def scale(address: str, server: str, workers: int, timeout: float | None = None) -> None:
    """Has the owner of the cluster at this address give a server so many workers; returns when it has.

    Raises
    ------
    Disconnected
        It is no cluster of this host, or its owner has come to its end.
    NotFound
        There is no such server, or the owner is no `palm up`.
    ValueError
        The server cannot have so many.
    Timeout
        It has not so many after `timeout` seconds, but may get them.
    PalmError
        A worker did not start; has its traceback.
    """
    _asked(address, {"scale": [server, workers]}, timeout)


def apply(address: str, path: Path) -> list[str]:
    """Has the owner of the cluster at this address make it what the file at `path` says; returns what that has done.

    Raises
    ------
    Disconnected, NotFound, PalmError
        As for `scale`.
    ConfigError
        The file is wrong.
    """
    done: list[str] = _asked(address, {"apply": str(path.absolute())}, None)["done"]
    return done


def _asked(address: str, request: dict[str, Any], timeout: float | None) -> dict[str, Any]:
    directory = places.directory_of(address)
    pid = places.owner(directory) if directory else 0
    if directory is None or not pid:
        raise Disconnected(f"{address!r} is no cluster of this host: ask where it was started")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(directory / SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotFound(
                f"the owner of cluster {directory.name} (pid {pid}) is no `palm up`, or has not started all its "
                "servers, or is about to end: what belongs to a script is changed there (Cluster.scale)"
            ) from None
        try:
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            said = _all_of(connection)
        except TimeoutError:
            raise Timeout(f"not done within {timeout:g} s; the owner (pid {pid}) goes on with it") from None
        except OSError:
            said = b""
    if not said:
        raise Disconnected(f"the owner of cluster {directory.name} (pid {pid}) has ended meanwhile")
    answer: dict[str, Any] = json.loads(said)
    if "kind" in answer:
        raise _KINDS.get(answer["kind"], PalmError)(answer["text"])
    return answer


def _all_of(connection: socket.socket, most: int = 1 << 24) -> bytes:
    said = b""
    while len(said) < most and (data := connection.recv(65536)):
        said += data
    return said
