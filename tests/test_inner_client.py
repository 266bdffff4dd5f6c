# SPDX-License-Identifier: BSD-3-Clause
"""`self.client`, by which functions ask others: within the time of their message, and not their own server."""

from __future__ import annotations

import time

import pytest
from conftest import eventually

import palm


class Selfish(palm.Server):
    @palm.function
    def itself(self):
        return self.client.call("selfish.itself")

    @palm.function
    def later(self, x):
        """It waits for nothing."""
        self.client.submit("selfish.note", x)

    @palm.function
    def note(self, x):
        self.cache["noted"] = x


def test_a_server_that_calls_itself(cluster):
    cluster.start(Selfish)
    client = cluster.client()
    with pytest.raises(palm.RemoteError, match="would wait until that has nothing to do: call the method"):
        client.call("selfish.itself", timeout=20)
    client.call("selfish.later", 7)
    eventually(lambda: client.cache["selfish"].get("noted") == 7)


class Asks(palm.Server):
    def setup(self):
        self.seen = []

    @palm.function
    def ask(self, x):
        try:
            self.client.call("sleeps.nap", x)
        except palm.Timeout:
            self.seen.append(self.message.number)

    @palm.function
    def saw(self):
        return len(self.seen)


class Sleeps(palm.Server):
    @palm.function
    def nap(self, x):
        time.sleep(x)


def test_what_a_function_asks_for_has_no_more_time_than_its_message(cluster):
    """So it is not ended with its process, though nobody waits for it any more."""
    cluster.start(Asks)
    cluster.start(Sleeps)
    client = cluster.client()
    client.call("asks.ask", 0)
    with pytest.raises(palm.Timeout):
        client.call("asks.ask", 1.0, timeout=0.2)
    assert client.call("asks.saw") == 1
