# SPDX-License-Identifier: BSD-3-Clause
"""The cache that each server has."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, KeysView, MutableMapping
from typing import Any

MAX_ENTRIES = 65536  # when there are more, the least recently used goes


class Cache(MutableMapping[str, Any]):
    """A mapping from str to payloads; missing or expired: KeyError. Thread-safe."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[Any, float | None]] = OrderedDict()
        self._lock = threading.RLock()

    def __getitem__(self, key: str) -> Any:
        with self._lock:
            value, until = self._entries[key]
            if until is not None and time.monotonic() >= until:
                del self._entries[key]
                raise KeyError(key)
            self._entries.move_to_end(key)
            return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        """Set; after `ttl` seconds the entry is gone."""
        if not isinstance(key, str):
            raise TypeError(f"a key of the cache is a str, not {type(key).__name__}")
        with self._lock:
            self._entries[key] = (value, None if ttl is None else time.monotonic() + ttl)
            self._entries.move_to_end(key)
            if len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)

    def add(self, key: str, value: Any = 1) -> Any:
        """Add to the entry (from 0); returns the new value. Atomic."""
        with self._lock:
            new = self.get(key, 0) + value
            self.set(key, new)
            return new

    def append(self, key: str, value: Any) -> int:
        """Append to the list in the entry; returns its new length. Atomic."""
        with self._lock:
            new = [*self.get(key, []), value]
            self.set(key, new)
            return len(new)

    def __delitem__(self, key: str) -> None:
        with self._lock:
            del self._entries[key]

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self, prefix: str = "") -> KeysView[str]:
        with self._lock:
            return {k: None for k in self._entries if k.startswith(prefix)}.keys()
