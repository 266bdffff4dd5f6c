# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for file descriptors."""

from __future__ import annotations

import select
from collections.abc import Iterable


def readable(fds: Iterable[int], timeout: float | None) -> list[int]:
    """Those with something to read, or that have hung up, as soon as there are some; none after `timeout` seconds.

    None: it waits however long.
    """
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _ in poller.poll(None if timeout is None else max(0.0, timeout * 1000))]  # it rounds up
