# SPDX-License-Identifier: BSD-3-Clause
"""The keys with which all that leaves a host is encrypted, and whose keys are let in.

They lie in ``$PALM_KEYS``, else ``$XDG_CONFIG_HOME/palm`` or ``~/.config/palm``: `key`, the secret one, which nobody
else may be able to read; `key.pub`, the public one; and `allowed`, public keys of others, one a line, with what one
likes behind it. Who has the same files has the same key, and is let in without more; so have the hosts of one home.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from palm.errors import ConfigError

_KEY = re.compile(r"[0-9a-f]{64}\Z")
_trusted: set[bytes] = set()


class Pair(NamedTuple):
    """Of CURVE; 32 bytes each."""

    public: bytes
    secret: bytes


def directory() -> Path:
    """Where the keys are."""
    if given := os.environ.get("PALM_KEYS"):
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "palm"


def own() -> Pair:
    """This user's; ConfigError if there are none, or others could have read the secret one."""
    path = directory() / "key"
    try:
        with open(path) as f:
            _check_private(path, os.fstat(f.fileno()))
            secret = _parse(f.read().strip(), f"{path}:1")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no key in {path.parent}: `palm keys` makes one; or copy the directory of a host that has it"
        ) from None
    return Pair(_public_of(secret), secret)


def _check_private(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{path} has to be readable by you alone (0600), but is {stat.filemode(found.st_mode)} of uid "
            f"{found.st_uid}: others may have read it; remove it, and make a new one by `palm keys`"
        )


def allowed() -> list[bytes]:
    """Public keys of those that may connect: ours, those in the list, and those that this process trusts."""
    return [own().public, *_listed(directory() / "allowed"), *_trusted]


def trust(key: str) -> None:
    """That of a cluster that somebody has named."""
    _trusted.add(_parse(key, "the key of an address"))


def _listed(path: Path) -> list[bytes]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    words = [(number, line.split()[0]) for number, line in enumerate(lines, 1) if line.partition("#")[0].strip()]
    return [_parse(word, f"{path}:{number}") for number, word in words]


def make() -> bool:
    """Makes a pair, if there is none; True if it had to."""
    import getpass

    import zmq
    from zmq.utils import z85

    path = directory()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    public, secret = (z85.decode(key).hex() for key in zmq.curve_keypair())
    try:
        fd = os.open(path / "key", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    with open(fd, "w") as f:
        f.write(f"{secret}\n")
    (path / "key.pub").write_text(f"{public} {getpass.getuser()}@{socket.gethostname()}\n")
    return True


def allow(key: str) -> bool:
    """Adds a public key to the list, with what may stand behind it; True if it was not there."""
    path = directory() / "allowed"
    word = key.split()[0] if key.split() else ""
    if _parse(word, "the key") in allowed():
        return False
    with open(path, "a") as f:
        f.write(f"{key}\n")
    return True


def _public_of(secret: bytes) -> bytes:
    import zmq
    from zmq.utils import z85

    public: bytes = z85.decode(zmq.curve_public(z85.encode(secret)))
    return public


def _parse(text: str, where: str) -> bytes:
    if not _KEY.match(text):
        raise ConfigError(f"{where}: a key has 64 hexadecimal digits, 0-9 and a-f, but this is {text[:70]!r}")
    return bytes.fromhex(text)
