# SPDX-License-Identifier: BSD-3-Clause
"""A node, or a client, is closed by one thread while others are in the middle of using it."""

from __future__ import annotations

import os
import signal
import threading

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
        "state": lambda: (node.ready(link), node.backlog(link), node.endpoint, node.rejected, node.wake()),
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
    @palm.function
    def same(self, x):
        return x


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
