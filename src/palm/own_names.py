# SPDX-License-Identifier: BSD-3-Clause
"""The names of PALM's own processes, which run no code of a user: no server of a user can have such a name."""

from __future__ import annotations

REGISTRY = "registry"
CACHE = "registry/cache"
NURSERY = "registry/nursery"  # in the log
MACHINE = "registry/host-"  # how that begins of what answers for a machine that has joined


def is_own(name: str) -> bool:
    """Of a process, or of a server."""
    return name.partition("/")[0] == REGISTRY
