# SPDX-License-Identifier: BSD-3-Clause
"""What tests of the lane (`_core/lane.pyx`) have in common: by which way a function was called."""

from __future__ import annotations

import sys

BY_LANE, BY_HOST = "Host._next_event", "Execution._run"  # what of PALM's Python calls a function


def who_calls() -> str:
    """In a function of a server."""
    return sys._getframe(2).f_code.co_qualname
