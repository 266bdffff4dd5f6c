# SPDX-License-Identifier: BSD-3-Clause
"""Shows on our own standard output and error what other processes print, as if they printed there.

A thread of its own: a terminal may be stopped, or what reads the other end of a pipe wait for a key, and nobody is to
wait for that. What then becomes too much is left out here (the log may have it), and told in numbers.
"""

from __future__ import annotations

import os
import select
import threading

MOST = 4 << 20  # bytes that wait
STOP = 1.0  # seconds that are waited at the end
_OUT, _ERR = 1, 2


class Echo:
    """From construction to `close`. An fd that was closed by then is never written to: it may be another file later."""

    def __init__(self) -> None:
        self._open = {fd for fd in (_OUT, _ERR) if _is_open(fd)}
        self._waiting: list[tuple[int, bytes]] = []
        self._size = 0
        self._left_out = 0  # bytes
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="palm-echo", daemon=True)
        self._thread.start()

    def put(self, stream: str, data: bytes) -> None:
        """stream: "stdout" or "stderr"."""
        fd = _OUT if stream == "stdout" else _ERR
        with self._changed:
            if fd not in self._open:
                return
            if self._size + len(data) > MOST:
                self._left_out += len(data)
                return
            if self._left_out:
                said = f"\npalm: {self._left_out} bytes more of what servers print were not shown here\n"
                self._waiting.append((_ERR, said.encode()))
                self._left_out = 0
            self._waiting.append((fd, data))
            self._size += len(data)
            self._changed.notify()

    def mute(self) -> None:
        """Nothing is shown any more."""
        with self._changed:
            self._open.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                waiting, self._waiting = self._waiting, []
            for fd, data in waiting:
                self._write(fd, data)
                with self._changed:
                    self._size -= len(data)

    def _write(self, fd: int, data: bytes) -> None:
        """It may wait, but not for ever once we are to end."""
        while data and fd in self._open:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                poller = select.poll()
                poller.register(fd, select.POLLOUT)
                poller.poll(100)
                if self._closed:
                    return
            except OSError:  # nobody reads there
                with self._changed:
                    self._open.discard(fd)

    def close(self) -> None:
        """What waits is shown, if that does not take long. Again: without effect."""
        with self._changed:
            if self._left_out:
                self._waiting.append((_ERR, b"\npalm: %d bytes more were not shown here\n" % self._left_out))
                self._left_out = 0
            self._closed = True
            self._changed.notify()
        self._thread.join(STOP)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
