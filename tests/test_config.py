# SPDX-License-Identifier: BSD-3-Clause
"""cluster.toml: what it may say, and where a complaint points."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

import palm
from palm import addresses, applying, config
from palm.config import Configuration

GOOD = """
[cluster]
name = "night"
memory = "256MiB"

[servers.first]
class = "config_things:Thing"
workers = 1
cores = 1
env = { COLOUR = "red" }

[servers.first.setup]
size = 3

[servers.second]
class = "config_things:Thing"
memory = "128MiB"
cache = "1GiB"
"""
THINGS = """
import os
import palm

class Thing(palm.Server):
    def setup(self, size: int = 1): self.size = size
    @palm.function
    def tell(self): return self.name, self.size, os.environ.get("COLOUR"), os.environ.get("OMP_NUM_THREADS")
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "config_things.py").write_text(THINGS)
    (tmp_path / "cluster.toml").write_text(GOOD)
    yield tmp_path / "cluster.toml"
    sys.modules.pop("config_things", None)


def test_read(path):
    configuration = Configuration.read(path)
    assert configuration.name == "night" and configuration.path == path
    first, second = configuration.servers.values()
    assert list(configuration.servers) == ["first", "second"]
    assert (first.template, first.workers, first.cores) == ("config_things:Thing", 1, 1)
    assert (first.setup, first.env, first.memory) == ({"size": 3}, {"COLOUR": "red"}, "256MiB")
    assert (second.setup, second.env, second.memory, second.cores) == ({}, {}, "128MiB", None)
    assert (first.cache, second.cache) == (None, "1GiB")


def test_start(path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    path.write_text(GOOD.replace("night", f"night-{os.getpid()}"))
    with palm.Cluster.from_file(path) as cluster:
        assert cluster.name == f"night-{os.getpid()}"
        client = cluster.client()
        assert client.call("first.tell") == ("first", 3, "red", "1")
        assert client.call("second.tell")[:3] == ("second", 1, os.environ.get("COLOUR"))


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("[cluster]", "[clusters]", 2, "the file has no key 'clusters'; did you mean 'cluster'"),
        ('cache = "1GiB"', 'cache = "much"', 18, "cache = 'much' has to be an amount of memory, as"),
        (
            'cache = "1GiB"',
            "cache = 5",
            18,
            'cache = 5 has to be a string (an amount of memory, as "512MiB" or "2GB") or',
        ),
        ('"256MiB"', "1000000", 4, 'memory = 1000000 has to be a string (an amount of memory, as "512MiB" or "2GB")'),
        ('name = "night"', 'nmae = "night"', 3, "[cluster] has no key 'nmae'; did you mean 'name'?"),
        ('name = "night"', "name = 7", 3, "name = 7 has to be a string"),
        (
            'name = "night"',
            'name = "a b"',
            3,
            "name = 'a b' has to be 1 to 31 letters, digits, - or _, the first a letter or digit",
        ),
        ('"256MiB"', '"much"', 4, "memory = 'much' has to be an amount of memory"),
        (
            "[servers.first]\nclass",
            "[servers.first]\nklass",
            7,
            "[servers.first] has no key 'klass'; did you mean 'class'?",
        ),
        ('class = "config_things:Thing"\nworkers', "workers", 6, "needs a class"),
        ('config_things:Thing"\nworkers', 'config_things"\nworkers', 7, 'has to be "module:Class"'),
        (
            'class = "config_things:Thing"\nworkers',
            "class = 5\nworkers",
            7,
            'class = 5 has to be a string ("module:Class")',
        ),
        ("workers = 1", 'workers = "1"', 8, "workers = '1' has to be a whole number"),
        ("workers = 1", "workers = true", 8, "workers = True has to be a whole number"),
        ("workers = 1", "workers = 0", 8, "has to be at least 1"),
        ("cores = 1", "cores = -1", 9, "has to be at least 1"),
        ('COLOUR = "red"', "COLOUR = 1", 10, "COLOUR = 1 has to be a string"),
        ('env = { COLOUR = "red" }', 'env = "red"', 10, "env = 'red' has to be a table"),
        ('"128MiB"', '"-"', 17, "memory = '-' has to be an amount of memory"),
        ('name = "night"', 'listen = "tcp://*:5555"', 3, "listen = 'tcp://*:5555' has to be an address, network or"),
        ("[servers.second]", "[servers.registry!]", 15, "not TOML"),
        ('cache = "1GiB"', 'cache = "1GiB', 18, "not TOML"),
        ('cache = "1GiB"', "cache = {", 18, "not TOML"),
        ("[servers.second]", "[servers.registry]", 15, "the name 'registry' has to be 1 to 31 letters"),
        ("[servers.second]", '[servers."a b"]', 15, "in [servers], the name 'a b' has to be 1 to 31 letters"),
        ("[servers.second]", "[[servers.second]]", 15, "has to be a table: [servers.second]"),
        ("cores = 1", 'restart = "nevr"', 9, """restart = 'nevr' has to be "always", "never" or "on-failure"; did"""),
        ("cores = 1", "restart = 5", 9, 'restart = 5 has to be "always", "never" or "on-failure" or a table'),
        (
            "cores = 1",
            "restart = { polcy = 1 }",
            9,
            "[servers.first.restart] has no key 'polcy'; did you mean 'policy'?",
        ),
        ("cores = 1", "restart = { policy = 1 }", 9, "policy = 1 has to be "),
        ("cores = 1", "restart = { limit = -1 }", 9, "limit = -1 has to be at least 0"),
        ("cores = 1", "restart = { max_delay = inf }", 9, "max_delay = inf has to be at most 3600"),
        ("[servers.first.setup]", "[servers.first.restart]", 13, "[servers.first.restart] has no key 'size'"),
    ],
)
def test_wrong(path, old, new, line, words):
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(palm.ConfigError) as e:
        Configuration.read(path)
    assert words in str(e.value)
    assert str(e.value).startswith(f"{path}:{line}: ")


def test_a_file_that_is_no_text(path):
    path.write_bytes(b'[cluster]\nname = "\xff"\n')
    with pytest.raises(palm.ConfigError, match="cluster.toml:2: not TOML: 'utf-8' codec"):
        Configuration.read(path)
    path.write_text("[cluster]\nname =")
    with pytest.raises(palm.ConfigError, match="cluster.toml:2: not TOML: .*at end of document"):
        Configuration.read(path)


WRONG_CLASSES = pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('config_things:Thing"\nworkers', 'config_thing:Thing"\nworkers', 7, "there is no module 'config_thing'"),
        (
            'config_things:Thing"\nworkers',
            'config_things:Thign"\nworkers',
            7,
            "has no class 'Thign'; did you mean 'Thing'?",
        ),
        ("size = 3", "siez = 3", 12, "siez"),
        ("size = 3", 'size = "x"', 12, "Thing.setup takes size: int, not 'x'"),
        ('config_things:Thing"\nworkers', 'config_things:os"\nworkers', 7, "class = 'config_things:os': a template is"),
    ],
)


@WRONG_CLASSES
def test_wrong_when_it_is_checked(path, old, new, line, words):
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(palm.ConfigError) as e:
        Configuration.read(path).check()
    assert str(e.value).startswith(f"{path}:{line}: ") and words in str(e.value)


def test_right_when_it_is_checked(path):
    Configuration.read(path).check()


@pytest.mark.parametrize("metrics", ["9100", ":9100", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000"])
def test_wrong_metrics(path, metrics):
    path.write_text(GOOD.replace('name = "night"', f'name = "night"\nmetrics = "{metrics}"', 1))
    with pytest.raises(palm.ConfigError, match='cluster.toml:4: metrics = .* as "127.0.0.1:9100"'):
        Configuration.read(path)


def test_metrics_at_an_address_that_is_taken(path, cluster):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path.write_text(GOOD.replace('name = "night"', f'name = "night"\nmetrics = "{address}"', 1))
        with pytest.raises(palm.ConfigError, match=f"cluster.toml:4: metrics = '{address}' cannot be had: .*in use"):
            applying.serve_metrics(Configuration.read(path), cluster)


class Hinted(palm.Server):
    def setup(
        self, n: int | None, x: float, text: str | Path, shape: tuple[int, int], a: NDArray[np.float64], *, b: bool
    ):
        pass


class Misread(palm.Server):
    def setup(self, n: int, mask: Annotated[NDArray[np.bool_], "no shape, but a remark"]):
        pass


RIGHT = {"n": 3, "x": 1, "text": 5, "shape": [1, 2], "a": 0.5, "b": True}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"x": 1.5, "a": "file.npy"}, ""),
        ({"n": 1.0}, "Hinted.setup takes n: int or None, not 1.0"),
        ({"x": "1"}, "Hinted.setup takes x: float, not '1'"),
        ({"b": 1}, "Hinted.setup takes b: bool, not 1"),
    ],
)
def test_values_of_setup_that_its_hints_rule_out(changed, says):
    with pytest.raises(TypeError, match=says) if says else nullcontext():
        config._check_kinds(Hinted, RIGHT | changed)
    config._check_kinds(Misread, {"n": "which nobody knows"})


def test_a_network_as_ip_shows_it():
    """With the host's own address before the slash."""
    assert addresses.listening("127.0.0.1/8").startswith("tcp://127.0.0.1:")


def test_an_address_as_a_newcomer_writes_it():
    with pytest.raises(palm.Disconnected, match="'localhost:5555' is no address, .*: write tcp://localhost:5555"):
        addresses.normalised("localhost:5555")


@WRONG_CLASSES
def test_wrong_at_the_start(path, old, new, line, words, cluster):
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(palm.ConfigError) as e:
        applying.start(Configuration.read(path), cluster)
    assert str(e.value).startswith(f"{path}:{line}: ") and words in str(e.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_module_at_all", "1: ModuleNotFoundError: .*no_such_module_at_all"),
        ("x = 1\ny = = 2", "2: SyntaxError: "),
        ("def f():\n    return nothing\nf()", "2: NameError: .*nothing"),
        ("import palm\npalm.Cluster()", "2: RuntimeError: .*this one starts a cluster: put that under"),
    ],
)
def test_an_error_inside_the_module_is_told_with_its_line_and_that_of_the_file(path, cluster, text, error):
    (path.parent / "config_things.py").write_text(text)
    with pytest.raises(
        palm.ConfigError, match=rf"cluster.toml:\d+: the module 'config_things' does not import: .*py:{error}"
    ):
        applying.start(Configuration.read(path), cluster)


def test_more_workers_than_there_can_be(path, cluster):
    path.write_text(GOOD.replace("workers = 1", "workers = 2"))
    with pytest.raises(palm.ConfigError, match="cluster.toml:8: workers=2.*palm.Butterfly"):
        applying.start(Configuration.read(path), cluster)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*cluster.toml; it would name the servers"):
        Configuration.read(tmp_path / "cluster.toml")
