# SPDX-License-Identifier: BSD-3-Clause
"""Curves as plots and tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Answers = Sequence[Mapping[str, Any]]  # of one line, by rounds

HEAD = """# The curves in numbers

Written by `python bench/curves.py`; `docs/performance.md` says what they mean. Medians, lowest and highest of the
rounds. The last line of a table: the last point over the first, in the same round. `curves.json` has every round's
values.

"""


def rate(answer: Mapping[str, float]) -> float:
    """Messages a second."""
    return answer["messages"] / answer["seconds"]


def cpu(answer: Mapping[str, float]) -> float:
    """Microseconds of CPU time a message, of all processes."""
    return 1e6 * answer["cpu"] / answer["messages"]


def lines(curve: Mapping[str, Any]) -> list[str]:
    return list(curve["points"][0]["rounds"][0])


def values(point: Mapping[str, Any], line: str, of: Callable[[Mapping[str, float]], float]) -> list[float]:
    return [of(answers[line]) for answers in point["rounds"]]


# ------------------------------------------------------------------------------------------------------- tables


def page(curves: Mapping[str, Any]) -> str:
    return HEAD + "\n".join(table(name, curve) for name, curve in curves.items())


def table(name: str, curve: Mapping[str, Any]) -> str:
    """In Markdown."""
    machine, versions, rounds = curve["machine"], curve["versions"], len(curve["points"][0]["rounds"])
    where = f"{machine['cores']} cores, {machine['processor']}, Linux {machine['kernel']}, load {machine['load']:.1f}"
    what = f"{rounds} rounds, {curve['measured']}; {', '.join(f'{k} {v}' for k, v in versions.items())}; {where}."
    return "\n".join((f"## {name}", "", *_rows(curve), "", what, ""))


def _rows(curve: Mapping[str, Any]) -> Iterator[str]:
    names, points = lines(curve), curve["points"]
    copied = "bytes_copied" in points[0]["rounds"][0][names[0]]
    heads = [curve["what"]]
    for line in names:
        heads += [f"{line}: {curve['each']}s/s", f"{line}: µs of CPU a {curve['each']}"]
    yield _row(heads + ["bytes copied"] * copied)
    yield "|" + " ---: |" * (len(heads) + copied)
    for point in points:
        cells = [_number(point["x"])]
        for line in names:
            cells += [_spread(values(point, line, of)) for of in (rate, cpu)]
        if copied:
            cells.append(_number(sum(values(point, names[0], lambda answer: answer["bytes_copied"]))))
        yield _row(cells)
    cells = ["last : first"]
    for line in names:
        cells += [_spread(_growth(points, line, of)) for of in (rate, cpu)]
    yield _row(cells + [""] * copied)


def _growth(points: Answers, line: str, of: Callable[[Mapping[str, float]], float]) -> list[float]:
    """The last point over the first, by rounds."""
    first, last = values(points[0], line, of), values(points[-1], line, of)
    return [b / a for a, b in zip(first, last, strict=True)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(found: Sequence[float]) -> str:
    return f"{_number(statistics.median(found))} ({_number(min(found))} to {_number(max(found))})"


def _number(value: float) -> str:
    """With three digits, as far as there are more."""
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}" if value >= 10 else f"{value:.2f}"


# -------------------------------------------------------------------------------------------------------- plots


def draw(curve: Mapping[str, Any], path: Path) -> None:
    """A row of two for each line: how many a second, and what one costs."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": path.stem, "font.size": 9}
    from matplotlib import pyplot

    names = lines(curve)
    figure, axes = pyplot.subplots(
        len(names), 2, figsize=(8, 2.3 * len(names)), squeeze=False, sharex=True, layout="constrained"
    )
    for row, line in zip(axes, names, strict=True):
        for ax, of, label in zip(row, (rate, cpu), ("{}s/s", "µs of CPU a {}"), strict=True):
            _plot(ax, curve["points"], line, of)
            ax.set_title(f"{line}: {label.format(curve['each'])}", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel(curve["what"])
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _plot(ax: Any, points: Answers, line: str, of: Callable[[Mapping[str, float]], float]) -> None:
    found = [values(point, line, of) for point in points]
    middle = [statistics.median(v) for v in found]
    below = [m - min(v) for m, v in zip(middle, found, strict=True)]
    above = [max(v) - m for m, v in zip(middle, found, strict=True)]
    xs = [point["x"] for point in points]
    ax.errorbar(xs, middle, (below, above), marker="o", markersize=3, linewidth=1, capsize=2)
    ax.set_xscale("log")
    if len(xs) <= 6:
        ax.set_xticks(xs, [str(x) for x in xs])
        ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.grid(axis="y", linewidth=0.3)
