# SPDX-License-Identifier: BSD-3-Clause
"""What the command line shows to people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from palm.activity import text_of
from palm.doctor import Finding
from palm.units import bytes_text

GAP = 2  # between two columns
WRAPPED = 20  # characters that one which wraps has at least
_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red", "running": "green"}


class Column(NamedTuple):
    """rank: how soon it has to go where a terminal is narrow, the last first; 0: never. wraps: into several lines."""

    title: str
    rank: int = 0
    is_number: bool = False
    wraps: bool = False


def status_report(status: dict[str, Any]) -> None:
    """The cluster as a table, one line a server, and one for each of its workers where these are processes of their
    own."""
    console = _console()
    registry = status["registry"]
    console.print(f"cluster {status['cluster']}, registry {registry['state']} (pid {registry['pid']})", highlight=False)
    for host in status["hosts"]:
        if host["state"] != "running":
            text = f"host {host['host']}: {host['state']}, nothing is known of its processes"
            console.print(Text(text, "red"), highlight=False)
    several = len(status["hosts"]) > 1
    rows = [
        [name, *([process["host"] or "-"] * several), *_cells(process), last] for name, process, last in _rows(status)
    ]
    print_table(console, _columns(several, any(_reason(p) for _, p, _ in _rows(status))), rows)
    for client in status["clients"]:
        if client["work"]["state"] == "waiting":
            console.print(f"client (pid {client['pid']}): {text_of(client['work'])}", highlight=False)


def server_report(server: dict[str, Any]) -> None:
    """What it can do, as it has told the registry."""
    versions = ", ".join(f"{name} {version}" for name, version in server["versions"].items())
    click.echo(f"{server['name']}: a palm.{server['template']}, {server['module']}:{server['class']}")
    click.echo(f"on {server['host']}, pid {server['pid']}, at {server['address']}; {versions}")
    if server["doc"]:
        click.echo(server["doc"])
    for name, function in server["functions"].items():
        click.echo(f"\n{name}{function['signature']}")
        if function["doc"]:
            click.echo(textwrap.indent(function["doc"], "    "))


def _columns(has_several_hosts: bool, has_reasons: bool) -> list[Column]:
    """has_reasons: of something that has failed; these stand where functions do."""
    titles = ["in", "out", "errors", "busy s", "bytes in", "bytes out", "copied", "links"]
    numbers = [Column(t, rank, is_number=True) for t, rank in zip(titles, (6, 7, 5, 8, 11, 12, 10, 13), strict=True)]
    return [
        Column("server"),
        *([Column("host", 3)] * has_several_hosts),
        Column("state", 1),
        Column("does", 4),
        Column("pid", is_number=True),
        *numbers,
        Column("functions", 2 if has_reasons else 9, wraps=True),
    ]


def _rows(status: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name, what is known, and the last cell."""
    for server in status["servers"]:
        yield server["name"], server, _reason(server) or ", ".join(server["functions"])
        for worker in server["workers"] if server["leads"] else ():
            yield f"  {server['name']}/{worker['number']}", worker, _reason(worker)


def _reason(process: dict[str, Any]) -> str:
    return str(process.get("reason", ""))


def _cells(process: dict[str, Any]) -> list[str | Text]:
    """State, what it does, and numbers."""
    c = process["counters"]
    return [
        Text(process["state"], _COLOURS.get(process["state"], "red")),
        text_of(process["work"]) if c else "-",
        str(process["pid"] or "-"),
        *(str(c.get(k, "-")) for k in ("messages_in", "messages_out", "errors")),
        f"{c['busy_seconds']:.1f}" if c else "-",
        *(bytes_text(c[k]) if c else "-" for k in ("bytes_in", "bytes_out", "bytes_copied")),
        _links_text(c["links"]) if c else "-",
    ]


def _links_text(links: dict[str, int]) -> str:
    """``"3 ring, 1 TCP"``: how many peers it sends to, by what."""
    return ", ".join(f"{n} {way}" for way, n in links.items() if n) or "none"


def demo_report(found: dict[str, Any]) -> None:
    """What `palm.demo.run` returned: a line for each step, and how much went by shared memory."""
    from palm.demo import PIPELINE

    console = _console()
    servers = {s["name"]: s for s in found["servers"]}
    table = _table(["step"], ["server pid", "calls", "mean ms", "bytes in", "bytes out", "bytes copied"])
    for step in PIPELINE:
        name, _, function = step.partition(".")
        c = servers[name]["counters"]
        f = c["functions"][function]
        table.add_row(
            step,
            str(servers[name]["pid"]),
            str(f["calls"]),
            f"{1e3 * f['busy_seconds'] / f['calls']:.2f}",
            bytes_text(c["bytes_in"]),
            bytes_text(c["bytes_out"]),
            bytes_text(c["bytes_copied"]),
        )
    console.print(table)
    everybody = [found["client"], *(s["counters"] for s in found["servers"])]
    sums = {
        k: sum(c[k] for c in everybody)
        for k in ("bytes_out", "bytes_copied", "sent_arena", "sent_inline", "sent_frames")
    }
    console.print(
        f"{len(found['slopes'])} images: {bytes_text(sums['bytes_out'])} between {len(everybody)} processes, "
        f"{sums['sent_arena']} arrays in shared memory, {sums['sent_inline']} small ones inside their "
        f"messages, {sums['sent_frames']} through sockets; {bytes_text(sums['bytes_copied'])} copied.",
        highlight=False,
    )


def doctor_report(findings: Iterable[Finding]) -> list[str]:
    """A line for each finding as it comes, with what to do; returns what failed."""
    console = _console()
    failed = []
    for finding in findings:
        line = Text(f"{finding.level:<4}", _COLOURS[finding.level])
        console.print(line, Text(f"{finding.what}: {finding.text}"), soft_wrap=True)
        if finding.advice:
            console.print(Text(f"     -> {finding.advice}"), soft_wrap=True)
        if finding.level == "FAIL":
            failed.append(finding.what)
    return failed


def _console() -> Console:
    """For a terminal, as wide as it is; for a file or a pipe, wide enough to cut no line."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> None:
    """Without the least important columns where a terminal has no room for them; a file or a pipe has all."""
    widths = [max(_width(row[i]) for row in [[c.title for c in columns], *rows]) for i, c in enumerate(columns)]
    needed = [GAP + min(width, WRAPPED if c.wraps else width) for c, width in zip(columns, widths, strict=True)]
    kept = _fitting(columns, needed, console.width + GAP if console.is_terminal else sum(needed))
    console.width = max(console.width, sum(needed[i] for i in kept) - GAP)  # the terminal has to break lines then
    table = Table(box=None, header_style="bold", padding=(0, GAP, 0, 0), pad_edge=False)
    for i in kept:
        c = columns[i]
        table.add_column(c.title, justify="right" if c.is_number else "left", no_wrap=not c.wraps)
    for row in rows:
        table.add_row(*(row[i] if isinstance(row[i], Text) else Text(str(row[i])) for i in kept))  # no markup
    console.print(table)


def _width(cell: str | Text) -> int:
    return cell_len(str(cell))


def _fitting(columns: Sequence[Column], needed: Sequence[int], room: int) -> list[int]:
    """Numbers of those that are shown, in their order."""
    kept = []
    for i in sorted(range(len(columns)), key=lambda i: columns[i].rank):
        if columns[i].rank == 0 or needed[i] <= room:
            room -= needed[i]
            kept.append(i)
    return sorted(kept)


def _table(words: list[str], numbers: list[str]) -> Table:
    """Columns of words to the left, those of numbers to the right."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for word in words:
        table.add_column(word, no_wrap=True)
    for word in numbers:
        table.add_column(word, justify="right", no_wrap=True)
    return table
