# SPDX-License-Identifier: BSD-3-Clause
"""What a running server knows of the jobs that pass through it: what a handle means, and where messages go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from palm._core import node as core
from palm.errors import PalmError
from palm.step import Step

if TYPE_CHECKING:
    from palm.making import Making

Name = tuple[int, tuple[int, ...]]  # of a message in its job: number of the input, path


@dataclass
class Waiting:
    """What an outlet holds while its server is looked for."""

    batches: list[core.Batch] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)  # of the messages in them


@dataclass
class Outlet:
    """Where messages leave: a handle on a link, and the batch that goes there next."""

    link: int
    handle: int
    hop: int
    batch: core.Batch = field(default_factory=core.Batch)
    route: list[Step] = field(default_factory=list)  # that `palm.to` has named
    waiting: Waiting | None = None  # None: it is open


@dataclass
class JobHere:
    """A job, from its first OPEN here until its client says that it is over, or is dead.

    After a loss the client repeats everything unfinished in a new epoch (docs/delivery.md): what was opened in former
    ones is not worked on any more.
    """

    key: bytes
    report: Outlet  # to the client: results, and what became of messages that have none
    epoch: int = 0
    cancelled: bool = False
    stopped: bool = False  # generators of the first step are to end
    making: dict[Name, Making] = field(default_factory=dict)  # whose children are kept here
    downstream: set[int] = field(default_factory=set)  # links on which this job was handed on


@dataclass
class Assignment:
    """What a handle on a link means: a job, from this step on."""

    job: JobHere
    epoch: int
    client: str  # endpoint
    seed: int
    steps: list[list[Any]]  # [server, function, endpoint, key of constants], this step first
    pids: dict[str, int]  # of endpoints: whose death is to be noticed
    where: bytes  # the pid namespace that they are of
    constants: dict[str, dict[str, Any]]
    owed: int  # children that the generator of the first step has to make before it may be stopped
    hop: int
    function: Callable[..., Any] | None = None
    index: int = 0
    parameters: int = 1
    refusal: PalmError | None = None
    suspects: dict[Name, tuple[int, str]] = field(default_factory=dict)  # as of_job has them
    refused: dict[Name, tuple[int, str]] | None = None  # those that are not run again
    onward: Outlet | None = None
    found: dict[str, str] = field(default_factory=dict)  # servers that the job has not named: their endpoints
    routed: dict[tuple[tuple[str, str | None], ...], Outlet] = field(default_factory=dict)  # step, key of constants

    @property
    def stale(self) -> bool:
        """True if the job is over, or repeated in a newer epoch."""
        return self.job.cancelled or self.epoch != self.job.epoch

    def outlets(self) -> list[Outlet]:
        return [o for o in (self.onward, self.job.report, *self.routed.values()) if o is not None]
