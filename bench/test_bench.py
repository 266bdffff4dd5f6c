# SPDX-License-Identifier: BSD-3-Clause
"""The workloads of `palm bench`, each small, PALM and its peers side by side: ``pytest bench``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palm import bench

HERE = Path(__file__).resolve().parent


def names(workload: bench.Workload) -> list[str]:
    return ["palm", *(p.name for p in workload.peers)]


ROUNDS = [
    pytest.param(w, c, name, id=f"{w.name}-{c.name}-{name}".replace(" ", "_"))
    for w in bench.WORKLOADS
    for c in w.cases
    for name in names(w)
]


@pytest.fixture(scope="module")
def running(workload: bench.Workload) -> Iterator[tuple[dict[str, bench.Contestant], bench.Results]]:
    results: bench.Results = {case.name: {} for case in workload.cases}
    with bench.contestants(workload, HERE / "peers", results) as contestants:
        yield contestants, results


@pytest.mark.parametrize(("workload", "case", "name"), ROUNDS, scope="module")
def test_round(
    running: tuple[dict[str, bench.Contestant], bench.Results],
    workload: bench.Workload,
    case: bench.Case,
    name: str,
    benchmark: Any,
) -> None:
    contestants, results = running
    if name not in contestants:
        absent = results[case.name][name]
        assert not absent.broken, absent.absent
        pytest.skip(absent.absent)
    benchmark.group = f"{workload.name}, {case.name}"
    result = bench.Result()
    benchmark.pedantic(bench.one_round, args=(contestants[name], name, case, True, result), rounds=2, warmup_rounds=1)
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
    workload = bench.Workload(
        "stream", "", "stream", (bench.Case("bytes", "/s", 64, 64),), (bench.Peer("by hand", "by_hand.py", "stream"),)
    )
    run = bench.measure(workload, bench.Options(1, True, tmp_path), lambda text: None)
    other = run.results["bytes"]["by hand"]
    assert other.broken
    assert other.absent == "RuntimeError: broken on purpose"
    assert run.results["bytes"]["palm"].values


def test_a_peer_that_dies_is_not_asked_again(tmp_path: Path) -> None:
    (tmp_path / "by_hand.py").write_text(
        "print('{\"versions\": {}}', flush=True); input(); print('{\"value\": 1.0}', flush=True); input(); exit(3)"
    )
    cases = (bench.Case("bytes", "/s", 64, 64), bench.Case("arrays", "/s", 64, 64))
    workload = bench.Workload("stream", "", "stream", cases, (bench.Peer("by hand", "by_hand.py", "stream"),))
    run = bench.measure(workload, bench.Options(2, True, tmp_path), lambda text: None)
    assert [run.results[c.name]["by hand"].absent for c in cases] == ["exit code 3"] * 2
    assert [len(run.results[c.name]["palm"].values) for c in cases] == [2, 2]
    assert bench.table_of([run]).row_count == 2
    assert (
        "not_measured"
        in bench.object_of([run], bench.Options(2, True, tmp_path))["workloads"][0]["cases"][0]["peers"]["by hand"]
    )
