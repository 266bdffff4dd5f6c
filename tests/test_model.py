# SPDX-License-Identifier: BSD-3-Clause
"""The protocol of delivery, explored; without Reduce, its client is the book in C (model/README.md)."""

from __future__ import annotations

import os

import pytest
from model import flow, tree
from model.client_book import fits
from model.config import configs, large, mutations
from model.delivery import explore, wander


def told(why, trace):
    return "\n".join([why, *map(str, trace)])


def names(cases):
    return [f"{cfg.name}{', book' if fits(cfg) else ''}" for cfg in cases]


LONG = (  # 20 s or more each; the other cases are their parts
    "fan-out, reduce, fan-out",
    "fan-out and filter, 2 inputs",
    "fan-out, 2 deaths after it",
    "fan-out of fan-out",
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("cfg", configs(), ids=names(configs()))
def test_every_interleaving(cfg):
    if cfg.name in LONG and "PALM_SLOW" not in os.environ:
        pytest.skip("20 s or more; PALM_SLOW=1")
    _, _, finished, why, trace = explore(cfg)
    assert why is None, told(why, trace)
    assert finished


@pytest.mark.parametrize(("seed", "cfg"), list(enumerate(large())), ids=names(large()))
def test_random_runs(seed, cfg):
    _, _, why, trace = wander(cfg, 60, seed)
    assert why is None, told(why, trace)


@pytest.mark.parametrize("cfg", mutations(), ids=names(mutations()))
def test_a_seeded_error_is_found(cfg):
    _, _, _, why, _ = explore(cfg)
    assert why is not None


@pytest.mark.parametrize(("explorer", "name", "window", "ordered"), flow.CASES)
def test_the_window(explorer, name, window, ordered):
    kinds = flow.JOBS[name]
    _, peak, why = explorer(kinds, 2, window, ordered)
    assert why is None
    assert peak <= window + flow.depth(kinds)


@pytest.mark.parametrize("name", flow.ERRORS)
def test_a_seeded_error_of_the_window_is_found(name):
    assert flow.ERRORS[name]()[2] is not None


def test_the_fixed_tree(capsys):
    assert not tree.main(), capsys.readouterr().out
