# SPDX-License-Identifier: Apache-2.0
"""Addresses that a server listens on: bound sockets, and errors in words where one cannot be had."""

from __future__ import annotations

import errno
import socket
import sys
from dataclasses import dataclass

from unbrickd.errors import ConfigError
from unbrickd.model.peer import Transport

_FAMILY_LACKING = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Where a server really listens, after port 0 was replaced by the system's choice."""

    transport: Transport
    host: str
    port: int

    @property
    def address(self) -> str:
        """As in a URL: 127.0.0.1:21530, [::1]:21530."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return self.host == "::1" or self.host.startswith("127.")


def bound_socket(kind: socket.SocketKind, address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    """A non-blocking socket bound to a numeric address; IPv6 sockets take no IPv4. shared: with sockets of this user
    that are shared, too.

    Raises ConfigError: "port-in-use", "port-not-allowed", "address-not-here" (also a family that this host lacks).
    """
    host, port = address
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=kind, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(
            f"{host!r} is not the address of an interface",
            code="address-not-here",
            hint="give it in digits, as in 192.168.1.10:21530 or [::1]:21530",
        ) from error
    try:
        sock = socket.socket(family, kind)
    except OSError as error:
        raise _refused(kind, host, port, error) from error
    try:
        if sys.platform == "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        elif kind == socket.SOCK_STREAM:
            # Connections of the last run may linger; a second server that still listens is refused all the same.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(where)
    except OSError as error:
        sock.close()
        raise _refused(kind, host, port, error) from error
    return sock


def _refused(kind: socket.SocketKind, host: str, port: int, error: OSError) -> ConfigError:
    name = f"{'UDP' if kind == socket.SOCK_DGRAM else 'TCP'} port {port} of {host}"
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"{name} is in use",
            code="port-in-use",
            hint="is another `unbrickd serve` running? `unbrickd doctor` names the program that has it",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(f"{name} may not be used", code="port-not-allowed", hint="choose a port above 1023")
    if error.errno in _FAMILY_LACKING:
        return ConfigError(
            f"this computer has no address {host}", code="address-not-here", hint="0.0.0.0 and :: mean all there are"
        )
    return ConfigError(f"{name} cannot be used: {error.strerror}", code="address-not-here")
