# SPDX-License-Identifier: BSD-3-Clause
"""The template `ScatterGather`, and what its steps look like to those who call them. `palm.scatter_leader` runs it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from palm.contracts import Contract
from palm.hints import contract_of
from palm.step import To
from palm.template import Server, Signature, parameters_of

_GATHERS = 2  # positional parameters at most: the parts, and the message


class ScatterGather(Server):
    """One message is scattered into parts, which the workers compute; what they give is gathered into one message.

    Each exposed function works on one part. All of them share `scatter` and `gather`, which run in the leader: a
    process with an object of its own of the class, which is set up as those of the workers are. Constants of a step
    are for those of the three that name them.

    A part that fails fails its message; one whose worker dies is computed by another one, and nothing else is repeated.

    Examples
    --------
    >>> class Blur(palm.ScatterGather):
    ...     def scatter(self, image, *, tiles=8): yield from np.array_split(image, tiles)
    ...     @palm.function
    ...     def blur(self, tile, *, sigma): return gaussian_filter(tile, (0, sigma))
    ...     def gather(self, parts): return np.concatenate(parts)
    """

    _hooks = frozenset({"scatter", "gather"})
    _is_parallel = True
    _leader_called: dict[str, Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, signature in cls._exposed.items():
            if inspect.isgeneratorfunction(signature.method):
                raise TypeError(f"{cls.__qualname__}.{name} yields: what becomes of a part is one value; return it")
        for name in cls._hooks & vars(cls).keys():
            Hook(cls, name)  # to say now what is wrong with it

    def scatter(self, *args: Any, **kwargs: Any) -> Any:
        """From a message to its parts. Once a message, in the leader, when workers are about to want them.

        Parameters
        ----------
        *args
            The message: two or more positional parameters take a tuple of that length. Its arrays are read-only, and
            valid as long as you hold them.
        **kwargs
            The constants of the step that it names.

        Returns
        -------
        iterable
            The parts, payloads; a generator function gives them one by one. None is no part. Views of the message's
            arrays travel as views, without a copy.
        """
        raise NotImplementedError

    def gather(self, *args: Any, **kwargs: Any) -> Any:
        """From what became of the parts to one message. Once a message, in the leader.

        Parameters
        ----------
        *args
            A list, in the order in which `scatter` gave the parts, with None where the function returned None; arrays
            are read-only, and valid as long as you hold them. For a second positional parameter: the message.
        **kwargs
            The constants of the step that it names.

        Returns
        -------
        payload
            What goes on, as from any function: it may yield, use `palm.to`, or return None for nothing.
        """
        raise NotImplementedError

    @classmethod
    def _check_complete(cls) -> None:
        missing = [name for name in sorted(cls._hooks) if getattr(cls, name) is getattr(ScatterGather, name)]
        if missing:
            raise TypeError(
                f"{cls.__qualname__} has no {' and no '.join(missing)}: a palm.ScatterGather needs "
                "scatter(self, message), which gives the parts, and gather(self, parts), which makes one of them"
            )

    @classmethod
    def _step(cls, name: str) -> Signature | None:
        part = cls._exposed.get(name)
        return None if part is None else Whole(part, Hook(cls, "scatter"), Hook(cls, "gather"))

    @classmethod
    def _called(cls) -> dict[str, Signature]:
        return cls._exposed | {name: Hook(cls, name) for name in cls._hooks}


class Hook(Signature):
    """Of `scatter` or `gather`."""

    def __init__(self, cls: type[Server], name: str) -> None:
        self.name, self.method = name, getattr(cls, name)
        self.batch, self.attempts, self.timeout, self.retry_on = 0, 1, 0.0, ()
        where = f"{cls.__qualname__}.{name}"
        self._take(parameters_of(where, self.method))
        if name == "gather" and not 1 <= len(self.parameters) <= _GATHERS:
            raise TypeError(
                f"{where}{self.text}: its positional parameters are the list of the parts and, perhaps, the message"
            )
        try:
            contract_of(self.method)
        except TypeError as e:
            raise TypeError(f"{where}: {e}") from None

    @property
    def wants_message(self) -> bool:
        return len(self.parameters) == _GATHERS


class Whole(Signature):
    """A step: what `scatter` takes, the constants of all three, and what `gather` gives."""

    def __init__(self, part: Signature, scatter: Hook, gather: Hook) -> None:
        self.name, self.method, self.attempts = part.name, part.method, part.attempts
        self.batch, self.timeout, self.retry_on = 0, 0.0, ()
        self._of = part, scatter, gather
        constants: dict[str, inspect.Parameter] = {}
        for p in (p for each in (scatter, part, gather) for p in each.named if p.kind == p.KEYWORD_ONLY):
            if p.name not in constants or p.default is p.empty:  # it has to be given if one of them has no default
                constants[p.name] = p
        self._take([p for p in scatter.named if p.kind != p.KEYWORD_ONLY] + list(constants.values()))

    @functools.cached_property
    def contract(self) -> Contract:
        part, scatter, gather = (each.contract for each in self._of)
        constants = gather.constants | scatter.constants | part.constants
        return Contract(scatter.takes, constants, gather.gives)


def parts_of(scattered: Any, what: str) -> Iterator[Any]:
    """What `scatter` has given, one by one; None is no part. A list that nobody else has is emptied, so that its arrays
    are let go of."""
    if isinstance(scattered, (str, bytes, Mapping, To)) or not isinstance(scattered, Iterable):
        raise TypeError(f"{what} has to give an iterable of parts, not one {type(scattered).__name__}")
    if type(scattered) is list and sys.getrefcount(scattered) <= _ALONE:
        scattered.reverse()
        while scattered:
            yield scattered.pop()
    else:
        yield from scattered


_ALONE = 2  # references to what only our own parameter has, that of getrefcount included
