# SPDX-License-Identifier: BSD-3-Clause
"""What C can do, compiled at first use. The C floor: `floor.c`, over libzmq in three patterns, of which the best is a
round's value; and the C ring: `ring.c`, over shared memory, spinning."""

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

SOURCES = Path(__file__).resolve().parent.parent
PATTERNS = ("pair", "dealer", "pushpull")


def libzmq() -> str:
    """The file that pyzmq has loaded it from."""
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    found = sorted(path for path in mapped if Path(path).name.startswith("libzmq"))
    if not found:
        raise rounds.Unavailable("this pyzmq has libzmq inside its extension module, which a C program cannot load")
    return found[0]


def compiled(name: str, directory: str) -> str:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise rounds.Unavailable("no C compiler (cc, gcc, clang) found")
    program, source = f"{directory}/{name}", SOURCES / f"{name}.c"
    built = subprocess.run(
        [compiler, "-O2", "-std=gnu11", "-o", program, source, "-ldl"], capture_output=True, text=True
    )
    if built.returncode:
        raise rounds.Unavailable(f"{compiler} cannot compile {source.name}: {built.stderr.strip()[-300:]}")
    return program


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
        program, library = compiled("floor", d), libzmq()
        patterns = {name: stack.enter_context(running(program, library, name, d)) for name in PATTERNS}

        def measure(request: rounds.Request) -> dict[str, Any]:
            each = {name: median_us(process, request["n"], request["size"]) for name, process in patterns.items()}
            best = min(each, key=lambda name: each[name])
            return {"value": each[best], "best": best, **each}

        yield measure


@contextlib.contextmanager
def ring() -> Iterator[rounds.Measure]:
    with tempfile.TemporaryDirectory() as d, running(compiled("ring", d)) as process:
        yield lambda request: {"value": median_us(process, request["n"], request["size"])}


if __name__ == "__main__":
    rounds.main({"roundtrip": roundtrip, "ring": ring}, lambda: {"libzmq": zmq.zmq_version()})
