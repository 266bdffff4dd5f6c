# SPDX-License-Identifier: BSD-3-Clause
"""The pipes through which a process is heard: two for what it prints, in place of its fds 1 and 2, and one for records.

Who reads them is the owner of the cluster (`palm.logs`). What is in a pipe stays there when the process that has
written it is dead. A process that the owner has not started makes its pipes itself, and sends their ends to a
socket in the cluster's directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import socket
from collections.abc import Sequence
from pathlib import Path

SOCKET = "logs"  # in the cluster's directory
STREAMS = ("stdout", "stderr", "records")
SIZE = 256 << 10  # bytes of a pipe, of the 64 MiB that a user may have in all; else 64 KiB
MOST_HELLO = 4096
ENLARGED = 16  # processes at a time whose pipes are so large


class Pipes:
    """Of one process; both ends, until one has been given away.

    Parameters
    ----------
    large : bool
    streams : sequence of str
        Those of `STREAMS` that it has.
    """

    def __init__(self, large: bool = False, streams: Sequence[str] = STREAMS) -> None:
        self.streams = streams
        self.reads: list[int] = []
        self.writes: list[int] = []
        try:
            for stream in streams:
                read, write = os.pipe()
                self.reads.append(read)
                self.writes.append(write)
                os.set_blocking(read, False)
                if stream == "records":  # nobody but the handler writes there, and that waits for nothing
                    os.set_blocking(write, False)
                if large:
                    with contextlib.suppress(OSError):
                        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, SIZE)
            _keep_room(write)
        except BaseException:
            self.close()
            raise

    def given(self) -> None:
        """The other process has the ends to write to; they are its own from now on."""
        while self.writes:
            os.close(self.writes.pop())

    def close(self) -> None:
        self.given()
        while self.reads:
            os.close(self.reads.pop())


def _keep_room(fd: int) -> None:
    """Three a process add up: who has used half of the files that are allowed is allowed as many as can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in (hard, resource.RLIM_INFINITY) and fd > soft // 2:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def introduce(directory: Path, server: str, worker: int | None, pid: int, pipes: Pipes) -> None:
    """Has the owner of the cluster with this directory read these pipes too. If there is none, nobody will: what is
    written there is lost. Does not wait."""
    hello = json.dumps({"server": server, "worker": worker, "pid": pid, "streams": pipes.streams}).encode()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as owner:
        owner.setblocking(False)
        owner.connect(str(directory / SOCKET))
        socket.send_fds(owner, [hello], pipes.reads)
    while pipes.reads:
        os.close(pipes.reads.pop())
