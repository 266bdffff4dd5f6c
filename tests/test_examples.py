# SPDX-License-Identifier: BSD-3-Clause
"""The demo and the examples: what they compute, and that they run as they stand there."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cli import Shell

from palm import demo

pytest.importorskip("scipy")
pytest.importorskip("skimage")
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def shell(tmp_path):
    shell = Shell(shutil.copytree(EXAMPLES / "image_pipeline", tmp_path / "image_pipeline"))
    yield shell
    shell.close()


def made(template):
    server = template()
    server.setup()
    return server


def test_median_takes_away_single_pixels():
    image = np.zeros((9, 9))
    image[:, 5:] = 1.0
    spoilt = image.copy()
    spoilt[2, 2] = 1.0
    np.testing.assert_array_equal(made(demo.Denoise).median(spoilt), image)


def test_gaussian_keeps_the_mean():
    smooth = made(demo.Denoise).gaussian(demo.photograph("coins"), sigma=2.0)
    assert np.isclose(smooth.mean(), demo.photograph("coins").mean(), rtol=1e-2)


def test_power_adds_up_to_the_variance():
    image = np.random.default_rng(1).standard_normal((60, 100))
    spectrum = made(demo.Spectrum)
    window = spectrum.window(image.shape)
    mean = (image * window).sum() / window.sum()
    variance = (((image - mean) * window) ** 2).sum() / (window**2).sum()
    assert np.isclose(spectrum.power(image).sum(), variance)
    assert np.isclose(spectrum.power(image, gain=2.0).sum(), 2 * variance)
    assert spectrum.power(image)[0, 0] < 1e-20


def test_features_of_a_wave():
    y, x = np.mgrid[:128, :128]
    power = made(demo.Spectrum).power(np.sin(2 * np.pi * (x * 12 + y * 16) / 128))
    found = demo.Features().radial(power)
    assert found["radial"].shape == (64,)
    assert found["radial"].argmax() == 20 - 1
    assert np.isclose(found["centroid"], 20 / 128, rtol=1e-2)


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0])
@pytest.mark.parametrize("shape", [(256, 256), (200, 300)])
def test_slope_of_noise(slope, shape):
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij"))
    frequency[0, 0] = 1.0
    noise = np.fft.fft2(np.random.default_rng(2).standard_normal(shape))
    image = np.fft.ifft2(noise * frequency ** (slope / 2)).real
    assert abs(demo.Features().radial(made(demo.Spectrum).power(image))["slope"] - slope) < 0.1


def test_photographs_are_there_without_a_network():
    for name in demo.PHOTOGRAPHS:
        image = demo.photograph(name)
        assert image.ndim == 2 and image.dtype == np.float64 and 0 <= image.min() < image.max() <= 1
    assert len(list(demo.tiles())) == len(demo.Tiles())


def test_demo_copies_nothing():
    found = demo.run(progress=False)
    assert len(found["slopes"]) == len(demo.Tiles())
    counters = {s["name"]: s["counters"] for s in found["servers"]}
    for step in demo.PIPELINE:
        server, function = step.split(".")
        assert counters[server]["functions"][function]["calls"] == len(demo.Tiles())
        assert counters[server]["bytes_copied"] == 0
    assert counters["spectrum"]["sent_arena"] == len(demo.Tiles())
    image = next(demo.tiles())
    mended = made(demo.Denoise).median(image)
    assert found["slopes"][0] == demo.Features().radial(made(demo.Spectrum).power(mended))["slope"]


def test_demo_from_the_shell(shell):
    out, _ = shell.run("demo", timeout=60)
    header, *lines, summary = out.splitlines()
    assert re.split(r"\s{2,}", header.strip()) == [
        "step",
        "server pid",
        "calls",
        "mean ms",
        "bytes in",
        "bytes out",
        "bytes copied",
    ]
    assert [line.split()[0] for line in lines] == list(demo.PIPELINE)
    assert all(re.search(r" 0 B\s*$", line) for line in lines)
    assert (
        summary.startswith("65 images") and "195 arrays in shared memory" in summary and summary.endswith("0 B copied.")
    )
    assert not shell.clusters()


def test_demo_without_its_libraries():
    code = "import sys; sys.modules['scipy'] = None; from palm.cli import main; sys.argv[1:] = ['demo']; main()"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert out.returncode == 2
    assert out.stderr.splitlines()[-1] == "palm: the demo needs scipy.ndimage: pip install 'palm[examples]'"


def test_noise_is_the_same_again():
    noise = runpy.run_path(str(EXAMPLES / "image_pipeline/pipeline.py"))["Noise"]
    image = demo.photograph("moon")
    one, two = made(noise).salt(image, share=0.1), made(noise).salt(image, share=0.1)
    np.testing.assert_array_equal(one, two)
    assert 0.08 < (one != image).mean() < 0.12


def test_the_script(shell):
    script = subprocess.run(
        [sys.executable, "run.py"], cwd=shell.directory, env=shell.env, capture_output=True, text=True, timeout=60
    )
    assert script.returncode == 0, script.stderr
    header, *rows = script.stdout.splitlines()
    assert header.split()[-3:] == ["original", "spoilt", "mended"]
    assert [row.split()[0] for row in rows] == list(demo.PHOTOGRAPHS)
    original, spoilt, _ = np.array([row.split()[1:] for row in rows], float).T
    assert (spoilt > original).all()
    assert not shell.clusters()


def test_the_readme(shell):
    blocks = re.findall(r"```sh\n(.*?)```", (shell.directory / "README.md").read_text(), re.DOTALL)
    commands = "\n".join(block for block in blocks if "run.py" not in block)
    ran = subprocess.run(
        ["bash", "-ec", commands], cwd=shell.directory, env=shell.env, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert sorted(p.stem for p in (shell.directory / "out").iterdir()) == sorted(demo.PHOTOGRAPHS)
    with np.load(shell.directory / "out/moon.npz") as found:
        assert set(found) == {"radial", "slope", "centroid"} and -5 < found["slope"] < -1
    assert not shell.clusters()
