# SPDX-License-Identifier: BSD-3-Clause
"""``palm replay``: what is in a capsule, and what comes of it."""

from __future__ import annotations

import faulthandler
import time
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from palm import replay
from palm.capsule import Capsule
from palm.cli_tables import _console
from palm.summary import lines, one_line


def show(capsule: Capsule) -> None:
    """What failed, with what, and why. Nothing of it is run."""
    m = capsule.message
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    rows = {
        "function": m.step or f"{capsule.server}.{capsule.function}",
        "class": capsule.template + (" (in the capsule)" if capsule.template_pickled is not None else ""),
        "reason": capsule.reason or "unknown",
        "when": f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(capsule.time))}, at attempt {m.attempt}",
        "message": f"input {m.number} of job {m.job}",
        "place": f"path {'.'.join(map(str, m.path))}, stage {m.stage}, seed {m.seed}",
        "rest": " -> ".join(m.rest) or "the client",
        "versions": ", ".join(f"{name} {version}" for name, version in capsule.versions.items()),
        "setup": _setup_of(capsule),
        "constants": "\n".join(line for k, v in capsule.constants.items() for line in lines(v, k)) or "none",
        "input": "\n".join(lines(capsule.value, "input")),
    }
    for name, text in rows.items():
        table.add_row(name, Text(text))
    console = _console()
    console.print(table)
    if capsule.traceback:
        console.print(Text(f"\nRecorded {capsule.traceback.rstrip()}"), soft_wrap=True)


def _setup_of(capsule: Capsule) -> str:
    if capsule.setup is None:
        return "pickled: loaded by a replay alone"
    return "\n".join(f"{k}: {one_line(v)}" for k, v in capsule.setup.items()) or "none"


def run(path: Path, capsule: Capsule, debug: bool) -> int:
    """Replay; returns the exit code. UsageError if it cannot be replayed here."""
    click.echo(f"\nReplaying {capsule.server}.{capsule.function}:")
    if debug:
        faulthandler.enable()
        found = replay.run(capsule, replay.show, debug=True)
    else:
        found = replay.run_apart(path)
    if found.how == replay.UNUSABLE:
        raise click.UsageError(f"{path}: {found.why}")
    if found.how == replay.FAILED:
        where = f"(in {capsule.server}.{capsule.function}, input {capsule.message.number})"
        click.echo(f"palm: {' '.join(found.why.split())} {where}", err=True)
        return 1
    click.echo(f"done; it does not fail here: the capsule was written for {capsule.reason or 'an unknown reason'}")
    return 0
