# SPDX-License-Identifier: BSD-3-Clause
"""No path takes more instructions than bench/instructions.json says; and what says so can be believed."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))

import instructions
from instructions import CannotCount, Counts

BUILT = {"compiler": "gcc 12", "cython": "3.3", "python": "3.11.7", "numpy": "2.4.0"}


@pytest.mark.timeout(400)
def test_no_path_takes_more_than_it_did():
    try:
        had = instructions.kept()
        counts = instructions.count()
    except CannotCount as e:
        pytest.skip(str(e))
    found = instructions.compare(counts, had)
    for line in found.skipped + found.shrunk:
        warnings.warn(line, stacklevel=1)
    assert not found.grown, "\n".join([*found.grown, instructions.ADVICE])


def counts(**have: float) -> Counts:
    return Counts(BUILT, {"call": {"own": 1000.0, "bytecodes": 100.0, "all": 9000.0} | have}, {}, {})


def kept(**built: str) -> dict[str, object]:
    return {"built": BUILT | built, "paths": counts().paths}


def test_what_grows_is_told_with_both_numbers():
    found = instructions.compare(counts(own=1060.0), kept())
    assert found.grown == [
        "call: instructions in PALM's own objects grew from 1000.0 to 1060.0 a message (+6.0%, the band is 5%)"
    ]
    assert not found.shrunk and not found.skipped


def test_what_shrinks_is_told_too():
    found = instructions.compare(counts(bytecodes=90.0), kept())
    assert not found.grown
    assert found.shrunk == [
        "call: bytecodes of PALM's Python shrank from 100.0 to 90.0 a message (-10.0%, the band is 2%)"
    ]


def test_within_the_band_nothing_is_told():
    found = instructions.compare(counts(own=1040.0, bytecodes=101.0, all=8700.0), kept())
    assert not found.grown and not found.shrunk


def test_a_path_of_which_nothing_is_kept():
    found = instructions.compare(counts(), {"built": BUILT, "paths": {}})
    assert len(found.grown) == 3
    assert all("nothing is kept" in line for line in found.grown)


@pytest.mark.parametrize(
    ("other", "compared"),
    [
        ("compiler", {"bytecodes"}),
        ("cython", {"bytecodes"}),
        ("python", {"own", "bytecodes"}),
        ("numpy", {"own", "bytecodes"}),
    ],
)
def test_other_builds_are_compared_in_what_they_cannot_change(other, compared):
    found = instructions.compare(counts(own=2000.0, bytecodes=200.0, all=18000.0), kept(**{other: "another"}))
    assert {
        kind for kind in instructions.BAND if any(instructions.WHAT[kind] in line for line in found.grown)
    } == compared
    assert len(found.skipped) == 3 - len(compared)
    assert all("another" in line for line in found.skipped)


PROFILE = """
desc: Trigger: Client Request: call 1

positions: line
events: Ir

ob=(1) /usr/lib/libpython3.11.so
fl=(1) ???
fn=(1) eval
12 100
+3 20
cob=(2) /palm/libpalmcore.so
cfi=(1)
cfn=(2) palm_send
calls=1 0
* 5000

fn=(3) dealloc
- 7

ob=(2)
fn=(2)
0 4999
cob=(1)
cfn=(3)
calls=2 0
0 1
"""


def test_instructions_of_a_function_are_its_own():
    assert instructions.read_profile(PROFILE) == {
        ("/usr/lib/libpython3.11.so", "eval"): 120,
        ("/usr/lib/libpython3.11.so", "dealloc"): 7,
        ("/palm/libpalmcore.so", "palm_send"): 4999,
    }
