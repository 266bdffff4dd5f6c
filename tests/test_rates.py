# SPDX-License-Identifier: BSD-3-Clause
"""What happened between two looks at a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from palm.delta import COUNTED, quantile
from palm.rates import between, plain, since_start

IDLE = {"state": "idle"}


def counters(**of: Any) -> dict[str, Any]:
    """Of a process: calls of one function `f`, all of them in bucket `bucket`; and what else is named."""
    calls, bucket = of.pop("calls", 0), of.pop("bucket", 20)
    counts = [0] * 40
    counts[bucket] = calls
    f = {"calls": calls, "busy_seconds": of.get("busy_seconds", 0.0), "service_time": {"counts": counts}}
    zero = dict.fromkeys((*COUNTED, "in_flight", "serves_since_ns"), 0)
    return {**zero, "busy_seconds": 0.0, "idle_seconds": 0.0, "functions": {"f": f}, **of}


def process(
    pid: int = 1, *, state: str = "running", work: Any = IDLE, queue: int = 0, cpu: float = 0.0, **of: Any
) -> dict[str, Any]:
    return {
        "pid": pid,
        "host": "here",
        "state": state,
        "work": work,
        "queue": queue,
        "counters": counters(**of),
        "memory": {"heap": 5},
        "cpu_seconds": cpu,
    }


def server(name: str, *workers: dict[str, Any], **of: Any) -> dict[str, Any]:
    itself = process(**of)
    crew = [w | {"number": i} for i, w in enumerate(workers or [itself])]
    return itself | {"name": name, "leads": bool(workers), "workers": crew}


def look(second: float, *servers: dict[str, Any]) -> dict[str, Any]:
    """All processes are read in the same moment."""
    at = {"read_ns": int(second * 1e9)}
    read = [s | at | {"workers": [w | at for w in s["workers"]]} for s in servers]
    return {"now_ns": at["read_ns"], "servers": read, "hosts": []}


def test_rates_are_increments_by_second():
    before = look(10, server("a", calls=100, messages_in=100, bytes_in=1000, busy_seconds=5.0, idle_seconds=2.0))
    after = look(12, server("a", calls=150, messages_in=160, bytes_in=3000, busy_seconds=6.0, idle_seconds=2.5))
    found = between(before, after)
    (a,) = found.servers
    assert found.seconds == 2.0 and a.delta is not None
    assert [a.delta.rate(k) for k in ("calls", "messages_in", "bytes_in", "errors")] == [25, 30, 1000, 0]
    assert (a.delta.utilisation, a.delta.own) == (0.5, 0.25)
    assert a.delta.functions["f"][:2] == (50, 1.0) and a.processes == ()


def test_what_runs_counts_as_busy_before_it_ends():
    running = {"state": "running", "function": "f", "seconds": 43.0}
    since = {"state": "running", "function": "f", "seconds": 42.0}
    (a,) = between(look(0, server("a", work=since)), look(1, server("a", work=running))).servers
    assert a.delta is not None and a.delta.utilisation == 1.0 and a.delta.calls == 0
    # and what has ended was not busy before it had begun
    (a,) = between(look(0, server("a", work=since)), look(1, server("a", calls=1, busy_seconds=42.5))).servers
    assert a.delta is not None and a.delta.utilisation == 0.5


@pytest.mark.parametrize(
    "now",
    [
        server("a", pid=2, calls=3, messages_in=3),  # started again: its counters begin anew
        server("a", pid=0, state="restarting") | {"counters": {}, "memory": {}},
        server("a") | {"counters": {}, "memory": {}},  # it cannot be read
    ],
)
def test_one_that_is_not_the_same_has_no_rates(now):
    found = between(look(0, server("a", calls=1000, messages_in=1000)), look(1, now))
    assert found.servers[0].delta is None
    assert plain(found)["servers"][0]["rates"] is None


def test_one_that_has_begun_in_between_has_rates_since_then():
    now = server("a", pid=2, calls=4, busy_seconds=0.25, serves_since_ns=int(11.5e9))
    (a,) = between(look(11, server("a", calls=1000)), look(12, now)).servers
    assert a.delta is not None and (a.delta.rate("calls"), a.delta.utilisation) == (8, 0.5)
    (a,) = between(look(11.6, server("a", calls=1000)), look(12, now)).servers  # nobody knew of it, but it was there
    assert a.delta is None
    # of the others, and of the server, the time in which they were there counts
    began = process(5, busy_seconds=0.5, serves_since_ns=int(1.5e9))
    before = look(1, server("a", process(3), process(4), pid=1))
    (a,) = between(before, look(2, server("a", process(3, busy_seconds=1.0), began, pid=1))).servers
    assert a.delta is not None and a.delta.utilisation == 1.0


def test_since_the_start():
    found = since_start(look(12, server("a", calls=4, busy_seconds=0.5, idle_seconds=1.0, serves_since_ns=int(10e9))))
    (a,) = found.servers
    assert a.delta is not None and found.seconds == a.delta.seconds == 2.0
    assert (a.delta.calls, a.delta.utilisation, a.delta.own) == (4, 0.25, 0.25)


def test_nothing_is_ever_negative():
    found = between(look(0, server("a", calls=9, messages_in=9, idle_seconds=3.0)), look(1, server("a")))
    d = found.servers[0].delta
    assert d is not None and d.calls == 0 and d.rate("messages_in") == 0.0 and d.idle == 0.0 and min(d.times) == 0


def test_a_server_is_all_of_its_workers():
    """Of one worker that was started again, nothing is known; the leader's copies are the server's."""
    before = look(0, server("a", process(2), process(3), process(4, calls=99), bytes_copied=0))
    after = look(
        1,
        server(
            "a",
            process(2, calls=10, busy_seconds=1.0, bytes_copied=7, queue=2),
            process(3, calls=30, messages_in=30, idle_seconds=0.5),
            process(5),
            messages_in=1000,
            bytes_copied=100,
            queue=40,
        ),
    )
    (a,) = between(before, after).servers
    assert a.delta is not None
    assert (a.delta.rate("calls"), a.delta.rate("messages_in"), a.delta.rate("bytes_copied")) == (40, 30, 107)
    assert (a.delta.utilisation, a.delta.own, a.queue, a.memory) == (0.5, 0.25, 42, {"heap": 20})
    assert [p.name for p in a.processes] == ["a/leader", "a/0", "a/1", "a/2"]
    assert [p.delta is None for p in a.processes] == [False, False, False, True]


def limits(*servers: dict[str, Any]) -> str:
    names = [s["name"] for s in servers]
    return between(look(0, *(server(n, pid=i + 1) for i, n in enumerate(names))), look(1, *servers)).limits


def test_the_one_with_a_queue_and_the_least_time_left_limits():
    fast = server("fast", pid=1, busy_seconds=0.4, idle_seconds=0.6, queue=100)
    slow = server("slow", pid=2, busy_seconds=0.9, idle_seconds=0.1, queue=3)
    assert limits(fast, slow) == "slow"
    assert limits(fast, slow | {"queue": 0}) == ""  # nothing waits where there is no time left
    ours = server("fast", pid=1, busy_seconds=0.1, idle_seconds=0.0, queue=100)  # PALM's own time is time too
    assert limits(ours, slow) == "fast"
    assert limits(server("fast", pid=1, queue=1, idle_seconds=1.0, state="suspended"), slow) == "fast"


def test_a_leader_without_time_left_limits():
    workers = [process(10, idle_seconds=0.9), process(11, idle_seconds=0.9)]
    led = server("led", *workers, pid=1, queue=50, idle_seconds=0.02)
    before = look(0, server("led", process(10), process(11), pid=1))
    assert between(before, look(1, led)).limits == "led"


def test_quantiles_of_a_histogram():
    times = [0] * 40
    times[20] = 100  # from 2^19 to 2^20 ns
    half, all_of_it = quantile(times, 0.5), quantile(times, 1.0)
    assert half == pytest.approx(2**19.5 / 1e9) and all_of_it == pytest.approx(2**20 / 1e9)
    times[30] = 2
    assert quantile(times, 0.5) < 2**20 / 1e9 and 2**29 / 1e9 < quantile(times, 0.99) < 2**30 / 1e9
    assert quantile([0] * 40, 0.5) is None and quantile([], 0.5) is None
