# SPDX-License-Identifier: BSD-3-Clause
"""`palm status` and `palm explain` in narrow terminals."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from palm import cli_explain, cli_tables, explain

NAME = "spectrum-of-the-north"
COUNTERS: dict[str, Any] = {
    **dict.fromkeys(("messages_in", "messages_out", "errors", "bytes_in", "bytes_out", "bytes_copied"), 123456),
    "busy_seconds": 12.5,
    "links": {"ring": 3},
}


def process(pid: int, **of: Any) -> dict[str, Any]:
    return {"pid": pid, "host": "h1", "state": "running", "work": {"state": "idle"}, "counters": COUNTERS, **of}


def status(hosts: int = 1, reason: str = "") -> dict[str, Any]:
    workers = [process(4000001, number=0), process(4000002, number=1, reason=reason)]
    server = process(4000000) | {"name": NAME, "leads": True, "workers": workers, "functions": ["power", "phase"]}
    return {
        "cluster": "c",
        "registry": {"state": "running", "pid": 1},
        "hosts": [{"host": f"h{n}", "state": "running"} for n in range(hosts)],
        "servers": [server],
        "clients": [],
    }


@pytest.fixture
def shown(monkeypatch):
    """What is printed in a terminal of this width; None: in a pipe."""

    def shown(width: int | None, report: Any, *args: Any) -> list[str]:
        console = Console(width=width or 200, force_terminal=width is not None, color_system=None, file=io.StringIO())
        for module in (cli_tables, cli_explain):
            monkeypatch.setattr(module, "_console", lambda: console)
        report(*args)
        return [line.rstrip() for line in console.file.getvalue().splitlines()]

    return shown


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (36, "server pid"),
        (60, "server state does pid errors"),
        (80, "server state does pid in out errors"),
        (100, "server state does pid in out errors busy s functions"),
        (None, "server state does pid in out errors busy s bytes in bytes out copied links functions"),
    ],
)
def test_status_drops_columns_and_cuts_none(shown, width, titles):
    _, header, *rows = shown(width, cli_tables.status_report, status())
    assert " ".join(header.split()) == titles
    assert [row.split()[0] for row in rows] == [NAME, f"{NAME}/0", f"{NAME}/1"]
    assert [next(w for w in row.split() if w.startswith("400")) for row in rows] == ["4000000", "4000001", "4000002"]
    assert "\u2026" not in "".join(rows)
    assert width is None or all(len(line) <= width for line in (header, *rows))


def test_why_something_failed_goes_before_its_numbers(shown):
    _, header, *rows = shown(80, cli_tables.status_report, status(reason="[/no] such device as there was before"))
    assert header.split() == ["server", "state", "does", "pid", "errors", "functions"]
    assert " ".join(" ".join(rows[2:]).split()).endswith("[/no] such device as there was before")
    assert "h1" in shown(80, cli_tables.status_report, status(hosts=2))[2].split()


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (25, "from to"),  # which is more than there is room for
        (60, "from to copies of them carries"),
        (80, "from to by copies of them carries"),
        (None, "from to on by arrays copies of them carries"),
    ],
)
def test_explain_drops_columns_and_cuts_none(shown, width, titles):
    here, there = explain.Process("denoise", "h", b"h"), explain.Process("spectrum: 12 workers", "h", b"h")
    job = cli_explain.JobFile(None, "", ())
    _, header, row, *_ = shown(width, cli_explain._print, [explain.hop(here, there, "anything")], job, "")
    assert " ".join(header.split()) == titles
    assert row.startswith("denoise ") and "spectrum: 12 workers" in row and "\u2026" not in row
