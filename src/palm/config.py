# SPDX-License-Identifier: BSD-3-Clause
"""``cluster.toml``: read, checked, and started."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palm import places
from palm.errors import ConfigError
from palm.process import load
from palm.template import Server

if TYPE_CHECKING:
    from palm.cluster import Cluster

_TOP = {"cluster": dict, "servers": dict}
_CLUSTER = {"name": str, "memory": str, "listen": str, "metrics": str}
_SERVER = {
    "class": str,
    "workers": int,
    "setup": dict,
    "cores": int,
    "memory": str,
    "env": dict,
    "restart": str,
    "cache": str,
}
_LATER = {"restart"}
_TYPES = {str: "a string", int: "a whole number", dict: "a table"}
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*([^=#]+?)\s*=")


@dataclass(frozen=True)
class ServerConfiguration:
    """One table ``[servers.NAME]``; its fields are the arguments of `Cluster.start`, but for the cache's bound."""

    name: str
    template: str
    workers: int = 1
    setup: Mapping[str, Any] = field(default_factory=dict)
    cores: int | None = None
    memory: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cache: str | None = None


@dataclass(frozen=True)
class Configuration:
    """What a ``cluster.toml`` says.

    Attributes
    ----------
    path : Path
        The file. Modules of classes are looked for in its directory first.
    name : str or None
        Of the cluster.
    servers : tuple of ServerConfiguration
        In the order of the file, in which they are started.
    metrics : str or None
        ``"host:port"`` where Prometheus reads the counters.
    listen : str or None
        Address, network or interface of this host, at which other hosts reach the cluster (`addresses.listening`).
    """

    path: Path
    text: str = field(repr=False)
    name: str | None = None
    servers: tuple[ServerConfiguration, ...] = ()
    metrics: str | None = None
    listen: str | None = None

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Configuration:
        """The configuration in the file `path`.

        Raises
        ------
        ConfigError
            It is no TOML, or has a wrong key, type or value; says file, line, and the nearest valid word.
        NotImplementedError
            It has a key that only a later version knows.
        OSError
            It cannot be read.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            return _Reader(path.absolute(), text).configuration(tomllib.loads(text))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}: not TOML: {e}") from None

    def check(self) -> None:
        """ConfigError if a server's class is not there, or its `setup` does not take what the file gives; nothing is
        started, but the modules are imported."""
        self._find_modules()
        reader = _Reader(self.path, self.text)
        for server in self.servers:
            reader.check_class(server)
            reader.check_arguments(server)

    def serve_metrics(self, cluster: Cluster) -> AbstractContextManager[object]:
        """Until it is left; of nothing, where the file does not say so. ConfigError if the address cannot be had."""
        if self.metrics is None:
            return nullcontext()
        from palm.exporter import Exporter

        try:
            return Exporter(cluster, self.metrics)
        except OSError as e:
            at = _Reader(self.path, self.text).at(("cluster",), "metrics")
            raise ConfigError(f"{at}: metrics = {self.metrics!r} cannot be had: {e.strerror or e}") from None

    def open(self) -> Cluster:
        """The cluster, still without servers; ConfigError if it cannot listen where the file says."""
        from palm.cluster import Cluster

        try:
            return Cluster(self.name, _listen=self.listen)
        except ConfigError as e:
            raise ConfigError(f"{_Reader(self.path, self.text).at(('cluster',), 'listen')}: {e}") from None

    def start(self, cluster: Cluster) -> None:
        """Start all servers in `cluster`; returns when they are ready.

        Raises
        ------
        ConfigError
            There is no such class, or its `setup` does not take what the file gives.
        PalmError
            A server did not start; has its traceback.
        """
        self.check()
        for server in self.servers:
            self.start_one(cluster, server)

    def apply(self, cluster: Cluster, running: dict[str, ServerConfiguration]) -> list[str]:
        """Start, stop, scale and replace servers of a cluster, so that it is as this says; returns what was done. Jobs
        wait for those that are replaced. Code is not compared: processes go on with what they have imported, and new
        ones import what is there now.

        Parameters
        ----------
        running : dict
            What runs, by name; kept up to date, when something is raised too.

        Raises
        ------
        ConfigError, PalmError
            As `start`. What the file says wrong is found before anything is done.
        """
        self._forget_modules(running)
        self.check()
        done = []
        for name in [name for name in running if name not in {s.name for s in self.servers}]:
            with suppress(LookupError):  # it may have been given up
                cluster.stop(name)
            del running[name]
            done.append(f"{name} stopped")
        there = {s["name"] for s in cluster.status()["servers"] if s["state"] != "failed"}
        for server in self.servers:
            before = running.pop(server.name, None)  # when what has to be done fails, nobody knows what there is
            if what := self._apply(cluster, server, before if server.name in there else None):
                done.append(f"{server.name} {what}")
            running[server.name] = server
        return done

    def _apply(self, cluster: Cluster, server: ServerConfiguration, before: ServerConfiguration | None) -> str:
        """What had to be done; "" if nothing had."""
        if before is None:
            self.start_one(cluster, server, instead=True)  # of one that was given up
            return "started"
        if replace(before, workers=server.workers) != server:
            self.start_one(cluster, server, instead=True)
            return "replaced"
        if cluster.workers(server.name) != server.workers:
            cluster.scale(server.name, server.workers)
            return f"has {server.workers} worker{'s' * (server.workers > 1)}"
        return ""

    def start_one(
        self, cluster: Cluster, server: ServerConfiguration, *, instead: bool = False, is_led: bool = False
    ) -> None:
        """instead: of the one of this name that runs. is_led: its leader is elsewhere, and gets more workers."""
        reader = _Reader(self.path, self.text)
        reader.check_class(server)
        cluster._bound_cache(server.name, server.cache)
        try:
            cluster._start(
                server.template,
                server.name,
                server.workers,
                server.setup,
                server.cores,
                server.memory,
                server.env,
                replace=instead,
                is_led=is_led,
            )
        except (TypeError, ValueError) as e:
            raise reader.of_arguments(server, e) from None

    def fixed(self, key: str, value: object) -> ConfigError:
        """That a key of [cluster] is what it was when the cluster began."""
        at = _Reader(self.path, self.text).at(("cluster",), key)
        return ConfigError(f"{at}: {key} is {value!r} as long as the cluster runs: palm down {self.name}, then palm up")

    def _find_modules(self) -> None:
        directory = str(self.path.parent)
        if directory not in sys.path:
            sys.path.insert(0, directory)

    def _forget_modules(self, running: Mapping[str, ServerConfiguration]) -> None:
        """Those of the classes, which may have changed since they were imported here."""
        packages = {s.template.partition(":")[0].partition(".")[0] for s in [*self.servers, *running.values()]}
        for name in [name for name in sys.modules if name.partition(".")[0] in packages - {"palm", "__main__"}]:
            del sys.modules[name]


class _Reader:
    """The checks, and where in the text a complaint belongs."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text = path, text

    def configuration(self, data: dict[str, Any]) -> Configuration:
        self._check((), data, _TOP)
        cluster = data.get("cluster", {})
        self._check(("cluster",), cluster, _CLUSTER)
        if "name" in cluster:
            self._check_name(("cluster",), cluster["name"], "the cluster")
        tables, memory = data.get("servers", {}), cluster.get("memory")
        servers = tuple(self._server(name, table, memory) for name, table in tables.items())
        self._check_metrics(cluster.get("metrics", "localhost:0"))
        return Configuration(
            self._path, self._text, cluster.get("name"), servers, cluster.get("metrics"), cluster.get("listen")
        )

    def _server(self, name: str, table: Any, memory: str | None) -> ServerConfiguration:
        place = ("servers", name)
        if not isinstance(table, dict):
            raise self.error(("servers",), name, f"servers.{name} has to be a table: [servers.{name}]")
        self._check_name(place, name, "the server")
        self._check(place, table, _SERVER)
        template = table.get("class")
        if template is None:
            raise self.error(place, None, f'[servers.{name}] needs a class: class = "module:Class"')
        if not all(template.partition(":")):
            raise self.error(place, "class", f'class = {template!r} has to be "module:Class"')
        for key in ("workers", "cores"):
            if table.get(key, 1) < 1:
                raise self.error(place, key, f"{key} = {table[key]} has to be at least 1")
        for variable, value in table.get("env", {}).items():
            if not isinstance(value, str):
                raise self.error((*place, "env"), variable, f"env: {variable} = {value!r} has to be a string")
        return ServerConfiguration(
            name,
            template,
            table.get("workers", 1),
            table.get("setup", {}),
            table.get("cores"),
            table.get("memory", memory),
            table.get("env", {}),
            table.get("cache"),
        )

    def _check(self, place: tuple[str, ...], table: dict[str, Any], types: Mapping[str, type]) -> None:
        """The keys of a table and the types of their values."""
        where = f"[{'.'.join(place)}]" if place else "the file"
        for key, value in table.items():
            if key not in types:
                raise self.error(place, key, f"{where} has no key {key!r}{_near(key, types)}")
            if key in _LATER:
                raise NotImplementedError(f"{self.at(place, key)}: {key!r} is for a later version")
            if not isinstance(value, types[key]) or isinstance(value, bool):
                raise self.error(place, key, f"{key} = {value!r} has to be {_TYPES[types[key]]}")
        for key in ("memory", "cache"):
            self._check_memory(place, key, table.get(key))

    def _check_metrics(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise self.error(
                ("cluster",), "metrics", f'metrics = {address!r} has to be "host:port", as "127.0.0.1:9100"'
            )

    def _check_memory(self, place: tuple[str, ...], key: str, memory: str | None) -> None:
        from palm.cluster import parse_memory

        try:
            parse_memory(memory)
        except ValueError as e:
            raise self.error(place, key, str(e)) from None

    def _check_name(self, place: tuple[str, ...], name: str, what: str) -> None:
        try:
            places.check_name(name, what)
        except ConfigError as e:
            raise self.error(place, "name", str(e)) from None

    def check_class(self, server: ServerConfiguration) -> None:
        """ConfigError if the module or the class is not there; what a module raises by itself is raised as it is."""
        module_name, _, name = server.template.partition(":")
        place = ("servers", server.name)
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as e:
            if e.name is None or not f"{module_name}.".startswith(f"{e.name}."):
                raise
            raise self.error(
                place,
                "class",
                f"there is no module {module_name!r}; looked in {self._path.parent} and in Python's path",
            ) from None
        if not hasattr(module, name):
            classes = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Server)]
            raise self.error(place, "class", f"the module {module_name!r} has no class {name!r}{_near(name, classes)}")
        try:
            load(server.template)
        except TypeError as e:
            raise self.error(place, "class", str(e)) from None

    def check_arguments(self, server: ServerConfiguration) -> None:
        """ConfigError if the class does not take them."""
        from palm.cluster import check_start

        try:
            check_start(load(server.template), server.workers, server.setup)
        except (TypeError, ValueError) as e:
            raise self.of_arguments(server, e) from None

    def of_arguments(self, server: ServerConfiguration, e: Exception) -> ConfigError:
        return self.error(("servers", server.name), "workers" if str(e).startswith("workers=") else "setup", str(e))

    def error(self, place: tuple[str, ...], key: str | None, text: str) -> ConfigError:
        return ConfigError(f"{self.at(place, key)}: {text}")

    def at(self, place: tuple[str, ...], key: str | None) -> str:
        """``file:line`` of a key in the table `place`, else of the table, else of the file."""
        names = [*place, *([key] if key else [])]
        while names and not (line := self._line(".".join(names))):
            names.pop()
        return f"{self._path}:{line if names else 1}"

    def _line(self, wanted: str) -> int:
        """Where a dotted name stands, as ``[a.b]`` or as ``b =`` below ``[a]``; 0: nowhere."""
        table = ""
        for number, line in enumerate(self._text.splitlines(), 1):
            if found := _HEADER.match(line):
                table = _plain(found[1])
                if table == wanted:
                    return number
            elif (found := _KEY.match(line)) and f"{table}.{_plain(found[1])}".lstrip(".") == wanted:
                return number
        return 0


def _plain(name: str) -> str:
    """A dotted name without quotes and spaces."""
    return re.sub(r"[\s\"']", "", name)


def _near(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, words, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(words) or 'none'}"
