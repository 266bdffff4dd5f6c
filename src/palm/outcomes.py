# SPDX-License-Identifier: BSD-3-Clause
"""What a server tells the client about messages that have no result: dropped, failed, lost, a generator at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from palm import memory_limit
from palm._core import node as core
from palm.assignment import Assignment, JobHere, Name
from palm.errors import Crashed
from palm.message import Message
from palm.outlets import Outlets
from palm.remote import NO_MESSAGE, tree_of_error, without_own_frames

if TYPE_CHECKING:
    from palm.capsule import Store


class Outcomes:
    """Of one server.

    Parameters
    ----------
    node : Node
    outlets : Outlets
    capsules : Store, optional
        Where the inputs of failed calls are kept for `palm replay` (B7).
    """

    def __init__(self, node: core.Node, name: str, outlets: Outlets, capsules: Store | None) -> None:
        self._node, self._name, self._outlets, self._capsules = node, name, outlets, capsules
        self.keeps_inputs = capsules is not None

    def dropped(self, job: JobHere, name: Name, why: int = 0) -> None:
        """why: 0, its function returned nothing, or `core.DROP_SLOW`."""
        job.report.batch.event(core.DROP, *name, why)

    def aside(self, job: JobHere, name: Name) -> None:
        """It goes along a branch that holds up nobody: the client is not to wait for it."""
        job.report.batch.event(core.ASIDE, *name)

    def closed(self, job: JobHere, name: Name, children: int) -> None:
        """A generator has come to its end."""
        job.report.batch.event(core.CLOSE, *name, children)

    def asked(self, job: JobHere, name: Name, granted: int) -> None:
        """A generator wants room for more children; the client answers with a RELEASE."""
        job.report.batch.event(core.ASK, *name, granted)

    def lost(self, job: JobHere, name: Name = (NO_MESSAGE, ())) -> None:
        """What was under way is lost: the client has everything unfinished repeated."""
        job.report.batch.event(core.LOST, *name, job.epoch)
        self._outlets.flush(job.report)

    def failed(
        self, a: Assignment, name: Name, error: BaseException, children: int = 0, capsule: str | None = None
    ) -> None:
        """After so many children, which are on their way."""
        self.failed_with(a, name, self.tree_of(a, error, capsule), children)

    def tree_of(self, a: Assignment, error: BaseException, capsule: str | None = None) -> dict[str, Any]:
        """An error as it is sent."""
        _advise(error)
        with memory_limit.room_to_tell(error):
            tree = tree_of_error(without_own_frames(error), self._name, a.steps[0][1], capsule)
            if advice := memory_limit.advice(error):
                tree["message"] = "; ".join(filter(None, (tree["message"], advice)))
            return tree

    def failed_with(self, a: Assignment, name: Name, tree: dict[str, Any], children: int = 0) -> None:
        self._node.count("errors")
        a.job.report.batch.error(tree, *name, children)

    def capsule(
        self,
        a: Assignment,
        value: Any,
        message: Message,
        error: Exception,
        called: str = "",
        own: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> str | None:
        """The file in which the input of a failed call has been written. called: the method, if it is not that of the
        step; own: picks its constants out of the step's."""
        if self._capsules is None:
            return None
        key = a.steps[0][3]
        return self._capsules.write(
            server=self._name,
            function=called or a.steps[0][1],
            value=value,
            constants=own(a.constants[key]) if key is not None else {},
            message=message,
            error=None if isinstance(error, Crashed) else without_own_frames(error),
            reason=error.reason if isinstance(error, Crashed) else "",
        )


def _advise(error: BaseException) -> None:
    """The first error that most people make gets a note in its traceback."""
    if isinstance(error, ValueError) and "read-only" in str(error) and not getattr(error, "__notes__", None):
        error.add_note(
            "What a function gets it shares with others, and only reads: x = x.copy() makes one to write to."
        )
