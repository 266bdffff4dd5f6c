# SPDX-License-Identifier: BSD-3-Clause
"""What `palm top` draws: columns, in which order, which rows. No terminal, no cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from palm.activity import text_of
from palm.delta import Delta, quantile
from palm.rates import Interval, Row, ServerRow, most_occupied
from palm.units import NOTHING, bytes_text, rate_text, seconds_text, share_text

_COLOURS = {"running": "green", "suspended": "yellow"}
HELP = (
    "sort: n name, u busy, c calls/s, w waiting, f in flight, t median, l 99 %,",
    "      i in/s, o out/s, b bytes in/s, y copied/s, m arena, e heap,",
    "      < > the column beside, r reverse",
    "p: workers   up, down, page up, page down: scroll   space: pause   q: end",
    "busy: in functions. PALM: takes in, sends, waits for a core. The rest is idle.",
    "median, 99 %: of calls that ended, to a factor of two. waiting: not begun.",
    "arena: arrays somebody has. kept: free for new ones. mapped: arrays of others.",
)


@dataclass(frozen=True)
class Column:
    """`value`: what it is sorted by. rank: how soon it has to go where the terminal is narrow, the last first."""

    name: str
    title: str
    key: str
    width: int
    rank: int
    text: Callable[[Row], str]
    value: Callable[[Row], Any]
    words: bool = False


def does(row: Row) -> str:
    """What is quick is not timed."""
    if row.work["state"] == "unknown":
        return NOTHING
    is_quick = row.work["state"] == "running" and row.work["seconds"] < 1.0
    return f"running {row.work['function']}" if is_quick else text_of(row.work)


def _of_delta(of: Callable[[Delta], float | None], text: Callable[[float | None], str]) -> dict[str, Any]:
    """Text and value of what is not known of a process that has begun since."""

    def show(row: Row) -> str:
        return NOTHING if row.delta is None else text(of(row.delta))

    def value(row: Row) -> float:
        found = None if row.delta is None else of(row.delta)
        return -1.0 if found is None else found

    return {"text": show, "value": value}


def _rate(name: str, text: Callable[[Any], str] = rate_text) -> dict[str, Any]:
    return _of_delta(lambda d: d.rate(name), text)


def _number(of: Callable[[Row], int | None]) -> dict[str, Any]:
    def known(row: Row) -> int:
        n = of(row)
        return -1 if n is None else n

    return {"text": lambda row: NOTHING if of(row) is None else str(of(row)), "value": known}


def _memory(kind: str) -> dict[str, Any]:
    return {
        "text": lambda row: bytes_text(row.memory[kind]) if kind in row.memory else NOTHING,
        "value": lambda row: row.memory.get(kind, -1),
    }


COLUMNS = (
    Column("name", "server", "n", 18, 0, lambda r: r.name, lambda r: r.name, words=True),
    Column("state", "state", "", 10, 3, lambda r: r.state, lambda r: r.state, words=True),
    Column("does", "does", "", 28, 6, does, lambda r: r.work.get("seconds", 0.0), words=True),
    Column("busy", "busy %", "u", 6, 1, **_of_delta(lambda d: d.utilisation, share_text)),  # type: ignore[arg-type]
    Column("own", "PALM %", "", 6, 9, **_of_delta(lambda d: d.own, share_text)),  # type: ignore[arg-type]
    Column("cpu", "CPU %", "", 6, 5, **_of_delta(lambda d: d.cores, share_text)),  # type: ignore[arg-type]
    Column("calls", "calls/s", "c", 7, 2, **_rate("calls")),
    Column("in", "in/s", "i", 6, 7, **_rate("messages_in")),
    Column("out", "out/s", "o", 6, 8, **_rate("messages_out")),
    Column("bytes", "bytes in/s", "b", 10, 10, **_rate("bytes_in", bytes_text)),
    Column("bytes_out", "bytes out/s", "", 11, 14, **_rate("bytes_out", bytes_text)),
    Column("copied", "copied/s", "y", 10, 13, **_rate("bytes_copied", bytes_text)),
    Column("median", "median", "t", 7, 3, **_of_delta(lambda d: quantile(d.times, 0.5), seconds_text)),
    Column("p99", "99 %", "l", 7, 11, **_of_delta(lambda d: quantile(d.times, 0.99), seconds_text)),
    Column("queue", "waiting", "w", 7, 2, **_number(lambda r: r.queue)),
    Column("flight", "in flight", "f", 9, 18, **_number(lambda r: r.in_flight)),
    Column("arena", "arena", "m", 9, 12, **_memory("arena")),
    Column("kept", "kept", "", 9, 16, **_memory("arena_idle")),
    Column("mapped", "mapped", "", 9, 17, **_memory("mapped")),
    Column("heap", "heap", "e", 9, 15, **_memory("heap")),
)
NAMES = [c.name for c in COLUMNS]
_BY_KEY = {c.key: c.name for c in COLUMNS if c.key}
_PAGE = 10


@dataclass
class View:
    """What the user has chosen."""

    sort: str = "name"
    reverse: bool = False
    workers: bool = True
    paused: bool = False
    help: bool = False
    first: int = 0  # row that is shown

    def press(self, key: str) -> bool:
        """Does what a key stands for, of others nothing; True: it is time to end."""
        if key in ("q", "Q", "\x03", "\x04"):
            return True
        if key in _BY_KEY:
            self.sort = _BY_KEY[key]
        elif key in ("<", ">", "left", "right"):
            step = 1 if key in (">", "right") else -1
            self.sort = NAMES[(NAMES.index(self.sort) + step) % len(NAMES)]
        elif key in ("r", "R"):
            self.reverse = not self.reverse
        elif key == "p":
            self.workers, self.first = not self.workers, 0
        elif key == " ":
            self.paused = not self.paused
        elif key in ("h", "?"):
            self.help = not self.help
        elif key in ("up", "down", "page up", "page down"):
            by = _PAGE if key.startswith("page") else 1
            self.first = max(0, self.first + (by if key.endswith("down") else -by))
        return False

    def ordered(self, rows: Iterable[Any]) -> list[Any]:
        """Words from A to Z, numbers from the largest on, or the other way round."""
        column = COLUMNS[NAMES.index(self.sort)]
        rows = sorted(rows, key=lambda r: r.name)
        return sorted(rows, key=column.value, reverse=self.reverse == column.words)


def screen(
    cluster: str, found: Interval | None, view: View, away: float, width: int, height: int | None
) -> RenderableType:
    """All of it. found: None, before the first interval is over. height: None: as many lines as it takes."""
    head = _head(cluster, found, view, away)
    lines = [Text(line, "dim") for line in HELP] if view.help and height is not None else []
    if found is None:
        return Group(*head, *lines)
    rows = list(_rows(found, view))
    room = len(rows) if height is None else max(1, height - 2 - len(head) - len(lines))
    view.first = min(view.first, max(0, len(rows) - room))
    table = _table(rows[view.first : view.first + room], view, found.limits, width)
    left = len(rows) - view.first - room
    more = [Text(f"{left} more rows: down or page down shows them", "dim")] if left > 0 else []
    return Group(*head, table, *more, *lines)


def _head(cluster: str, found: Interval | None, view: View, away: float) -> list[Text]:
    direction = ", reversed" if view.reverse else ""
    parts = [f"cluster {cluster}", f"by {COLUMNS[NAMES.index(view.sort)].title}{direction}"]
    parts += ["PAUSED: space goes on"] if view.paused else []
    parts += [f"over {found.seconds:.1f} s", "h: help"] if found is not None else ["looks"]
    lines = [Text(", ".join(parts), "bold", no_wrap=True)]
    if away:
        lines.append(Text(f"the registry has not answered for {away:.1f} s: servers are those it knew", "red"))
    if found is not None:
        unknown = [f"{host} is {state}: nothing is known of its processes" for host, state in found.unknown.items()]
        lines += [Text(line, "red", no_wrap=True) for line in unknown]
        lines.append(Text(limit_text(found), no_wrap=True))
    return lines


def limit_text(found: Interval) -> str:
    """Which server limits, and why it is that one."""
    limiting = next((s for s in found.servers if s.name == found.limits), None)
    if limiting is None:
        queues = any(s.queue for s in found.servers)
        return f"no server limits: {'where messages wait, servers have time left' if queues else 'no messages wait'}"
    wait = f"{limiting.queue} messages wait"
    if limiting.state == "suspended":
        return f"{limiting.name} limits: it is suspended; {wait}"
    own = limiting.delta
    if own is None or most_occupied(limiting) > own.occupied:
        return f"{limiting.name} limits: its leader is busy {share_text(most_occupied(limiting))} % of the time; {wait}"
    who = f"its {len(limiting.processes) - 1} workers are" if limiting.processes else "it is"
    return f"{limiting.name} limits: {who} busy {share_text(own.occupied)} % of the time; {wait}"


def _rows(found: Interval, view: View) -> Iterable[tuple[Row, bool]]:
    """With: it is a server, rather than one of its processes."""
    server: ServerRow
    for server in view.ordered(found.servers):
        yield server, True
        if view.workers:
            for process in view.ordered(server.processes):
                yield process, False


def _table(rows: list[tuple[Row, bool]], view: View, limits: str, width: int) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    longest = max((len(_indented(row, is_server)) for row, is_server in rows), default=0)
    columns = fitting(width, longest)
    least = {c.name: max(c.width, longest) if c.name == "name" else c.width for c in columns}
    spare = max(0, width - sum(least.values()) - 2 * len(columns))
    for c in columns:
        title = Text(c.title, "reverse" if c.name == view.sort else "")
        most = c.width + spare if c.name == "does" else None  # the only one that may be long and is cut
        justify: JustifyMethod = "left" if c.words else "right"
        table.add_column(title, justify=justify, no_wrap=True, min_width=least[c.name], max_width=most)
    for row, is_server in rows:
        style = "bold yellow" if is_server and row.name == limits else "" if is_server else "dim"
        table.add_row(*(_cell(c, row, is_server) for c in columns), style=style)
    return table


def _cell(c: Column, row: Row, is_server: bool) -> Text:
    if c.name == "state":
        return Text(row.state, _COLOURS.get(row.state, "red"))
    if c.name == "does" and isinstance(row, ServerRow) and row.processes:
        return Text("")  # its processes do
    return Text(_indented(row, is_server) if c.name == "name" else c.text(row))


def _indented(row: Row, is_server: bool) -> str:
    """Its name."""
    return row.name if is_server else f"  {row.name}"


def fitting(width: int, longest: int = 0) -> list[Column]:
    """The columns that have room, the most important ones, in their order. longest: letters of a name."""
    kept: list[str] = []
    width -= max(0, longest - COLUMNS[0].width)
    for c in sorted(COLUMNS, key=lambda c: c.rank):
        width -= c.width + 2
        if width < 0 and kept:
            break
        kept.append(c.name)
    return [c for c in COLUMNS if c.name in kept]
