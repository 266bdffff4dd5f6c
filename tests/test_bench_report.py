# SPDX-License-Identifier: BSD-3-Clause
"""What `palm bench` makes of figures, without measuring any; bench/test_bench.py measures."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

from palm import bench
from palm.bench_palm import OURS
from palm.bench_plot import marks
from palm.bench_report import checks, markdown_of, rows, table_of
from palm.bench_rounds import Result, Run
from palm.bench_workloads import MAKESPAN_TARGETS, WORKLOADS, Case, Peer, Workload, durations

PEERS = Path(__file__).resolve().parent.parent / "bench" / "peers"


def run_of(ours: Result, theirs: Result, unit: str = "/s") -> Run:
    case = Case("bytes", unit, 1, 1, targets={"other": 2.0})
    return Run(
        Workload("stream", "", "stream", (case,), (Peer("other", "", ""),)),
        {"bytes": {"palm": ours, "other": theirs}},
        {},
    )


@pytest.mark.parametrize(("unit", "held"), [("/s", True), ("us", False), ("x ideal", False)])
def test_more_is_better_or_less(unit: str, held: bool) -> None:
    run = run_of(Result([30.0, 90.0, 25.0]), Result([10.0, 10.0, 10.0]), unit)
    [row] = rows(run)
    assert (row.ratio, row.span, row.held) == ("3.00", "2.50-9.00", held)
    assert ("**missed**" in markdown_of([run])) is not held


def test_markdown_is_one_table() -> None:
    run = run_of(Result([30.0]), Result(absent="a | b\nc"))
    lines = markdown_of([run]).splitlines()
    assert len(lines) == 3
    assert {line.replace("\\|", "").count("|") for line in lines} == {9}
    assert "not measured: a \\| b c" in lines[2]


def test_reasons_are_not_taken_for_markup() -> None:
    from rich.console import Console

    with open("/dev/null", "w") as nowhere:
        console = Console(width=200, record=True, file=nowhere)
        console.print(table_of([run_of(Result([30.0]), Result(absent="[/red] [x]"))]))
    assert "[/red] [x]" in console.export_text()


def test_makespan_has_targets_of_its_own() -> None:
    workload = next(w for w in WORKLOADS if w.name == "makespan")
    results = {"adversarial": {"palm": Result([1.03])}, "random": {"palm": Result([1.04])}}
    assert [c.held for c in checks(Run(workload, results, {}))] == [False, True]


def test_quick_figures_are_held_against_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["import", "--quick", "--peers", "/nowhere", "--json"]) == 0
    [workload] = json.loads(capsys.readouterr().out)["workloads"]
    assert workload["cases"][0]["palm"]["median"] > 0 and workload["checks"] == []
    for workload in (w.unjudged() for w in WORKLOADS):
        assert not any(case.targets for case in workload.cases)


def test_peers_sleep_as_long_as_palm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PEERS)
    uneven = importlib.import_module("uneven")
    assert [uneven.durations(case, 400) for case in MAKESPAN_TARGETS] == [durations(c, 400) for c in MAKESPAN_TARGETS]
    assert sum(durations("random", 400)) == pytest.approx(1.16)


def test_what_is_to_be_measured_exists() -> None:
    for w in WORKLOADS:
        assert w.ours in OURS
        for peer in w.peers:
            ast.parse((PEERS / peer.program).read_text())
        for case in w.cases:
            assert set(case.targets) <= {peer.name for peer in w.peers}


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    for path, what in (
        (tmp_path / "no" / "a.svg", "there is no directory"),
        (tmp_path / "a.svg", "pip install '.[bench]'"),
    ):
        with pytest.raises(SystemExit) as e:
            bench.main(["import", "--quick", "--plot", str(path)])
        assert e.value.code == 2
        assert what in capsys.readouterr().err


def test_a_plot_turns_times_round() -> None:
    runs = [run_of(Result([10.0, 20.0]), Result([40.0, 40.0]), "us"), run_of(Result([1.0]), Result(absent="why"))]
    [mark] = marks(runs)
    assert (mark.middle, mark.low, mark.high, mark.target, mark.held) == (3.0, 2.0, 4.0, 0.5, True)


def test_figures_stay_on_one_line_beside_long_names() -> None:
    from rich.console import Console

    case = Case("adversarial", "x ideal", 1, 1, targets={"multiprocessing.Pipe": 2.0})
    found = {"adversarial": {"palm": Result([1.0]), "multiprocessing.Pipe": Result([2.0])}}
    with open("/dev/null", "w") as nowhere:
        console = Console(width=bench.WIDTH, record=True, file=nowhere)
        console.print(table_of([Run(Workload("roundtrip-1core", "", "", (case,)), found, {})]))
    assert "multiprocessing.Pipe │ 2.000 x ideal" in console.export_text()
