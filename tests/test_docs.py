# SPDX-License-Identifier: BSD-3-Clause
"""docs/architecture.md names the files that there are, and the tests that pages promise are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path.name
    for pattern in ("src/palm/*.py", "src/palm/_core/*.pyx", "csrc/src/*.c", "csrc/src/*.cc")
    for path in ROOT.glob(pattern)
    if path.name != "__init__.py"
)


def patterns(text: str) -> list[re.Pattern[str]]:
    """The files that a text names, `*` standing for any end."""
    names = re.findall(r"[\w*]+\.(?:py|pyx|cc?)\b|\w+\*", text)
    return [re.compile(re.escape(name).replace(r"\*", r"[\w.]*") + "$") for name in names]


@pytest.fixture(scope="module")
def architecture() -> list[re.Pattern[str]]:
    return patterns((ROOT / "docs/architecture.md").read_text())


@pytest.mark.parametrize("name", FILES)
def test_the_architecture_names_each_file(architecture, name):
    assert any(pattern.match(name) for pattern in architecture), f"docs/architecture.md does not name {name}"


@pytest.mark.parametrize("page", ["delivery", "arena", "wire", "architecture"])
def test_tests_that_are_promised_are_there(page):
    for file, name in re.findall(r"`(test_\w+\.py): (test_\w+)`", (ROOT / f"docs/{page}.md").read_text()):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"docs/{page}.md: {file} has no {name}"
