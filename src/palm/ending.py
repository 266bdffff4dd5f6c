# SPDX-License-Identifier: BSD-3-Clause
"""How a process ends that was born in the nursery: threads, handlers, a user's modules, files.

As at the end of any interpreter. But that would take apart what the nursery has imported too, object by object, and
so copy most of its pages: longer than a birth.
"""

from __future__ import annotations

import atexit
import gc
import os
import stat
import sys
import threading
import traceback
from _io import _IOBase as IOBase  # not the abstract class, which asks each object
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn


def end(ours: Collection[str], files: Sequence[IOBase], code: int) -> NoReturn:
    """Of modules that were there before, `ours`, files alone are seen to. What goes wrong is said, the rest is done.

    files: of those modules, which may have let go of them since.
    """
    from palm._core import birth

    try:
        threading._shutdown()  # type: ignore[attr-defined]  # these two are what the interpreter would begin with
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    are_flushed = _flush_streams()  # which may be a user's, and use what is in modules
    for step in (partial(flush_files, files), partial(_take_apart, ours), flush_files):
        try:
            step()
        except BaseException:
            traceback.print_exc()
    birth.end(code if _flush_streams() and are_flushed else 120)


def _take_apart(ours: Collection[str]) -> None:
    """What is freed with its module still has all that it knows; what something else holds has names alone."""
    theirs = [name for name in [*sys.modules] if name not in ours]  # a copy: a daemon's thread may import
    for name in theirs:
        sys.modules.pop(name, None)
    gc.collect()
    for found in reversed(gc.get_objects()):
        if type(found) is dict and "__builtins__" in found and found.get("__name__") in theirs:
            _clear(found)
    gc.collect()


def _clear(namespace: dict[str, Any]) -> None:
    """As the interpreter does: private names first, on which the others may depend less."""
    names = [name for name in namespace if isinstance(name, str) and name != "__builtins__"]
    for name in sorted(names, key=lambda name: not name.startswith("_") or name.startswith("__")):
        namespace[name] = None


def open_files() -> list[IOBase]:
    return [found for found in gc.get_objects() if issubclass(type(found), IOBase)]


def flush_files(more: Sequence[IOBase] = ()) -> None:
    """Of pipes, somebody may hold the lock who waits for room in it."""
    for file in [*more, *open_files()]:
        with suppress(BaseException):  # it may be closed, or none
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.flush()


def _flush_streams() -> bool:
    """Those that are printed to; from now on the process's own."""
    done = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException:
            done = False
            with suppress(BaseException):
                traceback.print_exc()
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    return done
