# SPDX-License-Identifier: BSD-3-Clause
"""What `palm bench` says: a table, or an object for JSON."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import palm
from palm.bench_rounds import Options, Result, Run, ratios
from palm.bench_workloads import BATCH_TARGET, DOUBLED_TARGET, IMPORT_TARGET, MAKESPAN_TARGETS, SIZES_TARGET, Case

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table


@dataclass
class Check:
    """A promise that is not a ratio to a peer."""

    what: str
    value: str
    target: str
    held: bool


def checks(run: Run) -> list[Check]:
    return _CHECKS.get(run.workload.name, lambda _: [])(run) if run.workload.judged else []


def _pipeline_checks(run: Run) -> list[Check]:
    large, small = run.results["64 MiB"]["palm"], run.results["8 KiB"]["palm"]
    if not (large.measured and small.measured):
        return []
    each = ratios(large, small)
    middle = statistics.median(each)
    copied = large.answers[-1]["bytes_copied"]
    return [
        Check("64 MiB over 8 KiB, warm", f"{middle:.2f} ({_span(each)})", f"<= {SIZES_TARGET}", middle <= SIZES_TARGET),
        Check("bytes_copied", ", ".join(f"{k} {v}" for k, v in copied.items()), "0", not any(copied.values())),
    ]


def _import_checks(run: Run) -> list[Check]:
    ours = run.results["import"]["palm"]
    if not ours.measured:
        return []
    return [Check("import palm", f"{ours.median:.1f} ms", f"<= {IMPORT_TARGET:g} ms", ours.median <= IMPORT_TARGET)]


def _batch_checks(run: Run) -> list[Check]:
    stacked, single, doubled = (run.results[case]["palm"] for case in ("stacked", "one by one", "doubled"))
    if not (stacked.measured and single.measured and doubled.measured):
        return []
    each = ratios(stacked, single)
    middle, rate = statistics.median(each), doubled.median / 1e6
    least = DOUBLED_TARGET / 1e6
    what = f"{middle:.2f} ({_span(each)})"
    return [
        Check("stacked over one by one", what, f">= {BATCH_TARGET:g}", middle >= BATCH_TARGET),
        Check("x * 2", f"{rate:.1f} million/s", f">= {least:g} million/s", rate >= least),
    ]


def _makespan_checks(run: Run) -> list[Check]:
    ours = {case: run.results[case]["palm"] for case in MAKESPAN_TARGETS}
    return [
        Check(f"PALM, {case}", f"{r.median:.3f} x ideal", f"<= {target}", r.median <= target)
        for case, target in MAKESPAN_TARGETS.items()
        if (r := ours[case]).measured
    ]


_CHECKS = {
    "pipeline": _pipeline_checks,
    "makespan": _makespan_checks,
    "batch": _batch_checks,
    "import": _import_checks,
}


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}"


def _amount(value: float, unit: str) -> str:
    if unit == "/s":
        return f"{value:,.0f} /s".replace(",", " ")
    if unit == "x ideal":
        return f"{value:.3f} {unit}"
    return f"{value:,.1f} {unit}".replace(",", " ")


@dataclass(frozen=True)
class Row:
    """Of a table: PALM beside a peer, or alone."""

    workload: str
    case: str
    ours: str
    peer: str = ""
    figure: str = ""
    ratio: str = ""
    span: str = ""
    target: str = ""
    held: bool | None = None  # None: no target, or not measured


FIGURE = 13  # characters
COLUMNS = ("workload", "case", "PALM", "peer", "its figure", "PALM / peer", "lowest-highest", "target")


def table_of(runs: Sequence[Run]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column in COLUMNS:
        justify: JustifyMethod = "left" if column in ("workload", "case", "peer") else "right"
        if column == "its figure":  # or why there is none
            table.add_column(column, justify=justify, min_width=FIGURE, overflow="fold")
        else:
            table.add_column(column, justify=justify, no_wrap=True)
    for run in runs:
        for r in rows(run):
            target = "" if r.held is None else f"[{'green' if r.held else 'red'}]{r.target}[/]"
            table.add_row(*map(escape, (r.workload, r.case, r.ours, r.peer, r.figure, r.ratio, r.span)), target)
        table.add_section()
    return table


def rows(run: Run) -> Iterator[Row]:
    for case in run.workload.cases:
        yield from _rows(run, case)


def _rows(run: Run, case: Case) -> Iterator[Row]:
    found = run.results[case.name]
    ours = found["palm"]
    others = {name: r for name, r in found.items() if name != "palm"}
    figure = _amount(ours.median, case.unit) if ours.measured else f"not measured: {ours.absent}"
    start = Row(run.workload.name, case.name, figure)
    if not others:
        yield replace(start, span=_own_span(ours, case) if ours.measured else "")
    for name, other in others.items():
        if not other.measured:
            yield replace(start, peer=name, figure=f"not measured: {other.absent}")
        elif not ours.measured:
            yield replace(start, peer=name, figure=_amount(other.median, case.unit))
        else:
            each = ratios(ours, other)
            middle = statistics.median(each)
            yield replace(
                start,
                peer=name,
                figure=_amount(other.median, case.unit),
                ratio=f"{middle:.3f}" if middle < 0.1 else f"{middle:.2f}",
                span=_span(each),
                target=f"{'>=' if case.more else '<='} {case.targets[name]}" if name in case.targets else "",
                held=case.held(name, middle),
            )


def _own_span(ours: Result, case: Case) -> str:
    low, high = min(ours.values), max(ours.values)
    return f"{low:.0f}-{high:.0f}" if case.more else f"{low:.1f}-{high:.1f}"


def markdown_of(runs: Sequence[Run]) -> str:
    """One table, the promises that are no ratios among its rows."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    lines = [line(COLUMNS), line(["---"] * len(COLUMNS))]
    for run in runs:
        for r in rows(run):
            target = _verdict(r.target, r.held)
            lines.append(line((r.workload, r.case, r.ours, r.peer, r.figure, r.ratio, r.span, target)))
        for c in checks(run):
            lines.append(line((run.workload.name, c.what, c.value, "", "", "", "", _verdict(c.target, c.held))))
    return "\n".join(lines)


def _verdict(target: str, held: bool | None) -> str:
    return target if held is None else f"{target}: {'held' if held else '**missed**'}"


def object_of(runs: Sequence[Run], options: Options) -> dict[str, Any]:
    return {
        "machine": machine(),
        "versions": versions(runs),
        "rounds": options.rounds,
        "quick": options.quick,
        "workloads": [
            {
                "name": run.workload.name,
                "what": run.workload.what,
                "cases": [_case_object(run, case) for case in run.workload.cases],
                "checks": [vars(c) for c in checks(run)],
            }
            for run in runs
        ],
    }


def _case_object(run: Run, case: Case) -> dict[str, Any]:
    found = run.results[case.name]
    ours = found["palm"]
    return {
        "name": case.name,
        "unit": case.unit,
        "better": "more" if case.more else "less",
        "bytes": case.size,
        "palm": _result_object(ours),
        "peers": {
            name: _result_object(other) | _ratio_object(ours, other, case.targets.get(name))
            for name, other in found.items()
            if name != "palm"
        },
    }


def _result_object(result: Result) -> dict[str, Any]:
    if not result.measured:
        return {"not_measured": result.absent}
    stopped = {"stopped": result.absent} if result.absent else {}
    return stopped | {"median": result.median, "values": result.values, "details": result.answers[-1]}


def _ratio_object(ours: Result, other: Result, target: float | None) -> dict[str, Any]:
    if not (ours.measured and other.measured):
        return {}
    each = ratios(ours, other)
    return {"ratio": statistics.median(each), "lowest": min(each), "highest": max(each), "target": target}


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "processor": _processor(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def versions(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    import zmq

    found = {
        "palm": {
            "palm": palm.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyzmq": zmq.__version__,
            "libzmq": zmq.zmq_version(),
        }
    }
    for run in runs:
        found |= {name: v for name, v in run.versions.items() if name != "palm"}
    return found
