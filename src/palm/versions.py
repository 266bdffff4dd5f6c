# SPDX-License-Identifier: BSD-3-Clause
"""Of what this process runs with."""

from __future__ import annotations

import platform

import numpy as np


def versions() -> dict[str, str]:
    from palm import __version__

    return {"python": platform.python_version(), "numpy": np.__version__, "palm": __version__}
