# SPDX-License-Identifier: BSD-3-Clause
"""The demo and the examples: what they compute, and that they run as they stand there."""

from __future__ import annotations

import collections
import importlib
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_shell import Shell

from palm import demo

pytest.importorskip("scipy")
pytest.importorskip("skimage")
pytest_plugins = "helpers_shell"  # its fixtures
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def shell(tmp_path, forks):
    shell = Shell(shutil.copytree(EXAMPLES / "image_pipeline", tmp_path / "image_pipeline"), forks)
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
    assert (
        out.stderr.splitlines()[-1]
        == "palm: the demo needs scipy.ndimage: pip install '.[examples]' in the source tree"
    )


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


# ------------------------------------------------------------------------------------- one file each, a known answer


@pytest.fixture
def example(monkeypatch):
    """A file of examples/, imported."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("PALM_PRELOAD", "pytest,scipy.stats,sklearn.cluster")  # else each server's process imports them
    imported = []

    def load(name):
        imported.append(name)
        return importlib.import_module(name)

    yield load
    for name in imported:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("kmeans", r"largest difference to scikit-learn's centers: \d\.\de-\d+\n"),
        ("option", r"Monte Carlo \d\.\d{4} ± 0\.\d{4}, Black-Scholes 7\.1281\n"),
        ("tiles", "the same as of the whole photograph\n"),
        ("words", r"( +\d+ [a-z]+\n){10}"),
        ("sweep", r"( *\d+ pixels #*\n){15}"),
        ("nearest", r"\d+ of 397 are right\n"),
    ],
)
def test_examples_are_scripts(tmp_path, name, says):
    script = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert script.returncode == 0, script.stderr
    assert re.fullmatch(says, script.stdout)


def test_k_means_is_that_of_scikit_learn(example):
    cluster = pytest.importorskip("sklearn.cluster")
    points = pytest.importorskip("sklearn.datasets").load_digits().data
    theirs = cluster.KMeans(10, init=points[:10], n_init=1, tol=0, algorithm="lloyd").fit(points)
    np.testing.assert_allclose(example("kmeans").run(), theirs.cluster_centers_, rtol=0, atol=1e-9)


def test_an_option_is_worth_what_black_and_scholes_say(example):
    """Within four standard errors, and the same bits on any number of workers."""
    option = example("option")
    value, error = option.run(workers=1)
    # Hull, Options, Futures, and Other Derivatives, example 15.6: 4.76
    assert abs(option.black_scholes(spot=42.0, strike=40.0, rate=0.1, vol=0.2, years=0.5) - 4.76) < 0.005
    assert abs(value - option.black_scholes(**option.CALL)) < 4 * error < 0.05
    assert option.run(workers=3) == (value, error)


@pytest.mark.parametrize("size", [128, 100])
def test_tiles_are_filtered_as_the_whole(example, size):
    """The last ones of a row or column may be smaller than the others."""
    ndimage = pytest.importorskip("scipy.ndimage")
    data = pytest.importorskip("skimage.data")
    expected = ndimage.median_filter(data.camera(), size=7)
    np.testing.assert_array_equal(example("tiles").run(size=size), expected)


def test_words_are_counted(example):
    words = example("words")
    expected = collections.Counter(word for text in words.TEXTS for word in re.findall("[a-z]+", text.lower()))
    assert words.run() == dict(expected) and expected["python"] > 10


def test_openings_by_size(example):
    """Erosion and dilation by one server are scipy's own opening."""
    ndimage = pytest.importorskip("scipy.ndimage")
    data = pytest.importorskip("skimage.data")
    sweep = example("sweep")
    light = sweep.run()
    assert light.tolist() == [ndimage.grey_opening(data.coins(), size=(n, n)).mean() for n in sweep.SIZES]
    lost = dict(zip(sweep.SIZES[1:], -np.diff(light), strict=True))
    assert lost[29] > max(lost[n] for n in range(13, 62, 4) if n != 29)


def test_what_is_nearest(example):
    neighbors = pytest.importorskip("sklearn.neighbors")
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    theirs = neighbors.KNeighborsClassifier(1).fit(digits.data[:1400], digits.target[:1400])
    np.testing.assert_array_equal(example("nearest").run(), theirs.predict(digits.data[1400:]))


def test_what_was_learnt_outlives_the_process(example, cluster):
    nearest = example("nearest")
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    cluster.start(nearest.Nearest)
    client = cluster.client()
    nearest.teach(client, digits.data[:300], digits.target[:300])
    [server] = cluster.status()["servers"]
    os.kill(server["pid"], signal.SIGKILL)
    assert [client.call("nearest.label", digits.data[n]) for n in range(20)] == digits.target[:20].tolist()
    assert client.call("nearest.learn", "lesson 0", digits.data[:100], digits.target[:100]) == 3
    [server_now] = cluster.status()["servers"]
    assert server_now["pid"] != server["pid"]
