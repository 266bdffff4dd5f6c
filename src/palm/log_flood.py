# SPDX-License-Identifier: BSD-3-Clause
"""How much of what a process says is kept. No I/O, no clock.

What is beyond costs one count of newlines, and is told of in numbers. The last lines before such a number are kept too:
they say what it was that flooded, and of a process that has died, why.
"""

from __future__ import annotations

LINE = 128  # bytes that a line costs beside its own
BURST = 1 << 20  # bytes at once: some 5000 lines
RATE = 64 << 10  # bytes a second from then on
EVERY = 1.0  # seconds between two lines that tell of what was left out
LAST = 10  # lines that are kept all the same
LAST_BYTES = 16384


class Flood:
    """Of one process.

    Parameters
    ----------
    now : float
        Seconds, monotonic.
    """

    def __init__(self, now: float) -> None:
        self._tokens, self._at = float(BURST), now
        self._left_out = 0
        self._last: list[tuple[str, bytes]] = []  # of what was left out: stream, line
        self._since: float | None = None  # when the first line was left out of which nobody was told

    def admit(self, stream: str, block: bytes, now: float) -> list[bytes]:
        """Which lines are kept of a block of them, each with its newline; they are returned without.

        What comes behind the first that is not kept is not either.
        """
        self._tokens = min(BURST, self._tokens + (now - self._at) * RATE)
        self._at = now
        *lines, rest = block.split(b"\n", max(0, int(self._tokens // LINE)))
        for k, line in enumerate(lines):
            if self._tokens <= 0:
                rest = b"".join(more + b"\n" for more in lines[k:]) + rest
                lines = lines[:k]
                break
            self._tokens -= LINE + len(line)
        if rest:
            self._leave_out(stream, rest, now)
        return lines

    def _leave_out(self, stream: str, block: bytes, now: float) -> None:
        self.left_out(block.count(b"\n"), now)
        last = block[-LAST_BYTES:].split(b"\n")[:-1]
        if len(block) > LAST_BYTES:
            del last[:1]  # its begin may be missing
        self._last = [*self._last, *((stream, line) for line in last[-LAST:])][-LAST:]

    def left_out(self, lines: int, now: float) -> None:
        """So many have been lost before they came here."""
        self._left_out += lines
        if self._since is None and lines:
            self._since = now

    def due(self) -> float | None:
        """When to `tell`; None: there is nothing to tell."""
        return None if self._since is None else self._since + EVERY

    def tell(self) -> tuple[int, list[tuple[str, bytes]]]:
        """How many lines were left out since, and the last ones, which are not counted."""
        last = self._last[-self._left_out :] if self._left_out else []
        told = self._left_out - len(last), last
        self._left_out, self._last, self._since = 0, [], None
        return told
