# SPDX-License-Identifier: BSD-3-Clause
"""pyzmq as one writes it by hand: no names, no errors, no lost peers, no bounds; each program for one job alone."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import zmq


def socket(context: zmq.Context, kind: int, *, bind: str = "", connect: str = "") -> zmq.Socket:
    s = context.socket(kind)
    s.sndhwm = s.rcvhwm = 0
    s.linger = 0
    if bind:
        s.bind(bind)
    else:
        s.connect(connect)
    return s


@contextlib.contextmanager
def sending(out: zmq.Socket, messages: Any) -> Iterator[None]:
    """In a thread, while the one that asks receives."""

    def send_all() -> None:
        send = out.send
        for m in messages:
            send(m)

    thread = threading.Thread(target=send_all)
    thread.start()
    yield
    thread.join()


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "numpy": np.__version__,
        "msgspec": msgspec.__version__,
    }
