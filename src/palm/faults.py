# SPDX-License-Identifier: BSD-3-Clause
"""`palm.testing.chaos`, in a server's process: which messages are hit, and where the process stands still for it.

Who makes the chaos (`palm.chaos`) listens on a socket in the cluster's directory. A server looks for it when a job is
opened; only if it is there are the functions of jobs wrapped. What befalls a message is drawn here and done there: the
process says what it is to suffer, and waits until it is killed, or has been stopped or held up for long enough.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import GeneratorType
from typing import Any, NamedTuple

from palm.assignment import Name
from palm.message import child

SOCKET = "chaos"  # in the cluster's directory
MOST = 4096  # bytes that are said at a time
STOP, DELAY = 0.2, 0.02  # seconds, the longest

_ONE = 1 << 64


class At(NamedTuple):
    """A message at a step."""

    job: bytes
    stage: int
    number: int
    path: tuple[int, ...]


class Fault(NamedTuple):
    """What befalls it."""

    what: str  # "kill", "stop" or "delay"
    seconds: float
    late: bool  # when its function is over, and nothing sent yet; else before it begins


@dataclass(frozen=True)
class Plan:
    """The probabilities, and what makes their outcomes the same again."""

    seed: int
    kill: float
    stop: float
    delay: float

    def fault(self, server: str, at: At) -> Fault | None:
        """A function of the seed, the server and the message's name; the job's is another one each time."""
        name = f"{self.seed} {server} {at.stage} {at.number} {at.path}"
        drawn = hashlib.blake2b(name.encode(), digest_size=17).digest()
        which, share = (int.from_bytes(eight, "little") / _ONE for eight in (drawn[:8], drawn[8:16]))
        late = bool(drawn[16] & 1)
        if which < self.kill:  # in this order, so that who is killed does not depend on the other two
            return Fault("kill", 0.0, late)
        if which < self.kill + self.stop:
            return Fault("stop", share * STOP, late)
        if which < self.kill + self.stop + self.delay:
            return Fault("delay", share * DELAY, late)
        return None


class Faults:
    """Of one server's process.

    Parameters
    ----------
    directory : Path
        The cluster's.
    server : str
        Its name.
    """

    def __init__(self, directory: Path, server: str) -> None:
        self._path, self._server = str(directory / SOCKET), server
        self._there: tuple[int, int] | None = None  # the socket that was found, as long as it is that one
        self._plan: Plan | None = None
        self._socket: socket.socket | None = None

    def look(self) -> bool:
        """True if chaos has begun or ended since the last look. One system call."""
        try:
            found = os.stat(self._path)
            there = found.st_ino, found.st_ctime_ns
        except OSError:
            there = None
        if there == self._there:
            return False
        self._there = there
        self._end()
        if there is not None:
            self._begin()
        return True

    def _begin(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(self._path)
            self._plan = Plan(**json.loads(self._socket.recv(MOST)))
        except (OSError, ValueError):  # it is over already
            self._end()

    def _end(self) -> None:
        self._plan = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # ---------------------------------------------------------------------------------------- message points

    def around(
        self, function: Callable[..., Any], job: bytes, stage: int, at_work: Callable[[], list[Name]]
    ) -> Callable[..., Any]:
        """What to call for messages of the job, given a function that tells their names: without chaos, `function`."""
        if self._plan is None:
            return function

        def exposed(*values: Any) -> Any:
            drawn = [(self._drawn(at), at) for at in (At(job, stage, *name) for name in at_work())]
            self._suffer_each(drawn, late=False)
            try:
                result = function(*values)
            except Exception:
                self._suffer_each(drawn, late=True)
                raise
            if type(result) is GeneratorType:
                return self._each(result, *drawn[0])
            self._suffer_each(drawn, late=True)
            return result

        return exposed

    def _each(self, generator: Generator[Any, Any, Any], fault: Fault | None, at: At) -> Generator[Any, None, None]:
        """What a function yields; each value is a message from now on, and may be hit."""
        made = 0
        with contextlib.closing(generator):
            while True:
                try:
                    box = [next(generator)]
                except Exception as e:
                    self._suffer(fault, at, late=True)
                    if isinstance(e, StopIteration):
                        return
                    raise
                if box[0] is not None:
                    of_child = at._replace(path=child(at.path, at.stage, made))
                    made += 1
                    self._suffer(self._drawn(of_child), of_child)
                yield box.pop()  # who is not the only one to hold it would have it copied

    def _drawn(self, at: At) -> Fault | None:
        return None if self._plan is None else self._plan.fault(self._server, at)

    def _suffer_each(self, drawn: list[tuple[Fault | None, At]], late: bool) -> None:
        for fault, at in drawn:
            self._suffer(fault, at, late=late)

    def _suffer(self, fault: Fault | None, at: At, *, late: bool | None = None) -> None:
        """If this is the place. A message suffers once: who makes the chaos knows what former processes have said."""
        if fault is None or self._socket is None or late not in (None, fault.late):
            return
        said = {"what": fault.what, "seconds": fault.seconds, "server": self._server}
        said |= at._asdict() | {"job": at.job.hex()}
        try:
            self._socket.send(json.dumps(said).encode())
            if not self._socket.recv(MOST):
                self._end()
        except OSError:
            self._end()
