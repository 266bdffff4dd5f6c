# SPDX-License-Identifier: BSD-3-Clause
"""``palm explain JOB.toml``: a job that is not run."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from palm import cli_files, contracts, explain, places, summary
from palm._core import space as core_space
from palm.cli_tables import Column, _console, print_table
from palm.client import Client
from palm.directory import check_route, check_step
from palm.errors import ConfigError, PalmError
from palm.fitting import Fitting
from palm.step import Step, one_step
from palm.units import bytes_text

KEYS = ("steps", "input")
COLUMNS = (
    Column("from"),
    Column("to"),
    Column("on", 5),
    Column("by", 2),
    Column("arrays", 4),
    Column("copies of them", 1),
    Column("carries", 3, wraps=True),
)


@dataclass(frozen=True)
class JobFile:
    """What a JOB.toml says.

    Attributes
    ----------
    steps : tuple of Step
    input : str or None
        A pattern of files, in the directory of this one if it is relative.
    """

    path: Path
    text: str = field(repr=False)
    steps: tuple[Step, ...] = ()
    input: str | None = None

    @classmethod
    def read(cls, path: Path) -> JobFile:
        """ConfigError says file, line and what to do; OSError: it cannot be read."""
        text = ""
        try:
            text = path.read_text(encoding="utf-8")
            data = tomllib.loads(text)
        except FileNotFoundError:
            raise FileNotFoundError(
                f'there is no file {path}; it would have the steps of a job: steps = ["server.function", ...]'
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}: not TOML: {e}") from None
        job = cls(path, text)
        for key in data:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, 1)
                there = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(KEYS)}"
                raise job.error(key, f"a job has no key {key!r}; {there}")
        steps, files = data.get("steps"), data.get("input")
        if not (isinstance(steps, list) and steps and all(isinstance(s, str) for s in steps)):
            raise job.error("steps", 'it needs steps = ["server.function", ...]')
        if files is not None and not isinstance(files, str):
            raise job.error("input", f'input = {files!r} has to be a pattern of files: input = "in/*.npy"')
        return cls(path, text, tuple(job._step(s) for s in steps), files)

    def _step(self, text: str) -> Step:
        try:
            return one_step(cli_files.parse_step(text))
        except ValueError as e:
            raise self.error(text, str(e)) from None

    def error(self, what: str, text: str) -> ConfigError:
        return ConfigError(f"{self.at(what)}: {text}")

    def at(self, what: str) -> str:
        """``file:line`` of a key, or else of a step as it is written."""
        key = re.compile(rf"\s*[\"']?{re.escape(what)}[\"']?\s*=")
        lines = self.text.splitlines()
        found = [n for n, line in enumerate(lines, 1) if key.match(line)] or [
            n for n, line in enumerate(lines, 1) if what in line.partition("#")[0]
        ]
        return f"{self.path}:{found[0] if found else 1}"

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Whatever PALM has to complain of in it is said of this line."""
        try:
            yield
        except PalmError as e:
            e.args = (f"{self.at(what)}: {e}",)
            raise


def run(path: Path, client: Client) -> None:
    """Print the ways of a job. Raises what `Client.job` would, of a line of the file."""
    job = JobFile.read(path)
    servers = _servers(job, client)
    with job.of("steps"):
        check_route(job.steps, servers)
    status = client.status()
    workers = {s["name"]: len([w for w in s["workers"] if w["state"] == "running"]) for s in status["servers"]}
    me = explain.Process(
        "client", os.uname().nodename, places.pid_namespace(), core_space.has_arena(), os.environ.get("PALM_LINK", "")
    )
    _print(explain.hops(job.steps, servers, workers, me), job, _sample(job, servers))


def _servers(job: JobFile, client: Client) -> dict[str, dict[str, Any]]:
    """What the registry knows of the servers of all steps, each of which is checked."""
    servers: dict[str, dict[str, Any]] = {}
    for s in job.steps:
        with job.of(str(s)):
            if s.server not in servers:
                servers |= client._directory.find([s.server], patience=0.0)
            check_step(s, servers[s.server])
    return servers


def _sample(job: JobFile, servers: dict[str, dict[str, Any]]) -> str:
    """The input in words, the first file of which is held against what the first step takes."""
    if job.input is None:
        return ""
    try:
        files = list(cli_files.inputs_of(str(job.path.parent / job.input)).values())
    except ValueError as e:
        raise job.error("input", str(e)) from None
    first = files[0]
    try:
        value = np.load(first, mmap_mode="r") if first.suffix == ".npy" else cli_files.load(first)
    except (OSError, ValueError) as e:
        raise job.error("input", f"{first} cannot be read: {e}") from None
    s = job.steps[0]
    known = servers[s.server]["functions"][s.function]
    with job.of("input"):
        contract = contracts.read(known["contract"])
        fitting = Fitting(f"{s}{contracts.abridged(known['text'])}", contract, s.constants, str(first))
        if len(contract.takes) == 1:
            fitting.check([np.asarray(value) if isinstance(value, np.memmap) else value])
    size = value.nbytes if isinstance(value, np.ndarray) else 0
    goes = "in shared memory" if size >= core_space.LENT else "inside their messages"
    arrays = f"; such arrays go {goes}" if isinstance(value, np.ndarray) else ""
    many = f"{len(files)} files, the first" if len(files) > 1 else "one file"
    return f"input: {many} {first.name}: {_kind(value)}{arrays}"


def _kind(value: Any) -> str:
    """Without looking at what is in it: it may be large."""
    if isinstance(value, np.ndarray):
        return f"array of {value.dtype} {value.shape}, {bytes_text(value.nbytes)}"
    return summary.one_line(value)


def _print(hops: list[explain.Hop], job: JobFile, sample: str) -> None:
    console = _console()
    console.print(Text(" -> ".join(map(str, job.steps)), "bold"), soft_wrap=True)
    if sample:
        console.print(Text(sample), soft_wrap=True)
    rows = [[h.giver, h.taker, h.host, h.by, h.arrays, str(h.copies), h.carries] for h in hops]
    print_table(console, COLUMNS, rows)
    total = sum(h.copies for h in hops)
    copied = f"copied {total} times" if total else "not copied"
    text = (
        f"An array of {core_space.LENT >> 10} KiB or more is {copied} on its way, if its function has let go of it; "
        "one that it keeps, or whose memory is not numpy's, once more. Smaller ones travel inside their messages."
    )
    console.print(Text(text), soft_wrap=True)
