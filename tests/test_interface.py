# SPDX-License-Identifier: BSD-3-Clause
"""What `palm status SERVER` tells of a server: functions with signatures and docstrings, place and versions."""

from __future__ import annotations

import json

import numpy as np
from click.testing import CliRunner

import palm
from palm.cli import palm as command


class Spectrum(palm.Butterfly):
    """Spectra of frames."""

    @palm.function
    def power(self, frame: np.ndarray, *, gain: float = 1.0) -> np.ndarray:
        """The power spectrum of one frame.

        gain: a factor.
        """
        return gain * np.abs(np.fft.rfft(frame)) ** 2

    @palm.function
    def silent(self, frame):
        return frame


def status(*arguments):
    return CliRunner().invoke(command, ["status", *arguments])


def test_of_a_server(cluster):
    cluster.start(Spectrum)
    shown = status("--cluster", cluster.name, "spectrum")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[0] == f"spectrum: a palm.Butterfly, {__name__}:Spectrum"
    assert f"palm {palm.__version__}" in lines[1] and f"numpy {np.__version__}" in lines[1]
    assert lines[2] == "Spectra of frames."
    at = next(i for i, line in enumerate(lines) if line.startswith("power(frame: "))
    assert "gain: float = 1.0" in lines[at]
    assert lines[at + 1].split() == ["The", "power", "spectrum", "of", "one", "frame."]
    assert any(line.startswith("silent(frame)") for line in lines)


def test_as_json(cluster):
    cluster.start(Spectrum)
    told = json.loads(status("--cluster", cluster.name, "--json", "spectrum").stdout)
    assert told["functions"]["power"]["doc"].startswith("The power spectrum")
    assert told["functions"]["silent"] == {"signature": "(frame)", "doc": ""}


def test_of_one_that_is_not_there(cluster):
    cluster.start(Spectrum)
    shown = status("--cluster", cluster.name, "spektrum")
    assert shown.exit_code != 0
    assert "there is no server 'spektrum'. Did you mean 'spectrum'?" in str(shown.exception)
