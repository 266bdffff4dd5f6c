# SPDX-License-Identifier: BSD-3-Clause
"""What client and server say to each other in trees: routes and errors. docs/wire.md describes both."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from typing import Any

import msgspec

from palm import places
from palm._core import frame
from palm._core.node import MAX_STEPS
from palm.errors import Crashed, RemoteError
from palm.step import Step

TEMPLATES_OF_OURS = ("palm.demo", "palm.bench_palm")  # modules with functions such as a user writes
NO_MESSAGE = (1 << 64) - 1  # the number in a LOST that tells of a link, not of a message


class Route(msgspec.Struct):
    """Steps, the servers they name, and the client's links to these."""

    steps: list[Step]
    servers: dict[str, dict[str, Any]]  # name: {"address", "functions", "pid", ...}
    link: int  # to the server of the first step
    links: dict[str, int]
    pids: dict[str, int]  # by address, of those in this pid namespace

    def server_of(self, link: int) -> str | None:
        return next((name for name, number in self.links.items() if number == link), None)

    def crashed(self, server: str, number: int, reason: int) -> Crashed:
        """What a death on the route means for an input; its reason is asked for when somebody wants to see it."""
        return Crashed(
            "its process is gone",
            server=server,
            function=next(s.function for s in self.steps if s.server == server),
            number=number,
            type="Crashed",
            pid=self.servers[server]["pid"],
            reason="stopped" if reason == 0 else "",
        )

    def meaning(self, job: bytes, epoch: int, client: str, seed: int, **more: bool | int) -> dict[str, Any]:
        """The tree that an OPEN carries. more: what docs/wire.md, 9.2, has besides."""
        keys = [key_of(s.constants) if s.constants else None for s in self.steps]  # the same in all routes of a job
        constants = {key: s.constants for key, s in zip(keys, self.steps, strict=True) if key is not None}
        steps = [
            [s.server, s.function, self.servers[s.server]["address"], key]
            for key, s in zip(keys, self.steps, strict=True)
        ]
        return {
            "job": job,
            "epoch": epoch,
            "client": client,
            "seed": seed,
            "steps": steps,
            "pids": self.pids | {client: os.getpid()},
            "where": places.pid_namespace(),
            "constants": constants,
            **more,
        }


def died_in(times: int, reason: str, final: bool = False) -> str:
    """What a `Crashed` says of a message that is set aside."""
    if final:
        return f"it {reason}, and was ended with its process"
    if times == 1:
        return f"its process has died while it worked on it: {reason}"
    return f"{times} processes have died while they worked on it, the last one of: {reason}"


def overrun(timeout: float) -> Crashed:
    """What a message ends with whose function took longer than it may, and has come back all the same."""
    reason = f"overran its timeout of {timeout:g} s"
    return Crashed(f"it {reason}", reason=reason)


def check_meaning(tree: Any, hop: int = 0) -> dict[str, Any]:
    """The tree of an OPEN to a server, as `Route.meaning` makes it; ValueError if it is none."""

    def check(fact: bool, what: str) -> None:
        if not fact:
            raise ValueError(what)

    def natural(value: Any, bits: int) -> bool:
        return type(value) is int and 0 <= value < 1 << bits

    # exact types: a numpy scalar is a str or bytes too, but not to the core
    check(type(tree) is dict, "no dict")
    absent = {"epoch": 0, "pids": {}, "where": b"", "tells": False, "reports": False, "stopped": False, "owed": 0}
    tree = absent | {"from": "", "asks": False, "calls": False, "start": False} | tree
    check(tree.keys() >= {"job", "client", "seed", "steps", "constants"}, "a key is missing")
    check(natural(tree["epoch"], 32), "`epoch` has not 32 bits")
    check(
        type(tree["pids"]) is dict and all(type(k) is str and natural(v, 31) for k, v in tree["pids"].items()),
        "`pids` are not pids by endpoint",
    )
    check(type(tree["where"]) is bytes, "`where` is no pid namespace")
    check(type(tree["stopped"]) is bool, "`stopped` is no bool")
    check(natural(tree["owed"], 32), "`owed` has not 32 bits")
    check(type(tree["job"]) is bytes and len(tree["job"]) == 16, "`job` has not 16 bytes")
    check(type(tree["client"]) is str, "`client` is no endpoint")
    check(type(tree["tells"]) is bool, "`tells` is no bool")
    check(type(tree["from"]) is str, "`from` is no step")
    check(type(tree["reports"]) is bool, "`reports` is no bool")
    check(type(tree["asks"]) is bool, "`asks` is no bool")
    check(type(tree["calls"]) is bool, "`calls` is no bool")
    check(type(tree["start"]) is bool, "`start` is no bool")
    check(isinstance(tree["seed"], int) and tree["seed"] >= 0, "`seed` is no natural number")
    steps, constants = tree["steps"], tree["constants"]
    check(type(steps) is list and 0 < len(steps) <= MAX_STEPS, f"`steps` are not 1 to {MAX_STEPS}")
    check(hop + len(steps) < 1 << 16, "more steps than 16 bits can count")
    check(type(constants) is dict and all(type(c) is dict for c in constants.values()), "wrong `constants`")
    check(all(type(k) is str for c in constants.values() for k in c), "a constant without a name")
    for s in steps:
        check(type(s) is list and len(s) == 4 and all(type(text) is str for text in s[:3]), "a wrong step")
        check(s[3] is None or (type(s[3]) is str and s[3] in constants), "constants that are not there")
    checked: dict[str, Any] = tree
    return checked


def pid_of(endpoint: str, pids: dict[str, int], where: bytes) -> int:
    """Of the process that receives there; 0 if that is not known, or of another pid namespace."""
    return pids.get(endpoint, 0) if where == places.pid_namespace() else 0


def contradiction(number: int, route: Route) -> RemoteError:
    """What an input ends with of which two executions have made different numbers of messages (DELIVERY 1)."""
    return RemoteError(
        f"two executions of input {number} on {' -> '.join(route.steps)} have made different numbers of messages; a "
        "function that yields has to make the same number, in the same order, whenever it gets the same message",
        number=number,
        type="Nondeterministic",
    )


def key_of(constants: dict[str, Any]) -> str:
    """Names constants by what they are, not by where they lie: an address is used again, and an array written to. Takes
    2 to 4 us where they are small, and 1.4 ms a MiB."""
    import hashlib  # 4 ms that others need not wait for

    return hashlib.blake2b(frame.pack(dict(sorted(constants.items()))), digest_size=16).hexdigest()


def text_of(steps: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Names a route by what it is: its steps and their constants."""
    return " ".join(f"{step}:{key_of(constants)}" if constants else step for step, constants in steps)


def frozen(s: Step) -> Step:
    """The step with constants of its own, which nobody writes to."""
    return Step(str(s), frame.unpack(frame.pack(s.constants))) if s.constants else s


def tree_of_error(error: BaseException, server: str, function: str, capsule: str | None = None) -> dict[str, Any]:
    """An exception as data: never a pickled object (R14). capsule: the file for ``palm replay``."""
    tree = {
        "server": server,
        "function": function,
        "type": _utf8(type(error).__name__),
        "message": _utf8(_text(error)),
        "traceback": _utf8("".join(traceback.format_exception(error)) if error.__traceback__ else ""),
    }
    if (
        isinstance(error, Crashed) and error.reason and not error.server
    ):  # else a function raised it: who runs that lives
        tree["reason"] = error.reason
    if capsule is not None:
        tree["capsule"] = _utf8(capsule)
    return tree


def without_own_frames(error: BaseException) -> BaseException:
    """Its traceback begins with the user's; with the last one, if all are ours."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None and _is_ours(at.tb_frame.f_globals.get("__name__", "")):
        at = at.tb_next
    error.__traceback__ = at
    return error


def _is_ours(module: str) -> bool:
    return module.startswith("palm.") and module not in TEMPLATES_OF_OURS


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's __str__ may do anything
        return "(its message cannot be shown)"


def _utf8(text: str) -> str:
    """Lone surrogates, as in file names that are no UTF-8, cannot be sent."""
    return text.encode(errors="backslashreplace").decode()


def error_of(tree: Any, number: int) -> RemoteError:
    """The exception that a tree describes; one that says so if it is none."""
    if type(tree) is not dict or not tree:
        what = str(tree) if isinstance(tree, Exception) else f"a {type(tree).__name__}"
        return RemoteError(f"an error that cannot be read: {what}", number=number, type="RemoteError")
    # nothing but str: what else a stranger sends may not even have a repr
    said = {k: v if type(v) is str else f"(a {type(v).__name__})" for k, v in tree.items()}
    fields: dict[str, Any] = {k: said.get(k, "") for k in ("server", "function", "type", "traceback")}
    fields["capsule"] = said.get("capsule")
    if "reason" in said:
        return Crashed(said.get("message", ""), reason=said["reason"], number=number, **fields)
    return RemoteError(said.get("message", ""), number=number, **fields)
