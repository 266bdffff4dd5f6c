# SPDX-License-Identifier: BSD-3-Clause
"""What processes have done between two looks at them: increments of their counters, and times of calls.

Pure: no I/O, no clock. Looks at processes are those in what `palm.overview.Overview.look` returns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

RATES = ("messages_in", "messages_out", "bytes_in", "bytes_out", "bytes_copied", "errors", "retries")
COUNTED = (
    *RATES,
    *("sent_arena", "sent_inline", "sent_frames", "by_ring", "by_socket", "dropped", "rejected"),
    *("copied_kept", "copied_foreign", "copied_thread"),
)
NEWBORN: Mapping[str, Any] = {  # a process as it begins
    "counters": {**dict.fromkeys(COUNTED, 0), "busy_seconds": 0.0, "idle_seconds": 0.0, "functions": {}},
    "work": {"state": "idle"},
    "cpu_seconds": 0.0,
}


@dataclass(frozen=True)
class Delta:
    """What a process has done between two looks, or several processes together.

    Attributes
    ----------
    seconds : float
        Between the looks; less, if it has begun in between.
    summed : float
        The seconds of all the processes.
    calls : int
        Of functions, that came to their end.
    busy, idle : float
        Seconds in functions, those that have not come to their end included; and waiting for messages. What is left of
        their seconds is PALM's own: taking messages in, sending, and waiting for a core.
    cpu : float
        Seconds of cores.
    counted : dict
        Increments of the counters of these names.
    times : tuple of int
        How many calls took less than 2^i ns, and no less than half of that.
    functions : dict
        By function: calls, busy seconds and `times` of it alone.
    """

    seconds: float = 0.0
    summed: float = 0.0
    calls: int = 0
    busy: float = 0.0
    idle: float = 0.0
    cpu: float = 0.0
    counted: Mapping[str, int] = field(default_factory=dict)
    times: tuple[int, ...] = ()
    functions: Mapping[str, tuple[int, float, tuple[int, ...]]] = field(default_factory=dict)

    def rate(self, name: str) -> float:
        """A second; `calls` too."""
        if name == "calls":
            return self.calls / self.seconds if self.seconds else 0.0
        return self.counted.get(name, 0) / self.seconds if self.seconds else 0.0

    @property
    def utilisation(self) -> float:
        """Share of the time in functions."""
        return _share(self.busy, self.summed)

    @property
    def own(self) -> float:
        """Share of the time that is PALM's own."""
        idle = _share(self.idle, self.summed)
        return max(0.0, 1.0 - self.utilisation - idle) if self.seconds else 0.0

    @property
    def cores(self) -> float:
        """How many it has filled, of several processes together."""
        return self.cpu / self.seconds if self.seconds else 0.0

    @property
    def occupied(self) -> float:
        return self.utilisation + self.own


def grown(was: Mapping[str, Any], p: Mapping[str, Any], seconds: float) -> Delta:
    """What a process has done from one look at it to the next."""
    a, b = was["counters"], p["counters"]
    functions = {name: _of_function(a["functions"].get(name), f) for name, f in b["functions"].items()}
    return Delta(
        seconds,
        seconds,
        sum(calls for calls, _, _ in functions.values()),
        _more(_busy(was), _busy(p)),
        _more(a["idle_seconds"], b["idle_seconds"]),
        _more(was["cpu_seconds"], p["cpu_seconds"]),
        {name: _more(a[name], b[name]) for name in COUNTED},
        _sums(times for _, _, times in functions.values()),
        functions,
    )


def _busy(p: Mapping[str, Any]) -> float:
    """Seconds in functions, the one that runs included."""
    running = p["work"]["seconds"] if p["work"]["state"] == "running" else 0.0
    return float(p["counters"]["busy_seconds"] + running)


def _of_function(a: Mapping[str, Any] | None, b: Mapping[str, Any]) -> tuple[int, float, tuple[int, ...]]:
    if a is None:
        a = {"calls": 0, "busy_seconds": 0.0, "service_time": {"counts": [0] * len(b["service_time"]["counts"])}}
    counts = zip(a["service_time"]["counts"], b["service_time"]["counts"], strict=True)
    times = tuple(_more(x, y) for x, y in counts)
    return _more(a["calls"], b["calls"]), _more(a["busy_seconds"], b["busy_seconds"]), times


def _more(a: Any, b: Any) -> Any:
    """Counters are read while they are written to, one after the other: never less than nothing."""
    return max(b - a, type(b)(0))


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole else 0.0


def total(deltas: Iterable[Delta]) -> Delta:
    """Of several processes."""
    deltas = list(deltas)
    names = sorted({name for d in deltas for name in d.counted})
    functions = sorted({name for d in deltas for name in d.functions})
    return Delta(
        max((d.seconds for d in deltas), default=0.0),
        sum(d.summed for d in deltas),
        sum(d.calls for d in deltas),
        sum(d.busy for d in deltas),
        sum(d.idle for d in deltas),
        sum(d.cpu for d in deltas),
        {name: sum(d.counted.get(name, 0) for d in deltas) for name in names},
        _sums(d.times for d in deltas),
        {name: _together([d.functions[name] for d in deltas if name in d.functions]) for name in functions},
    )


def _together(functions: list[tuple[int, float, tuple[int, ...]]]) -> tuple[int, float, tuple[int, ...]]:
    calls, busy, times = zip(*functions, strict=True)
    return sum(calls), sum(busy), _sums(times)


def _sums(histograms: Iterable[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(sum, itertools.zip_longest(*histograms, fillvalue=0)))


def quantile(times: Sequence[int], q: float) -> float | None:
    """Seconds that the share `q` of calls did not exceed, to within the buckets' factor of two; None: there were no
    calls."""
    wanted, below = q * sum(times), 0
    if not wanted:
        return None
    for i, n in enumerate(times):
        if n and below + n >= wanted:
            return float(2.0 ** (i - 1 + (wanted - below) / n) / 1e9)
        below += n
    return None
