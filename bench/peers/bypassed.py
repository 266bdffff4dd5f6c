# SPDX-License-Identifier: BSD-3-Clause
"""PALM of the same sources, built so that it neither tracks nor repeats messages (meson's option `tracking`)."""

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


def stamp() -> str:
    """Changes with what PALM is built of, and beside."""
    digest = hashlib.sha256(" ".join(pins()).encode())
    for path in sorted(p for d in SOURCES for p in (TREE / d).rglob("*") if p.suffix in SUFFIXES):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def pins() -> list[str]:
    return [f"{name}=={metadata.version(name)}" for name in SAME]


if __name__ == "__main__":
    try:
        environment.enter(
            environment.environment("bypassed"),
            [*pins(), "-Csetup-args=-Dtracking=false", str(TREE)],
            stamp=stamp(),
        )
    except (rounds.Unavailable, OSError) as e:
        rounds.say({"unavailable": str(e)})
    else:
        from palm.bench_palm import contestant

        contestant(sys.argv[1])
