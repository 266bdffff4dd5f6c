# SPDX-License-Identifier: BSD-3-Clause
"""What a running server knows of the jobs that pass through it: what a handle means, and where messages go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from palm._core import loop
from palm._core import node as core
from palm._core.lane import Tally
from palm.errors import Crashed, PalmError, PayloadError
from palm.pace import Pace
from palm.step import Step

if TYPE_CHECKING:
    from palm.fitting import Fitting
    from palm.making import Making
    from palm.suspects import Blame
    from palm.template import Signature

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
    is_told: bool = False  # how many messages its server has begun


@dataclass
class JobHere:
    """A job, from its first OPEN here until its client says that it is over, or is dead.

    After a loss the client repeats everything unfinished in a new epoch (docs/delivery.md): what was opened in former
    ones is not worked on any more.
    """

    key: bytes
    report: Outlet  # to the client: results, and what became of messages that have none
    client: str  # its endpoint
    epoch: int = 0
    cancelled: bool = False
    stopped: bool = False  # generators of the first step are to end
    making: dict[Name, Making] = field(default_factory=dict)  # whose children are kept here
    tried: dict[int, dict[Name, int]] = field(default_factory=dict)  # by hop: how often what has failed was run
    given_up: set[int] = field(default_factory=set)  # inputs that may still be in the backlog
    downstream: set[int] = field(default_factory=set)  # links on which this job was handed on
    asked: set[int] = field(default_factory=set)  # of a leader: links to workers that give their results back
    handed: dict[tuple[Any, ...], dict[int, Outlet]] = field(default_factory=dict)  # likewise: `Assignment.workers`


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
    sender: str = ""  # the step before this one; empty: none, or not known
    tells: bool = False  # the sender is told how many messages have been begun
    begun: int = 0
    reports: bool = False  # the sender, who leads this worker, is told how many have been done, and how long it took
    tally: Tally = field(default_factory=Tally)
    start: bool = False  # the job has no inputs: they are what its first function yields
    calls: bool = False  # its client makes calls of it, one by one: it has no end
    text: str = ""  # of a Reduce: names the route still to go, by what it is
    fitting: Fitting | None = None
    asks: bool = False  # the sender wants one value for each message, and is the client of this
    function: Callable[..., Any] | None = None
    index: int = 0
    parameters: int = 1
    refusal: PalmError | None = None
    work: loop.Work | None = None  # what its executions have in common
    signature: Signature | None = None
    tried: dict[Name, int] = field(default_factory=dict)  # the job's, at this hop
    refused: dict[Name, Blame] | None = None  # those that are not run again
    alone: list[tuple[Name, Name]] = field(default_factory=list)  # what lies between two names runs one by one
    pace: Pace = field(default_factory=Pace)  # of a batch function
    onward: Outlet | None = None
    is_slow: bool = False  # the last turn of its generators was long: nothing is to wait for the next one
    workers: dict[int, Outlet] = field(
        default_factory=dict
    )  # of a leader, by link; others that mean the same have it too
    found: dict[str, str] = field(default_factory=dict)  # servers that the job has not named: their endpoints
    routed: dict[tuple[str, tuple[tuple[str, str | None], ...]], Outlet] = field(
        default_factory=dict
    )  # by `slow`, and steps with the keys of their constants

    @property
    def stale(self) -> bool:
        """True if the job is over, or repeated in a newer epoch."""
        return self.job.cancelled or self.epoch != self.job.epoch

    def tries_again(self, name: Name, error: BaseException) -> bool:
        """Counts a failed execution; True if the function is to be run again for it. A payload that does not fit, or a
        timeout of its own, are no matter of luck."""
        assert self.signature is not None
        if isinstance(error, PayloadError | Crashed) or not isinstance(error, self.signature.retry_on):
            return False
        tried = self.tried[name] = self.tried.get(name, 0) + 1
        if tried < self.signature.attempts and not self.stale:
            return True
        del self.tried[name]
        return False
