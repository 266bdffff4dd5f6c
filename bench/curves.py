# SPDX-License-Identifier: BSD-3-Clause
"""What a message costs as there are more servers, functions, jobs, clients, steps or bytes: docs/performance.md.

    python bench/curves.py                        # all of them, 7 rounds
    python bench/curves.py steps --rounds 15      # one of them
    python bench/curves.py --quick --out /tmp/x   # small, to see that it works

Each point is a process with a cluster of its own. Rounds are interleaved: each point measures one round, then each the
next one; the first is not counted. Writes into the directory ``--out``: ``curves.json``, every round's values; of each
curve a plot, ``NAME.svg``; ``curves.md``, tables. Curves that were not measured stay as they were.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import curves_report as report
import numpy as np
from curves_points import CURVES, Curve

import palm
from palm.bench_report import machine
from palm.bench_rounds import Contestant

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "docs/performance"


def measure(name: str, curve: Curve, rounds: int, quick: bool) -> dict[str, Any]:
    """All of a curve, as it stands in the JSON file."""
    xs, n = curve.quick if quick else (curve.xs, curve.n)
    answers: list[list[Any]] = [[] for _ in xs]
    with contextlib.ExitStack() as stack:
        points: list[Contestant] = []
        _say(f"{name}: begins")
        for x in xs:
            points.append(Contestant([sys.executable, str(HERE / "curves_points.py"), name, str(x)]))
            stack.callback(points[-1].close)
        for point in points:  # they set themselves up side by side
            point.ready()
        for i in range(rounds + 1):
            for x, point, its in zip(xs, points, answers, strict=True):
                _say(f"{name}: {curve.what}: {x}, " + (f"round {i} of {rounds}" if i else "warm-up"))
                answer = point.ask({"n": n})
                if i:
                    its.append(answer)
    _say("")
    return {
        "what": curve.what,
        "each": curve.each,
        "machine": machine(),
        "versions": {"palm": palm.__version__, "python": platform.python_version(), "numpy": np.__version__},
        "measured": time.strftime("%Y-%m-%d"),
        "points": [{"x": x, "rounds": its} for x, its in zip(xs, answers, strict=True)],
    }


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def main(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench/curves.py", description="What a message costs as there is more of something."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(CURVES)}; default: all")
    parser.add_argument("--rounds", type=int, help="default 7, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="default docs/performance")
    found = parser.parse_args(args)
    if unknown := set(found.names) - set(CURVES):
        parser.error(f"no curve {', '.join(sorted(unknown))}; there are {', '.join(CURVES)}")
    rounds = (1 if found.quick else 7) if found.rounds is None else found.rounds
    if rounds < 1:
        parser.error(f"--rounds {rounds}: at least 1")
    if found.quick and found.out == OUT:
        parser.error("--quick measures nothing that is worth keeping: give another directory by --out")
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("there is no matplotlib for the plots: pip install '.[bench]' in the source tree")
    found.out.mkdir(parents=True, exist_ok=True)
    kept = found.out / "curves.json"
    curves = json.loads(kept.read_text()) if kept.exists() else {}
    for name in found.names or CURVES:
        curves[name] = measure(name, CURVES[name], rounds, found.quick)
        curves = {name: curves[name] for name in CURVES if name in curves}
        kept.write_text(json.dumps(curves, indent=1) + "\n")
        (found.out / "curves.md").write_text(report.page(curves))
        report.draw(curves[name], found.out / f"{name}.svg")
        print(report.table(name, curves[name]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
