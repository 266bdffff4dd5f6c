# SPDX-License-Identifier: BSD-3-Clause
"""The report of a job: one HTML file that needs no other, no network and no script.

Whatever comes from users goes through `html.escape`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from palm import rates, report_graph, stats
from palm.delta import Delta
from palm.rates import Interval
from palm.step import Step
from palm.units import bytes_text, rate_text, seconds_text, share_text

ERRORS = 50  # of those that failed, how many are shown
_COPIES = {
    "sent_arena": "lent",
    "sent_inline": "inside",
    "sent_frames": "frames",
    "copied_kept": "kept",
    "copied_foreign": "foreign",
    "copied_thread": "thread",
}
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; } th, td { padding: .25em .8em; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 1px solid #999; }
tr.limits td { background: #fdeccf; } .wide { overflow-x: auto; } .note, dt { color: #666; }
pre { white-space: pre-wrap; background: #f5f5f5; padding: .6em; }
dl { display: grid; grid-template-columns: max-content auto; gap: .1em 1.2em; } dd { margin: 0; }
svg { max-width: 100%; height: auto; }
svg text { font-size: 12px; fill: #222; } svg .name { font-weight: 600; } svg line { stroke: #777; }
svg .frame { fill: #f3f6f9; stroke: #789; } svg .limits .frame { fill: #fdeccf; stroke: #c60; stroke-width: 2; }
svg .busy { fill: #1b6ca8; } svg .rate { text-anchor: middle; } svg .end { text-anchor: end; }
svg polyline { fill: none; stroke-width: 1.5; }
</style>
</head>
<body>
$body
</body>
</html>
""")


@dataclass(frozen=True)
class Report:
    """What a report tells.

    Attributes
    ----------
    before, after : mapping
        The cluster at the beginning and at the end (`palm.overview.Overview.look`).
    progress : mapping
        Inputs ``sent``, ``done``, ``failed``, ``dropped``.
    queues : sequence of (float, mapping)
        Seconds since the beginning, and how many messages waited before each server.
    errors : sequence of (str, str)
        Of which input, and why.
    end : str
        Why the job has not come to its end; "": it has.
    """

    steps: Sequence[Step]
    seconds: float
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    progress: Mapping[str, Any] = field(default_factory=dict)
    queues: Sequence[tuple[float, Mapping[str, int]]] = ()
    errors: Sequence[tuple[str, str]] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    end: str = ""


def write(path: Path, report: Report) -> None:
    """There is the whole file or the one before, whenever this is killed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(render(report), encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def render(r: Report) -> str:
    """The page."""
    found = rates.between(r.before, r.after)
    measured = stats.between(r.steps, r.before, r.after)
    title = " → ".join(map(str, r.steps))
    servers = list(dict.fromkeys(s.server for s in r.steps))
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p><strong>Not complete:</strong> {escape(r.end)}</p>" if r.end else "",
        f"<p><strong>Not in the numbers:</strong> {escape(_missing(found))}</p>" if found.unknown else "",
        _summary(r),
        "<h2>Where the time went</h2>",
        f"<p>{escape(_verdict(measured))}</p>",
        _wide(report_graph.flow(measured["steps"], measured["limits"], _arrivals(r.steps, found))),
        _steps(measured, found),
        "<h2>What waited</h2>",
        _wide(report_graph.queues(r.queues, servers)),
        _waiting(r.queues, servers),
        "<h2>Copies</h2>",
        _copies(servers, found),
        "<h2>PALM's own overhead</h2>",
        _own(measured, servers, found),
        "<h2>One more worker</h2>",
        _one_more(measured["one_more"], r),
        *([f"<h2>{len(r.errors)} inputs failed</h2>", _errors(r.errors)] if r.errors else []),
        '<p class="note">Numbers are of the servers from the beginning of the job to its end: what others had them do '
        "meanwhile is in them. Times of calls come from histograms: to within a factor of two.</p>",
    ]
    return _PAGE.substitute(title=escape(title), body="\n".join(s for s in sections if s))


def _missing(found: Interval) -> str:
    hosts = ", ".join(f"{host} ({state})" for host, state in found.unknown.items())
    return f"what processes did on {hosts}: nothing is known of them."


def _wide(html: str) -> str:
    """What is too wide is scrolled."""
    return f'<div class="wide">{html}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: str = "") -> str:
    """Cells are text. marked: the first cell of the row that stands out."""
    lines = [f"<tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>"]
    for row in rows:
        kind = ' class="limits"' if marked and row[0] == marked else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return _wide("<table>\n" + "\n".join(lines) + "\n</table>")


def _summary(r: Report) -> str:
    done = int(r.progress.get("done", 0))
    facts = {
        **r.about,
        "inputs": ", ".join(f"{n} {what}" for what, n in r.progress.items() if n is not None),
        "seconds": f"{r.seconds:.3g}",
        "inputs a second": rate_text(done / r.seconds) if r.seconds else "-",
    }
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in facts.items())}</dl>"


def _verdict(measured: Mapping[str, Any]) -> str:
    gain = measured["one_more"]["gain"]
    more = f"one more worker would raise the throughput by up to {100 * (gain - 1):.0f} %" if gain > 1 else ""
    return f"{measured['one_more']['why']}{f': {more}' if more else ''}."


def _deltas(found: Interval) -> dict[str, Delta]:
    return {s.name: s.delta for s in found.servers if s.delta is not None}


def _arrivals(steps: Sequence[Step], found: Interval) -> list[tuple[float, float]]:
    """Messages and bytes a second that came to each step; of a server that has several, the calls of each."""
    deltas = _deltas(found)
    known = [deltas.get(s.server, Delta()) for s in steps]
    return [
        (d.functions[s.function][0] / d.seconds if s.function in d.functions and d.seconds else 0.0, d.rate("bytes_in"))
        for s, d in zip(steps, known, strict=True)
    ]


def _steps(measured: Mapping[str, Any], found: Interval) -> str:
    head = ["step", "workers", "calls", "calls/s", "mean", "median", "99 %", "busy %", "PALM %", "errors"]
    rows = []
    deltas = _deltas(found)
    for name, s in measured["steps"].items():
        d = deltas.get(name.rpartition(".")[0], Delta())
        rate = s["calls"] / found.seconds if found.seconds else 0.0
        times = (seconds_text(s[k]) for k in ("mean_seconds", "median_seconds", "p99_seconds"))
        shares = (share_text(d.utilisation), share_text(d.own))
        rows.append([name, str(s["workers"]), str(s["calls"]), rate_text(rate), *times, *shares, str(s["errors"])])
    return _table(head, rows, measured["limits"])


def _waiting(looks: Sequence[tuple[float, Mapping[str, int]]], servers: Sequence[str]) -> str:
    rows = []
    for server in servers:
        n = [queue.get(server, 0) for _, queue in looks] or [0]
        rows.append([server, f"{sum(n) / len(n):.1f}", str(max(n))])
    return _table(["server", "waiting on average", "most"], rows)


def _copies(servers: Sequence[str], found: Interval) -> str:
    head = ["server", "bytes in", "bytes out", "copied", *_COPIES.values(), "by ring", "by socket"]
    deltas = _deltas(found)
    rows = []
    for name in servers:
        c = deltas.get(name, Delta()).counted
        sizes = (bytes_text(c.get(k, 0)) for k in ("bytes_in", "bytes_out", "bytes_copied"))
        rows.append([name, *sizes, *(str(c.get(k, 0)) for k in (*_COPIES, "by_ring", "by_socket"))])
    note = (
        "Arrays that were sent: lent in shared memory, inside their messages, in frames through sockets. Arrays that "
        "were copied first: kept by their function, in memory that is not numpy's, made in a thread without an arena."
    )
    return f'<p class="note">{escape(note)}</p>{_table(head, rows)}'


def _own(measured: Mapping[str, Any], servers: Sequence[str], found: Interval) -> str:
    by_server = {name.rpartition(".")[0]: s for name, s in measured["steps"].items()}
    calls = {name: d.calls for name, d in _deltas(found).items()}
    rows = []
    for name in servers:
        own, n = by_server[name]["own_seconds"], calls.get(name, 0)
        rows.append([name, seconds_text(own), seconds_text(own / n) if n else "-"])
    own = measured["own"]
    text = (
        f"{seconds_text(own['seconds'])} of all processes of these servers, {share_text(own['share'])} % of the time "
        "in which they were not idle: taking messages in, sending, and waiting for a core. The client's is not in it."
    )
    return f"<p>{escape(text)}</p>{_table(['server', 'PALM', 'for each call'], rows)}"


def _one_more(found: Mapping[str, Any], r: Report) -> str:
    done = int(r.progress.get("done", 0))
    rate = done / r.seconds if r.seconds else 0.0
    text = f"{found['why']}."
    if found["gain"] > 1:
        more = f"{rate_text(rate * found['gain'])} inputs a second instead of {rate_text(rate)}"
        text += f" Up to {more}, + {100 * (found['gain'] - 1):.0f} %."
    model = (
        "The model: a job takes as long as its most occupied server, whose work is shared out evenly to its workers; "
        "one more of w workers leaves each w / (w + 1) of it, until the next server is the most occupied. It knows "
        "nothing of memory bandwidth, and of cores only whether those of this machine are in use."
    )
    return f'<p>{escape(text)}</p><p class="note">{escape(model)}</p>'


def _errors(errors: Sequence[tuple[str, str]]) -> str:
    shown = _table(["input", "why"], errors[:ERRORS])
    left = len(errors) - ERRORS
    return shown + (f"<p>and {left} more</p>" if left > 0 else "")
