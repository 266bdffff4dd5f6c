# SPDX-License-Identifier: BSD-3-Clause
"""The programs of the public API run as they stand in api_programs.md, each with an answer that is known otherwise.

Each is a script: its classes at the top, what it does in the block that has a cluster, and before and after that what
its text takes for granted (`open_camera`, `train`, files, servers that are started) and what its answer has to be.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import numpy as np
import pytest
from conftest import eventually

from palm import places

PAGE = (Path(__file__).parent / "api_programs.md").read_text()
_, *TEXTS = re.split(r"^# (?=\d\. )", PAGE.partition("```python\n")[2].removesuffix("```\n"), flags=re.MULTILINE)
PROGRAMS = {int(text[0]): "# " + text for text in TEXTS}


def parts(program: str) -> tuple[str, str]:
    """Its classes, and all else, as it stands there."""
    lines = program.splitlines(keepends=True)
    classes = {
        n
        for node in ast.parse(program).body
        if isinstance(node, ast.ClassDef)
        for n in range(node.lineno - 1, node.end_lineno)
    }
    return tuple("".join(line for n, line in enumerate(lines) if (n in classes) is here) for here in (True, False))


def script(number: int, *, given: str = "", others: str = "", start: str, then: str = "") -> str:
    """`given` and `others` are at the top, `start` before the statements, in the cluster, `then` after them."""
    classes, statements = parts(PROGRAMS[number])
    body = f"client = cluster.client()\n{dedent(start)}{statements}{dedent(then)}"
    return (
        f"import numpy as np, palm\n{dedent(given)}{dedent(others)}{classes}"
        f'if __name__ == "__main__":\n    with palm.Cluster() as cluster:\n{indent(body, " " * 8)}'
    )


def run(directory: Path, text: str, *args: str) -> str:
    """What it prints."""
    (directory / "program.py").write_text(text)
    command = [sys.executable, "program.py", *args]
    ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_there_are_eight():
    assert sorted(PROGRAMS) == list(range(1, 9))


# ------------------------------------------------------------------------------------------------- 1: files, and a kill


class Gates:
    """Files that nobody can read: who opens one waits until it is let go, with an error."""

    def __init__(self, paths: list[Path]) -> None:
        self._closed = list(paths)
        for path in paths:
            os.mkfifo(path)

    def let_one_go(self) -> None:
        """If somebody waits at it; never the last one."""
        for path in self._closed[:-1]:
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                return self._closed.remove(path)


def done(journal: Path) -> set[int]:
    """The inputs that it names."""
    lines = journal.read_text().split("\n")[1:-1] if journal.exists() else []
    ranges = [line for line in map(json.loads, lines) if type(line) is list]
    return {n for line in ranges for first, end in line for n in range(first, end)}


def inhabitants(directory: Path) -> list[str]:
    """Pids of the processes that work in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == directory and places.start_time(int(process.name)):
                found.append(process.name)
    return found


def test_files_into_one_memmap_and_killed_in_the_middle(tmp_path):
    frames = np.random.default_rng(1).standard_normal((400, 512))
    paths = [tmp_path / f"in/{n:03}.npy" for n in range(len(frames))]
    paths[0].parent.mkdir()
    for path, frame in zip(paths[::2], frames[::2], strict=True):
        np.save(path, frame)
    gates = Gates(paths[1::2])
    (tmp_path / "program.py").write_text(
        f"import numpy as np, palm\nimport sys\nfrom pathlib import Path\n{PROGRAMS[1]}"
    )
    killed = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: gates.let_one_go() or done(tmp_path / "out.journal"), 60)
    finally:
        killed.kill()
        killed.wait()
    eventually(lambda: not inhabitants(tmp_path))
    before = done(tmp_path / "out.journal")
    assert 0 < len(before) <= 200
    for n, path in enumerate(paths):  # who did again what was done would spoil it
        path.unlink()
        np.save(path, np.zeros(512) if n in before else frames[n])
    ran = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    expected = np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-12)
    assert done(tmp_path / "out.journal") == set(range(400))


def test_files_that_cannot_be_read(tmp_path):
    """Are left out, and the exit code says so."""
    (tmp_path / "in").mkdir()
    for n in range(20):
        np.save(tmp_path / f"in/{n:02}.npy", np.full(511 if n == 7 else 512, 1.0))
    (tmp_path / "program.py").write_text(
        f"import numpy as np, palm\nimport sys\nfrom pathlib import Path\n{PROGRAMS[1]}"
    )
    ran = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 1, ran.stderr
    assert np.flatnonzero(~np.load(tmp_path / "out.npy").any(axis=1)).tolist() == [7]


# --------------------------------------------------------------------------------------------------- 2: endless camera


def test_endless_camera(tmp_path):
    """Three stars, too bright until the exposure is a tenth; they set 40 frames later."""
    text = script(
        2,
        given="""
            from pathlib import Path
            rng = np.random.default_rng(2)
            dark, flat = rng.uniform(90, 110, (64, 64)), rng.uniform(0.5, 2.0, (64, 64))
            stars = np.zeros((64, 64))
            stars[10, 10], stars[20, 40], stars[50, 30] = 65_000, 30_000, 20_000

            class Device:
                exposure, left, taken = 1.0, 40, 0
                def __init__(self, device): assert device == "/dev/sky"
                def __iter__(self):
                    while True:
                        self.left -= self.exposure < 1
                        self.taken += 1
                        Path("frames").write_text(str(self.taken))
                        yield dark + flat * stars * self.exposure * (self.left >= 0)
            open_camera = Device
        """,
        others="""
            class Spots(palm.Server):
                @palm.function
                def find(self, frame):
                    found = {"peak": float(frame.max()), "n": int((frame > 100).sum())}
                    with open("spots", "a") as f: f.write(f"{found['n']} {found['peak']:.6f}\\n")
                    return found
            class Viewer(palm.Server):
                @palm.function
                def show(self, frame):
                    assert frame.shape == (64, 64)
                    with open("shown", "a") as f: f.write(f"{self.message.number}\\n")
        """,
        start="""
            found = []
            cluster.start(Camera, setup={"device": "/dev/sky"})
            cluster.start(Flat, workers=2)
            cluster.start(Spots)
            cluster.start(Viewer)
        """,
        then="""
            assert spots["n"] == 0 and not job.errors
            seen = set(Path("spots").read_text().splitlines())
            assert seen == {"3 65000.000000", "3 6500.000000", "0 0.000000"}, seen
            shown = list(map(int, Path("shown").read_text().split()))
            frames = int(Path("frames").read_text())  # the last one may have been refused by the job's end
            assert 40 < frames and not any(n % 10 for n in shown) and len(set(shown)) == len(shown)
            assert len(shown) + job.progress.dropped in ((frames + 9) // 10, (frames + 8) // 10)
        """,
    )
    run(tmp_path, text)


# ----------------------------------------------------------------------------------------------------- 3: Monte Carlo


def black_scholes(spot: float, strike: float, rate: float, vol: float, years: float) -> float:
    """The value of a call."""
    d = (math.log(spot / strike) + (rate + vol**2 / 2) * years) / (vol * math.sqrt(years))
    normal = [math.erfc(-x / math.sqrt(2)) / 2 for x in (d, d - vol * math.sqrt(years))]
    return spot * normal[0] - strike * math.exp(-rate * years) * normal[1]


def test_monte_carlo(tmp_path):
    text = script(
        3,
        given="import sys\n",
        start="""
            cluster.start(Option, workers=int(sys.argv[1]))
            cluster.start(Sum, workers=int(sys.argv[2]))
        """,
        then="print(n.hex(), s.hex(), ss.hex())",
    )
    [one, three] = [run(tmp_path, text, *workers) for workers in (("1", "1"), ("3", "2"))]
    assert one == three
    n, s, ss = map(float.fromhex, one.split())
    error = math.sqrt((ss / n - (s / n) ** 2) / n)
    assert n == 6_400_000 and abs(s / n - black_scholes(100.0, 105.0, 0.03, 0.2, 1.0)) < 4 * error < 0.03


# --------------------------------------------------------------------------------------------------------- 4: k-means


def test_k_means(tmp_path):
    sklearn = pytest.importorskip("sklearn.cluster")
    datasets = pytest.importorskip("sklearn.datasets")
    text = script(
        4,
        given="from sklearn.datasets import load_digits",
        others="\nclass Sum" + parts(PROGRAMS[3])[0].partition("class Sum")[2],
        start="""
            cluster.start(KMeans, workers=2)
            cluster.start(Sum)
        """,
        then='np.save("centers.npy", centers)\n',
    )
    run(tmp_path, text)
    points = datasets.load_digits().data
    theirs = sklearn.KMeans(10, init=points[:10], n_init=1, max_iter=20, tol=0, algorithm="lloyd").fit(points)
    np.testing.assert_allclose(np.load(tmp_path / "centers.npy"), theirs.cluster_centers_, rtol=0, atol=1e-9)


# -------------------------------------------------------------------------------------------------------- 5: branches


def test_two_branches_of_each_image(tmp_path):
    text = script(
        5,
        given="""
            rng = np.random.default_rng(5)
            images = rng.random((30, 16, 16))
            files = [f"{n}.png" for n in range(30)]
        """,
        others="""
            class Edges(palm.Butterfly):
                @palm.function
                def find(self, image): return {"edges": np.abs(np.diff(image)) > 0.5}
            class Blobs(palm.Butterfly):
                @palm.function
                def find(self, image): return {"blobs": image > 0.5}
        """,
        start="for template in (Fork, Edges, Blobs, Join): cluster.start(template)\n",
        then='assert set(found) == {"edges", "blobs"} and found["edges"].shape == (16, 15)\n',
    )
    images = np.random.default_rng(5).random((30, 16, 16))
    expected = [f"{n}.png {(image > 0.5).sum()}" for n, image in enumerate(images)]
    assert sorted(run(tmp_path, text).splitlines()) == sorted(expected)


# ------------------------------------------------------------------------------------------- 6: one image over workers


def test_one_image_over_all_workers(tmp_path):
    pytest.importorskip("scipy")
    text = script(
        6,
        given="""
            from scipy.ndimage import gaussian_filter
            image = np.random.default_rng(6).random((203, 301))
        """,
        start="cluster.start(Blur, workers=2)\n",
        then="np.testing.assert_array_equal(smooth, gaussian_filter(image, (0, 2.0)))",
    )
    run(tmp_path, text)


# ----------------------------------------------------------------------------------------------------------- 7: a sweep


def test_sweep(tmp_path):
    """Of 20 000 points, of which some fail, one fails once, and one in the middle is good enough."""
    text = script(
        7,
        given="""
            import asyncio, concurrent.futures
            from pathlib import Path
            grid = [{"x": n} for n in range(20_000)]
            def train(x):
                if x == 3 and not Path("tried").exists():
                    Path("tried").touch()
                    raise OSError("the disk is not there yet")
                if x % 1000 == 7: raise ValueError(f"no model for {x}")
                with open("trained", "a") as f: f.write(f"{x}\\n")
                return 0.998 if x == 10_000 else x / 40_000
        """,
        start="cluster.start(Train, workers=2)\n",
        then="""
            trained = set(map(int, Path("trained").read_text().split()))
            assert {*range(4), 10_000} <= trained
            assert 7 not in trained and Path("tried").exists()
            assert number == 10_000 and job.progress.done < 20_000, (number, job.progress)
            assert [f.result() for f in sorted(done, key=lambda f: f.result())] == [n / 40_000 for n in range(4)]
            async def both(): return await asyncio.gather(handler(grid[1]), handler(grid[10_000]))
            assert asyncio.run(both()) == [1 / 40_000, 0.998]
        """,
    )
    pattern = re.compile(r"^({'x': .*?}) ValueError.*?^ValueError: (.*?)$", re.DOTALL | re.MULTILINE)
    printed = pattern.findall(run(tmp_path, text))
    assert printed and set(printed) <= {(f"{{'x': {x}}}", f"no model for {x}") for x in range(7, 20_000, 1000)}


# ------------------------------------------------------------------------------- 8: batches, the cache, and no cluster


def test_vectorised_with_a_cache_and_without_a_cluster(tmp_path):
    pytest.importorskip("scipy")
    classes, test = parts(PROGRAMS[8])
    blur = parts(PROGRAMS[6])[0]
    (tmp_path / "test_program.py").write_text(
        f"import numpy as np, palm, palm.testing\nfrom scipy.ndimage import gaussian_filter\n{blur}{classes}{test}"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_program.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout


def test_the_same_in_a_cluster(tmp_path):
    """What its comment says of a model that is running."""
    pytest.importorskip("scipy")
    text = script(
        8,
        given="from scipy.ndimage import gaussian_filter\n",
        others=parts(PROGRAMS[6])[0],
        start="""
            w = np.arange(8.0)
            cluster.start(Blur, workers=2)
            cluster.start(Model, workers=2)
        """,
        then="""
            test_blur_then_predict()
            client.cache["model"]["weights"] = w
            steps = [palm.step("blur.blur", sigma=1.0, tiles=2), "model.predict"]
            assert np.allclose(list(client.job(steps, np.ones((100, 8, 8)))), 28)
        """,
    )
    run(tmp_path, text)
