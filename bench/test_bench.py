# SPDX-License-Identifier: BSD-3-Clause
"""The workloads of `palm bench`, each small, PALM and its peers side by side: ``pytest bench``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palm import bench
from palm.bench_plot import plot
from palm.bench_report import object_of, table_of
from palm.bench_rounds import Contestant, Options, Result, Results, Run, contestants, measure, one_round
from palm.bench_workloads import WORKLOADS, Case, Peer, Workload

HERE = Path(__file__).resolve().parent


def names(workload: Workload) -> list[str]:
    return ["palm", *(p.name for p in workload.peers)]


ROUNDS = [
    pytest.param(w, c, name, id=f"{w.name}-{c.name}-{name}".replace(" ", "_"))
    for w in WORKLOADS
    for c in w.cases
    for name in names(w)
]


@pytest.fixture(scope="module")
def running(workload: Workload) -> Iterator[tuple[dict[str, Contestant], Results]]:
    results: Results = {case.name: {} for case in workload.cases}
    with contestants(workload, HERE / "peers", results, install=False) as found:
        yield found, results


@pytest.mark.parametrize(("workload", "case", "name"), ROUNDS, scope="module")
def test_round(
    running: tuple[dict[str, Contestant], Results],
    workload: Workload,
    case: Case,
    name: str,
    benchmark: Any,
) -> None:
    started, results = running
    if name not in started:
        absent = results[case.name][name]
        assert not absent.broken, absent.absent
        pytest.skip(absent.absent)
    benchmark.group = f"{workload.name}, {case.name}"
    result = Result()
    benchmark.pedantic(one_round, args=(started[name], name, case, True, result), rounds=2, warmup_rounds=1)
    assert not result.broken, result.absent
    if result.absent:
        pytest.skip(result.absent)
    assert min(result.values) > 0
    benchmark.extra_info.update(result.answers[-1], unit=case.unit)
    if name == "palm" and workload.name == "pipeline" and case.unit == "us":
        assert set(result.answers[-1]["bytes_copied"].values()) == {0}


def test_without_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["import", "--quick", "--peers", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "no peers" in shown.err
    assert "import palm:" in shown.out


def test_a_broken_peer_is_reported(tmp_path: Path) -> None:
    (tmp_path / "by_hand.py").write_text("raise RuntimeError('broken on purpose')")
    workload = Workload(
        "stream", "", "stream", (Case("bytes", "/s", 64, 64),), (Peer("by hand", "by_hand.py", "stream"),)
    )
    run = measure(workload, Options(1, True, tmp_path), lambda text: None)
    other = run.results["bytes"]["by hand"]
    assert other.broken
    assert other.absent == "RuntimeError: broken on purpose"
    assert run.results["bytes"]["palm"].values


def test_a_peer_that_dies_is_not_asked_again(tmp_path: Path) -> None:
    (tmp_path / "by_hand.py").write_text(
        "print('{\"versions\": {}}', flush=True); input(); print('{\"value\": 1.0}', flush=True); input(); exit(3)"
    )
    cases = (Case("bytes", "/s", 64, 64), Case("arrays", "/s", 64, 64))
    workload = Workload("stream", "", "stream", cases, (Peer("by hand", "by_hand.py", "stream"),))
    run = measure(workload, Options(2, False, tmp_path), lambda text: None)
    assert [run.results[c.name]["by hand"].absent for c in cases] == ["exit code 3"] * 2
    assert [len(run.results[c.name]["palm"].values) for c in cases] == [2, 2]
    assert table_of([run]).row_count == 2
    assert (
        "not_measured" in object_of([run], Options(2, False, tmp_path))["workloads"][0]["cases"][0]["peers"]["by hand"]
    )


def test_quick_makes_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    workload = Workload(
        "roundtrip",
        "",
        "roundtrip",
        (Case("bytes", "us", 9, 9),),
        (Peer("pylm", "pylm_peer.py", "roundtrip"),),
    )
    found = measure(workload, Options(1, True, HERE / "peers"), lambda text: None).results["bytes"]["pylm"]
    assert found.absent.startswith("not installed")
    assert not found.broken
    assert not list(tmp_path.iterdir())


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    case = Case("c", "us", 1, 1, targets={"peer": 2.0})
    run = Run(Workload("w", "", "", (case,)), {"c": {"palm": Result([10.0]), "peer": Result([40.0])}}, {})
    plot([run], tmp_path / "a.svg")
    assert "w, c: peer" in (tmp_path / "a.svg").read_text()
