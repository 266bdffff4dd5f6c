# SPDX-License-Identifier: BSD-3-Clause
"""What a ``cluster.toml`` may say. From these types alone come the check of a file (`checking.py`) and the JSON schema
for editors: a new key is a new field here.

``extra={"is": ...}`` is how a value has to be, in the words of an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from palm import cpus
from palm.amounts import AMOUNT
from palm.own_names import REGISTRY
from palm.places import NAME

_PORT = r"0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"


def _like(pattern: str, words: str, *examples: str, description: str | None = None) -> Meta:
    """A text: what it matches, that in the words of an error, and some, for editors."""
    shown = {"examples": [*examples]} if examples else None
    return Meta(pattern=f"^{pattern}$", description=description, extra={"is": words}, extra_json_schema=shown)


Name = Annotated[str, _like(NAME, "1 to 31 letters, digits, - or _, the first a letter or digit")]
ServerName = Annotated[
    str,
    _like(
        f"(?!{REGISTRY}$){NAME}",
        f"1 to 31 letters, digits, - or _, the first a letter or digit, and not {REGISTRY!r}, the cluster's own server",
    ),
]
Amount = Annotated[str, _like(AMOUNT, 'an amount of memory, as "512MiB" or "2GB"', "512MiB", "2GB")]
Limit = Annotated[str, _like(f"(?=[^1-9]*[1-9]){AMOUNT}", 'an amount of memory above 0, as "4GiB"', "4GiB")]
Cpus = Annotated[str, _like(cpus.LIST, 'CPUs by their numbers, as "0-3,8"', "0-3,8")]
Address = Annotated[str, _like(f".+:{_PORT}", '"host:port", as "127.0.0.1:9100"', "127.0.0.1:9100")]
Listen = Annotated[
    str,
    _like(
        f"(plaintext://)?[^:@]+(:{_PORT})?",
        'an address, network or interface, as "10.0.0.1", "10.0.0.0/8" or "eth0", with or without ":port"',
        *("eth0", "10.0.0.0/8", "10.0.0.1:4711", "plaintext://10.0.0.1"),
    ),
]
ClassName = Annotated[str, _like("[^:]+:.+", '"module:Class"', "module:Class")]
Natural = Annotated[int, Meta(ge=1)]
When = Literal["always", "on-failure", "never"]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of a file."""


class Restart(Table, frozen=True):
    """When a server that has died is started again, and how patiently."""

    policy: Annotated[
        When,
        Meta(description="After which deaths: all, those that are failures (anything but exit code 0), or none."),
    ] = "always"
    limit: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Deaths in a row without progress, or failures to get ready, after which it is given up; 0: "
            "never. Without it 8 and 3."
        ),
    ] = None
    max_delay: Annotated[
        float, Meta(ge=0, le=3600, description="Seconds up to which the delay doubles while it makes no progress.")
    ] = 1.6


class CacheTable(Table, frozen=True):
    """What a server remembers, and where."""

    path: Annotated[
        str,
        _like(
            "[^\0]+",
            "the name of a file",
            "weights.lmdb",
            description="A file in which it is too, so that it is there after a restart; beside this file, or from /.",
        ),
    ]
    size: Annotated[Amount | None, Meta(description="Its bound; without it 256MiB.")] = None


class ServerTable(Table, frozen=True):
    """A server, by its name in steps."""

    template: Annotated[ClassName, Meta(description="Its class; the module beside this file, or in Python's path.")] = (
        msgspec.field(name="class")
    )
    workers: Annotated[
        Natural,
        Meta(description="Processes that run its functions: of a palm.Server 1; the leader of others is one more."),
    ] = 1
    setup: Annotated[dict[str, Any], Meta(description="What the `setup` of its class gets.")] = {}
    cores: Annotated[
        Natural | None,
        Meta(description="That BLAS and OpenMP may use in each process; without it, all of the host, shared by them."),
    ] = None
    memory: Annotated[Amount | None, Meta(description="Of shared memory that each process may fill.")] = None
    memory_limit: Annotated[
        Limit | None,
        Meta(
            description="Of private memory, beside the shared, that each process has; more is a MemoryError in its "
            "function. Without it, as much as there is."
        ),
    ] = None
    cpus: Annotated[
        Cpus | None,
        Meta(
            description="On which its processes run. With `cores`, each worker has so many of its own, if there are "
            "enough; else all have all. Without it, all CPUs."
        ),
    ] = None
    env: Annotated[dict[str, str], Meta(description="Environment variables of its processes.")] = {}
    restart: Annotated[
        When | Restart, Meta(description="After which deaths it is started again, or a table that says more.")
    ] = "always"
    cache: Annotated[
        Amount | CacheTable | None,
        Meta(description="Bound of its cache, without it 256MiB; or a table that says in which file it is too."),
    ] = None


class ClusterTable(Table, frozen=True):
    """The cluster as a whole."""

    name: Annotated[
        Name | None, Meta(description="By which others find it; without it, each start gets a name of its own.")
    ] = None
    memory: Annotated[
        Amount | None,
        Meta(description="Of shared memory that each process may fill; a server's own `memory` goes before it."),
    ] = None
    listen: Annotated[
        Listen | None,
        Meta(
            description="Where other hosts find it: an address, a network or an interface of this host, with or "
            "without a port. Without it, it is there for this host alone."
        ),
    ] = None
    metrics: Annotated[
        Address | None, Meta(description="Where Prometheus reads the counters; without it, nowhere.")
    ] = None


class File(Table, frozen=True):
    """cluster.toml of PALM: `palm check` says what is wrong with one, `palm up` starts what it describes."""

    cluster: ClusterTable = ClusterTable()
    servers: Annotated[dict[ServerName, ServerTable], Meta(description="In the order in which they are started.")] = {}


def schema() -> dict[str, Any]:
    """The JSON schema of a file, for editors."""
    found: dict[str, Any] = _without_null(msgspec.json.schema(File))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def _without_null(schema: Any) -> Any:
    """TOML has no null: what need not be there is left out."""
    if isinstance(schema, list):
        return [_without_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _without_null(value) for key, value in schema.items() if value is not None}
    if "anyOf" in found:
        choices = [choice for choice in found.pop("anyOf") if choice != {"type": "null"}]
        found = {**choices[0], **found} if len(choices) == 1 else {**found, "anyOf": choices}
    return found
