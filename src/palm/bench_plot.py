# SPDX-License-Identifier: BSD-3-Clause
"""All ratios of `palm bench` in one plot; drawn by matplotlib, which is imported only to draw."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from palm.bench_rounds import Run, ratios

LABEL = "how many times as fast as the peer PALM is: median, lowest and highest within a round"
INCH = 0.19  # a row
HELD, MISSED, PLAIN = "#1a7f37", "#c0392b", "#57606a"


@dataclass(frozen=True)
class Mark:
    label: str
    middle: float
    low: float
    high: float
    target: float | None
    held: bool | None

    @property
    def colour(self) -> str:
        return PLAIN if self.held is None else HELD if self.held else MISSED


def marks(runs: Sequence[Run]) -> Iterator[Mark]:
    """Ratios of times the other way round, so that more is better everywhere."""
    for run in runs:
        for case in run.workload.cases:
            found = run.results[case.name]
            ours = found["palm"]
            for name, other in found.items():
                if name == "palm" or not (ours.measured and other.measured):
                    continue
                each = ratios(ours, other)
                held = case.held(name, statistics.median(each))
                target = case.targets.get(name)
                if not case.more:
                    each = [1 / r for r in each]
                    target = target and 1 / target
                label = f"{run.workload.name}, {case.name}: {name}"
                yield Mark(label, statistics.median(each), min(each), max(each), target, held)


def why_not(path: Path) -> str:
    """Why no plot can be drawn there; empty if it can."""
    if not path.parent.is_dir():
        return f"--plot {path}: there is no directory {path.parent}"
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as e:
        return f"--plot needs matplotlib ({e}): pip install '.[bench]' in the source tree"
    return ""


def plot(runs: Sequence[Run], path: Path) -> None:
    """An SVG; the first row on top."""
    matplotlib = importlib.import_module("matplotlib")  # of no type, whether it is installed or not
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "palm"})
    found = list(marks(runs))
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(10, 1.2 + INCH * len(found)), layout="constrained"
    )
    axes = figure.add_subplot()
    axes.axvline(1, color="black", linewidth=0.8)
    for y, m in enumerate(found):
        axes.plot([m.low, m.high], [y, y], color=m.colour, linewidth=1.5)
        axes.plot([m.middle], [y], "o", color=m.colour, markersize=4)
        if m.target is not None:
            axes.plot([m.target], [y], "|", color="black", markersize=9)
    for label, colour, marker in (
        ("target", "black", "|"),
        ("target held", HELD, "o"),
        ("target missed", MISSED, "o"),
        ("no target", PLAIN, "o"),
    ):
        axes.plot([], [], marker, color=colour, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(found)), [m.label for m in found], fontsize=7)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel(LABEL, fontsize=8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=4, fontsize=7, frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})
