# SPDX-License-Identifier: BSD-3-Clause
"""By which ways messages may go, for measurements and tests.

``$PALM_LINK`` is ``sockets`` (no rings between processes of one host) or ``frames`` (as between hosts: nothing in
shared memory); not set: all there are.
"""

from __future__ import annotations

import os

from palm.errors import ConfigError


def allowed() -> dict[str, bool]:
    """What a node of this process is told."""
    link = os.environ.get("PALM_LINK", "")
    if link not in ("", "sockets", "frames"):
        raise ConfigError(f'PALM_LINK is {link!r}: it is "sockets", "frames", or not set')
    return {"frames": link == "frames", "sockets": link == "sockets"}
