# SPDX-License-Identifier: BSD-3-Clause
"""A worker under `palm.serve`, which nobody watches: it gets its number from the registry, joins the leader of its
name, and starts one where there is none (docs/decisions/workers.md)."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from palm import places
from palm.births import PID_BYTES
from palm.calls import Calls, Retired
from palm.child import MAIN, pickled
from palm.directory import Directory
from palm.errors import Crashed, Disconnected, NotFound, PalmError, Timeout
from palm.leader import JOIN, LEAVE
from palm.log_pipes import Pipes, introduce
from palm.membership import JOINS, Enlistment, Membership
from palm.nurseries import THREADS
from palm.process import Order
from palm.template import Server, exposure

START = 30.0  # seconds in which there has to be a leader, as for a server of a cluster
TURN = 1.0  # seconds after which it is asked again who starts one: who was to may have died
DRAIN = 0.01  # seconds between two questions to the leader whether all is done


class Unfit(PalmError):
    """Who has this name is no leader of such a worker."""


class Guest(Enlistment):
    """Its place with its leader.

    Parameters
    ----------
    membership : Membership
    order : Order
        Of this process; gets the worker's number.
    template : type
    stop : callable
        Ends the server in this process when it has done what it has.

    Raises
    ------
    PalmError
        There is another kind of server of this name.
    TypeError
        The template cannot be handed to a leader.
    """

    def __init__(self, membership: Membership, order: Order, template: type[Server], stop: Callable[[], None]) -> None:
        super().__init__(membership, order.name, JOIN)
        self.why: PalmError | None = None  # it has ended, though nobody has asked for it
        self._template, self._end = template, stop
        self._is_leaving = False
        self._starting = Start(msgspec.structs.replace(order, leads=True, guest=False, setup=dict(order.setup)))
        there = self._directory.patiently(lambda: self._directory.ask("lookup", [order.name]))["servers"]
        if order.name in there:
            self._check(there[order.name])
        reserve = ("reserve", order.name, 1, places.this_process())
        [order.worker] = self._directory.patiently(lambda: self._directory.ask(*reserve))

    @property
    def _directory(self) -> Directory:
        return self._membership.client._directory

    def leave(self) -> None:
        """In good order: the leader hands nothing more out to it, and it ends when it has done what it has. A signal
        handler may call it: it takes no lock."""
        self._is_leaving = True
        self._membership.client._connection.node.wake()

    def join(self) -> None:
        end = time.monotonic() + START
        while True:
            try:
                super().join()
                return
            except (Crashed, Disconnected, Timeout):  # the leader has ended meanwhile
                if time.monotonic() > end:
                    raise

    # -------------------------------------------------------------------------------------------- its leader

    def _find(self, timeout: float) -> dict[str, Any]:
        """The leader, which is started if need be, by this process or another one."""
        end = time.monotonic() + START
        while True:
            if self._directory.patiently(lambda: self._directory.ask("lead", self._leader, places.this_process())):
                self._starting.begin()
            try:
                server = self._directory.patiently(lambda: self._directory.find([self._leader], TURN))[self._leader]
            except NotFound:
                if self._starting.failure:
                    why = self._starting.failure
                    raise PalmError(f"the leader of {self._leader!r} did not start:\n{why}") from None
                if time.monotonic() > end or self._is_leaving:
                    raise
            else:
                self._check(server)
                return server

    def _check(self, server: dict[str, Any]) -> None:
        what = f"there is a server {self._leader!r} (pid {server['pid']} on {server['host']})"
        if not server["leads"]:
            raise Unfit(f"{what} that is one process, and has no workers: give another name")
        ours, theirs = exposure(self._template)["functions"], server["functions"]
        if self._template.__qualname__ != server["class"] or {n: f["text"] for n, f in ours.items()} != {
            n: f["text"] for n, f in theirs.items()
        }:
            raise Unfit(
                f"{what} of the class {server['class']} with the functions {_text(theirs)}, not of "
                f"{self._template.__qualname__} with {_text(ours)}: give another name, or stop that one"
            )

    def _join(self, timeout: float) -> None:
        try:
            super()._join(timeout)
        except Unfit as e:  # somebody else has taken the name
            self.why = e
            raise

    def _has_to_act(self) -> bool:
        return self._is_leaving or super()._has_to_act()

    def _is_over(self) -> bool:
        left = self._membership.client._connection.has_left(self._link)
        if self._is_leaving:
            self._drain()
        elif left and self.server["supervised"]:  # and it is not there any more for who started it
            self.why = PalmError(f"the server {self._leader!r} was stopped by its cluster, and with it this worker")
        if self._is_leaving or self.why is not None:
            self._end()
            return True
        return False

    def _drain(self) -> None:
        """Returns when all that it has got from the leader is done, or there is none any more."""
        connection = self._membership.client._connection
        address = self._membership.description()["address"]
        try:
            calls = Calls(connection, None, self._directory.route_to(self.server, LEAVE))
            try:
                while calls.wait((address,), JOINS) and not self._stop.wait(DRAIN):
                    pass
            finally:
                calls.end()
        except (PalmError, Retired):
            pass


def _text(functions: dict[str, Any]) -> str:
    return ", ".join(f"{name}{f['text']}" for name, f in functions.items()) or "none"


class Start:
    """Starts leaders that belong to nobody: such a one stays as long as it has workers, whoever has started it.

    What it has to say goes to the cluster's owner: the terminal, and the pipe of whoever reads what this process says,
    are not its own.
    """

    def __init__(self, order: Order) -> None:
        order.owner_fd, order.worker = -1, None
        self.failure = ""  # why the last one did not get ready
        self._order = pickled(order)
        self._name, self._directory = order.name, Path(order.directory)

    def begin(self) -> None:
        self.failure = ""
        order = os.memfd_create("order")
        ours, theirs = socket.socketpair()
        try:
            with open(order, "wb", closefd=False) as f:
                f.write(bytes(PID_BYTES))
                pickle.dump((sys.path, self._order, [], False), f)
            os.lseek(order, PID_BYTES, os.SEEK_SET)
            process = self._executed(order, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(order)
            theirs.close()
        threading.Thread(target=self._watch, args=(process, ours), name="palm-leader", daemon=True).start()

    def _executed(self, *fds: int) -> subprocess.Popen[bytes]:
        env = {**{k: "1" for k in THREADS}, **os.environ}
        pipes = Pipes()
        try:
            out, err, records = pipes.writes
            process = subprocess.Popen(
                [sys.executable, "-c", MAIN, *map(str, (*fds, -1, records))],
                pass_fds=(*fds, records),
                env=env,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            introduce(self._directory, self._name, None, process.pid, pipes)
            return process
        finally:
            pipes.close()

    def _watch(self, process: subprocess.Popen[bytes], report: socket.socket) -> None:
        """Hears whether it gets ready, and then waits, so that it does not stay as a zombie."""
        said = b""
        with report:
            while data := _received(report):
                said += data
        if not said.startswith(b"ready "):
            self.failure = said.decode(errors="replace").strip() or f"it ended with {process.wait()}"
        process.wait()


def _received(report: socket.socket) -> bytes:
    try:
        return report.recv(65536)
    except OSError:
        return b""
