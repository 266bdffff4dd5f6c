# SPDX-License-Identifier: BSD-3-Clause
"""What users subclass: `Server`, and the decorator that exposes a method."""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec
import numpy as np

from palm import arguments
from palm._core.decode import NOTHING
from palm.cache import Cache
from palm.contracts import Contract, abridged
from palm.errors import PayloadError
from palm.fitting import Fitting
from palm.hints import contract_of
from palm.message import Message
from palm.pace import MOST

if TYPE_CHECKING:
    from palm.client import Client

F = TypeVar("F", bound=Callable[..., Any])
MOST_DOC = 4096  # characters of a docstring that others can read
_MARK = "_palm_function"


class Exposed:
    """What `function` says about a method."""

    def __init__(self, **options: Any) -> None:
        self.options = options


@overload
def function(f: F, /) -> F: ...
@overload
def function(
    *,
    batch: bool | int = ...,
    timeout: float | None = ...,
    retry_on: tuple[type[BaseException], ...] = ...,
    attempts: int = ...,
    pure: bool = ...,
) -> Callable[[F], F]: ...
def function(
    f: Any = None,
    /,
    *,
    batch: bool | int = False,
    timeout: float | None = None,
    retry_on: tuple[type[BaseException], ...] = (),
    attempts: int = 3,
    pure: bool = False,
) -> Any:
    """Expose a method; it is returned unchanged.

    Its positional parameters are the message: one takes it whole, several take a tuple of that length, none takes an
    empty one. Keyword-only parameters are constants of the step.

    Type hints are contracts, where they speak of arrays (``NDArray[np.float32]``, with a shape
    ``Annotated[NDArray[np.float32], "rows 512"]``), of numpy's or Python's scalars, str, bytes, tuples of these, or
    several by ``|``. When a job is made, what each step gives is held against what the next one takes, and constants
    against their parameters. Each message is, before the function runs; one that does not fit fails with PayloadError.
    Other hints, and functions without, say nothing. `docs/contracts.md` has the rules.

    Parameters
    ----------
    batch : bool or int, optional
        The function is called with k messages at once; an int is the largest k, True means 4096. Each positional
        parameter gets an array ``(k, ...)`` of the values of k messages, read-only: a view where they lie side by side,
        else a copy, which is counted. Messages are arrays, numpy scalars, bool, int, float or complex (in a tuple, for
        several parameters); of other shapes or dtypes, they go in separate calls. It returns k rows, of which row n
        belongs to message n: an array ``(k, ...)``, a list (with None for what is dropped), a tuple of these, whose
        rows are tuples, or None, if all are dropped. k is what has come anyway in one envelope, 1 at first; it grows as
        long as a call takes at most 2 ms, or gains by more messages. There is no `self.message` and no `self.rng`. If
        it raises, or its process dies, each of the k messages is executed alone once more, so that the culprit alone
        fails.
    timeout : float, optional
        Seconds that one execution may take (of a batch function: of however many messages); of a function that yields,
        the time in which it runs, not that in which it waits for room. It is looked at ten times a second. A function
        that takes longer is ended with its process, whatever it does at that moment, and the message fails with
        `Crashed`, whose `reason` says so; it is not run again. All else that was under way is repeated. Under
        `palm.serve` nobody starts the process again: it exits with 124, a line on standard error says why, and its
        clients see a death.
    retry_on : tuple of classes
        Exceptions after which the same server runs the message again, after a while (50 ms, then twice as long each
        time, up to 1.6 s) in which it does other work; `self.message.attempt` counts. A function that yields begins
        anew, and what it yields as before is not sent again. What is no Exception (SystemExit) ends the process, which
        counts as a death anyway.
    attempts : int
        Executions of a message. A message in which so many processes have died is set aside with `Crashed`; after so
        many exceptions of `retry_on` it fails with the last one. Both count together.
    pure : bool
        It may be executed twice at the same time: of a `Butterfly`, as the last step, a worker that has nothing to do,
        while nothing waits, gets what another one takes long for (50 ms, and twice what such a message takes) as well.
        The first outcome counts; who is still at it 2 s after the job's end is ended with its process. Without effect
        on functions that yield.
    """
    if not isinstance(batch, int) or batch < 0:
        raise ValueError(f"batch={batch!r} is neither a bool nor the largest number of messages in a call")
    if not isinstance(attempts, int) or attempts < 1:
        raise ValueError(f"a message is tried at least once: attempts={attempts!r} is no natural number")
    timeout = arguments.seconds("timeout", timeout)
    if timeout == 0:
        raise ValueError(f"timeout={timeout!r}: an execution takes some seconds; None, if any number will do")
    if not isinstance(retry_on, tuple) or not all(
        isinstance(e, type) and issubclass(e, BaseException) for e in retry_on
    ):
        raise TypeError(f"retry_on={retry_on!r} is no tuple of classes of exceptions, as (OSError,)")

    def mark(g: F) -> F:
        most = MOST if batch is True else int(batch)
        setattr(g, _MARK, Exposed(batch=most, attempts=attempts, timeout=timeout or 0.0, retry_on=retry_on, pure=pure))
        return g

    return mark if f is None else mark(f)


def parameters_of(where: str, method: Callable[..., Any]) -> list[inspect.Parameter]:
    """Those after `self` of a method that messages are given to; TypeError if they are none for that."""
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        raise TypeError(f"{where} is async: a server runs one function at a time; write a plain function")
    parameters = list(inspect.signature(method).parameters.values())
    if not parameters or (len(parameters) == 1 and parameters[0].name != "self"):
        raise TypeError(f"{where} has no `self`")
    for p in parameters[1:]:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise TypeError(
                f"{where} has {p}: name the parameters, positional ones for the message, "
                "keyword-only ones for constants"
            )
        if p.kind != p.KEYWORD_ONLY and p.default is not p.empty:
            raise TypeError(
                f"{where} has the positional default {p}: what is not in the message is a constant; put it after a `*`"
            )
    return parameters[1:]


class Signature:
    """The parameters of an exposed method, as far as a caller has to know them."""

    def __init__(self, cls: type, name: str, method: Callable[..., Any]) -> None:
        self.name = name
        options = getattr(method, _MARK).options
        self.batch: int = options["batch"]  # messages in a call, at most; 0: it is called with one, as it is
        self.attempts: int = options["attempts"]
        self.timeout: float = options["timeout"]  # 0: none
        self.retry_on: tuple[type[BaseException], ...] = options["retry_on"]
        self.may_run_twice = bool(options["pure"]) and not inspect.isgeneratorfunction(method)
        self.method = method
        where = f"{cls.__qualname__}.{name}"
        if self.batch and inspect.isgeneratorfunction(method):
            raise TypeError(f"{where} is a batch function that yields: it has to return a row for each message")
        self._take(parameters_of(where, method))
        if self.batch and not self.parameters:
            raise TypeError(f"{where} is a batch function without a positional parameter: there is nothing to stack")
        try:
            contract_of(method)  # to say now what is no shape; what hints name may be there later
        except TypeError as e:
            raise TypeError(f"{where}: {e}") from None

    def _take(self, named: list[inspect.Parameter]) -> None:
        self.named = named
        self.parameters: list[str] = [p.name for p in named if p.kind != p.KEYWORD_ONLY]
        self.constants = {p.name: p.default is not p.empty for p in named if p.kind == p.KEYWORD_ONLY}
        self.text = str(inspect.Signature(named)) if self.constants else f"({', '.join(map(str, named))})"

    @functools.cached_property
    def contract(self) -> Contract:
        """Of a batch function: for its constants alone, since what it gets is a stack of messages."""
        found = contract_of(self.method)
        if self.batch:
            found = msgspec.structs.replace(found, takes=dict.fromkeys(found.takes, ()), gives=())
        return found

    @functools.cached_property
    def _abridged(self) -> str:
        return abridged(self.text)

    def fitting(self, server: str, constants: Mapping[str, Any], sender: str) -> Fitting:
        """The tests for what comes at one step; PayloadError if a constant does not fit."""
        return Fitting(f"{server}.{self.name}{self._abridged}", self.contract, constants, sender)

    def spread(self, server: str, value: Any) -> tuple[Any, ...]:
        """The positional arguments that a message is (rule 2); PayloadError if it does not fit."""
        count = len(self.parameters)
        values = () if value is NOTHING else (value,) if count == 1 else value
        if type(values) is tuple and len(values) == count:
            return values
        what = f"a tuple of {len(value)}" if type(value) is tuple else f"one {type(value).__name__}"
        advice = f": send a tuple of {count}, or call it with {count} values"
        if count == 0:
            advice = ": call it without a value, or begin a job without inputs by it"
        elif value is NOTHING:
            what = "empty"
            advice = f": give the call {count} value{'s' * (count != 1)}, the job inputs"
        takes = f"{count} positional parameter{'s' * (count != 1)}"
        raise PayloadError(f"{self.what(server)} has {takes}, but the message is {what}{advice}")

    def own(self, constants: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the constants that it names."""
        return {name: value for name, value in constants.items() if name in self.constants}

    def what(self, server: str) -> str:
        """For errors."""
        return f"{server}.{self.name}{self._abridged}"

    def describe(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "parameters": len(self.parameters),
            "constants": self.constants,
            "contract": self.contract.plain(),
        }

    def describe_of_reduce(self, finish: Callable[..., Any] | None) -> dict[str, Any]:
        """A message is one operand; what goes on is what `finish` gives, if there is one."""
        takes = dict(itertools.islice(self.contract.takes.items(), 1))
        gives = self.contract.gives if finish is None else contract_of(finish).gives
        contract = msgspec.structs.replace(self.contract, takes=takes, gives=gives)
        return self.describe() | {"parameters": 1, "contract": contract.plain()}


class Server:
    """One step: a function of one message; 0, 1 or many messages on.

    Subclass it, expose methods with `palm.function`. An object is made without arguments and may be called directly in
    tests; in a cluster, `setup` runs first in each process.

    Attributes
    ----------
    name : str
        The server's name in steps, as ``"spectrum"``; "" in an object that no cluster and no `palm.testing.run` runs.
    worker : int
        0, 1, ... among the server's workers; 0 in a server of one process, and in a leader. One that its cluster
        starts again has the number of its predecessor.
    """

    name: str = ""
    worker: int = 0
    _exposed: dict[str, Signature] = {}
    _hooks: frozenset[str] = frozenset()  # methods that a template calls
    _host: Any = None
    _cache: Cache | None = None
    _is_parallel = False  # a leader and workers

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        exposed = dict(cls._exposed)
        for name, value in vars(cls).items():
            if getattr(getattr(value, "__wrapped__", None), _MARK, None) and isinstance(
                value, (staticmethod, classmethod)
            ):
                raise TypeError(f"{cls.__qualname__}.{name} is a {type(value).__name__}: expose a plain method")
            if getattr(value, _MARK, None) is not None:
                if name in _OF_THE_TEMPLATE or name in cls._hooks:
                    raise TypeError(f"{cls.__qualname__}.{name} is exposed, but {name!r} is a name of the template")
                exposed[name] = Signature(cls, name, value)
        cls._exposed = exposed

    @classmethod
    def _step(cls, name: str) -> Signature | None:
        """An exposed function as its callers see it."""
        return cls._exposed.get(name)

    @classmethod
    def _called(cls) -> dict[str, Signature]:
        """All that is called with something that came, hooks too."""
        return cls._exposed

    @classmethod
    def _check_complete(cls) -> None:
        """TypeError if it lacks what it cannot run without."""

    def setup(self, *args: Any, **kwargs: Any) -> Any:
        """Once in each process that runs your code, first; gets what `Cluster.start(setup=...)` gave."""

    def teardown(self) -> Any:
        """Once in each process, at an orderly stop."""

    @property
    def cache(self) -> Cache:
        """This server's cache, shared by all its processes and by clients (`Client.cache`): it outlives this process.
        Without a cluster, of this object alone."""
        shared = self._host.cache() if self._host is not None else None
        if shared is not None:
            return shared  # type: ignore[no-any-return]
        if self._cache is None:
            self._cache = Cache()
        return self._cache

    @property
    def client(self) -> Client:
        """A client of the cluster this server belongs to, to call others. What a function asks for has no more time
        than the message that it works on.

        Raises
        ------
        RuntimeError
            The object is in no cluster.
        PalmError
            By `call` and `acall`: the step is of this server, which would wait for itself. It is not noticed
            if it does so by way of another server or of a job.
        """
        client: Client = self._running("client").client()
        return client

    @property
    def log(self) -> logging.Logger:
        """The logger ``palm.<name>``, whose records ``palm logs`` shows with server, worker, job and message
        (docs/logs.md): INFO and above, or from the level on that is set by `setLevel` here or, in `setup`, for all
        loggers. WARNING and above are shown on the terminal too."""
        return logging.getLogger(f"palm.{self.name or type(self).__name__.lower()}")

    @property
    def message(self) -> Message:
        """The message at work; RuntimeError outside of functions, and in a batch function, which has several."""
        if self._host is None:
            return Message.of_nothing()
        message: Message = self._host.message()
        return message

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers that are the same wherever and whenever this message is worked on: Philox (Salmon et al.,
        "Parallel random numbers: as easy as 1, 2, 3", SC 2011), seeded by job seed, path and stage."""
        return self.message.rng()

    @property
    def cancelled(self) -> bool:
        """True if nobody waits for the message any more: its job was cancelled, its deadline has passed, or its
        client is gone. Long functions look at it. One that goes on for longer than 2 s, or than the server's `setup`
        took, is ended with its process, which is replaced; other messages are repeated."""
        return self._host is not None and bool(self._host.cancelled())

    def count(self, name: str, n: float = 1) -> None:
        """Add to a counter of your own, which ``palm status --json`` and Prometheus show. Without a cluster, nothing
        happens.

        Parameters
        ----------
        name : str
            63 bytes at most. A process has 32 counters and histograms of its own, together.
        n : float
            Not below 0. Counters begin at 0 in each process, in one that was started again too.

        Raises
        ------
        ValueError
            `n` is below 0 or not a number; the name is too long, that of a histogram, or one too many.
        """
        if self._host is not None:
            self._host.count(name, n)

    def observe(self, name: str, value: float) -> None:
        """Record a value in a histogram of your own, which ``palm status --json`` and Prometheus show: how many there
        were, their sum, and how many up to each power of 2 from 2**-20 to 2**20. Without a cluster, nothing happens.

        Parameters
        ----------
        name : str
            As of `count`.
        value : float
            What is below 2**-20, or negative, is in the first bucket.

        Raises
        ------
        ValueError
            `value` is not a number; the name is too long, that of a counter, or one too many.
        """
        if self._host is not None:
            self._host.observe(name, value)

    def _running(self, what: str) -> Any:
        if self._host is None:
            raise RuntimeError(f"`{what}` is there in a running server alone: start it with palm.Cluster or palm.serve")
        return self._host


class Source(Server):
    """Makes or splits streams: what its functions yield goes on to the next step, or where `palm.to` sends it.

    As the first step of a job without inputs (files, an instrument, a simulation) it makes them: what it yields are the
    inputs 0, 1, 2, ... of the job, made as there is room for them. It answers calls between two of them. `Job.stop`
    closes it.

    An array that is yielded while a variable still names it may be written to when the function goes on, so it is
    copied; ``yield make()``, without a name, is not.

    Attributes
    ----------
    live : bool
        What becomes of such a job when the process dies. False: it is started again, and makes the same inputs once
        more, of which those that are done are skipped. True, where they cannot be made again: the job ends with
        `Crashed`.
    """

    live: bool = False


class Butterfly(Server):
    """One step on several processes: a leader, which hands messages out, and workers, which run the functions.

    Written exactly as a `Server`. ``cluster.start(..., workers=4)`` says how many there are, `Cluster.scale` changes
    it. A worker gets as much as it does in some milliseconds, and long messages one at a time; so workers of different
    speed get work in proportion. Workers may die at any time.
    """

    _is_parallel = True


class Reduce(Server):
    """Many messages become one for each key: a leader, which sorts them, and workers, which combine them two at a time.

    An exposed function makes one message of two: ``f(self, a, b)``, associative. Messages meet that have the same key,
    at the same step, with the same route still to go. When all that comes before it is done, `finish` makes the message
    of each key that goes on, in the order of keys (None, int, bytes, str, tuple, each by itself). Nobody counts.

    In `job.items`, the number of such a message is that of the lowest input that went into it. Downstream it is a
    message of an input behind the last one: one number for each reduction, and in its path the place of the key.

    Operands are read-only, and valid as long as you hold them. The function returns one value, not None, which goes
    without a copy if the function lets go of it. If it raises, or the processes that combine two messages die as often
    as its `attempts`, their key has no total, but an error in its place; `retry_on` and `timeout` are of one task, in
    which a worker combines several. A Reduce takes no calls, and a job that passes one can have no journal.

    Attributes
    ----------
    deterministic : bool
        True: in which order messages are combined depends on their numbers and paths alone, so the result has the
        same bits for any number of workers, whatever dies. False: whatever is there is combined; f has to commute too.
    per_input : bool
        True: one reduction for each input, which comes out as soon as all of that input is there: where branches meet
        again. False: one for the job.

    Examples
    --------
    The mean temperature of each station, from messages ``(station, temperature)``:

    >>> class Mean(palm.Reduce):
    ...     def key(self, message):
    ...         return message[0]
    ...
    ...     @palm.function
    ...     def add(self, a, b):
    ...         return a[0], a[1] + b[1]
    ...
    ...     def finish(self, key, total, count):
    ...         return key, total[1] / count
    """

    _is_parallel = True
    deterministic: bool = False
    per_input: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, signature in cls._exposed.items():
            where = f"{cls.__qualname__}.{name}{signature.text}"
            if name in vars(Reduce):
                raise TypeError(f"{where} is exposed, but {name!r} is a name of the template")
            if len(signature.parameters) != 2 or signature.batch or inspect.isgeneratorfunction(getattr(cls, name)):
                raise TypeError(f"{where}: a function of a Reduce makes one message of two, as add(self, a, b)")
        _check_takes(cls, "key", "message")
        _check_takes(cls, "finish", "key", "total", "count")

    def key(self, message: Any, /) -> Any:
        """Which messages belong together. In the leader, once a message; again for what is repeated after a death.

        Parameters
        ----------
        message
            As one value: a tuple is not spread over parameters, as it would be for a function.

        Returns
        -------
        None, int, str, bytes or tuple of these
        """
        return None

    def finish(self, key: Any, total: Any, count: int, /) -> Any:
        """From a key's total to the message that goes on. In the leader, once a key.

        Parameters
        ----------
        key
            What `key` gave, numpy's scalars as Python's.
        total
            What the messages have become: the message itself, if there was one.
        count : int
            How many messages there were.

        Returns
        -------
        payload
            By default the total, which does not say its key; None: nothing goes on.
        """
        return total


def _check_takes(cls: type, name: str, *values: str) -> None:
    """TypeError if this method cannot be called with these values; of what is no plain method nothing is known."""
    method = inspect.getattr_static(cls, name)
    if not inspect.isfunction(method):
        return
    signature = inspect.signature(method)
    try:
        signature.bind(None, *values)
    except TypeError:
        wanted = ", ".join(("self", *values))
        raise TypeError(f"{cls.__qualname__}.{name}{signature} is called as {name}({wanted})") from None


_OF_THE_TEMPLATE = frozenset(n for n in vars(Server) if not n.startswith("_"))


def exposure(template: type[Server]) -> dict[str, Any]:
    """The functions of a template, and the methods that are none."""
    hidden = [
        n
        for n in dir(template)
        if not n.startswith("_")
        and n not in template._exposed
        and n not in template._hooks
        and not any(n in vars(c) for c in template.__mro__ if c.__module__ == __name__)
        and callable(getattr(template, n))
    ]
    if issubclass(template, Reduce):
        finish = None if template.finish is Reduce.finish else template.finish
        functions = {n: s.describe_of_reduce(finish) for n, s in template._exposed.items()}
    else:
        functions = {n: s.describe() for n in template._exposed if (s := template._step(n)) is not None}
    docs = {n: (inspect.getdoc(getattr(template, n)) or "")[:MOST_DOC] for n in functions}
    return {
        "functions": functions,
        "hidden": hidden,
        "docs": docs,
        "doc": inspect.cleandoc(template.__doc__ or "")[:MOST_DOC],
    }


def iterate_exposed(template: type[Server]) -> Iterator[tuple[str, Signature]]:
    yield from template._exposed.items()
