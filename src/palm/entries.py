# SPDX-License-Identifier: BSD-3-Clause
"""What a cache holds, and what has to go: least recently used, time to live, a bound in bytes. No I/O, no clock of its
own; `cache.py` has it for one process, `cache_server.py` for all of a cluster."""

from __future__ import annotations

import heapq
import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np

DEFAULT_BOUND = 256 << 20  # bytes a server: weights and tables fit, and ten servers fit on a machine of 8 GiB
PER_ENTRY = 300  # bytes of Python's own that an entry takes beside key and value, by tracemalloc
PER_ARRAY = 128  # likewise an array
MOST_ARRAYS = 1 << 13  # of one value: a message carries as many (docs/wire.md)
OPERATIONS = frozenset(("get", "set", "remove", "pop", "setdefault", "add", "append", "has", "keys", "count", "clear"))
_NUMBERS = (int, float, complex, np.number, np.bool_)


class Kept:
    """A value, and what it takes."""

    __slots__ = ("arrays", "size", "until", "value")

    def __init__(self, value: Any, measure: Measure, until: float) -> None:
        self.value, self.size, self.arrays, self.until = value, measure.size, measure.arrays, until


class Measure(msgspec.Struct, frozen=True):
    """Bytes in memory, nearly, and how many arrays."""

    size: int
    arrays: int


class Elsewhere(Protocol):
    """Where else entries are kept; told of each change, after it was found to be possible."""

    def put(self, key: str, value: Any, until: float) -> None: ...

    def append(self, key: str, value: Any) -> None: ...

    def drop(self, key: str) -> None: ...


class Entries:
    """Of one server. One thread at a time.

    Parameters
    ----------
    bound : int
        Bytes that keys and values may take.
    now : callable
        Seconds, monotonic.
    keep : callable
        What to keep of a value that has been given: a copy that nobody else writes to.
    """

    def __init__(self, bound: int, now: Callable[[], float], keep: Callable[[Any], Any]) -> None:
        self.bound, self._now, self._keep = bound, now, keep
        self.size = self.evicted = self.expired = 0
        self.store: Elsewhere | None = None
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # the least recently used first
        self._ends: list[tuple[float, str]] = []  # a heap, with some that do not hold any more

    # ------------------------------------------------------------------------------------------------ operations

    def get(self, key: str) -> Any:
        """KeyError if there is none."""
        return self._used(key).value

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """After `ttl` seconds it is gone. ValueError if it is larger than all that the cache may hold."""
        _check_key(key)
        until = math.inf if ttl is None else self._now() + _seconds(ttl)
        measure = measured(value)
        self._check_size(key, measure)
        self._set(key, self._keep(value), measure, until)

    def remove(self, key: str) -> None:
        """KeyError if there is none."""
        self._used(key)
        self._drop(key)

    def pop(self, key: str) -> Any:
        """`get` and `remove`."""
        value = self._used(key).value
        self._drop(key)
        return value

    def setdefault(self, key: str, value: Any) -> Any:
        """What is there; else `value`, from now on."""
        if not self.has(key):
            self.set(key, value)
        return self.get(key)

    def add(self, key: str, value: Any) -> Any:
        """The new value, from 0; it lives as long as the one before it would have. TypeError of what is no number."""
        _check_key(key)
        self._expire()
        before = self._kept.get(key)
        old = 0 if before is None else before.value
        _check_sum(key, old, value, self.bound)
        with np.errstate(all="ignore"):
            new = old + value
        if isinstance(new, np.ndarray):
            new.flags.writeable = False
        measure = measured(new)
        self._check_size(key, measure)
        self._set(key, new, measure, math.inf if before is None else before.until)
        return new

    def append(self, key: str, value: Any) -> int:
        """The new length of the list; it lives as long as it would have. TypeError if there is something else."""
        _check_key(key)
        self._expire()
        before = self._kept.get(key)
        if before is None:
            self.set(key, [value])
            return 1
        if type(before.value) is not list:
            raise TypeError(f"append: {key!r} is no list, but {_kind(before.value)}")
        grown = measured(value)
        slots = sys.getsizeof(before.value) // max(1, len(before.value)) // 8 + 8  # bytes of the list's own
        measure = Measure(before.size - self._overhead(key) + grown.size + slots, before.arrays + grown.arrays)
        self._check_size(key, measure)
        if self.store is not None:
            self.store.append(key, value)
        before.value.append(self._keep(value))
        self._put(key, before.value, measure, before.until)
        return len(before.value)

    def has(self, key: str) -> bool:
        """Does not count as use."""
        _check_key(key)
        self._expire()
        return key in self._kept

    def keys(self, prefix: str = "") -> list[str]:
        """Those that begin with `prefix`, the least recently used first."""
        if type(prefix) is not str:
            raise TypeError(f"a prefix is a str, not {_kind(prefix)}")
        self._expire()
        return [key for key in self._kept if key.startswith(prefix)]

    def count(self) -> int:
        self._expire()
        return len(self._kept)

    def clear(self) -> None:
        for key in list(self._kept):
            self._drop(key)
        self._ends.clear()

    # ------------------------------------------------------------------------------------- what is there from the start

    def restore(self, key: str, value: Any, until: float) -> None:
        """An entry that was kept elsewhere, used later than those restored before."""
        measure = measured(value)
        if until > self._now() and measure.size + self._overhead(key) <= self.bound:
            self._put(key, self._keep(value), measure, until)

    # ---------------------------------------------------------------------------------------------- what has to go

    def evict(self) -> None:
        """The least recently used; there is one."""
        self._drop(next(iter(self._kept)))
        self.evicted += 1

    def _expire(self) -> None:
        now = self._now()
        while self._ends and self._ends[0][0] <= now:
            until, key = heapq.heappop(self._ends)
            found = self._kept.get(key)
            if found is not None and found.until == until:
                self._drop(key)
                self.expired += 1

    def _used(self, key: str) -> Kept:
        _check_key(key)
        self._expire()
        found = self._kept[key]
        self._kept.move_to_end(key)
        return found

    def _set(self, key: str, value: Any, measure: Measure, until: float) -> None:
        self._expire()  # else the end of what was there before would be taken for that of this one
        if self.store is not None:
            self.store.put(key, value, until)
        self._put(key, value, measure, until)

    def _put(self, key: str, value: Any, measure: Measure, until: float) -> None:
        self._take_out(key)
        kept = self._kept[key] = Kept(value, Measure(measure.size + self._overhead(key), measure.arrays), until)
        self.size += kept.size
        if until < math.inf:
            self._ends_at(until, key)
        while self.size > self.bound:  # it fits by itself, and is the last to go
            self.evict()

    def _ends_at(self, until: float, key: str) -> None:
        if len(self._ends) > 2 * len(self._kept) + 64:
            self._ends = [(kept.until, k) for k, kept in self._kept.items() if kept.until < math.inf and k != key]
            heapq.heapify(self._ends)
        heapq.heappush(self._ends, (until, key))

    def _drop(self, key: str) -> None:
        self._take_out(key)
        if self.store is not None:
            self.store.drop(key)

    def _take_out(self, key: str) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self.size -= kept.size

    @staticmethod
    def _overhead(key: str) -> int:
        return PER_ENTRY + sys.getsizeof(key)

    def _check_size(self, key: str, measure: Measure) -> None:
        takes = measure.size + self._overhead(key)
        if takes > self.bound:
            raise ValueError(
                f"{key!r} would take {takes} bytes, and the whole cache of the server may have {self.bound}: a larger "
                'one is cache = "1GiB" in [servers.NAME] of cluster.toml'
            )
        if measure.arrays > MOST_ARRAYS:
            raise ValueError(f"{key!r} would have {measure.arrays} arrays, at most {MOST_ARRAYS}: stack them")


def measured(value: Any) -> Measure:
    """What a payload takes when it is kept. Of a broadcast array, what a copy of it would."""
    if isinstance(value, np.ndarray):
        return Measure(value.nbytes + PER_ARRAY, 1)
    own, kind = sys.getsizeof(value), type(value)
    if kind is not list and kind is not tuple and kind is not dict:
        return Measure(own, 0)
    inner = [measured(item) for item in (value.values() if kind is dict else value)]
    if kind is dict:
        own += sum(map(sys.getsizeof, value))
    return Measure(own + sum(m.size for m in inner), sum(m.arrays for m in inner))


def copied(value: Any) -> Any:
    """A payload with arrays, lists and dicts of its own; arrays are read-only."""
    if isinstance(value, np.ndarray):
        own = value.copy(order="K")
        own.flags.writeable = False
        return own
    return _rebuilt(value, copied)


def shown(value: Any) -> Any:
    """A payload with lists and dicts of its own, over the same arrays."""
    return value.view() if isinstance(value, np.ndarray) else _rebuilt(value, shown)


def _rebuilt(value: Any, of: Callable[[Any], Any]) -> Any:
    kind = type(value)
    if kind is list:
        return [of(item) for item in value]
    if kind is tuple:
        return tuple(of(item) for item in value)
    if kind is dict:
        return {key: of(item) for key, item in value.items()}
    return value


def _check_key(key: Any) -> None:
    if type(key) is not str:
        raise TypeError(f"a key of the cache is a str, not {_kind(key)}")


def _seconds(ttl: Any) -> float:
    if type(ttl) not in (int, float) or not ttl >= 0:
        raise ValueError(f"ttl is a number of seconds from 0 on, or None for ever, not {ttl!r}")
    return float(min(ttl, 1e9))


def _check_sum(key: str, old: Any, value: Any, bound: int) -> None:
    """TypeError if that cannot be added; ValueError if the sum would be too large to try."""
    for x in (old, value):
        if not isinstance(x, (*_NUMBERS, np.ndarray)):
            raise TypeError(f"add: {key!r} would be {_kind(old)} and {_kind(value)}: it adds numbers and arrays")
    shape = np.broadcast_shapes(np.shape(old), np.shape(value))
    if shape and math.prod(shape) * 32 > bound and math.prod(shape) > max(np.size(old), np.size(value)):
        raise ValueError(f"add: {key!r} would be of the shape {shape}, larger than both that are added")


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
