# SPDX-License-Identifier: BSD-3-Clause
"""palm doctor: says what is wrong where something is."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import threadpoolctl
from helpers_shell import Shell

from palm import doctor

pytest_plugins = "helpers_shell"  # its fixtures


@pytest.fixture
def shell(tmp_path, forks):
    shell = Shell(tmp_path, forks)
    yield shell
    shell.close()


def report(shell, code=0, **options):
    """The lines of the report, and the last line of standard error."""
    process = shell.start("doctor", **options)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    return out.splitlines(), err.rstrip().rpartition("\n")[2]


def line_of(lines, what):
    return next(line for line in lines if what in line)


def test_a_machine_where_palm_works(shell):
    lines, _ = report(shell)
    assert not [line for line in lines if line.startswith("FAIL")]
    assert line_of(lines, "libzmq").startswith("OK")
    assert line_of(lines, "second process").endswith("in shared memory, nothing was copied")
    assert line_of(lines, "sockets") == f"OK   sockets: {shell.runtime}/palm, of this user alone"


def test_a_directory_that_others_can_write_to(shell):
    (shell.runtime / "palm").mkdir(mode=0o755)
    lines, reason = report(shell, code=1)
    assert line_of(lines, "sockets").startswith("FAIL")
    assert "0700" in line_of(lines, "sockets") and "remove it" in lines[lines.index(line_of(lines, "sockets")) + 1]
    assert reason.startswith("palm: ") and "checks failed: sockets" in reason


def test_arrays_that_do_not_go_by_shared_memory(shell):
    shell.env["PALM_LINK"] = "frames"
    lines, _ = report(shell)
    assert line_of(lines, "second process").startswith("WARN")


def test_limits(shell):
    limits = {resource.RLIMIT_FSIZE: 100 << 20, resource.RLIMIT_AS: 8 << 30}
    lines, _ = report(shell, preexec_fn=lambda: [resource.setrlimit(k, (v, v)) for k, v in limits.items()])
    assert line_of(lines, "RLIMIT_FSIZE").startswith("WARN") and "100 MiB" in line_of(lines, "RLIMIT_FSIZE")
    assert line_of(lines, "RLIMIT_AS").startswith("WARN") and "8192 MiB" in line_of(lines, "RLIMIT_AS")
    assert line_of(lines, "shared memory:").startswith("WARN")


@pytest.mark.parametrize(("hard", "level"), [(512, "WARN"), (4096, "OK"), (resource.RLIM_INFINITY, "OK")])
def test_open_files(monkeypatch, hard, level):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, hard))
    [found] = doctor.open_files()
    assert found.level == level and bool(found.advice) == (level == "WARN")


@pytest.mark.parametrize(
    ("threads", "quota", "level"), [(1, 1.0, "OK"), (2, 1.0, "WARN"), (9999, float("inf"), "WARN")]
)
def test_more_threads_than_cores(monkeypatch, threads, quota, level):
    pool = {"internal_api": "openblas", "num_threads": threads}
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: [pool])
    monkeypatch.setattr(doctor, "cpu_quota", lambda: quota)
    [finding] = doctor.cores()
    assert finding.level == level and f"openblas: {threads} threads" in finding.text


def test_what_dead_clusters_have_left(shell):
    base = shell.runtime / "palm"
    base.mkdir(mode=0o700)
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for name in ("gone", "orphans"):
            (base / name).mkdir(mode=0o700)
            (base / name / "owner").write_text("999999999 1")
        (base / "orphans" / f"blur-1.{sleeper.pid}").touch()
        lines, _ = report(shell)
    finally:
        sleeper.communicate(b"\n")
    assert line_of(lines, "gone").startswith("WARN clusters: gone: dead")
    assert line_of(lines, "orphans").endswith(f"live: {sleeper.pid}")
    assert f"     -> kill {sleeper.pid}" in lines
    assert shell.clusters() == {"orphans"}


def test_limits_of_control_groups(tmp_path):
    own = tmp_path / "own"
    own.write_text("5:cpuset:/\n4:memory:/a/b\n0::/x/y\n")
    for path, limit in {"memory/a": 1 << 30, "memory": (1 << 63) - 4096, "x/y": 2 << 30}.items():
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / ("memory.max" if path == "x/y" else "memory.limit_in_bytes")).write_text(f"{limit}\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert dict(doctor.cgroup_limits(own, tmp_path)) == {
        f"{tmp_path}/memory/a/memory.limit_in_bytes": 1 << 30,
        f"{tmp_path}/x/y/memory.max": 2 << 30,
    }


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_quota_of_cores(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert doctor.cpu_quota(tmp_path) == quota


def test_a_check_that_raises_is_a_failure(monkeypatch):
    def broken():
        raise RuntimeError("no such thing")
        yield

    for name in ("versions", "second_process"):
        monkeypatch.setattr(doctor, name, broken)
    failed = [f for f in doctor.diagnose() if f.level == "FAIL"]
    assert [(f.what, f.text) for f in failed] == [("broken", "RuntimeError: no such thing")] * 2
