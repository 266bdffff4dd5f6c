# SPDX-License-Identifier: BSD-3-Clause
"""``palm up`` and ``palm down``: a process that owns a cluster until a signal ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from types import FrameType

import click

from palm import applying, control, places
from palm.cluster import Cluster
from palm.config import Configuration
from palm.errors import ConfigError, Disconnected, NotFound, Timeout
from palm.joining import Part

OWN_LOG = "owner.log"
STOP_SECONDS = 5.0  # that servers have to finish what they do, when the owner is told to stop


class Stopped(BaseException):
    """SIGTERM or Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.code = 130 if number == signal.SIGINT else 0
        super().__init__(signal.Signals(number).name)


def raise_on_signals() -> None:
    """From here on the first SIGTERM or Ctrl-C raises `Stopped`; a third Ctrl-C interrupts what that has begun."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def up(path: Path, ready_fd: int = -1) -> int:
    """Own the cluster that `path` describes until a signal comes; returns the exit code.

    ready_fd: where to write "ready" when all servers are; -1: say so on standard output.
    """
    configuration = Configuration.read(path)
    if applied(configuration):
        return 0
    raise_on_signals()
    try:
        cluster = applying.open_cluster(configuration)
        try:
            if ready_fd >= 0:
                cluster._logs.mute()  # that file would grow for ever
            with applying.serve_metrics(configuration, cluster):
                applying.start(configuration, cluster)
                with control.Control(cluster, Running(configuration, cluster).apply):
                    _announce(cluster, configuration, ready_fd)
                    threading.Event().wait()
        finally:
            cluster.close(STOP_SECONDS)
            _remove_silent(cluster._logs.path)
    except Stopped as e:
        if e.code:
            click.echo("palm: interrupted", err=True)
        return e.code
    return 0


def join(address: str, path: Path) -> int:
    """Have this host be a part of the cluster at `address`, with what `path` describes, until that ends or a signal
    comes; returns the exit code."""
    configuration = Configuration.read(path)
    raise_on_signals()
    try:
        with Part(address) as part:
            for line in part.start(configuration):
                click.echo(line)
            click.echo(f"joined {part.address} (pid {os.getpid()}, here {part.name}); leave it with Ctrl-C")
            click.echo(f"the cluster is over: {part.wait()}")
    except Stopped as e:
        if e.code:
            click.echo("palm: interrupted", err=True)
        return e.code
    return 0


class Running:
    """What the owner has started, and starts and stops when it is told that the file has changed."""

    def __init__(self, configuration: Configuration, cluster: Cluster) -> None:
        self._configuration, self._cluster = configuration, cluster
        self._servers = dict(configuration.servers)

    def apply(self, path: str) -> list[str]:
        """Returns what had to be done."""
        configuration = Configuration.read(path)
        if configuration.path != self._configuration.path:
            raise ConfigError(
                f"{path}:1: the cluster {configuration.name} that runs is that of {self._configuration.path}: give "
                "this one another name"
            )
        for key in ("metrics", "listen"):
            if getattr(configuration, key) != getattr(self._configuration, key):
                raise applying.fixed(configuration, key, getattr(self._configuration, key))
        return applying.apply(configuration, self._cluster, self._servers)


def _announce(cluster: Cluster, configuration: Configuration, ready_fd: int) -> None:
    if ready_fd < 0:
        click.echo(
            f"cluster {cluster.name} is up: {', '.join(configuration.servers) or 'no servers'} "
            f"(pid {os.getpid()}); stop it with Ctrl-C or: palm down {cluster.name}"
        )
        return
    _say_beside(cluster._logs.path)
    with contextlib.suppress(BrokenPipeError), open(ready_fd, "w") as pipe:
        pipe.write(f"ready {cluster.name}")


def _say_beside(log: Path) -> None:
    """What this process itself has to say from now on, as when it crashes, lies with the log of its cluster."""
    with contextlib.suppress(OSError):
        log.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(log / OWN_LOG, "ab", opener=partial(os.open, mode=0o600)) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


def _remove_silent(log: Path) -> None:
    """Leaves nothing where nothing was said."""
    with contextlib.suppress(OSError):
        if not (log / OWN_LOG).stat().st_size:
            (log / OWN_LOG).unlink()
        log.rmdir()  # unless something is in it


def up_detached(path: Path) -> int:
    """`up` in a process and session of its own; returns when all servers are ready, or it has failed."""
    configuration = Configuration.read(path)
    if applied(configuration):
        return 0
    with tempfile.TemporaryFile() as output:
        child, said = _begun(path, output.fileno())
        if not said:
            code = child.wait()
            output.seek(0)
            why = output.read().decode(errors="replace").rstrip()
            click.echo(why or "palm: it was stopped before it was ready", err=True)
            return max(1, code)
    name = said.removeprefix("ready ")
    click.echo(
        f"cluster {name} is up: {', '.join(configuration.servers) or 'no servers'} "
        f"(pid {child.pid}); what it says: palm logs -f --cluster {name}; stop it with: palm down {name}"
    )
    child.returncode = 0  # it is not ours to wait for
    return 0


def _begun(path: Path, output: int) -> tuple[subprocess.Popen[bytes], str]:
    """The process that owns the cluster, and what it has said when it was ready; nothing, if it has failed."""
    ready, told = os.pipe()
    command = [sys.executable, "-P", "-c", "from palm.cli import main; main()", "up", str(path.absolute())]
    child = subprocess.Popen(
        [*command, "--ready-fd", str(told)],
        pass_fds=[told],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    os.close(told)
    try:
        with open(ready) as pipe:
            return child, pipe.read()
    except BaseException:
        child.terminate()
        raise


def applied(configuration: Configuration) -> bool:
    """True if a cluster of that name runs already: it is as the configuration says now."""
    name = configuration.name
    if name is None or name not in places.clusters():
        return False
    configuration.check()  # what its modules raise is seen here
    done = control.apply(places.find(name), configuration.path)
    click.echo(f"cluster {name} is up: {', '.join(done) or 'nothing had to be changed'}")
    if not done:
        click.echo(
            "(the code of its servers is not compared: palm down, and up again, where that has changed)", err=True
        )
    return True


def down(name: str | None, timeout: float) -> str:
    """End the owner of a cluster, and wait until nothing of it is left; returns its name.

    Raises
    ------
    Disconnected
        There is no such cluster.
    NotFound
        No name was given, and the only cluster is that of a script.
    Timeout
        It is still there after `timeout` seconds.
    """
    address = places.find(name)
    path = places.directory_of(address)
    pid = places.owner(path) if path else 0
    if path is None or not pid:
        raise Disconnected(f"{address!r} is no cluster of this host: palm down works where it was started")
    if not (name or os.environ.get("PALM_CLUSTER") or (path / control.SOCKET).exists()):
        raise NotFound(
            f"the only cluster, {path.name}, is no `palm up`, or has not started all its servers, or is about to end: "
            f"what belongs to a script is closed there; to end its process (pid {pid}) too, name it: "
            f"palm down {path.name}"
        )
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
    end = time.monotonic() + timeout
    while path.exists() and places.owner(path) in (pid, 0):
        if time.monotonic() > end:
            raise Timeout(f"cluster {path.name} (pid {pid}) is still stopping after {timeout:g} s")
        places.sweep()
        time.sleep(0.02)
    return path.name
