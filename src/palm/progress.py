# SPDX-License-Identifier: BSD-3-Clause
"""The bar of a job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from palm.job import Progress


class Bar:
    """A job's progress on standard error, at most ten times a second."""

    def __init__(self, title: str) -> None:
        self._shown = 0.0
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=None)
        self._bar.start()

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._shown > 0.1:
            self._shown = now
            self._bar.update(self._task, completed=progress.done, total=progress.total)

    def close(self, progress: Progress) -> None:
        self._bar.update(self._task, completed=progress.done, total=progress.total)
        self._bar.stop()
