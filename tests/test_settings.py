# SPDX-License-Identifier: BSD-3-Clause
"""The JSON schema of cluster.toml: it refuses what `palm check` refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_config import GOOD

import palm
from palm.amounts import parse_memory
from palm.checking import Wrong, check
from palm.config import Configuration
from palm.settings import File, schema

VALIDATOR = jsonschema.Draft202012Validator(schema())
TYPE = msgspec.inspect.type_info(File)
ROOT = Path(__file__).parent.parent

WORDS = [
    "0B",
    "0-3,8",
    "",
    "a",
    "a b",
    "a\n",
    "1GiB",
    "1.5 mib",
    "1 GiBs",
    "x:Y",
    ":",
    "127.0.0.1:9100",
    "h:99999",
    "never",
    "always",
]
LEAVES = st.one_of(
    st.sampled_from(WORDS),
    st.integers(-2, 3),
    st.booleans(),
    st.sampled_from([-0.5, 0.5, 1e9]),  # not 1.0: to JSON, that is a whole number
    st.lists(st.integers(), max_size=1),
)
KEYS = [
    "class",
    "workers",
    "setup",
    "cores",
    "memory",
    "env",
    "restart",
    "cache",
    "name",
    "metrics",
    "listen",
    "policy",
    "limit",
    "memory_limit",
    "cpus",
]


def tables(values, keys=KEYS):
    return st.dictionaries(st.sampled_from([*keys, "max_delay", "other"]), values, max_size=4)


VALUES = st.one_of(LEAVES, tables(LEAVES))
SERVERS = st.dictionaries(st.sampled_from(["a", "b-1", "a b", ""]), st.one_of(LEAVES, tables(VALUES)), max_size=2)
FILES = st.fixed_dictionaries({}, optional={"cluster": tables(VALUES), "servers": SERVERS, "clusters": LEAVES})


def is_right(data):
    try:
        check(data, TYPE)
    except Wrong:
        return False
    return True


def server(**keys):
    return {"servers": {"a": {"class": "x:Y", **keys}}}


@settings(max_examples=300, deadline=None)
@given(FILES)
@example(server())
@example(server(restart={"policy": "on-failure", "limit": 0, "max_delay": 0}))
@example(server(restart="often"))
@example(server(workers=0))
@example(server(workers=True))
@example(server(env={"A": 1}))
@example(server(memory="1 GiBs"))
@example({"cluster": {"metrics": "h:70000"}})
@example({"cluster": {"listen": "tcp://*:5555"}})
@example({"cluster": {"listen": "10.0.0.0/8:4711"}})
@example({"servers": {"registry": {"class": "x:Y"}}})
@example({"servers": {"registry-2": {"class": "x:Y"}}})
def test_it_refuses_what_the_check_refuses(data):
    right = is_right(data)
    assert VALIDATOR.is_valid(data) == right or "a\n" in str(data)  # `$` of Python's is not that of JSON's patterns
    if right:
        msgspec.convert(data, File)


def test_the_name_of_the_clusters_own_server_is_taken():
    of = {name: {"servers": {name: {"class": "x:Y"}}} for name in ("registry", "registry-2", "my-registry")}
    assert [name for name, data in of.items() if not is_right(data)] == ["registry"]


def test_files_that_are_right():
    jsonschema.Draft202012Validator.check_schema(schema())
    for path in ROOT.glob("examples/**/cluster.toml"):
        text = path.read_text()
        assert Configuration.read(path).servers
        VALIDATOR.validate(tomllib.loads(text))
    VALIDATOR.validate(tomllib.loads(GOOD))


def test_all_of_it_is_explained():
    """An editor shows it."""
    tables = [t for name, t in schema()["$defs"].items() if name != "File"]
    for key, field in [pair for table in tables for pair in table["properties"].items()]:
        assert field["description"].strip(), key
    assert "null" not in json.dumps(schema())


@given(st.sampled_from(WORDS) | st.from_regex(r"\A[0-9.]{1,4} ?[kKgib]{0,3}\Z"))
def test_amounts_are_those_that_are_understood(text):
    try:
        parse_memory(text)
    except ValueError:
        assert not is_right({"cluster": {"memory": text}})
    else:
        assert is_right({"cluster": {"memory": text}})


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "palm", "check", "--schema"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == schema() and done.returncode == 0


def test_restart_of_a_file(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text('[servers.a]\nclass = "x:Y"\nrestart = { limit = 3 }\n[servers.b]\nclass = "x:Y"\n')
    a, b = Configuration.read(path).servers.values()
    assert (a.restart.policy, a.restart.limit, a.restart.max_delay) == ("always", 3, 1.6) and b.restart == "always"
    path.write_text("servers = 5")
    with pytest.raises(palm.ConfigError, match="cluster.toml:1: servers = 5 has to be a table"):
        Configuration.read(path)
