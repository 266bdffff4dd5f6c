# SPDX-License-Identifier: BSD-3-Clause
"""Runs what a capsule has, once more, without a cluster: here, or in a process of its own that may die of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from palm.capsule import Capsule, Unusable, read
from palm.directory import check_step
from palm.errors import PalmError
from palm.local import LocalHost, arrived
from palm.remote import without_own_frames
from palm.step import Step, To

DONE, FAILED, UNUSABLE = "done", "failed", "unusable"
VERDICT_BYTES = 4096  # no more than a pipe takes before somebody reads


@dataclass(frozen=True)
class Verdict:
    """How a replay ended: `DONE`, `FAILED` or `UNUSABLE`, and why."""

    how: str
    why: str = ""


def outcomes(capsule: Capsule) -> Iterator[tuple[str, Any]]:
    """What the function sends: (where, value), each checked as a payload; nothing at all where it returns None.

    The server is set up before and torn down after; where something is raised, it is left as it is, for a debugger.
    What setup and the function raise is raised as it is; Unusable: they cannot be loaded here.
    """
    cls = capsule.load_template()
    try:
        functions = {name: signature.describe() for name, signature in cls._called().items()}
        check_step(
            Step(f"{capsule.server}.{capsule.function}", capsule.constants), {"functions": functions, "hidden": []}
        )
    except PalmError as e:
        raise Unusable(f"{capsule.template} is not what it was: {e}") from None
    setup = capsule.load_setup()
    server = cls()
    host = LocalHost(server, capsule.server)
    host.install()
    server.setup(**setup)
    host.now = capsule.message
    yield from _sent(host.call(capsule.function, capsule.value, capsule.constants))
    host.now = None
    server.teardown()


def _sent(result: Any) -> Iterator[tuple[str, Any]]:
    if type(result) is not GeneratorType:
        yield from _named("result", result)
        return
    made = 0
    for value in result:
        for sent in _named(f"yielded {made}", value):
            yield sent
            made += 1


def _named(what: str, value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) is To:
        what, value = f"{what}, to {' -> '.join(value.route)}", value.value
    if value is not None:
        yield what, arrived(value, what)


def run(capsule: Capsule, tell: Callable[[str, Any], None], debug: bool = False) -> Verdict:
    """Replay it in this process: `tell` gets what it sends, standard error the traceback of what it raises.

    debug: enter pdb there.
    """
    try:
        for what, value in outcomes(capsule):
            tell(what, value)
    except Unusable as e:
        return Verdict(UNUSABLE, str(e))
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        if isinstance(e, SystemExit) and not debug:
            raise
        traceback.print_exception(without_own_frames(e))
        if debug:
            import pdb

            sys.stderr.flush()
            pdb.post_mortem(e.__traceback__)
        return Verdict(FAILED, "".join(traceback.format_exception_only(e)).strip())
    return Verdict(DONE)


def run_apart(path: str | os.PathLike[str]) -> Verdict:
    """Replay a file in a process of its own, which prints what comes of it."""
    verdict, write = os.pipe()
    try:
        code = "from palm.replay import main; main()"
        command = [sys.executable, "-P", "-X", "faulthandler", "-c", code, path, str(write)]
        process = subprocess.Popen(command, pass_fds=[write])
        try:
            returned = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        os.close(write)
        write = -1
        os.set_blocking(verdict, False)  # what the function has started may still have the other end
        return _verdict_of(verdict, returned)
    finally:
        for fd in (verdict, write):
            if fd >= 0:
                os.close(fd)


def _verdict_of(fd: int, code: int) -> Verdict:
    try:
        how, _, why = os.read(fd, VERDICT_BYTES).decode(errors="replace").partition("\n")
    except BlockingIOError:
        how = why = ""
    if how and code == 0:
        return Verdict(how, why)
    return Verdict(FAILED, _ended(code))


def _ended(code: int) -> str:
    if code >= 0:
        return f"the process ended with exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def show(what: str, value: Any) -> None:
    """Prints what was sent."""
    from palm.summary import lines

    for line in lines(value, what):
        print(line, flush=True)


def main() -> None:
    """Of the process of its own: a file, and the fd for the verdict."""
    path, fd = sys.argv[1], int(sys.argv[2])
    os.set_inheritable(fd, False)
    found = run(read(path), show)
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(fd, f"{found.how}\n{found.why}".encode(errors="backslashreplace")[:VERDICT_BYTES])
