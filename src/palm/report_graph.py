# SPDX-License-Identifier: BSD-3-Clause
"""The pictures of a report, as inline SVG: the way of the messages, and what waited when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from palm.units import bytes_text, rate_text, seconds_text, share_text

_BOX, _GAP, _HEIGHT = 170, 90, 96
_WIDTH, _TALL, _LEFT, _BELOW = 860, 180, 60, 24
COLOURS = ("#1b6ca8", "#c0562f", "#4b8b3b", "#8a4fa3", "#b08900", "#3a8f8f")


def flow(steps: Mapping[str, Mapping[str, object]], limits: str, rates: Sequence[tuple[float, float]]) -> str:
    """A box a step, the client at both ends, and an arrow to each.

    Parameters
    ----------
    steps : mapping
        Of `palm.Job.stats`.
    limits : str
        The step that stands out.
    rates : sequence of (float, float)
        Messages and bytes a second that come to each step.
    """
    width = (len(steps) + 2) * (_BOX + _GAP) - _GAP
    size = f'viewBox="0 0 {width} {_HEIGHT}" width="{width}"'
    parts = [
        f'<svg class="flow" {size} role="img" aria-label="the way of messages">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker></defs>',
        _box(0, "client", ["reads the inputs"], 0.0, ""),
    ]
    for i, (name, s) in enumerate(steps.items(), 1):
        many = "s" * (s["workers"] != 1)
        lines = [f"{s['workers']} worker{many}, {seconds_text(float(str(s['mean_seconds'])))}", f"{s['calls']} calls"]
        kind = "limits" if name == limits else ""
        parts.append(_arrow(i, rates[i - 1]))
        parts.append(_box(i, name, lines, float(str(s["busy"])), kind))
    parts += [_arrow(len(steps) + 1, None), _box(len(steps) + 1, "client", ["takes the results"], 0.0, ""), "</svg>"]
    return "\n".join(parts)


def _box(i: int, title: str, lines: Sequence[str], busy: float, kind: str) -> str:
    x = i * (_BOX + _GAP)
    shown = title if len(title) <= 22 else f"{title[:21]}…"
    texts = "".join(f'<text x="{x + 10}" y="{46 + 16 * n}">{escape(line)}</text>' for n, line in enumerate(lines))
    bar = f'<rect class="busy" x="{x + 10}" y="76" width="{(_BOX - 20) * busy:.1f}" height="6"/>' if busy else ""
    return (
        f'<g class="box {kind}"><title>{escape(title)}: in functions {share_text(busy)} %</title>'
        f'<rect class="frame" x="{x + 1}" y="8" width="{_BOX - 2}" height="80" rx="6"/>'
        f'<text class="name" x="{x + 10}" y="28">{escape(shown)}</text>{texts}{bar}</g>'
    )


def _arrow(i: int, rate: tuple[float, float] | None) -> str:
    """To box i."""
    end = i * (_BOX + _GAP)
    begin, y = end - _GAP, 48
    label = ""
    if rate is not None:
        for text, at in ((f"{rate_text(rate[0])}/s", y - 8), (f"{bytes_text(rate[1])}/s", y + 18)):
            label += f'<text class="rate" x="{(begin + end) / 2}" y="{at}">{escape(text)}</text>'
    return f'<g><line x1="{begin + 4}" y1="{y}" x2="{end - 4}" y2="{y}" marker-end="url(#tip)"/>{label}</g>'


def queues(looks: Sequence[tuple[float, Mapping[str, int]]], servers: Sequence[str]) -> str:
    """What waited before each of these servers, over time."""
    last = max((t for t, _ in looks), default=0.0) or 1.0
    most = max((n.get(server, 0) for _, n in looks for server in servers), default=0) or 1
    x = [_LEFT + (_WIDTH - _LEFT) * t / last for t, _ in looks]
    parts = [
        f'<svg class="queues" viewBox="0 0 {_WIDTH} {_TALL + _BELOW}" width="{_WIDTH}" role="img" '
        'aria-label="messages that wait, over time">',
        f'<line x1="{_LEFT}" y1="{_TALL}" x2="{_WIDTH}" y2="{_TALL}"/>',
        f'<text x="{_LEFT - 6}" y="16" class="end">{most}</text><text x="{_LEFT - 6}" y="{_TALL}" class="end">0</text>',
        f'<text x="{_LEFT}" y="{_TALL + 16}">0 s</text>',
        f'<text x="{_WIDTH}" y="{_TALL + 16}" class="end">{escape(seconds_text(last))}</text>',
    ]
    for i, server in enumerate(servers):
        y = [_TALL - (_TALL - 12) * n.get(server, 0) / most for _, n in looks]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        colour = COLOURS[i % len(COLOURS)]
        parts.append(f'<polyline points="{points}" stroke="{colour}"><title>{escape(server)}</title></polyline>')
        parts.append(f'<text x="{_LEFT + 10}" y="{24 + 16 * i}" style="fill: {colour}">{escape(server)}</text>')
    return "\n".join([*parts, "</svg>"])
