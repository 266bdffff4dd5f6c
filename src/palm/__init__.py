# SPDX-License-Identifier: BSD-3-Clause
"""PALM: clusters of high-performance micro-services that work on numpy arrays."""

from typing import TYPE_CHECKING

from palm import _libzmq  # noqa: F401  # first: resolves libzmq, with a clear ImportError
from palm._core.space import arena
from palm.cache import Cache
from palm.client import Client
from palm.cluster import Cluster, serve
from palm.errors import (
    Cancelled,
    ConfigError,
    Crashed,
    Disconnected,
    NotFound,
    PalmError,
    PayloadError,
    RemoteError,
    Timeout,
)
from palm.job import Job, Progress
from palm.message import Message
from palm.scattergather import ScatterGather
from palm.step import Step, step, to
from palm.template import Butterfly, Reduce, Server, Source, function

if TYPE_CHECKING:
    from palm import testing as testing
else:

    def __getattr__(name):  # palm.testing, which only tests need
        if name == "testing":
            import importlib

            return importlib.import_module("palm.testing")
        raise AttributeError(f"module 'palm' has no attribute {name!r}")


__version__ = "0.1.0"
__all__ = [
    "Butterfly",
    "Cache",
    "Cancelled",
    "Client",
    "Cluster",
    "ConfigError",
    "Crashed",
    "Disconnected",
    "Job",
    "Message",
    "NotFound",
    "PalmError",
    "PayloadError",
    "Progress",
    "Reduce",
    "RemoteError",
    "ScatterGather",
    "Server",
    "Source",
    "Step",
    "Timeout",
    "arena",
    "function",
    "serve",
    "step",
    "to",
]
