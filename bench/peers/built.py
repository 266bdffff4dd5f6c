# SPDX-License-Identifier: BSD-3-Clause
"""PALM of the same sources, built with an option that leaves something out, as a peer of itself."""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata
from pathlib import Path

import environment
import rounds

TREE = Path(__file__).resolve().parents[2]
SOURCES = ("csrc", "schema", "src")
SUFFIXES = (".c", ".cc", ".h", ".py", ".pyx", ".pxd", ".fbs")
SAME = ("numpy", "pyzmq", "msgspec")  # what counts for speed is in the same version as beside it


def _stamp() -> str:
    """Changes with what PALM is built of, and beside."""
    digest = hashlib.sha256(" ".join(_pins()).encode())
    for path in sorted(p for d in SOURCES for p in (TREE / d).rglob("*") if p.suffix in SUFFIXES):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _pins() -> list[str]:
    return [f"{name}=={metadata.version(name)}" for name in SAME]


def compete(name: str, option: str) -> None:
    """Answers what is asked of `sys.argv[1]`, in an environment of this name.

    option : str
        Of meson, which is false there.
    """
    try:
        environment.enter(
            environment.environment(name),
            [*_pins(), f"-Csetup-args=-D{option}=false", str(TREE)],
            stamp=_stamp(),
        )
    except (rounds.Unavailable, OSError) as e:
        rounds.say({"unavailable": str(e)})
    else:
        from palm.bench_palm import contestant

        contestant(sys.argv[1])
