# SPDX-License-Identifier: BSD-3-Clause
"""What docs/from-pylm.md writes for each server and hook of pylm runs as it stands, and gives what numpy gives."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs/from-pylm.md").read_text()
CHECKS = """
if __name__ == "__main__":
    halves, loud, total, met, short, smooth, predicted = main()
    x = np.arange(16.0)
    assert [h.tolist() for h in halves] == [x[:8].tolist(), x[8:].tolist()]
    assert sorted(y.tolist() for y in loud) == sorted((h * np.hanning(8)).tolist() for h in (x[:8], x[8:]))
    assert total.tolist() == [4950.0] * 4
    spectrum = np.abs(np.fft.rfft(x[:8])) ** 2
    assert np.allclose(met, (x[:8] * np.hanning(8)).sum() + spectrum.sum())
    assert np.allclose(short, np.abs(np.fft.rfft(x)) ** 2)
    assert smooth.tolist() == [[1.0, 2.0, 3.0]] * 8
    assert predicted == 120.0
    print("as pylm's")
"""


@pytest.mark.timeout(120)
def test_the_page_runs(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    (tmp_path / "page.py").write_text(code + CHECKS)
    ran = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "as pylm's\n"
