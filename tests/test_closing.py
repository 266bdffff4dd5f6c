# SPDX-License-Identifier: BSD-3-Clause
"""A node, or a client, is closed by one thread while others are in the middle of using it; or by the garbage collector,
or by the end of the process."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import eventually

import palm
from palm._core import node as core


def endless(call, failures):
    """Calls until it is told that the node is closed; anything else is a failure."""
    try:
        while True:
            call()
    except ValueError as e:
        if str(e) != "the node is closed":
            failures.append(e)
    except BaseException as e:
        failures.append(e)


def send(node, link):
    batch = core.Batch()
    batch.put(b"x" * 100, 0)
    assert node.send(link, core.DATA, 1, 0, batch), "the link stands"


def use(name, node, link, peer):
    return {
        "send": lambda: send(node, link),
        "link": lambda: node.link(peer.endpoint),
        "next": lambda: node.next(10.0),
        "look": lambda: node.next(0.0),
        "state": lambda: (node.ready(link), node.endpoint, node.rejected, node.wake()),
    }[name]


@pytest.mark.parametrize("names", [["next"], ["send"], ["link"], ["look"], ["next", "send", "send", "link", "state"]])
def test_a_node_is_closed_while_others_use_it(tmp_path, names):
    failures = []
    with_peer = core.Node(f"ipc://{tmp_path}/peer")
    for n in range(5):
        node = core.Node(f"ipc://{tmp_path}/{n}")
        link = node.link(with_peer.endpoint)
        eventually(lambda node=node, link=link: (with_peer.next(0.001), node.next(0.001), node.ready(link))[2])
        calls = [use(name, node, link, with_peer) for name in names]
        threads = [threading.Thread(target=endless, args=(call, failures)) for call in calls]
        for t in threads:
            t.start()
        closers = [threading.Thread(target=node.close, args=(0,)) for _ in range(2)]
        for t in closers:
            t.start()
        for t in (*closers, *threads):
            t.join(30)
            assert not t.is_alive()
        with pytest.raises(ValueError, match="closed"):
            node.endpoint  # noqa: B018
        assert node.close() == 0
    with_peer.close(0)
    assert not failures


def test_a_signal_handler_closes_the_node_that_waits(tmp_path):
    node = core.Node(f"ipc://{tmp_path}/a")
    before = signal.signal(signal.SIGUSR1, lambda *_: node.close(0))
    sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    sender.start()
    try:
        with pytest.raises(ValueError, match="closed"):
            node.next(30.0)
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


class Echo(palm.Server):
    def setup(self):
        self.open = 0

    @palm.function
    def same(self, x):
        return x

    @palm.function
    def endless(self):
        self.open += 1
        try:
            while True:
                yield 0
        finally:
            self.open -= 1

    @palm.function
    def count_open(self):
        return self.open


def test_a_client_is_closed_while_others_call(cluster):
    """They get their answer, or Disconnected."""
    cluster.start(Echo)
    wrong = []

    def call(client):
        try:
            while True:
                assert client.call("echo.same", 1) == 1
        except palm.Disconnected:
            pass
        except BaseException as e:
            wrong.append(e)

    def submit(client):
        try:
            while True:
                client.submit("echo.same", 1)
        except palm.Disconnected:
            pass
        except BaseException as e:
            wrong.append(e)

    for _ in range(5):
        client = palm.Client(cluster.address)
        assert client.call("echo.same", 2) == 2
        threads = [threading.Thread(target=f, args=(client,)) for f in (call, call, submit)]
        for t in threads:
            t.start()
        client.close(0)
        for t in threads:
            t.join(30)
            assert not t.is_alive()
    assert not wrong


def with_the_lock(connection, act):
    """What the collector does in a thread that holds the lock of the connection, whatever it collects."""

    def run():
        with connection.changed:
            act()
            gc.collect()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for a lock that it has"


def test_a_job_is_collected_by_who_holds_the_lock(cluster):
    cluster.start(Echo)
    client = cluster.client()
    held = [client.job("echo.endless")]
    assert next(held[0]) == 0
    assert client.call("echo.count_open") == 1
    held[0].self = held  # a cycle: the collector's
    with_the_lock(client._connection, held.clear)
    eventually(lambda: client.call("echo.count_open") == 0)


def test_a_client_is_collected_by_who_holds_the_lock(cluster):
    cluster.start(Echo)
    held = [palm.Client(cluster.address)]
    assert held[0].call("echo.same", 1) == 1
    connection = held[0]._connection
    path = Path(connection.endpoint.removeprefix("ipc://"))
    held[0].self = held
    with_the_lock(connection, held.clear)
    eventually(lambda: connection.closed and not path.exists())


AT_EXIT = """
import sys, palm
client = palm.Client(sys.argv[1])
job = client.job("echo.endless")
future = client.submit("echo.same", 1)
next(job)
print(client._connection.endpoint)
"""


def test_the_process_ends_while_a_client_works(cluster):
    """Its threads wait in the client when the interpreter ends: it is closed before, and leaves nothing."""
    cluster.start(Echo)
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", AT_EXIT, cluster.address], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        assert not Path(done.stdout.strip().removeprefix("ipc://")).exists()
    client = cluster.client()
    eventually(lambda: client.call("echo.count_open") == 0)
