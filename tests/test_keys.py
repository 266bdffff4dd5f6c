"""Keys and addresses of TCP, without a network."""

import os
import stat
from pathlib import Path

import pytest

from palm import ConfigError, Disconnected, addresses, keys

OTHER = "23cfc17acf089af02453554bc04ea5d9524987352b3a239e94b011d28574a704"


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("PALM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(keys, "_trusted", set())
    return tmp_path / "keys"


def test_made_once(directory):
    assert keys.make()
    pair = keys.own()
    assert stat.S_IMODE((directory / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (directory / "key.pub").read_text().split()[0] == pair.public.hex()
    assert not keys.make()
    assert keys.own() == pair


def test_readable_by_others(directory):
    keys.make()
    (directory / "key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"key has to be readable by you alone \(0600\), but is -rw-r-----"):
        keys.own()


def test_no_key(directory):
    with pytest.raises(ConfigError, match="there is no key in .*keys: `palm keys` makes one"):
        keys.own()


def test_allowed(directory):
    keys.make()
    assert keys.allowed() == [keys.own().public]
    assert keys.allow(f"{OTHER} of a friend")
    assert not keys.allow(OTHER)
    assert keys.allowed() == [keys.own().public, bytes.fromhex(OTHER)]
    (directory / "allowed").write_text(f"# friends\n\n{OTHER[:-1]}\n")
    with pytest.raises(ConfigError, match=r"allowed:3: a key has 64 hexadecimal digits, .* '23cf"):
        keys.allowed()


@pytest.mark.parametrize("key", ["", "abc", OTHER.upper(), f"{OTHER}0"])
def test_no_key_to_allow(directory, key):
    keys.make()
    with pytest.raises(ConfigError, match="a key has 64 hexadecimal digits"):
        keys.allow(key)
    assert not (directory / "allowed").exists()


def test_addresses(directory):
    keys.make()
    own = keys.own().public.hex()
    assert addresses.normalised("tcp://head:4711") == f"tcp://{own}@head:4711"
    for same in (f"tcp://{OTHER}@head:1", "plaintext://head:1", "tcp://127.0.0.1:1", "tcp://localhost:1", "ipc:///x/y"):
        assert addresses.normalised(same) == same
        assert addresses.normalised(addresses.normalised(same)) == same
    assert bytes.fromhex(OTHER) in keys.allowed()
    assert addresses.for_core("plaintext://head:1") == "tcp://head:1"
    assert addresses.has_key(f"tcp://{OTHER}@head:1") and not addresses.has_key("plaintext://head:1")


@pytest.mark.parametrize("address", ["tcp://head", "tcp://:5", "tcp://head:port", "tcp://"])
def test_no_address(directory, address):
    with pytest.raises(Disconnected, match="is no address: it is tcp://host:port"):
        addresses.normalised(address)


def test_loopback_needs_no_key(directory):
    assert addresses.listening("127.0.0.1").startswith("tcp://127.0.0.1:")
    assert addresses.listening("127.0.0.1:4711") == "tcp://127.0.0.1:4711"
    assert addresses.listening("lo").startswith("tcp://127.0.0.1:")
    assert addresses.beside("tcp://127.0.0.1:5") == "tcp://127.0.0.1:*"
    with pytest.raises(ConfigError, match="this host has no IPv4 address 'nowhere0'; it has: lo 127.0.0.1"):
        addresses.listening("nowhere0")


def test_where_keys_are(monkeypatch):
    monkeypatch.delenv("PALM_KEYS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    assert keys.directory() == Path("/x/palm")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert keys.directory() == Path(os.path.expanduser("~/.config/palm"))
