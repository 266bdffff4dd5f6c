# SPDX-License-Identifier: BSD-3-Clause
"""`palm bench`: PALM beside its peers, as ratios within one run.

Each contestant is a process of its own with whatever servers it needs, and stays for the whole workload. Rounds are
interleaved: each contestant measures one round, then each the next one; a ratio is taken within a round, and its median
over the rounds is what counts, with the lowest and highest beside it. The first round of all is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm import bench_plot
from palm.bench_report import checks, machine, markdown_of, object_of, table_of, versions
from palm.bench_rounds import Options, Results, Run, contestants, measure
from palm.bench_workloads import WORKLOADS, Workload

WIDTH = 140  # of the table where there is no terminal
QUICK = "--quick: to see that it works; the figures mean nothing, and are held against no target."


def main(args: list[str]) -> int:
    """``palm bench``; the exit code is 1 if PALM or a peer broke, however the figures are."""
    options, wanted, show = _parse(args)
    if show.versions:
        runs = [Run(w, {}, _versions_of(w, options)) for w in wanted]
        print(json.dumps(versions(runs), indent=2))
        return 0
    from rich.console import Console

    errors = Console(stderr=True)
    if options.peers is None:
        errors.print(f"no peers: there is no directory {show.peers}; PALM is measured alone (--peers DIR)")
    with errors.status("") as status:
        runs = [measure(w, options, status.update) for w in wanted]
    if show.json:
        print(json.dumps(object_of(runs, options), indent=2))
    elif show.markdown:
        print(f"{markdown_of(runs)}\n\n{_circumstances(options)}")
    else:
        _print(Console(width=None if sys.stdout.isatty() else WIDTH), runs, options)
    if show.plot:
        bench_plot.plot(runs, show.plot)
    return int(any(r.broken for run in runs for case in run.results.values() for r in case.values()))


def _print(console: Any, runs: Sequence[Run], options: Options) -> None:
    if options.quick:
        console.print(QUICK)
    console.print(table_of(runs))
    for check in [c for run in runs for c in checks(run)]:
        console.print(f"{check.what}: {check.value}   [{'green' if check.held else 'red'}]{check.target}[/]")
    console.print(_circumstances(options), markup=False)


def _circumstances(options: Options) -> str:
    m = machine()
    said = (
        f"us, ms, x ideal: less is better; /s: more. Medians of {options.rounds} interleaved rounds; "
        f"{m['cores']} cores, {m['processor']}; load {m['load']:.1f}."
    )
    return f"{said}\n{QUICK}" if options.quick else said


def _versions_of(workload: Workload, options: Options) -> dict[str, dict[str, str]]:
    results: Results = {case.name: {} for case in workload.cases}
    with contestants(workload, options.peers, results, install=not options.quick) as running:
        found = {name: c.versions for name, c in running.items()}
    absent = results[workload.cases[0].name]
    return found | {name: {"not measured": r.absent} for name, r in absent.items()}


def _parse(args: list[str]) -> tuple[Options, list[Workload], argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="palm bench", description="PALM beside its peers, as ratios within one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(f"{w.name}: {w.what}" for w in WORKLOADS))
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="machine readable")
    shown.add_argument("--markdown", action="store_true", help="one Markdown table")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="and all ratios in one plot; needs matplotlib")
    parser.add_argument("--rounds", type=int, help="default 7, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="each once and small, to see that it works")
    parser.add_argument("--versions", action="store_true", help="what would be measured, without measuring")
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path("bench"),
        metavar="DIR",
        help="where peers/ is, in the source tree: default ./bench",
    )
    found = parser.parse_args(args)
    unknown = set(found.names) - {w.name for w in WORKLOADS}
    if unknown:
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(w.name for w in WORKLOADS)}")
    if found.plot and (why := bench_plot.why_not(found.plot)):
        parser.error(why)
    rounds = found.rounds or (1 if found.quick else 7)
    if rounds < 1:
        parser.error(f"--rounds {rounds}: at least 1")
    peers = found.peers / "peers"
    wanted = [w for w in WORKLOADS if not found.names or w.name in found.names]
    if found.quick:
        wanted = [w.unjudged() for w in wanted]
    return Options(rounds, found.quick, peers.resolve() if peers.is_dir() else None), wanted, found


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
