# SPDX-License-Identifier: BSD-3-Clause
"""Where a template may be defined: a script, a module beside it, a test, a notebook, "module:Class"."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import palm

CLASS = """
import os
import numpy as np
import palm

FACTOR = 3

def helper(x):
    return x * FACTOR

class Triple(palm.Server):
    "Uses what stands beside it in its module."
    def setup(self, offset=0):
        self.offset = offset
    @palm.function
    def work(self, x):
        return helper(x) + self.offset
    @palm.function
    def pid(self):
        return os.getpid()
"""

RUN = """
with palm.Cluster() as cluster:
    name = cluster.start(Triple, setup={"offset": 1})
    client = cluster.client()
    print(name, client.call("triple.work", 2), list(client.job("triple.work", range(3), ordered=True)))
    assert client.call("triple.pid") != os.getpid()
"""
SAYS = "triple 7 [1, 4, 7]\n"


def run(path: Path, *arguments: str, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=cwd or path.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done


def guarded(text: str) -> str:
    return 'if __name__ == "__main__":\n' + textwrap.indent(text, "    ")


def test_in_a_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CLASS + guarded(RUN))
    assert run(script).stdout == SAYS
    (tmp_path / "elsewhere").mkdir()
    assert run(script, cwd=tmp_path / "elsewhere").stdout == SAYS


def test_in_a_script_without_a_guard(tmp_path):
    """The class travels by value: the script is not imported again, so there is nothing to guard."""
    script = tmp_path / "script.py"
    script.write_text(CLASS + RUN)
    assert run(script).stdout == SAYS


def test_in_a_module_beside_the_script(tmp_path):
    (tmp_path / "beside.py").write_text(CLASS)
    script = tmp_path / "script.py"
    script.write_text("import os, palm\nfrom beside import Triple\n" + guarded(RUN))
    assert run(script).stdout == SAYS


def test_a_module_that_starts_a_cluster_when_imported(tmp_path):
    """A clear error, where a server's process would start a cluster, and its server's process another one, ..."""
    (tmp_path / "beside.py").write_text(CLASS + RUN)
    script = tmp_path / "script.py"
    script.write_text("import beside\n")
    done = run(script, code=1)
    assert "starts a cluster" in done.stderr and '`if __name__ == "__main__":`' in done.stderr
    assert done.stdout == ""


def test_by_name(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "steps.py").write_text(CLASS)
    script = tmp_path / "script.py"
    script.write_text("import os, palm\n" + guarded(RUN.replace("Triple,", '"package.steps:Triple",')))
    assert run(script).stdout == SAYS


def test_run_with_m_and_c(tmp_path):
    (tmp_path / "runs.py").write_text(CLASS + guarded(RUN))
    for how in (["-m", "runs"], ["-c", CLASS + RUN], ["-"]):
        done = subprocess.run(
            [sys.executable, *how],
            cwd=tmp_path,
            input=CLASS + RUN,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == SAYS, done.stderr


def test_in_a_notebook(tmp_path):
    """Cells are executed in a __main__ that has no file; a class may be defined again."""
    cells = [CLASS, RUN, CLASS.replace("FACTOR = 3", "FACTOR = 5"), RUN]
    script = tmp_path / "kernel.py"
    script.write_text(
        "import sys, types\n"
        "main = types.ModuleType('__main__')\n"
        "sys.modules['__main__'] = main\n"
        f"for n, cell in enumerate({cells!r}):\n"
        "    exec(compile(cell, f'<ipython-input-{n}>', 'exec'), main.__dict__)\n"
    )
    assert run(script).stdout == SAYS + "triple 11 [1, 6, 11]\n"


def test_the_traceback_of_a_script_shows_its_lines(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        CLASS.replace("return helper(x)", "raise ValueError('here')  # this line")
        + guarded(
            "with palm.Cluster() as cluster:\n"
            "    cluster.start(Triple)\n"
            "    try:\n"
            "        cluster.client().call('triple.work', 1)\n"
            "    except palm.RemoteError as e:\n"
            "        print(e.traceback)\n"
        )
    )
    done = run(script)
    assert f'File "{script}"' in done.stdout and "# this line" in done.stdout


def test_in_a_test(cluster):
    weights = np.arange(3.0)

    class Local(palm.Server):
        @palm.function
        def weigh(self, x):
            return x * weights

    cluster.start(Local)
    assert np.array_equal(cluster.client().call("local.weigh", 2), weights * 2)


def test_a_class_that_inherits(cluster):
    class Base(palm.Server):
        @palm.function
        def one(self, x):
            return self.how(x)

        def how(self, x):
            return "base"

    class Derived(Base):
        def how(self, x):
            return "derived"

        @palm.function
        def two(self, x):
            return super().how(x)

    cluster.start(Derived)
    client = cluster.client()
    assert (client.call("derived.one", 1), client.call("derived.two", 1)) == ("derived", "base")
    assert set(client.functions()) == {"derived.one", "derived.two"}


def test_one_class_under_two_names(cluster):
    class Named(palm.Server):
        def setup(self, gain):
            self.gain = gain

        @palm.function
        def who(self):
            return [self.name, self.gain, self.worker]

    for name, gain in (("left", 1), ("right", 2)):
        assert cluster.start(Named, name, setup={"gain": gain}) == name
    client = cluster.client()
    assert [client.call(f"{name}.who") for name in ("left", "right")] == [["left", 1, 0], ["right", 2, 0]]


def test_teardown_runs_at_an_orderly_stop(cluster, tmp_path):
    told = tmp_path / "told"

    class Ends(palm.Server):
        @palm.function
        def same(self, x):
            return x

        def teardown(self):
            told.write_text("torn down")

    cluster.start(Ends)
    cluster.stop("ends")
    assert told.read_text() == "torn down"


@pytest.mark.parametrize("module", ["click", "rich", "cloudpickle"])
def test_import_palm_is_light(module):
    done = subprocess.run(
        [sys.executable, "-c", f"import palm, sys; sys.exit({module!r} in sys.modules)"],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, f"`import palm` loads {module}: {done.stderr.decode()}"


def test_serve_in_a_process_of_ones_own(cluster, tmp_path):
    script = tmp_path / "serves.py"
    script.write_text(
        CLASS
        + f"\nif __name__ == '__main__':\n    palm.serve(Triple, address={cluster.address!r}, setup={{'offset': 2}})\n"
    )
    process = subprocess.Popen([sys.executable, str(script)])
    try:
        client = cluster.client()
        client.wait_for("triple", timeout=20)
        assert client.call("triple.work", 2) == 8
        assert client.call("triple.pid") == process.pid
        second = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30)
        assert second.returncode == 1 and "running server 'triple'" in second.stderr
        process.terminate()
        assert process.wait(10) == 0
        with pytest.raises(palm.PalmError):
            client.call("triple.work", 2, timeout=10)
        with pytest.raises(palm.NotFound, match="no server 'triple'"):
            client.call("triple.work", 2, timeout=10)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("attempts", [0, -1, 1.5, None])
def test_attempts_that_are_none(attempts):
    with pytest.raises(ValueError, match="tried at least once"):
        palm.function(attempts=attempts)


def test_attempts_are_known_to_the_host():
    class Tries(palm.Server):
        @palm.function(attempts=5)
        def five(self, x): ...

        @palm.function
        def three(self, x): ...

    assert {name: s.attempts for name, s in Tries._exposed.items()} == {"five": 5, "three": 3}
