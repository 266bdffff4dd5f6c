# SPDX-License-Identifier: BSD-3-Clause
"""How many instructions PALM takes for a message there and back, counted by callgrind, and whether that has grown.

python bench/instructions.py                     # a table, beside what instructions.json has
python bench/instructions.py --update            # writes that
python bench/instructions.py --functions call    # where those of one path are
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FILE = HERE / "instructions.json"
PATHS = str(HERE / "instructions_paths.py")
TIMEOUT = 150  # s; some 15 on an idle core

# By which share a count may grow. Runs on two busy cores differ by 0.1 % (own) and 1 % (all), in bytecodes by none. The
# rest is for what nobody has meant: a minor version of the compiler or of Cython, and a change of the code, which moves
# what the compiler makes of the code beside it; and, of all, for libc, which takes other ways on other processors.
BAND = {"own": 0.05, "bytecodes": 0.02, "all": 0.1}
WHAT = {
    "own": "instructions in PALM's own objects",
    "bytecodes": "bytecodes of PALM's Python",
    "all": "instructions in all objects, Python's too",
}


class CannotCount(Exception):
    """Not on this machine."""


@dataclass
class Counts:
    """For a message.

    Attributes
    ----------
    built : dict
        Major version of the compiler, minor one of Cython, and Python's build: what counts depend on.
    paths : dict
        By name of the path, then by kind of count.
    functions : dict
        By path: instructions of each function itself, by object and name.
    bytecodes : dict
        By path: those of each function in Python.
    """

    built: dict[str, str]
    paths: dict[str, dict[str, float]]
    functions: dict[str, dict[tuple[str, str], float]]
    bytecodes: dict[str, dict[str, float]]


def place() -> str:
    """What counts are kept by."""
    return f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}-{platform.machine()}"


# ------------------------------------------------------------------------------------------------------------ counting


def count() -> Counts:
    """Runs the paths under callgrind; CannotCount."""
    for tool, package in (("valgrind", "valgrind"), ("gcc", "gcc")):
        if shutil.which(tool) is None:
            raise CannotCount(f"there is no {tool}: apt-get install {package}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        clock = _clock(directory)
        found = _run_paths(clock, directory / "found.json")
        profiles = _profile(clock, directory)
    paths, functions = {}, {}
    for path, n in found["messages"].items():
        once, twice = profiles[f"{path} 1"], profiles[f"{path} 2"]
        functions[path] = {k: (v - once[k]) / n for k, v in twice.items() if v != once[k]}
        paths[path] = {
            "own": sum(v for (where, _), v in functions[path].items() if where in found["objects"]),
            "bytecodes": sum(found["bytecodes"][path].values()),
            "all": sum(v for (where, _), v in functions[path].items() if Path(where).name != clock.name),
        }
    return Counts(_built(found["objects"]), paths, functions, found["bytecodes"])


def _clock(directory: Path) -> Path:
    out = directory / "clock.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", str(HERE / "instructions_clock.c"), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CannotCount(f"instructions_clock.c does not compile: {done.stderr.strip()}")
    return out


def _run_paths(clock: Path, out: Path) -> Any:
    """What they say of themselves."""
    _run([sys.executable, PATHS, str(out)], _environment(clock))
    return json.loads(out.read_text())


def _profile(clock: Path, directory: Path) -> dict[str, collections.Counter[tuple[str, str]]]:
    """Their profiles, by the mark at which they were written."""
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"]
    command += [f"--callgrind-out-file={directory}/profile", sys.executable, PATHS]
    _run(command, _environment(clock))
    texts = [file.read_text() for file in directory.glob("profile.*-01")]  # of the first thread
    marks = [re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE) for text in texts]
    return {mark[1]: read_profile(text) for mark, text in zip(marks, texts, strict=True) if mark}


def _environment(clock: Path) -> dict[str, str]:
    strays = ("PALM_LINK", "PYTHONMALLOC", "PYTHONTRACEMALLOC", "GLIBC_TUNABLES")
    settings = {"LD_PRELOAD": str(clock), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    return {k: v for k, v in os.environ.items() if k not in strays} | settings


def _run(command: list[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise CannotCount(f"{command[0]} has not ended within {TIMEOUT} s") from None
    if done.returncode:
        raise CannotCount(f"{command[0]} has failed with exit code {done.returncode}: {done.stderr[-2000:]}")


def read_profile(text: str) -> collections.Counter[tuple[str, str]]:
    """Instructions of each function itself, by (object, name), as callgrind writes them."""
    own: collections.Counter[tuple[str, str]] = collections.Counter()
    names: dict[str, dict[str, str]] = {"ob": {}, "fn": {}}
    at = {"ob": "", "fn": ""}
    is_call = False
    for line in text.splitlines():
        if m := re.match(r"(c?)(ob|fn)=\((\d+)\)(?: (.*))?$", line):
            called, kind, number, name = m.groups()
            if name is not None:
                names[kind][number] = name
            if not called:
                at[kind] = names[kind][number]
        elif line.startswith("calls="):
            is_call = True  # the next line has what the called function took
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            if not is_call:
                own[at["ob"], at["fn"]] += int(line.split()[1])
            is_call = False
    return own


def _built(objects: list[str]) -> dict[str, str]:
    """Of what is in the objects themselves: who built them need not be here."""
    texts = b"".join(Path(f).read_bytes() for f in objects)
    gcc, cython = re.search(rb"GCC: \([^)]*\) (\d+)\.", texts), re.search(rb"_cython_(\d+)_(\d+)_", texts)
    return {
        "compiler": f"gcc {gcc[1].decode()}" if gcc else "unknown",
        "cython": b".".join(cython.groups()).decode() if cython else "unknown",
        "python": " ".join(sys.version.split()),
        "numpy": metadata.version("numpy"),
    }


# ----------------------------------------------------------------------------------------------------------- comparing


@dataclass
class Comparison:
    """Lines of text: what has grown beyond its band, what has shrunk beyond it, what could not be compared."""

    grown: list[str] = field(default_factory=list)
    shrunk: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def compare(counts: Counts, had: dict[str, Any]) -> Comparison:
    found = Comparison()
    for kind in BAND:
        if why := _cannot_compare(kind, counts.built, had["built"]):
            found.skipped.append(f"{WHAT[kind]} are not compared: {why}")
            continue
        for path, have in counts.paths.items():
            _compare(found, path, kind, have[kind], had["paths"].get(path, {}).get(kind))
    return found


def _compare(found: Comparison, path: str, kind: str, have: float, had: float | None) -> None:
    if had is None:
        found.grown.append(f"{path}: of {WHAT[kind]} nothing is kept, there are {have:.1f}")
        return
    band = BAND[kind] * had + 0.5  # what is less than one is not more
    if abs(have - had) > band:
        verb, lines = ("grew", found.grown) if have > had else ("shrank", found.shrunk)
        change = f"{have / had - 1:+.1%}, the band is {BAND[kind]:.0%}"
        lines.append(f"{path}: {WHAT[kind]} {verb} from {had:.1f} to {have:.1f} a message ({change})")


def _cannot_compare(kind: str, built: dict[str, str], was_built: dict[str, str]) -> str:
    others = {"own": ("compiler", "cython"), "bytecodes": (), "all": ("compiler", "cython", "python", "numpy")}[kind]
    return "; ".join(
        f"{what} is {built[what]}, that of the file {was_built[what]}"
        for what in others
        if built[what] != was_built[what]
    )


ADVICE = (
    "To see where: python bench/instructions.py --functions PATH. If it is meant: "
    "python bench/instructions.py --update, and say why in the commit."
)


def kept() -> dict[str, Any]:
    """Of this Python and machine; CannotCount if there is nothing."""
    everything = json.loads(FILE.read_text())
    if place() not in everything:
        raise CannotCount(f"{FILE.name} has nothing of {place()}, only of {', '.join(everything)}")
    own: dict[str, Any] = everything[place()]
    return own


def update(counts: Counts) -> None:
    everything = json.loads(FILE.read_text()) if FILE.exists() else {}
    paths = {path: {kind: round(n, 1) for kind, n in have.items()} for path, have in counts.paths.items()}
    everything[place()] = {"built": counts.built, "paths": paths}
    FILE.write_text(json.dumps(everything, indent=2, sort_keys=True) + "\n")


# ------------------------------------------------------------------------------------------------------------- showing


def table(counts: Counts, had: dict[str, Any]) -> str:
    lines = [f"{'path':<8}" + "".join(f"{kind:>12}{'was':>12}" for kind in BAND)]
    for path, have in counts.paths.items():
        was = had.get("paths", {}).get(path, {})
        lines.append(f"{path:<8}" + "".join(f"{have[k]:>12.1f}{was.get(k, float('nan')):>12.1f}" for k in BAND))
    return "\n".join(lines)


def by_function(counts: Counts, path: str, most: int) -> str:
    found = sorted(counts.functions[path].items(), key=lambda entry: -entry[1])[:most]
    lines = [f"{n:>10.1f}  {Path(where).name.partition('.')[0]:<14} {name}" for (where, name), n in found]
    found_too = sorted(counts.bytecodes[path].items(), key=lambda entry: -entry[1])[:most]
    return "\n".join([*lines, "bytecodes:", *(f"{n:>10.1f}  {name}" for name, n in found_too)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help=f"write {FILE.name}")
    parser.add_argument("--functions", metavar="PATH", help="where the instructions of this path are")
    parser.add_argument("--most", type=int, default=60, help="so many functions")
    options = parser.parse_args()
    try:
        counts = count()
        had = kept() if not options.update else {}
    except CannotCount as e:
        print(e, file=sys.stderr)
        return 2
    print(table(counts, had))
    if options.functions:
        print(by_function(counts, options.functions, options.most))
    if options.update:
        update(counts)
        return 0
    compared = compare(counts, had)
    for line in compared.skipped + compared.shrunk + compared.grown:
        print(line)
    if compared.grown or compared.shrunk:
        print(ADVICE)
    return bool(compared.grown)


if __name__ == "__main__":
    sys.exit(main())
