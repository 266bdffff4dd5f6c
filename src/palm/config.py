# SPDX-License-Identifier: BSD-3-Clause
"""``cluster.toml``, read and checked. What it may say: `settings.py`."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tomllib
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from palm import addresses, contracts, cpus, process
from palm.checking import Wrong, check, near
from palm.contracts import PYTHON, Nothing, Scalar
from palm.errors import ConfigError
from palm.hints import contract_of
from palm.process import load
from palm.settings import File, ServerTable
from palm.template import Server
from palm.toml_lines import line_of

_PLAIN = tuple(map(Scalar, ("bool", "int", "float", "str")))  # hints that a value of a file fits as it is, or not


@dataclass(frozen=True)
class Configuration:
    """What a ``cluster.toml`` says.

    Attributes
    ----------
    path : Path
        The file. Modules of classes are looked for in its directory first.
    name : str or None
        Of the cluster.
    servers : dict of ServerTable
        By name, in the order of the file, in which they are started.
    metrics : str or None
        ``"host:port"`` where Prometheus reads the counters.
    listen : str or None
        Address, network or interface of this host, at which other hosts reach the cluster (`addresses.listening`).
    """

    path: Path
    text: str = field(repr=False)
    name: str | None = None
    servers: Mapping[str, ServerTable] = field(default_factory=dict)
    metrics: str | None = None
    listen: str | None = None

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Configuration:
        """The configuration in the file `path`.

        Raises
        ------
        ConfigError
            It is no TOML, or has a wrong key, type or value; says file, line, and the nearest valid word.
        OSError
            It cannot be read.
        """
        path, text = Path(path).absolute(), ""
        try:
            text = path.read_text(encoding="utf-8")
            data = tomllib.loads(text)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"there is no file {path}; it would name the servers of a cluster, each in two lines: [servers.NAME] "
                'and class = "module:Class"; palm check --schema and docs/configuration.md have all that it can say'
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}:{_line_of_syntax(text, e)}: not TOML: {e}") from None
        if not data:
            raise ConfigError(
                f'{path}:1: there is nothing in it: [servers.NAME] and class = "module:Class" are a server, and '
                "[cluster] alone is a cluster without"
            )
        return cls._of(path, text, data)

    @classmethod
    def _of(cls, path: Path, text: str, data: dict[str, Any]) -> Configuration:
        try:
            check(data, msgspec.inspect.type_info(File))
        except Wrong as e:
            raise ConfigError(f"{path}:{line_of(text, e.place)}: {e}") from None
        file = msgspec.convert(data, File)
        memory = file.cluster.memory
        servers = {n: msgspec.structs.replace(s, memory=s.memory or memory) for n, s in file.servers.items()}
        return cls(path, text, file.cluster.name, servers, file.cluster.metrics, file.cluster.listen)

    def error(self, place: Iterable[str], text: str) -> ConfigError:
        """About the key at `place`, or the innermost table of it that the file has."""
        return ConfigError(f"{self.path}:{line_of(self.text, list(place))}: {text}")

    # ------------------------------------------------------------------------------- against the classes it names

    def check(self) -> None:
        """ConfigError if a server's class is not there, its `setup` does not take what the file gives, or it has CPUs
        that are not there; nothing is started, but the modules are imported."""
        from palm.cluster import check_start

        self.find_modules()
        for name, server in self.servers.items():
            self.check_class(name)
            try:
                check_start(load(server.template), server.workers, server.setup)
                _check_kinds(load(server.template), server.setup)
            except (TypeError, ValueError) as e:
                raise self.of_arguments(name, e) from None
            self.check_cpus(name)

    def check_listen(self) -> None:
        """ConfigError if this host, unlike that of a part that joins, cannot be reached where the file says."""
        if self.listen is not None:
            try:
                addresses.listening(self.listen)
            except ConfigError as e:
                raise self.error(("cluster", "listen"), str(e)) from None

    def doubts(self) -> list[str]:
        """What would start, and is hardly meant."""
        there = os.cpu_count() or 1
        beyond = {name: s.cores for name, s in self.servers.items() if s.cores and s.cores > there}
        text = f"which is more than the {there} of this host: the threads would hinder one another"
        return [str(self.error(("servers", name, "cores"), f"cores = {n}, {text}")) for name, n in beyond.items()]

    def check_cpus(self, name: str) -> None:
        """ConfigError if they are not there, or fewer than `cores`."""
        server, place = self.servers[name], ("servers", name, "cpus")
        if server.cpus is None:
            return
        try:
            found = cpus.parse(server.cpus)
            cpus.check_allowed(found)
        except ValueError as e:
            raise self.error(place, f"cpus = {server.cpus!r}: {e}") from None
        if server.cores and server.cores > len(found):
            text = (
                f"cpus = {server.cpus!r} are {len(found)}, fewer than cores = {server.cores}: name more, or fewer cores"
            )
            raise self.error(place, text)

    def check_class(self, name: str) -> None:
        """ConfigError if the module or the class of a server is not there, or the module raises something."""
        template, place = self.servers[name].template, ("servers", name, "class")
        module_name, _, class_name = template.partition(":")
        try:
            with process.importing_templates():
                module = importlib.import_module(module_name)
        except Exception as e:
            if isinstance(e, ModuleNotFoundError) and e.name and f"{module_name}.".startswith(f"{e.name}."):
                text = f"there is no module {module_name!r}; looked in {self.path.parent} and in Python's path"
                raise self.error(place, text) from None
            text = f"the module {module_name!r} does not import: {_where(e)}{type(e).__name__}: {e}"
            raise self.error(place, text) from e
        if not hasattr(module, class_name):
            classes = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Server)]
            raise self.error(
                place, f"the module {module_name!r} has no class {class_name!r}{near(class_name, classes)}"
            )
        try:
            load(template)
        except TypeError as e:
            raise self.error(place, f"class = {template!r}: {e}") from None

    def of_arguments(self, name: str, e: Exception) -> ConfigError:
        """What a class says of the arguments that the file gives it."""
        return self.error(("servers", name, "workers" if str(e).startswith("workers=") else "setup"), str(e))

    def find_modules(self) -> None:
        directory = str(self.path.parent)
        if directory not in sys.path:
            sys.path.insert(0, directory)

    def forget_modules(self, others: Iterable[ServerTable] = ()) -> None:
        """Those of the classes, which may have changed since they were imported here; `others`: of servers too that it
        does not have any more."""
        packages = {s.template.partition(":")[0].partition(".")[0] for s in [*self.servers.values(), *others]}
        for name in [name for name in sys.modules if name.partition(".")[0] in packages - {"palm", "__main__"}]:
            del sys.modules[name]


def _check_kinds(cls: type[Server], setup: Mapping[str, Any]) -> None:
    """TypeError if a text stands where a hint of `setup` wants a number, or the like. Of other hints, as of arrays,
    nothing is said: what the file has may be made into that."""
    try:
        contract = contract_of(cls.setup)
    except TypeError:  # a text at a hint need be no shape here
        return
    for name, hint in (contract.takes | contract.constants).items():
        value, wanted = setup.get(name), [one for one in hint if not isinstance(one, Nothing)]
        if not wanted or not isinstance(value, (str, bool, int, float)) or not all(one in _PLAIN for one in wanted):
            continue
        if not isinstance(value, tuple(kind for one in wanted for kind in PYTHON[str(one)])):
            raise TypeError(f"{cls.__qualname__}.setup takes {name}: {contracts.text(hint)}, not {value!r}")


def _line_of_syntax(text: str, e: tomllib.TOMLDecodeError | UnicodeDecodeError) -> int:
    if isinstance(e, UnicodeDecodeError):
        return 1 + e.object.count(b"\n", 0, e.start)
    found = re.search(r"at line (\d+)", str(e))
    return int(found[1]) if found else max(1, len(text.splitlines()))  # else it is said to be at the end


def _where(e: Exception) -> str:
    """The user's line that has raised it, "file.py:3: ", or nothing."""
    if isinstance(e, SyntaxError):
        return f"{e.filename}:{e.lineno}: " if e.filename else ""
    ours = f"{Path(__file__).parent}{os.sep}"
    frames = traceback.extract_tb(e.__traceback__)
    users = [f for f in frames if not f.filename.startswith(("<", ours)) and f"importlib{os.sep}" not in f.filename]
    return f"{users[-1].filename}:{users[-1].lineno}: " if users else ""
