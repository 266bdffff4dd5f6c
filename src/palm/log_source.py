# SPDX-License-Identifier: BSD-3-Clause
"""A process that is heard, as who hears it knows it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from palm.log_flood import Flood
from palm.log_record import Record

LEVELS = {"stdout": logging.INFO, "stderr": logging.WARNING}  # of what is printed


@dataclass
class Source:
    """A process that is heard. `unended`: by stream, what no newline has followed yet."""

    server: str
    worker: int | None
    pid: int
    flood: Flood
    fds: dict[str, int] = field(default_factory=dict)
    unended: dict[str, bytes] = field(default_factory=dict)

    def record(self, level: int, text: str, stream: str = "", dropped: int = 0) -> Record:
        return Record(
            time=round(time.time(), 6),
            level=logging.getLevelName(level),
            number=level,
            server=self.server,
            worker=self.worker,
            pid=self.pid,
            text=text,
            stream=stream,
            dropped=dropped,
        )
