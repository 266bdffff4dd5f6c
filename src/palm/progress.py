# SPDX-License-Identifier: BSD-3-Clause
"""The bar of a job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from palm.job import Job


class Bar:
    """Shows a job's progress on standard error, at most ten times a second."""

    def __init__(self, job: Job) -> None:
        self._job, self._shown = job, 0.0
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                                  TimeRemainingColumn(), console=Console(stderr=True))
        self._task = self._progress.add_task(" -> ".join(job._route.steps), total=None)
        self._progress.start()

    def update(self, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._shown > 0.1:
            self._shown = now
            p = self._job.progress
            self._progress.update(self._task, completed=p.done, total=p.total)

    def close(self) -> None:
        self.update(force=True)
        self._progress.stop()
