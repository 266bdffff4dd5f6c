# SPDX-License-Identifier: BSD-3-Clause
"""`python bench/curves.py --quick`, and what it makes of values that are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="palm[bench] has it")

HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "curves.py"


def run(*args: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, PROGRAM, *map(str, args)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("curves")
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_each_curve_has_its_lines(out: Path) -> None:
    curves = json.loads((out / "curves.json").read_text())
    lines = {
        "servers": ["job", "calls"],
        "functions": ["job", "calls"],
        "jobs": ["jobs", "calls beside"],
        "clients": ["at once", "in turn"],
        "steps": ["job", "one at a time"],
        "payload": ["one at a time"],
    }
    assert {name: list(curve["points"][-1]["rounds"][0]) for name, curve in curves.items()} == lines
    for curve in curves.values():
        for point in curve["points"]:
            for line in point["rounds"][0].values():
                assert line["messages"] >= 1
                assert line["seconds"] > 0
                assert line["cpu"] > 0


def test_the_same_messages_at_each_point(out: Path) -> None:
    curves = json.loads((out / "curves.json").read_text())
    sent = [[line["messages"] for line in p["rounds"][0].values()] for p in curves["jobs"]["points"]]
    assert sent == [[200, 8], [200, 8]]


def test_arrays_are_handed_on_without_copies(out: Path) -> None:
    curves = json.loads((out / "curves.json").read_text())
    assert [p["rounds"][0]["one at a time"]["bytes_copied"] for p in curves["payload"]["points"]] == [0]


def test_plots_and_tables(out: Path) -> None:
    page = (out / "curves.md").read_text()
    for name in json.loads((out / "curves.json").read_text()):
        assert (out / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        assert f"## {name}\n" in page


def test_others_stay_as_they_were(out: Path, tmp_path: Path) -> None:
    kept = json.loads((out / "curves.json").read_text())
    (tmp_path / "curves.json").write_text(json.dumps({"payload": kept["payload"]}))
    assert run("functions", "--quick", "--out", tmp_path).returncode == 0
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert curves["payload"] == kept["payload"]
    assert list(curves) == ["functions", "payload"]  # in the order of the program
    assert (tmp_path / "curves.md").read_text().count("\n## ") == 2


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["server"], "no curve server; there are servers, functions, jobs, clients, steps, payload"),
        (["--rounds", "0"], "--rounds 0: at least 1"),
        (["--quick"], "--out"),
    ],
)
def test_wrong_usage(args: list[str], says: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert says in done.stderr


def test_growth_is_taken_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    import curves_report

    def point(x: int, *cpu: float) -> dict[str, Any]:
        return {"x": x, "rounds": [{"job": {"messages": 1000, "seconds": 0.5, "cpu": c}} for c in cpu]}

    machine = {"cores": 2, "processor": "P", "kernel": "6", "load": 1.0}
    curve = {"what": "servers", "each": "message", "machine": machine, "versions": {}, "measured": "", "points": []}
    curve["points"] = [point(1, 0.001, 0.002, 0.004), point(64, 0.003, 0.004, 0.006)]
    lines = curves_report.table("servers", curve).splitlines()
    assert "| 1 | 2 000 (2 000 to 2 000) | 2.00 (1.00 to 4.00) |" in lines
    assert "| last : first | 1.00 (1.00 to 1.00) | 2.00 (1.50 to 3.00) |" in lines


def test_the_first_round_is_not_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    import curves

    (tmp_path / "curves_points.py").write_text(
        "import json, sys\nprint('{\"versions\": {}}', flush=True)\n"
        "for i, _ in enumerate(sys.stdin): print(json.dumps({'nth': i}), flush=True)"
    )
    monkeypatch.setattr(curves, "HERE", tmp_path)
    points = curves.measure("servers", curves.CURVES["servers"], 2, True)["points"]
    assert [point["rounds"] for point in points] == [[{"nth": 1}, {"nth": 2}]]
