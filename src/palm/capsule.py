# SPDX-License-Identifier: BSD-3-Clause
"""Capsules: a message that failed, in one file, with all that is needed to let it fail again (`palm replay`).

The file, little-endian::

    0   16 bytes  b"PALM capsule 1\\n\\0"
    16  u64       number of bytes from 64 on
    24  32 bytes  their BLAKE2b
    56  8 bytes   0
    64  sections, each a u64, its size, and a frame of `palm._core.frame`, that is, an envelope of docs/wire.md with one
        record, arrays inside: what failed, as a dict (`Capsule` has its keys), the message, the constants of the step,
        and what setup() got, which is empty where it was no payload.

A class that can be imported is named ("module:Class"). One that cannot, since it is of a script's ``__main__`` or a
notebook, lies in the first section as bytes of cloudpickle, as does what setup() got if it was no payload. Nothing of
that is unpickled when a capsule is read or shown: `load_template` and `load_setup` do, which only a replay calls. A
replay runs code that the file names; do that with capsules of your own.
"""

from __future__ import annotations

import collections
import hashlib
import logging
import operator
import os
import pickle
import re
import struct
import sys
import time
import traceback as tracebacks
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from palm._core.frame import pack, unpack
from palm.errors import PayloadError
from palm.message import Message
from palm.template import Server
from palm.versions import versions

log = logging.getLogger("palm")
FILES = 16  # of a job, by one process
BYTES = 1 << 30  # of a job, by one process; one file, whatever its size
JOBS = 1024  # that a process remembers
SUFFIX = ".palm"
_HEAD = struct.Struct("<16sQ32s8x")
_SIZE = struct.Struct("<Q")
_NAME, _VERSION = b"PALM capsule ", b"1"
_MAGIC = _NAME + _VERSION + b"\n\0"
_MOST = 100  # characters of the step in a file's name


class Unusable(ValueError):
    """A capsule that cannot be replayed here: says why."""


@dataclass(frozen=True)
class Capsule:
    """A message that failed.

    Attributes
    ----------
    server, function : str
        What it was for.
    value : object
        The message; `NOTHING` if it was empty.
    constants : dict
        Of the step.
    message : Message
        What `self.message` was.
    reason : str
        ``"SIGSEGV"``, ``"exit code 3"``, ...; the exception's type if one was raised.
    traceback : str
        Of the exception, as text; empty if there was none.
    template : str
        ``"module:Class"``.
    template_pickled : bytes or None
        The class by value, where it cannot be imported.
    setup : dict or None
        What `Server.setup` got; None: it was no payload, see `setup_pickled`.
    setup_pickled : bytes or None
    unpicklable : str
        Why the class or the setup is missing; empty if they are there.
    search : tuple of str
        Where the server's process imported from.
    versions : dict
        Of python, numpy, palm.
    time : float
        When it failed, in seconds since 1970.
    """

    server: str
    function: str
    value: Any
    constants: dict[str, Any]
    message: Message
    reason: str = ""
    traceback: str = ""
    template: str = ""
    template_pickled: bytes | None = None
    setup: dict[str, Any] | None = field(default_factory=dict)
    setup_pickled: bytes | None = None
    unpicklable: str = ""
    search: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    time: float = 0.0

    def load_template(self) -> type[Server]:
        """The class: imports its module, or unpickles it. Unusable if that cannot be done here."""
        self._check_complete()
        sys.path += [p for p in (*self.search, os.getcwd()) if p not in sys.path]
        try:
            if self.template_pickled is not None:
                found = pickle.loads(self.template_pickled)
            else:
                found = _imported(self.template)
        except Exception as e:  # an import and an unpickling may raise anything
            raise Unusable(self._cannot("the class", e)) from e
        if not (isinstance(found, type) and issubclass(found, Server)):
            raise Unusable(f"{self.template} is no template any more, but {found!r}")
        return found

    def load_setup(self) -> dict[str, Any]:
        """What `Server.setup` got: unpickles what was no payload. Unusable if that cannot be done here."""
        self._check_complete()
        if self.setup is not None:
            return self.setup
        try:
            found = pickle.loads(self.setup_pickled or b"")
        except Exception as e:
            raise Unusable(self._cannot("what setup() got", e)) from e
        return dict(found)

    def _check_complete(self) -> None:
        if self.unpicklable:
            raise Unusable(f"the capsule lacks what a replay needs: {self.unpicklable}")

    def _cannot(self, what: str, e: Exception) -> str:
        now = versions()
        other = {k: v for k, v in self.versions.items() if now.get(k) != v}
        hint = f"; it was written with {_words(other)}, here is {_words({k: now[k] for k in other if k in now})}"
        return f"{what} of {self.template} cannot be loaded: {type(e).__name__}: {e}{hint if other else ''}"


def _words(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "none"


def _imported(name: str) -> Any:
    import importlib

    module, _, path = name.partition(":")
    return operator.attrgetter(path)(importlib.import_module(module))


# ---------------------------------------------------------------------------------------------------------- the file


def write(where: str | os.PathLike[str], capsule: Capsule) -> str:
    """Write a capsule: there is the whole file or none, for its owner alone (mode 0600).

    Parameters
    ----------
    where : path
        A file, which is replaced; or a directory, in which it gets a name of its own.
    capsule : Capsule

    Returns
    -------
    str
        The file.

    Raises
    ------
    PayloadError, OSError
    """
    return _write(where, capsule, _encoded(capsule))


def _write(where: str | os.PathLike[str], capsule: Capsule, content: bytes) -> str:
    path = Path(where)
    chosen = path.is_dir()
    if chosen:
        path = _free_name(path, capsule)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "xb", opener=_private) as file:
            file.write(content)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        if chosen:
            path.unlink(missing_ok=True)
        raise
    return str(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _free_name(directory: Path, capsule: Capsule) -> Path:
    """A name that nobody has: an empty file, to be replaced."""
    step = re.sub(r"[^A-Za-z0-9._-]", "_", f"{capsule.server}.{capsule.function}")[:_MOST].lstrip(".")
    name = f"{step}-{capsule.message.job[:8]}-{capsule.message.number}"
    n = 1
    while True:
        path = directory / (name + (f"-{n}" if n > 1 else "") + SUFFIX)
        try:
            open(path, "xb", opener=_private).close()
            return path
        except FileExistsError:
            n += 1


def _encoded(c: Capsule) -> bytes:
    m = c.message
    about = {
        **{k: getattr(c, k) for k in _TEXTS},
        "template_pickled": c.template_pickled,
        "setup_pickled": c.setup_pickled,
        "search": list(c.search),
        "versions": c.versions,
        "time": c.time,
        "message": {**vars(m), "path": list(m.path), "rest": list(m.rest)},
    }
    about["message"].pop("_rng", None)  # which a message keeps once it has been asked for
    frames = [pack(about), pack(c.value), pack(c.constants), b"" if c.setup is None else pack(c.setup)]
    content = b"".join(_SIZE.pack(len(frame)) + frame for frame in frames)
    return _HEAD.pack(_MAGIC, len(content), _digest(content)) + content


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=32).digest()


def read(path: str | os.PathLike[str]) -> Capsule:
    """What a file says. Nothing in it is trusted, run or unpickled.

    Raises
    ------
    ValueError
        It is no capsule, or a damaged one, or of another version.
    OSError
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD.size)
        _check_head(head)
        content = file.read()
    _, size, digest = _HEAD.unpack(head)
    if len(content) != size or _digest(content) != digest:
        raise ValueError(f"the capsule is damaged: {len(content)} of {size} bytes, or other ones than were written")
    try:
        about, value, constants, setup = _sections(content)
        about = unpack(about)
        return Capsule(
            **_checked(about),
            value=unpack(value),
            constants=_dict(unpack(constants)),
            setup=_dict(unpack(setup)) if setup else None,
        )
    except (ValueError, TypeError, KeyError, struct.error) as e:
        raise ValueError(f"the capsule cannot be read: {e!r}") from None


def _check_head(head: bytes) -> None:
    if len(head) < _HEAD.size or not head.startswith(_NAME):
        raise ValueError("not a capsule")
    if not head.startswith(_MAGIC):
        version = head[len(_NAME) : 16].split(b"\n")[0].decode(errors="replace")
        raise ValueError(f"a capsule of version {version}; this PALM reads {_VERSION.decode()}")


def _sections(content: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(content):
        (size,) = _SIZE.unpack_from(content, at)
        at += _SIZE.size
        found.append(content[at : at + size])
        at += size
    return found


_TEXTS = ("server", "function", "reason", "traceback", "template", "unpicklable")
_OF_MESSAGE: dict[str, type | tuple[type, ...]] = {
    "job": str, "number": int, "path": list, "stage": int, "step": str, "rest": list, "client": str,
    "deadline": (float, type(None)), "attempt": int, "seed": int,
}  # fmt: skip


def _checked(about: Any) -> dict[str, Any]:
    """The first section as arguments of `Capsule`; ValueError or KeyError if it is none."""
    about = _dict(about)
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(_TEXTS, str),
        **dict.fromkeys(("template_pickled", "setup_pickled"), (bytes, type(None))),
        "search": list, "versions": dict, "time": float, "message": dict,
    }  # fmt: skip
    fields = {k: _of_kind(about, k, kind) for k, kind in kinds.items()}
    message = {k: _of_kind(fields["message"], k, kind) for k, kind in _OF_MESSAGE.items()}
    _all_of(int, message["path"])
    if any(n < 0 for n in (message["seed"], *message["path"])):
        raise ValueError("a seed or path that is negative")
    _all_of(str, [*message["rest"], *fields["search"], *fields["versions"], *fields["versions"].values()])
    message |= {"path": tuple(message["path"]), "rest": tuple(message["rest"])}
    return fields | {"search": tuple(fields["search"]), "message": Message(**message)}


def _of_kind(of: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(of[key], kind):
        raise ValueError(f"{key!r} is {of[key]!r}")
    return of[key]


def _all_of(kind: type, values: list[Any]) -> None:
    if not all(isinstance(v, kind) for v in values):
        raise ValueError(f"not all of {values!r} are {kind.__name__}")


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"not a dict: {type(value).__name__}")
    return value


# --------------------------------------------------------------------------------------------------------- the store


class Store:
    """Where a server's process puts capsules, and how many: of each job at most 16, and 1 GiB.

    Made before `setup` runs, since what that gets and the current directory may change later.

    Parameters
    ----------
    template : type
        The server's class.
    setup : mapping
        What its `setup` gets.
    directory : path, optional
        Made when there is something to put into it. None: ``$PALM_CAPSULES``, else ``palm-capsules`` in the current
        directory, which a process of a cluster has from the one that started the cluster; if the variable is there and
        empty, no capsules are written.
    """

    def __init__(
        self, template: type[Server], setup: Mapping[str, Any], directory: str | os.PathLike[str] | None = None
    ) -> None:
        chosen = os.environ.get("PALM_CAPSULES", "palm-capsules") if directory is None else os.fspath(directory)
        self.directory = Path(chosen).absolute() if chosen else None
        self._template, self._setup = template, dict(setup)
        self._search = tuple(os.path.abspath(p) for p in sys.path)
        self._origin: dict[str, Any] | None = None
        self._jobs: collections.OrderedDict[str, tuple[int, int]] = collections.OrderedDict()  # id: files, bytes

    def write(
        self,
        *,
        server: str,
        function: str,
        value: Any,
        constants: Mapping[str, Any],
        message: Message,
        error: BaseException | None = None,
        reason: str = "",
    ) -> str | None:
        """A capsule for a message that failed.

        Parameters
        ----------
        server, function, value, constants, message
            As `Capsule` has them.
        error : BaseException, optional
            What the function raised.
        reason : str
            Why its process died, where there is no exception.

        Returns
        -------
        str or None
            The file; None: this job has its share, or it could not be written, which the log tells. Never raises.
        """
        files, size = self._jobs.get(message.job, (0, 0))
        if self.directory is None or files >= FILES:
            return None
        self._remember(message.job, files + 1, size)  # also if it fails: a full disk is not tried for ever
        try:
            capsule = replace(
                Capsule(server, function, value, dict(constants), message, reason, time=time.time()), **self._where()
            )
            if error is not None:
                capsule = replace(capsule, reason=type(error).__name__, traceback=_text_of(error))
            return self._put(capsule, message.job, files, size)
        except Exception as e:
            log.warning("%s.%s: its failure at input %d left no capsule: %s", server, function, message.number, e)
            return None

    def _put(self, capsule: Capsule, job: str, files: int, size: int) -> str | None:
        assert self.directory is not None
        content = _encoded(capsule)
        if files and size + len(content) > BYTES:
            return None
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = _write(self.directory, capsule, content)
        self._remember(job, files + 1, size + len(content))
        return path

    def _remember(self, job: str, files: int, size: int) -> None:
        self._jobs[job] = files, size
        self._jobs.move_to_end(job)
        if len(self._jobs) > JOBS:
            self._jobs.popitem(last=False)

    def _where(self) -> dict[str, Any]:
        """What is the same in all capsules of this process."""
        if self._origin is None:
            origin = {"search": self._search, "versions": versions()}
            self._origin = origin | _named(self._template) | _recorded(self._setup)
        return self._origin


def _text_of(error: BaseException) -> str:
    return "".join(tracebacks.format_exception(error)).encode(errors="backslashreplace").decode()


def _named(template: type[Server]) -> dict[str, Any]:
    """How to get hold of the class again."""
    name = f"{template.__module__}:{template.__qualname__}"
    if template.__module__ != "__main__" and _is_importable(template):
        return {"template": name}
    pickled, why = _pickled(template)
    return {"template": name, "template_pickled": pickled, "unpicklable": why}


def _is_importable(template: type[Server]) -> bool:
    try:
        found = operator.attrgetter(template.__qualname__)(sys.modules[template.__module__])
    except (KeyError, AttributeError):
        return False
    return found is template


def _recorded(setup: dict[str, Any]) -> dict[str, Any]:
    try:
        pack(setup)
        return {"setup": setup}
    except PayloadError:
        pickled, why = _pickled(setup)
        return {"setup": None, "setup_pickled": pickled} | ({"unpicklable": why} if why else {})


def _pickled(value: Any) -> tuple[bytes | None, str]:
    import cloudpickle  # type: ignore[import-untyped]

    try:
        return cloudpickle.dumps(value), ""
    except Exception as e:  # whatever the user's objects raise
        return None, f"{value!r} cannot be pickled: {e}"
