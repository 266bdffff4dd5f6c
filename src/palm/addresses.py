# SPDX-License-Identifier: BSD-3-Clause
"""Addresses of TCP: which one a cluster listens at, and from which one a process reaches it.

An endpoint with a key, ``tcp://KEY@host:port``, is encrypted, and nobody but who has that key can answer there. One
without is plain text, and has to be asked for: ``plaintext://host:port``. Within the host, 127.0.0.1, it is no matter.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from typing import NamedTuple

from palm import keys
from palm.errors import ConfigError, Disconnected

TCP, PLAIN = "tcp://", "plaintext://"
_SIOCGIFADDR = 0x8915  # netdevice(7)


class Place(NamedTuple):
    """Where TCP goes."""

    key: str  # public, of who receives there; "": plain text
    host: str
    port: str  # "*": any that is free

    @classmethod
    def of(cls, endpoint: str) -> Place:
        key, _, at = for_core(endpoint).removeprefix(TCP).rpartition("@")
        host, _, port = at.rpartition(":")
        return cls(key, host, port)

    def __str__(self) -> str:
        return f"{TCP}{self.key}{'@' if self.key else ''}{self.host}:{self.port}"


def is_tcp(endpoint: str) -> bool:
    return endpoint.startswith((TCP, PLAIN))


def for_core(endpoint: str) -> str:
    """As the core knows it: there, one without a key is plain text."""
    return TCP + endpoint.removeprefix(PLAIN) if endpoint.startswith(PLAIN) else endpoint


def has_key(endpoint: str) -> bool:
    return is_tcp(endpoint) and bool(Place.of(endpoint).key)


def normalised(address: str) -> str:
    """What a user may write, with a key: if there is none in it, that is the same as ours; else it is trusted from now
    on, since who receives there has to connect to us, too. Again: without effect."""
    if address.startswith("ipc:///"):
        return address
    if address.startswith("ipc://"):  # peers would look for ours beside it where they are
        raise Disconnected(f"{address!r} is no address: the path of a socket begins with /; or give a cluster's name")
    if "://" not in address:
        raise Disconnected(f"{address!r} is no address, nor a cluster's name: write tcp://{address}")
    place = Place.of(address)
    if not is_tcp(address) or not place.host or not place.port.isdecimal():
        raise Disconnected(f"{address!r} is no address: it is tcp://host:port, or the name of a cluster of this host")
    if place.key:
        keys.trust(place.key)
    if place.key or address.startswith(PLAIN) or _is_loopback(place.host):
        return address
    return str(place._replace(key=keys.own().public.hex()))


def beside(endpoint: str) -> str:
    """An endpoint of this host from which that one of TCP can be reached; encrypted, if that is."""
    place = Place.of(endpoint)
    key = keys.own().public.hex() if place.key else ""
    return str(Place(key, _source(place.host), "*"))


def listening(text: str) -> str:
    """The endpoint that ``listen = text`` of a cluster.toml means, with a port that is free now.

    Parameters
    ----------
    text : str
        An address, a network (``10.0.0.0/8``) or an interface (``eth0``) of this host, with or without ``:port``;
        behind ``plaintext://``, if nothing is to be encrypted.

    Raises
    ------
    ConfigError
        This host has no such address, or the port is taken; or there are no keys.
    """
    where, _, port = text.removeprefix(PLAIN).partition(":")
    host = _own_address(where)
    is_plain = text.startswith(PLAIN) or _is_loopback(host)
    key = "" if is_plain else keys.own().public.hex()
    endpoint = str(Place(key, host, port or str(_free_port(host))))
    return endpoint if key or _is_loopback(host) else endpoint.replace(TCP, PLAIN, 1)


def _own_address(where: str) -> str:
    try:
        host = (
            _own_in(ipaddress.IPv4Network(where, strict=False)) if "/" in where else str(ipaddress.IPv4Address(where))
        )
    except ValueError:
        host = _of_interface(where)
    if not host or not _is_ours(host):
        there = ", ".join(f"{name} {_of_interface(name)}" for _, name in socket.if_nameindex() if _of_interface(name))
        what = f"address in the network {where}" if "/" in where else f"IPv4 address {where!r}"
        raise ConfigError(f"this host has no {what}; it has: {there}")
    return host


def _own_in(network: ipaddress.IPv4Network) -> str:
    """Ours in a network; "" if there is none."""
    try:
        own = _source(str(network[1] if network.num_addresses > 2 else network[0]))
    except Disconnected:  # there is not even a way to it
        return ""
    return own if ipaddress.IPv4Address(own) in network else ""


def _of_interface(name: str) -> str:
    """The first address of an interface; "" if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            found = fcntl.ioctl(s.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return ""
    return socket.inet_ntoa(found[20:24])


def _is_ours(host: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        try:
            s.bind((host, 0))
        except OSError:
            return False
    return True


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind((host, 0))
        port: int = s.getsockname()[1]
        return port


def _source(host: str) -> str:
    """The address of ours that the kernel sends from to that host; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect((host, 9))
        except OSError as e:
            raise Disconnected(f"there is no way to {host!r} from this host: {e.strerror or e}") from None
        own: str = s.getsockname()[0]
        return own


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.")
