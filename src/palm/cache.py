# SPDX-License-Identifier: BSD-3-Clause
"""Caches, as servers and clients see them. Where the entries are: `entries.py`, `cache_server.py`, docs/cache.md."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any

from palm import arguments
from palm._core.frame import pack, unpack
from palm.entries import DEFAULT_BOUND, Entries, shown
from palm.errors import NotFound, PalmError, PayloadError
from palm.own_names import CACHE

if TYPE_CHECKING:
    from palm.client import Client

ASK, LOOK, DROP = f"{CACHE}.ask", f"{CACHE}.look", f"{CACHE}.drop"
_ABSENT = object()
_ERRORS: dict[str, type[Exception]] = {
    e.__name__: e for e in (KeyError, TypeError, ValueError, OverflowError, MemoryError, OSError)
}


class Cache(MutableMapping[str, Any]):
    """What a server remembers between messages: a mapping from str to payloads. Thread-safe.

    In a cluster all processes of the server have it in common, and clients too (`Client.cache`); it outlives them.
    Each operation takes one round trip, and those below are atomic. Made without arguments it is this process's own.

    When it is full, what was used least recently goes. A missing key is a KeyError; so is one whose time is over, one
    that had to go, and any after the death of the process that has the caches. Values are payloads, arrays arrive as
    read-only views without a copy, valid as long as you hold them; lists and dicts are your own.

    Raises
    ------
    KeyError
        There is no such entry.
    TypeError
        The key is no str. `PayloadError`: the value cannot be sent; names the place in it.
    ValueError
        The value is larger than the whole cache.
    OSError
        The cache is in a file too, which cannot be read or written; the entry is as it was.
    Timeout, Disconnected
        The process that has the caches does not answer.
    """

    def __init__(self) -> None:
        self._ask: Callable[..., Any] = _Local()

    @classmethod
    def _shared(cls, client: Client, server: str, bound: int) -> Cache:
        """That of a server of the cluster; bound: bytes that it may take, 0: as before."""
        cache = cls()
        cache._ask = _Shared(client, server, bound)
        return cache

    def __getitem__(self, key: str) -> Any:
        return self._ask("get", _key(key))

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        """Set an entry.

        Parameters
        ----------
        key : str
        value : payload
            Arrays are copied.
        ttl : float, optional
            Seconds after which the entry is gone; None: never. It replaces that of an entry that was there.

        Raises
        ------
        TypeError
            The key is no str, or `ttl` no number. `PayloadError`: the value cannot be sent.
        ValueError
            The value is larger than the whole cache, or `ttl` is below 0.
        OSError, Timeout, Disconnected
            As of the class.
        """
        self._give("set", key, value, arguments.seconds("ttl", ttl))

    def add(self, key: str, value: Any = 1) -> Any:
        """Add to an entry. Atomic; the entry's ttl stays.

        Parameters
        ----------
        key : str
            If there is no such entry, it begins from 0.
        value : int, float, complex, bool, numpy scalar or ndarray
            What is added by ``+``, numpy's if one of both is numpy's.

        Returns
        -------
        object
            The new value; an array is a read-only view.

        Raises
        ------
        TypeError
            The value, or what the entry has, is no number and no array.
        ValueError
            Shapes do not fit each other, or the sum is larger than the whole cache.
        PayloadError, OSError, Timeout, Disconnected
            As of the class. After a `Timeout` it may have been added or not.
        """
        return self._give("add", key, value)

    def append(self, key: str, value: Any) -> int:
        """Append to the list in an entry. Atomic; the entry's ttl stays.

        Parameters
        ----------
        key : str
            If there is no such entry, it begins from an empty list.
        value : payload
            Arrays are copied.

        Returns
        -------
        int
            The new length of the list.

        Raises
        ------
        TypeError
            The entry is no list.
        ValueError
            The list would be larger than the whole cache.
        PayloadError, OSError, Timeout, Disconnected
            As of the class. After a `Timeout` it may have been appended or not.
        """
        length: int = self._give("append", key, value)
        return length

    def setdefault(self, key: str, default: Any = None) -> Any:
        """What is there; else `default`, which is there from now on. Atomic."""
        return self._give("setdefault", key, default)

    def pop(self, key: str, default: Any = _ABSENT) -> Any:
        """Take an entry out; `default`, if given, when there is none. Atomic."""
        try:
            return self._ask("pop", _key(key))
        except KeyError:
            if default is _ABSENT:
                raise
            return default

    def clear(self) -> None:
        """Atomic."""
        self._ask("clear")

    def __delitem__(self, key: str) -> None:
        self._ask("remove", _key(key))

    def __contains__(self, key: object) -> bool:
        """Does not count as use."""
        return isinstance(key, str) and bool(self._ask("has", str(key)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        length: int = self._ask("count")
        return length

    def keys(self, prefix: str = "") -> KeysView[str]:
        """Those there are now that begin with `prefix`, the least recently used first."""
        return dict.fromkeys(self._ask("keys", prefix)).keys()

    def items(self) -> ItemsView[str, Any]:
        """A round trip for each; what has gone meanwhile is left out."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """A round trip for each; what has gone meanwhile is left out."""
        return _Values(self)

    def __repr__(self) -> str:
        return f"<palm.Cache{self._ask!s}>"

    def _give(self, operation: str, key: str, value: Any, *more: Any) -> Any:
        try:
            return self._ask(operation, _key(key), value, *more)
        except PayloadError:
            try:
                pack(value)  # again, for the place in the value alone
            except PayloadError as e:
                raise PayloadError(f"the value for {key!r}: {e}") from None
            raise


class _Items(ItemsView[str, Any]):
    def __iter__(self) -> Iterator[tuple[str, Any]]:
        cache = self._mapping  # type: ignore[attr-defined]  # typeshed keeps it private
        for key in cache:
            if (value := cache.get(key, _ABSENT)) is not _ABSENT:
                yield key, value


class _Values(ValuesView[Any]):
    def __iter__(self) -> Iterator[Any]:
        for _, value in _Items(self._mapping):  # type: ignore[attr-defined]
            yield value


class _Local:
    """Entries in this process; what is given and got is what it would be between two."""

    def __init__(self) -> None:
        self._entries = Entries(DEFAULT_BOUND, lambda: time.monotonic(), lambda value: value)
        self._lock = threading.RLock()

    def __call__(self, operation: str, *values: Any) -> Any:
        arrived = unpack(pack(values))
        with self._lock:
            return shown(getattr(self._entries, operation)(*arrived))

    def __str__(self) -> str:
        return ", of this process alone"


class _Shared:
    """Entries in the process that has the caches of the cluster."""

    def __init__(self, client: Client, server: str, bound: int) -> None:
        self._client, self._server, self._bound = client, server, bound

    def __call__(self, operation: str, *values: Any) -> Any:
        # whose message has no time left may still put away what it has
        error, answer = self._client._call(ASK, (self._server, self._bound, operation, values), self._client.timeout)
        if error:
            raise _ERRORS.get(error, PalmError)(answer)
        return answer

    def __str__(self) -> str:
        return f" of {self._server!r}"


class UnknownServer(NotFound, KeyError):
    """So that ``in`` and `get` of the mapping work."""

    def __str__(self) -> str:
        return str(self.args[0])


class ServerCaches(Mapping[str, Cache]):
    """Those of all servers there are, by name: `Client.cache`. To find one asks the registry; keep what you get."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getitem__(self, server: str) -> Cache:
        from palm.directory import no_server

        if not isinstance(server, str):
            raise TypeError(f"the name of a server is a str, not {type(server).__name__}")
        found = self._client._directory.ask("lookup", [str(server)])
        if server not in found["names"]:
            raise UnknownServer(no_server(server, found["names"], ""))
        return Cache._shared(self._client, server, found["servers"].get(server, {}).get("cache", 0))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        names: list[str] = self._client._directory.ask("lookup", [])["names"]
        return names

    def __repr__(self) -> str:
        return f"<caches of the servers of {self._client.address}>"


def _key(key: Any) -> str:
    """A plain str: a numpy one is sent as numpy's."""
    if not isinstance(key, str):
        raise TypeError(f"a key of the cache is a str, not {type(key).__name__}")
    return str(key)
