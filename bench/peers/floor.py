# SPDX-License-Identifier: BSD-3-Clause
"""The C floor: `floor.c`, compiled at first use, in three patterns; a round's value is the best of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rounds
import zmq

SOURCE = Path(__file__).resolve().parent.parent / "floor.c"
PATTERNS = ("pair", "dealer", "pushpull")


def libzmq() -> str:
    """The file that pyzmq has loaded it from."""
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    found = sorted(path for path in mapped if Path(path).name.startswith("libzmq"))
    if not found:
        raise rounds.Unavailable("this pyzmq has libzmq inside its extension module, which a C program cannot load")
    return found[0]


def compiled(directory: str) -> str:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise rounds.Unavailable("no C compiler (cc, gcc, clang) found")
    program = f"{directory}/floor"
    built = subprocess.run(
        [compiler, "-O2", "-std=gnu11", "-o", program, SOURCE, "-ldl"], capture_output=True, text=True
    )
    if built.returncode:
        raise rounds.Unavailable(f"{compiler} cannot compile {SOURCE.name}: {built.stderr.strip()[-300:]}")
    return program


@contextlib.contextmanager
def pattern(program: str, name: str, directory: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [program, libzmq(), name, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def median_us(process: subprocess.Popen[str], n: int, size: int) -> float:
    assert process.stdin and process.stdout
    print(n, size, file=process.stdin, flush=True)
    return int(process.stdout.readline()) / 1000


@contextlib.contextmanager
def roundtrip() -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, contextlib.ExitStack() as stack:
        program = compiled(d)
        running = {name: stack.enter_context(pattern(program, name, d)) for name in PATTERNS}

        def measure(request: rounds.Request) -> dict[str, Any]:
            each = {name: median_us(process, request["n"], request["size"]) for name, process in running.items()}
            best = min(each, key=lambda name: each[name])
            return {"value": each[best], "best": best, **each}

        yield measure


if __name__ == "__main__":
    rounds.main({"roundtrip": roundtrip}, lambda: {"libzmq": zmq.zmq_version()})
