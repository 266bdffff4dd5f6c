# SPDX-License-Identifier: BSD-3-Clause
"""A node of this process, and by which ways its messages may go.

``$PALM_LINK``, for measurements and tests, is ``sleeping`` (who waits for a ring sleeps at once), ``sockets`` (no rings
between processes of one host) or ``frames`` (as between hosts: nothing in shared memory); not set: all there are.
"""

from __future__ import annotations

import os

from palm import addresses, keys
from palm._core import node as core
from palm.errors import ConfigError


def open_node(endpoint: str, name: str, *, serves: bool = False) -> core.Node:
    """A node that receives at this endpoint, which is encrypted if it has a key, ours. serves: to wait there is to be
    idle.

    Raises
    ------
    ConfigError
        Our key cannot be read, or ``$PALM_LINK`` is none of the above.
    OSError
        The endpoint cannot be had.
    """
    link = os.environ.get("PALM_LINK", "")
    if link not in ("", "sleeping", "sockets", "frames"):
        raise ConfigError(f'PALM_LINK is {link!r}: it is "sleeping", "sockets", "frames", or not set')
    pair, endpoint = None, addresses.for_core(endpoint)
    if addresses.has_key(endpoint):
        core.allow(keys.allowed())
        endpoint, pair = str(addresses.Place.of(endpoint)._replace(key="")), keys.own()
    options = {link: True} if link else {}
    return core.Node(endpoint, name, keys=pair, serves=serves, **options)
