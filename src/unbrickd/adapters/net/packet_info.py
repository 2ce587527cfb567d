# SPDX-License-Identifier: Apache-2.0
"""By which interface, and at which of our addresses, a datagram came; and sending one out by an interface.

Naming the interface is what makes an IPv4 link work without set-up: Linux then takes the other side to be on that link
although no route leads there (ip(7), IP_PKTINFO), and a broadcast leaves by every interface and not by one. Where the
platform does not tell, routes decide. A host that has no IPv4 address is 0.0.0.0, and is reached by broadcast
(spec/protocol.md §1). A datagram that comes with TTL 255 crossed no router (RFC 5082 §3), so that its answer need not
go to one either, whatever the routes say. Knows datagrams, not what they mean.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from unbrickd.wire.framing import Octets

MULTICAST_GROUP = "ff02::7562"
BROADCAST = "255.255.255.255"
NO_ADDRESS = "0.0.0.0"

_LINUX = sys.platform == "linux"
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
_IP_RECVTTL = 12
"""ip(7), as Linux numbers them; the socket module of Python 3.11 names neither."""
_TTL_FROM_THE_LINK = 255
_PKTINFO_4 = struct.Struct("=I4s4s")
"""struct in_pktinfo: interface, local address, destination (ip(7))."""
_PKTINFO_6 = struct.Struct("=16sI")
"""struct in6_pktinfo: address, interface (RFC 3542 §6)."""
Ancillary = tuple[int, int, bytes]
"""Level, kind and bytes of what goes with a datagram, as recvmsg(2) and sendmsg(2) have it."""


class Local(NamedTuple):
    """Our side of a datagram. address: ours that it came to, or is to come from, packed; empty if it is all the same.

    on_link: the other side is on the very link, of IPv4.
    """

    address: bytes = b""
    on_link: bool = False

    @property
    def has_no_address(self) -> bool:
        return self.address == bytes(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """interface: 0 where it is not told; an IPv6 address names it only where it is no use without."""

    host: str
    port: int
    interface: int
    local: Local


ANY = Local()


def tells_interface(family: int) -> bool:
    """Whether this platform tells, and takes, the interface of a datagram of that family."""
    return _LINUX if family == socket.AF_INET else hasattr(socket, "IPV6_RECVPKTINFO") and sys.platform != "win32"


def ask_for_interface(sock: socket.socket) -> None:
    """Be told by which interface a datagram came; show that ours cross no router. Raises OSError."""
    if sock.family == socket.AF_INET6:
        if tells_interface(sock.family):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        return
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _TTL_FROM_THE_LINK)
    if tells_interface(sock.family):
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)


def origin_of(family: int, address: tuple[str | int, ...], ancillary: Iterable[Ancillary]) -> Origin:
    """Where a datagram came from, by the address and what else came with it."""
    interface, local, on_link = int(address[3]) if family == socket.AF_INET6 else 0, b"", False
    for level, kind, told in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            interface, local, _ = _PKTINFO_4.unpack(told)
        elif level == socket.IPPROTO_IP and kind == socket.IP_TTL:
            on_link = int.from_bytes(told, sys.byteorder) == _TTL_FROM_THE_LINK
        elif level == socket.IPPROTO_IPV6 and len(told) == _PKTINFO_6.size:
            local, _ = _PKTINFO_6.unpack(told)
            local = b"" if local.startswith(b"\xff") else local  # nothing is sent from a multicast group
    return Origin(
        host=str(address[0]).partition("%")[0],
        port=int(address[1]),
        interface=interface,
        local=Local(address=local, on_link=on_link),
    )


@dataclass(frozen=True, slots=True)
class Way:
    """How a datagram gets to its peer: what sendmsg(2) is told."""

    to: tuple[str, int] | tuple[str, int, int, int]
    told: tuple[Ancillary, ...] = ()
    flags: int = 0


def way_to(family: int, host: str, port: int, *, interface: int = 0, local: Local = ANY) -> Way:
    """By `interface` if it is not 0. To a host that has no address, or if we ourselves have none, by broadcast."""
    if family == socket.AF_INET6:
        if not local.address or not tells_interface(family):
            return Way((host, port, 0, interface))
        where = _PKTINFO_6.pack(local.address, interface)
        return Way((host, port, 0, interface), ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, where),))
    to = (BROADCAST if host == NO_ADDRESS or local.has_no_address else host, port)
    if not interface or not tells_interface(family):
        return Way(to)
    where = _PKTINFO_4.pack(interface, local.address or bytes(4), bytes(4))
    return Way(to, ((socket.IPPROTO_IP, _IP_PKTINFO, where),), socket.MSG_DONTROUTE if local.on_link else 0)


def send(sock: socket.socket, octets: Octets, way: Way, *, ancillary: tuple[Ancillary, ...] = ()) -> None:
    """Send one datagram; `ancillary` goes with it, where the platform has such. Raises OSError."""
    told = ancillary + way.told
    if told:
        sock.sendmsg((octets,), told, way.flags, way.to)
    else:
        sock.sendto(octets, way.to)


def join(sock: socket.socket, interface: int) -> None:
    """Hear the multicast group on this interface, with an IPv6 socket. Raises OSError, also if it does already."""
    group = socket.inet_pton(socket.AF_INET6, MULTICAST_GROUP)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", interface))


def interfaces() -> list[int]:
    """The indexes of this host's interfaces now; empty where the platform does not tell."""
    try:
        return [index for index, _ in socket.if_nameindex()]
    except OSError:
        return []
