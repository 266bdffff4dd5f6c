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


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def check(module: str, *arguments: str | Path, cwd: Path) -> None:
    where = Path(palm.__file__).parents[1]
    # an editable install is not found by itself; what is in site-packages must not be named
    path = {} if where.name in ("site-packages", "dist-packages") else {"MYPYPATH": str(where)}
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_package(cache: Path, tmp_path: Path) -> None:
    check("mypy", "--strict", "--config-file", PYPROJECT, "--cache-dir", cache, "-p", "palm", cwd=tmp_path)


def test_program_of_a_user(cache: Path, tmp_path: Path) -> None:
    """Without our configuration: a user has another one."""
    example = TESTS / "typing" / "user_example.py"
    check("mypy", "--strict", "--config-file=", "--follow-imports=silent", "--cache-dir", cache, example, cwd=tmp_path)


def test_stubs_say_what_is_there(tmp_path: Path) -> None:
    modules = [f"palm._core.{name}" for name in ("frame", "node", "payload", "space")]
    check(
        "mypy.stubtest",
        "--ignore-missing-stub",  # what Cython adds
        "--ignore-disjoint-bases",
        *("--mypy-config-file", PYPROJECT),
        *modules,
        cwd=tmp_path,
    )
