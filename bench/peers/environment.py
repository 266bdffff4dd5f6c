# SPDX-License-Identifier: BSD-3-Clause
"""Environments of peers that cannot live beside PALM, in ``$XDG_CACHE_HOME/palm-bench/``; made at first use."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import rounds


def environment(name: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "palm-bench" / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}"


def enter(where: Path, *installs: Sequence[str], stamp: str = "") -> None:
    """Continues in the interpreter of that environment; made anew, with one ``pip install`` after another, if there is
    none, or one of another stamp. ``$PALM_BENCH_INSTALL`` "no": Unavailable instead of making it."""
    if Path(sys.prefix).resolve() == where.resolve():
        return
    python = str(where / "bin" / "python")
    complete = where / "complete"
    if not complete.exists() or complete.read_text() != stamp:
        if os.environ.get("PALM_BENCH_INSTALL") == "no":
            raise rounds.Unavailable("not installed; palm bench without --quick does it, once")
        _run(sys.executable, "-m", "venv", "--clear", str(where))
        for what in installs:
            _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)
        complete.write_text(stamp)
    os.execv(python, [python, *sys.argv])


def entered(name: str, pinned: Sequence[str]) -> bool:
    """Continues in the environment of that name, which has these packages. False if that cannot be, which is said."""
    try:
        enter(environment(name), pinned, stamp=" ".join(pinned))
    except (rounds.Unavailable, OSError) as e:
        rounds.say({"unavailable": str(e)})
        return False
    return True


def versions(pinned: Sequence[str]) -> dict[str, str]:
    return {p: metadata.version(p) for p in (pin.partition("==")[0] for pin in pinned)}


def compete(name: str, pinned: Sequence[str], setups: dict[str, rounds.Setup]) -> None:
    """`rounds.main` in an environment of that name, which has these packages."""
    if entered(name, pinned):
        rounds.main(setups, functools.partial(versions, pinned))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise rounds.Unavailable(f"{' '.join(command[-3:])}: {last}")
