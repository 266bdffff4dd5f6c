# SPDX-License-Identifier: BSD-3-Clause
"""The log of a cluster: its owner hears all processes, keeps what they say in files, and shows it on its terminal.

One thread, that waits for nobody: it reads pipes (`palm.log_pipes`) and writes files (`palm.log_files`). How much it
keeps of whom says `palm.log_flood`, what reaches the terminal `palm.log_echo`. Whoever writes into a pipe does not wait
for it either: a handler counts what finds no room (`palm.log_handler`), and what is printed is taken away by the
printing process's own pulse when nobody reads it for a second. `docs/decisions/logs.md` has the reasons.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path

from palm import log_pipes
from palm.log_echo import Echo
from palm.log_files import Writer
from palm.log_flood import Flood
from palm.log_pipes import STREAMS, Pipes
from palm.log_record import MARK, Record, abridged, decoded, encoded, process_of
from palm.log_source import LEVELS, Source
from palm.polling import readable

log = logging.getLogger("palm")
MOST = 256 << 10  # bytes of one read
MOST_GUESTS = 64  # that have not brought their pipes yet
MOST_LINE = 16384  # bytes; a longer one becomes several
PAUSE = 0.02  # seconds in which more may come: one turn for many lines
STOP = 2.0  # seconds for the thread to end: files may be on a disk that does not answer


class Logs:
    """Of one cluster, from construction to `close`.

    Parameters
    ----------
    directory : Path
        Of the cluster.
    """

    def __init__(self, directory: Path) -> None:
        self._writer = Writer(directory.name, directory / "log")
        self._echo = Echo()
        self._sources: list[Source] = []  # the thread's own
        self._guests: list[socket.socket] = []  # likewise: those that have not brought their pipes yet
        self._arrivals: list[Source] = []
        self._said: list[tuple[Source, int, str]] = []
        self._lock = threading.Lock()  # of what others leave for the thread
        self._closed = False
        self._bell_read, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._bell_read, False)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(directory / log_pipes.SOCKET))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="palm-logs", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """Where the files are, once there are any."""
        return self._writer.path

    def pipes(self, streams: tuple[str, ...] = STREAMS) -> Pipes:
        """For a process that is to be started; OSError."""
        return Pipes(len(self._sources) < log_pipes.ENLARGED, streams)

    def hear(self, server: str, worker: int | None, pid: int, pipes: Pipes) -> None:
        """From now on; the ends to read from are ours."""
        source = Source(server, worker, pid, Flood(time.monotonic()))
        source.fds = dict(zip(pipes.streams, pipes.reads, strict=True))
        pipes.reads = []
        with self._lock:
            self._arrivals.append(source)
        self._ring()

    def say(self, server: str, worker: int | None, pid: int, level: int, text: str) -> None:
        """What is to be said of a process; it has not said it itself."""
        with self._lock:
            self._said.append((Source(server, worker, pid, Flood(0.0)), level, text))
        self._ring()

    def mute(self) -> None:
        """The terminal shows nothing of it any more."""
        self._echo.mute()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell, b"x")

    # ------------------------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while not self._closed:
            try:
                if not self._turn(self._wait()):
                    readable([self._bell_read], PAUSE)  # a bell that rings for the end does so here too
            except Exception:  # others are heard all the same
                log.exception("a turn of the log")
                time.sleep(PAUSE)
        while self._turn(self._fds()):
            pass
        for source in self._sources:
            self._end(source)
        for guest in self._guests:
            guest.close()
        self._writer.close()

    def _wait(self) -> set[int]:
        due = [at for source in self._sources if (at := source.flood.due()) is not None]
        wait = max(0.0, min(due) - time.monotonic()) if due else None
        guests = [guest.fileno() for guest in self._guests]
        listener = [self._listener.fileno()] if len(guests) < MOST_GUESTS else []
        return set(readable([self._bell_read, *listener, *guests, *self._fds()], wait))

    def _fds(self) -> set[int]:
        return {fd for source in self._sources for fd in source.fds.values()}

    def _turn(self, ready: set[int]) -> bool:
        """True: there is much, and more of it may be there already."""
        if self._listener.fileno() in ready:
            self._accept()
        for guest in [*self._guests]:
            self._greet(guest)
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell_read, 4096)
        with self._lock:
            arrivals, self._arrivals = self._arrivals, []
            said, self._said = self._said, []
        self._sources += arrivals
        much = False
        for source in self._sources:
            streams = [s for s, fd in source.fds.items() if fd in ready or source in arrivals]
            for stream in sorted(streams, key=_order):
                much |= self._read(source, stream)
        for source, level, text in said:
            self._keep(source, [source.record(level, abridged(text))])
        self._tell_of_floods()
        self._forget_ended()
        return much

    def _accept(self) -> None:
        """Who brings pipes may not have sent them yet."""
        with contextlib.suppress(OSError):
            while len(self._guests) < MOST_GUESTS:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self._guests.append(connection)

    def _greet(self, guest: socket.socket) -> None:
        """A process that we have not started brings its pipes."""
        try:
            hello, fds, _, _ = socket.recv_fds(guest, log_pipes.MOST_HELLO, len(STREAMS))
        except BlockingIOError:
            return
        except OSError:
            hello, fds = b"", []
        self._guests.remove(guest)
        guest.close()
        try:
            said = json.loads(hello)
            source = Source(str(said["server"]), said["worker"], int(said["pid"]), Flood(time.monotonic()))
            source.fds = {str(stream): fd for stream, fd in zip(said["streams"], fds, strict=True)}
            if not source.fds.keys() <= {*STREAMS} or len(source.fds) < len(fds):
                raise ValueError("no such streams")
            if type(source.worker) not in (int, type(None)):
                raise TypeError("a worker has a number")
        except (ValueError, KeyError, TypeError):
            for fd in fds:
                os.close(fd)
            return
        for fd in fds:
            os.set_blocking(fd, False)
        self._sources.append(source)

    def _read(self, source: Source, stream: str) -> bool:
        fd = source.fds[stream]
        try:
            data = os.read(fd, MOST)
        except BlockingIOError:  # its writer has emptied it
            return False
        if stream in LEVELS:
            self._echo.put(stream, MARK.sub(b"", data) if b"\x1e" in data else data)
        if data:
            self._take(source, stream, data)
        else:
            os.close(source.fds.pop(stream))
        return len(data) > MOST // 8

    def _take(self, source: Source, stream: str, data: bytes) -> None:
        now, data = time.monotonic(), source.unended.pop(stream, b"") + data
        if b"\x1e" in data:
            source.flood.left_out(sum(map(int, MARK.findall(data))), now)
            data = MARK.sub(b"", data)
        block, newline, rest = data.rpartition(b"\n")
        if len(rest) > MOST_LINE:
            block, newline, rest = data, b"\n", b""
        if rest:
            source.unended[stream] = rest
        if newline:
            self._keep(source, self._records(source, stream, source.flood.admit(stream, block + b"\n", now)))

    def _records(self, source: Source, stream: str, lines: list[bytes]) -> list[Record]:
        return [record for line in lines for record in self._record(source, stream, line)]

    def _record(self, source: Source, stream: str, line: bytes) -> list[Record]:
        if stream == "records":
            record = decoded(line[1:])
            if record is None:
                record = source.record(logging.WARNING, line.decode(errors="backslashreplace"))
            elif line[:1] == b"E":
                self._echo.put("stderr", _shown(record))
            return [record]
        parts = [line[k : k + MOST_LINE] for k in range(0, len(line), MOST_LINE)] or [b""]
        return [source.record(LEVELS[stream], p.decode(errors="backslashreplace"), stream) for p in parts]

    def _keep(self, source: Source, records: list[Record]) -> None:
        if not records:
            return
        lost = self._writer.lost
        self._writer.write(process_of(records[0]), [encoded(record) for record in records])
        if self._writer.lost > lost == 0:
            self._echo.put("stderr", f"palm: the log cannot be written: {self._writer.why}\n".encode())
        elif lost and self._writer.lost == lost:
            text = f"{lost} lines, of whomever, could not be written: {self._writer.why}"
            self._writer.lost = 0
            self._keep(source, [source.record(logging.WARNING, text, dropped=lost)])

    def _tell_of_floods(self) -> None:
        now = time.monotonic()
        for source in self._sources:
            if (due := source.flood.due()) is not None and due <= now:
                self._tell(source)

    def _tell(self, source: Source) -> None:
        dropped, last = source.flood.tell()
        lines = [record for stream, line in last for record in self._record(source, stream, line)]
        if dropped:
            text = f"{dropped} lines were left out here: there were too many"
            lines.insert(0, source.record(logging.WARNING, text, dropped=dropped))
        self._keep(source, lines)

    def _forget_ended(self) -> None:
        for source in [s for s in self._sources if not s.fds]:
            self._end(source)
            self._sources.remove(source)

    def _end(self, source: Source) -> None:
        """What has come of it by now is all that there will be."""
        for stream, rest in source.unended.items():
            lines = source.flood.admit(stream, rest + b"\n", time.monotonic())
            self._keep(source, self._records(source, stream, lines))
        self._tell(source)
        for fd in source.fds.values():
            os.close(fd)

    # ------------------------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """What is in the pipes is still read. Again: without effect."""
        if self._closed:
            return
        self._closed = True
        self._ring()
        self._thread.join(STOP)
        self._echo.close()
        self._listener.close()
        if not self._thread.is_alive():  # else it still has them, and nobody minds
            os.close(self._bell_read)
            os.close(self._bell)


def _order(stream: str) -> int:
    """A program that says something in both ways has mostly made the record first."""
    return ("records", *LEVELS).index(stream)


def _shown(record: Record) -> bytes:
    return f"{record.level} {process_of(record)}: {record.text}\n".encode(errors="backslashreplace")
