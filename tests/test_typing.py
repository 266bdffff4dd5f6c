# SPDX-License-Identifier: BSD-3-Clause
"""Types: of the package, of a user's program, and the stubs against what is compiled (R33)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import palm

TESTS = Path(__file__).parent
PYPROJECT = TESTS.parent / "pyproject.toml"
EXAMPLE = TESTS / "typing" / "user_example.py"


def check(module: str, *arguments: str | Path, cwd: Path) -> list[str]:
    """What it complains of, by line."""
    where = [Path(palm.__file__).parents[1], EXAMPLE.parent]
    # an editable install is not found by itself; what is in site-packages must not be named
    names = [str(path) for path in where if path.name not in ("site-packages", "dist-packages")]
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "MYPYPATH": os.pathsep.join(names)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    said = (done.stdout + done.stderr).splitlines()
    return said or ["it does not say why"] if done.returncode else []


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of both at once, which takes half as long. Without our configuration: a user has another one."""
    arguments = ["--strict", "--config-file=", "--no-error-summary", "-p", "palm", "-m", EXAMPLE.stem]
    return check("mypy", *arguments, cwd=tmp_path_factory.mktemp("mypy"))


def test_package(complaints: list[str]) -> None:
    assert not [line for line in complaints if EXAMPLE.name not in line]


def test_program_of_a_user(complaints: list[str]) -> None:
    assert not [line for line in complaints if EXAMPLE.name in line]


def test_stubs_say_what_is_there(tmp_path: Path) -> None:
    modules = [f"palm._core.{name}" for name in ("frame", "node", "payload", "space")]
    assert not check(
        "mypy.stubtest",
        "--ignore-missing-stub",  # what Cython adds
        "--ignore-disjoint-bases",
        *("--mypy-config-file", PYPROJECT),
        *modules,
        cwd=tmp_path,
    )
