# SPDX-License-Identifier: BSD-3-Clause
"""`palm submit`: what comes of each input, and what is there after failures."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest
from conftest import eventually

import palm
from palm import cli_files, cli_submit
from palm._core import space

pytest_plugins = "helpers_shell"  # its fixtures


def test_submit(shop):
    shop.run("submit", "tasks.double:gain=3", "tasks.positive", "--input", "x?.npy", "--output", "out/twice")
    out = shop.directory / "out/twice"
    assert sorted(p.name for p in out.iterdir()) == ["x0.npy", "x1.npy", "x2.npy"]
    for i in range(3):
        np.testing.assert_array_equal(np.load(out / f"x{i}.npy"), np.sqrt(np.full((2, 3), 3.0 * i + 0.5)))


def test_submit_of_many_kinds(shop):
    shop.run("submit", "tasks.rows", "--input", "x?.npy", "--output", "rows")
    assert sorted(p.name for p in (shop.directory / "rows").iterdir()) == [
        f"x{i}-{k}.npy" for i in range(3) for k in (0, 1)
    ]
    np.testing.assert_array_equal(np.load(shop.directory / "rows/x2-1.npy"), [2.0] * 3)
    shop.run("submit", "tasks.describe", "--input", "x1.npy", "--output", "dicts")
    with np.load(shop.directory / "dicts/x1.npz") as found:
        assert found["mean"] == 1.0 and found["rows"].tolist() == [2.0] * 3
    shop.run("submit", "tasks.kind", "--input", "x1.npy", "--output", "json")
    assert json.loads((shop.directory / "json/x1.json").read_text()) == {"type": "ndarray", "keys": []}
    shop.run("submit", "tasks.drop", "--input", "x?.npy", "--output", "none")
    assert not list((shop.directory / "none").iterdir())


@pytest.mark.parametrize("output", [".", "../{}", "link"])
def test_submit_does_not_write_over_its_inputs(shop, output):
    before = (shop.directory / "x1.npy").read_bytes()
    if output == "link":
        (shop.directory / "link").symlink_to(".")
    output = output.format(shop.directory.name)
    _, err = shop.run("submit", "tasks.rows", "--input", "x?.npy", "--output", output, code=2)
    assert f"--output {output} is where the input x0.npy lies" in err
    assert (shop.directory / "x1.npy").read_bytes() == before


@pytest.mark.parametrize("there", ["x1.npy", "x0.json", "x2-0.npy", "x1-0-12.npz"])
def test_submit_leaves_no_old_outputs_among_new_ones(shop, tmp_path, there):
    (tmp_path / there).write_bytes(b"of other steps")
    (tmp_path / "x1-mean.npy").touch()
    (tmp_path / "y1.npy").touch()
    submit = ["submit", "tasks.double", "--input", "x?.npy", "--output", str(tmp_path)]
    _, reason = shop.run(*submit, code=2)
    assert f"has an output of these inputs already, {there}: give another directory, remove" in reason
    assert "--resume" in reason and len(list(tmp_path.iterdir())) == 3
    shop.run(*submit, "--resume")
    assert (tmp_path / there).read_bytes() == b"of other steps"
    _, reason = shop.run(*submit, code=2)
    assert " outputs of these inputs already, " in reason
    for path in tmp_path.glob("x[0-9].*"):
        path.unlink()
    for path in tmp_path.glob("x[0-9]-[0-9]*"):
        path.unlink()
    shop.run(*submit)
    assert sorted(p.name for p in tmp_path.glob("x?.npy")) == ["x0.npy", "x1.npy", "x2.npy"]


def test_errors_of_the_system_in_words(tmp_path):
    with pytest.raises(OSError) as e:
        cli_files.load(tmp_path / "no.npy")
    assert cli_submit.reason_of(e.value) == f"{tmp_path}/no.npy: No such file or directory"
    assert cli_submit.reason_of(palm.Disconnected("no way")) == "no way"


def test_submit_goes_on_after_failures_and_resumes(shop):
    folder = shop.directory / "mixed"
    folder.mkdir()
    for name, value in {"a": 4.0, "b": -1.0, "d": 9.0}.items():
        np.save(folder / f"{name}.npy", np.full((40, 100), value))
    (folder / "c.npy").write_bytes(b"no array")
    submit = ["submit", "tasks.positive", "--input", "mixed/*.npy", "--output", "roots"]
    process = shop.start(*submit)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    *_, first, second, reason = err.rstrip().splitlines()
    assert first.startswith("mixed/b.npy: ValueError: a negative number") and second.startswith(
        "mixed/c.npy: cannot be read"
    )
    assert reason.startswith("palm: 2 of 4 inputs failed, the first one mixed/b.npy: ValueError: a negative number")
    out = shop.directory / "roots"
    assert sorted(p.name for p in out.iterdir()) == ["a.npy", "d.npy"]
    assert np.load(out / "d.npy")[0, 0] == 3.0
    before = (out / "a.npy").stat().st_mtime_ns
    np.save(folder / "b.npy", np.full((40, 100), 16.0))
    _, reason = shop.run(*submit, "--resume", code=1)
    assert reason.startswith("palm: 1 of 2 inputs failed, the first one mixed/c.npy")
    assert np.load(out / "b.npy")[0, 0] == 4.0
    assert (out / "a.npy").stat().st_mtime_ns == before


def test_submit_with_a_timeout(shop):
    submit = ["submit", "tasks.sleep", "--input", "x?.npy", "--output", "slow", "--timeout", "0.3"]
    _, reason = shop.run(*submit, code=124)
    assert "not complete within 0.3 s" in reason
    shop.run(*submit[:-2], "--resume")
    assert len(list((shop.directory / "slow").iterdir())) == 3


def test_submit_when_a_server_dies(shop):
    process = shop.start("submit", "tasks.die", "--input", "x?.npy", "--output", "dead")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert all(f"x{n}.npy: 3 processes have died" in err for n in range(3)), err
    assert "failed" in err.splitlines()[-1], err
    eventually(lambda: shop.status()["servers"][0]["state"] == "running")


def test_submit_stops_at_ctrl_c(shop):
    folder = shop.directory / "many"
    folder.mkdir()
    for i in range(12):
        np.save(folder / f"{i}.npy", np.ones(3))
    out = shop.directory / "stopped"
    process = shop.start("submit", "tasks.sleep", "--input", "many/*.npy", "--output", "stopped")
    try:
        eventually(lambda: list(out.glob("*.npy")) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert time.monotonic() - began < 1.0
    assert err.endswith("palm: interrupted\n") and "Traceback" not in err
    assert not list(out.glob(".*"))
    assert shop.run("call", "tasks.nothing")


class Copies(palm.Server):
    @palm.function
    def total(self, x):
        return float(sum(v.sum() for v in x.values()) if isinstance(x, dict) else x.sum())


def test_submitted_arrays_are_not_copied(cluster, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((100, 1000)))
    np.savez(tmp_path / "b.npz", x=np.ones((100, 1000)), y=np.zeros((100, 1000)))
    cluster.start(Copies)
    before = space.read_counters()
    with cluster.client() as client:
        submission = cli_submit.Submission(["copies.total"], cli_files.inputs_of(f"{tmp_path}/*"), tmp_path / "out")
        assert cli_submit.submit(submission, client, 10.0) == 0
    after = space.read_counters()
    assert after["sent_arena"] - before["sent_arena"] == 3
    assert after["bytes_copied"] == before["bytes_copied"]
    assert json.loads((tmp_path / "out/b.json").read_text()) == 100_000.0
