# SPDX-License-Identifier: BSD-3-Clause
"""The shortest way through everything: one server, calls, a job."""

from __future__ import annotations

import numpy as np
import pytest

import palm


class Echo(palm.Server):
    @palm.function
    def same(self, x):
        return x

    @palm.function
    def double(self, x):
        return x * 2

    @palm.function
    def many(self, n):
        yield from range(n)

    @palm.function
    def odd(self, n):
        return n if n % 2 else None

    @palm.function
    def boom(self, x):
        raise ValueError(f"no {x}")


def test_call_job_and_error(cluster: palm.Cluster) -> None:
    cluster.start(Echo)
    client = cluster.client()
    assert client.call("echo.same", 5) == 5
    assert np.array_equal(client.call("echo.double", np.arange(5)), np.arange(5) * 2)
    assert client.call("echo.many", 3) == [0, 1, 2]
    assert client.call("echo.odd", 2) is None
    assert list(client.job(["echo.double", "echo.same"], range(100), ordered=True)) == list(range(0, 200, 2))
    with pytest.raises(palm.RemoteError, match="no 7") as caught:
        client.call("echo.boom", 7)
    assert (caught.value.type, caught.value.server, caught.value.function) == ("ValueError", "echo", "boom")
    assert "raise ValueError" in caught.value.traceback
    with pytest.raises(palm.NotFound, match="echo"):
        client.call("ecko.same", 1)
