# SPDX-License-Identifier: BSD-3-Clause
"""The words of daily work: spin test, core, sanitize, lint, type, bench."""

import os
import subprocess
import sys

import click

CORE = "build-core"


def run(*command: str, **env: str) -> None:
    sys.exit(subprocess.run(command, env={**os.environ, **env}).returncode)


@click.command()
@click.argument("pytest_args", nargs=-1)
def test(pytest_args: tuple[str, ...]) -> None:
    """Run the Python tests."""
    run(sys.executable, "-m", "pytest", *pytest_args, PALM_CORE_BUILD=os.path.abspath(CORE))


@click.command()
@click.argument("names", nargs=-1)
def core(names: tuple[str, ...]) -> None:
    """Build the C core and run its tests."""
    if not os.path.isdir(CORE):
        subprocess.run(["meson", "setup", CORE, "-Dcore_only=true", "-Dwerror=true"], check=True)
    run("meson", "test", "-C", CORE, "--print-errorlogs", *names)


@click.command()
def sanitize() -> None:
    """Run the C tests under ASan+UBSan, then TSan."""
    run("make", "sanitize")


@click.command()
def lint() -> None:
    """Run ruff."""
    run(sys.executable, "-m", "ruff", "check", ".")


@click.command(name="type")
def types() -> None:
    """Run mypy --strict."""
    run(sys.executable, "-m", "mypy")


@click.command()
@click.argument("args", nargs=-1)
def bench(args: tuple[str, ...]) -> None:
    """Run palm bench."""
    run("palm", "bench", *args)
