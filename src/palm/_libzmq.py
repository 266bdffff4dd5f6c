# SPDX-License-Identifier: BSD-3-Clause
"""Resolves the core's entry points from the libzmq that pyzmq has loaded (DESIGN 5.1): no second copy, no system
package, one version."""

import zmq
import zmq.backend.cython._zmq as _backend

from palm._core.space import zmq_load


def load(path: str) -> None:
    missing = zmq_load(path)
    if missing is not None:
        raise ImportError(
            f"palm needs {missing}, which the libzmq of pyzmq {zmq.__version__} ({path}) does not have; "
            "install a wheel of pyzmq 26 or later (pip install --force-reinstall pyzmq)"
        )


load(_backend.__file__)
