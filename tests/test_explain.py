# SPDX-License-Identifier: BSD-3-Clause
"""`palm explain`: the ways of messages before they are sent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import palm
import palm.cli
from palm import explain
from palm.step import route_of


class Denoise(palm.Butterfly):
    @palm.function
    def median(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return x


class Spectrum(palm.Server):
    @palm.function
    def power(self, x: NDArray[np.float32], *, gain: float = 1.0):
        return x

    @palm.function
    def names(self, x: str) -> str:
        return x


class Tiles(palm.ScatterGather):
    @palm.function
    def blur(self, tile):
        return tile

    def scatter(self, image):
        yield image

    def gather(self, parts):
        return parts[0]


@pytest.fixture(scope="module")
def servers() -> Iterator[palm.Cluster]:
    with palm.Cluster() as cluster:
        cluster.start(Denoise, workers=2)
        cluster.start(Spectrum)
        cluster.start(Tiles, workers=1, env={"PALM_LINK": "frames"})
        yield cluster


def run(cluster: palm.Cluster, path: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from palm.cli import main; main()",
        "explain",
        "--cluster",
        cluster.name,
        str(path),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


JOB = """\
# a job
steps = [
  "denoise.median",
  "spectrum.power:gain=2.0",
  "tiles.blur",
]
input = "in/*.npy"
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i in range(3):
        np.save(tmp_path / "in" / f"x{i}.npy", np.zeros((100, 100), np.float32))
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path / "job.toml"


def test_it_shows_each_hop(servers, job):
    done = run(servers, job)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "denoise.median -> spectrum.power -> tiles.blur"
    assert lines[1].startswith(
        "input: 3 files, the first x0.npy: array of float32 (100, 100), 39.1 KiB; such arrays go in"
    )
    hops = [(giver.split("  ")[0], rest) for giver, rest in (line.split("  ", 1) for line in lines[3:-1])]
    assert [giver for giver, _ in hops] == [
        "client",
        "denoise",
        "denoise: 2 workers",
        "spectrum",
        "tiles",
        "tiles: 1 worker",
        "tiles",
    ]
    assert all("ring in shared memory" in rest and "array of float32" in rest for _, rest in hops[:3])
    assert all("frames, through the socket" in rest for _, rest in hops[3:])
    assert "copied 8 times" in lines[-1]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "median",
            "medain",
            "job.toml:3: denoise.medain: the server 'denoise' has no function 'medain'. Did you mean 'med",
        ),
        ("spectrum.", "spektrum.", "job.toml:4: there is no server 'spektrum'. Did you mean 'spectrum'?"),
        ("gain=", "gian=", "job.toml:4: spectrum.power has no constant 'gian'; its signature is"),
        (
            "gain=2.0",
            "gain=loud",
            "= 1.0): the constant `gain` is of type str, not float",
        ),
        ("gain=2.0", "=", "job.toml:4: 'spectrum.power:=': constants are written as"),
        ("power:gain=2.0", "names", "job.toml:2: denoise.median("),
        ("input", "inputs", "job.toml:7: a job has no key 'inputs'; did you mean 'input'?"),
        ("in/*", "on/*", "job.toml:7: no file matches"),
        ('"in/*.npy"', "7", "job.toml:7: input = 7 has to be a pattern of files"),
        ("steps = [", "steps = [[", "job.toml: not TOML:"),
        ("steps", "stops", "job.toml:2: a job has no key 'stops'; did you mean 'steps'?"),
    ],
)
def test_errors_name_the_line(servers, job, capsys, old, new, says):
    job.write_text(JOB.replace(old, new, 1))
    assert palm.cli.run(["explain", "--cluster", servers.name, str(job)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1


def test_an_input_that_does_not_fit_is_told_before_it_is_sent(servers, job, capsys):
    np.save(job.parent / "in" / "x0.npy", np.zeros(3, np.float64))
    command = ["explain", "--cluster", servers.name, str(job)]
    assert palm.cli.run(command) == 2
    err = capsys.readouterr().err
    assert "job.toml:7: denoise.median(" in err
    assert "is an array of float64 of shape (3,), not array of float32" in err
    (job.parent / "in" / "x0.npy").write_bytes(b"none")
    assert palm.cli.run(command) == 2
    err = capsys.readouterr().err
    assert "job.toml:7: " in err and "cannot be read" in err


def at(name: str, **of: Any) -> explain.Process:
    return explain.Process(name, of.pop("host", "h"), of.pop("where", b"h"), **of)


@pytest.mark.parametrize(
    ("giver", "taker", "by", "copies"),
    [
        (at("a"), at("b"), "ring in shared memory", 0),
        (at("a", link="sockets"), at("b"), "socket", 0),
        (at("a"), at("b", link="sockets"), "socket", 0),
        (at("a"), at("b", link="frames"), "socket", 2),
        (at("a", arena=False), at("b"), "socket", 2),
        (at("a"), at("b", host="other", where=b"o"), "TCP", 2),
        (at("a"), at("b", where=b"another namespace"), "TCP", 2),
    ],
)
def test_what_carries_a_hop(giver, taker, by, copies):
    found = explain.hop(giver, taker, "anything")
    assert (found.by, found.copies) == (by, copies)


def test_workers_of_a_butterfly_send_on_by_themselves():
    functions = {"f": {"text": "(x)", "contract": None}}
    one = {"host": "h", "where": b"h", "arena": True, "link": "", "functions": functions}
    servers = {
        "b": one | {"name": "b", "leads": True, "template": "Butterfly"},
        "r": one | {"name": "r", "leads": True, "template": "Reduce"},
    }
    found = explain.hops(route_of(["b.f", "r.f"]), servers, {"b": 2, "r": 1}, at("client"))
    assert [(h.giver, h.taker) for h in found] == [
        ("client", "b"),
        ("b", "b: 2 workers"),
        ("b: 2 workers", "r"),
        ("r", "r: 1 worker"),
        ("r: 1 worker", "r"),
        ("r", "client"),
    ]
