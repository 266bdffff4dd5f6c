# SPDX-License-Identifier: BSD-3-Clause
"""How a peer is driven: it sets itself up, says which versions it runs on, and measures one round a request.

One JSON object a line: {"versions": {...}} or {"unavailable": "why"} first, then for each request on standard input
({"case": ..., "n": ..., "size": ...}) one answer: {"value": ...}, or {"unavailable": "why"}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

Request = dict[str, Any]
Measure = Callable[[Request], dict[str, Any]]
Setup = Callable[[], AbstractContextManager[Measure]]


class Unavailable(Exception):
    """This peer cannot do that; the text says why."""


def rate_of(collect: Callable[[int], list[int]], n: int) -> dict[str, Any]:
    """Of tasks 0 to n - 1, which give their number; in whatever order."""
    began = time.perf_counter()
    results = collect(n)
    seconds = time.perf_counter() - began
    assert sorted(results) == list(range(n))
    return {"value": n / seconds}


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def requests(arguments: argparse.Namespace) -> Iterator[Request]:
    if arguments.case is None:
        yield from (json.loads(line) for line in sys.stdin)
    else:
        for _ in range(arguments.rounds):
            yield {"case": arguments.case, "n": arguments.n, "size": arguments.size}


def answer(measure: Measure, request: Request) -> dict[str, Any]:
    try:
        return measure(request)
    except Unavailable as e:
        return {"unavailable": str(e)}


def main(setups: dict[str, Setup], versions: Callable[[], dict[str, str]]) -> None:
    """Run the workload named on the command line.

    Parameters
    ----------
    setups : dict
        By workload: a context manager that starts what the peer needs and gives the function that measures a round.
    versions : callable
        What the peer runs on.
    """
    parser = argparse.ArgumentParser(description="one peer of `palm bench`; without --case it takes requests on stdin")
    parser.add_argument("workload", choices=list(setups))
    parser.add_argument("--case")
    parser.add_argument("--n", type=int, default=1000, help="messages a round")
    parser.add_argument("--size", type=int, default=64, help="bytes of a message")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    try:
        with setups[arguments.workload]() as measure:
            say({"versions": versions()})
            for request in requests(arguments):
                say(answer(measure, request))
    except Unavailable as e:
        say({"unavailable": str(e)})
