# SPDX-License-Identifier: BSD-3-Clause
"""Asks the machines that a cluster spans, all at the same time; who does not answer soon is not waited for.

To users each is a host; here `palm.host.Host` is who hosts functions. Each has a process of PALM's own that answers for
it (`palm.machine_server`): the registry where the cluster was begun, elsewhere one that `palm join` starts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from palm import addresses
from palm._core.space import CoreError
from palm.calls import Calls, Retired
from palm.connection import Answer, Connection
from palm.directory import pid_here
from palm.remote import Route
from palm.step import Step


class Question(NamedTuple):
    """machine: as the registry's `hosts` describes it. function: of its server, and what that gets."""

    machine: Mapping[str, Any]
    function: str
    values: tuple[Any, ...]


class Reply(NamedTuple):
    """at_ns: when it came, by CLOCK_MONOTONIC of this machine."""

    value: Any
    at_ns: int


class Machines:
    """Of one cluster, by the connection of a client. To whom there is no link yet, there will be one when it answers.

    Deadlines are not sent: clocks of machines may differ by more than what is waited.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.RLock()  # one asks at a time, and a signal's handler beside it
        self._calls: dict[str, Calls] = {}  # by step
        self._late: dict[str, Answer] = {}  # by machine: what it was asked, and has not answered in time

    def ask(self, questions: Mapping[str, Question], patience: float) -> dict[str, Reply]:
        """Asks each of these machines, by name; returns, after `patience` seconds at most, what those have said that
        have answered. One that has not answered before is asked again when it does, and nobody waits for that."""
        with self._lock:
            return self._ask(questions, patience)

    def _ask(self, questions: Mapping[str, Question], patience: float) -> dict[str, Reply]:
        asked: dict[str, Answer] = {}
        for name, question in questions.items():
            late = self._late.get(name)
            if late is None or (late.done and late.error is None):
                self._late.pop(name, None)
                asked[name] = self._send(name, question)
            elif late.done:  # the link was given up
                self._late[name] = self._send(name, question)
        came: dict[str, int] = {}

        def have_all_come() -> bool:
            now = time.monotonic_ns()
            came.update({name: now for name, answer in asked.items() if answer.done and name not in came})
            return len(came) == len(asked)

        try:
            self._connection.wait(have_all_come, patience)
        finally:
            self._late |= {name: answer for name, answer in asked.items() if name not in came}
        return {name: Reply(asked[name].value, at) for name, at in came.items() if asked[name].error is None}

    def _send(self, name: str, question: Question) -> Answer:
        answer = Answer()
        try:
            self._calls_for(name, question).send(question.values, answer, None)
        except (Retired, OSError, CoreError) as e:  # it has gone in this moment, or there is no way there
            answer.done, answer.error = True, e
        return answer

    def _calls_for(self, name: str, question: Question) -> Calls:
        step, address = Step(f"{name}.{question.function}"), question.machine["address"]
        calls = self._calls.get(step)
        if calls is None or calls.retired or calls.route.servers[name]["address"] != address:
            link = self._connection.node.link(addresses.for_core(address), pid_here(dict(question.machine)))
            route = Route([step], {name: dict(question.machine)}, link, {name: link}, {})
            calls = self._calls[step] = Calls(self._connection, None, route)
        return calls
