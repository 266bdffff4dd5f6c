# SPDX-License-Identifier: BSD-3-Clause
"""Numbers as people read them: few digits, with their unit."""

from __future__ import annotations

NOTHING = "-"  # what is not known


def bytes_text(n: float) -> str:
    """``"1.5 MiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            break
        n /= 1024
    return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"


def rate_text(n: float) -> str:
    """``"12.3k"``."""
    for unit in ("", "k", "M"):
        if n < 999.5 or unit == "M":
            break
        n /= 1000
    return f"{n:.0f}{unit}" if n >= 99.95 or (not unit and n == int(n)) else f"{n:.1f}{unit}"


def seconds_text(seconds: float | None) -> str:
    """``"1.2 ms"``."""
    if seconds is None:
        return NOTHING
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def share_text(share: float) -> str:
    return f"{100 * share:.0f}"
