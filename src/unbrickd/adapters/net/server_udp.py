# SPDX-License-Identifier: Apache-2.0
"""The server's UDP sockets: raw and non-blocking, so that a datagram that does not fit waits here and nowhere else.

An answer leaves by the interface, and from the address, that the question came to, where the platform tells (Linux:
ip(7) IP_PKTINFO, ipv6(7) IPV6_PKTINFO). So it reaches a device whose address no route of this host leads to, and a
device that asked by broadcast or multicast. Knows datagrams, not what they mean. Spec: spec/protocol.md §1.
"""

from __future__ import annotations

import socket
import struct
import sys
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from unbrickd.adapters.net.binding import Bound, bound_socket
from unbrickd.model.peer import Peer, Transport
from unbrickd.wire.framing import DEVICE_PORT, MAX_MESSAGE_BYTES

MULTICAST_GROUP = "ff02::7562"
BROADCAST = "255.255.255.255"
SOCKET_BUFFER_BYTES = 4 << 20
"""Asked of the operating system, which may give less: a window of every device of a street at once."""
MAX_BATCH = 64
"""Datagrams read at once, so that answers are not held up by a flood."""
MAX_HELD = 256
"""Datagrams that wait for the socket to take them; what is beyond is lost, as on any network."""

_LINUX = sys.platform == "linux"
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8) if _LINUX else None
_PKTINFO_4 = struct.Struct("=I4s4s")
"""struct in_pktinfo: interface, local address, destination (ip(7))."""
_PKTINFO_6 = struct.Struct("=16sI")
"""struct in6_pktinfo: address, interface (RFC 3542 §6)."""
_ANCILLARY_BYTES = 128
_DONT_FRAGMENT: dict[str, tuple[tuple[int, int, int], ...]] = {
    # (level, option, value), from ip(7), ipv6(7), ws2ipdef.h and netinet/in.h; the socket module names few of them.
    "linux": ((socket.IPPROTO_IP, 10, 2), (socket.IPPROTO_IPV6, 23, 2)),
    "win32": ((socket.IPPROTO_IP, 14, 1), (socket.IPPROTO_IPV6, 14, 1)),
    "darwin": ((socket.IPPROTO_IP, 28, 1), (socket.IPPROTO_IPV6, 62, 1)),
}

OnDatagrams = Callable[[list[tuple[Peer, bytes]]], None]
Address = tuple[str, int] | tuple[str, int, int, int]


class UdpSocket:
    """One bound socket. Each local address of this host that is written to is a channel of its own."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        address: tuple[str, int],
        *,
        channels: Callable[[UdpSocket], int],
        on_datagrams: OnDatagrams,
        on_writable: Callable[[], None],
    ) -> None:
        """channels: gives out a number not used before. Raises ConfigError as `bound_socket` does."""
        self._loop = loop
        self._new_channel = channels
        self._on_datagrams = on_datagrams
        self._on_writable = on_writable
        self._socket = bound_socket(socket.SOCK_DGRAM, address)
        self._is_ipv6 = self._socket.family == socket.AF_INET6
        self._is_any = address[0] in ("0.0.0.0", "::")
        self._channel_of: dict[bytes, int] = {}
        self._local_of: dict[int, bytes] = {}
        self._held: deque[tuple[Peer, bytes]] = deque(maxlen=MAX_HELD)
        self._joined: set[int] = set()
        self._configure()
        loop.add_reader(self._socket, self._readable)

    def _configure(self) -> None:
        """Every option is an improvement that some platform lacks; the socket serves without."""
        wanted = [
            (socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES),
            (socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES),
            *_DONT_FRAGMENT.get(sys.platform, ()),
        ]
        if self._is_ipv6 and hasattr(socket, "IPV6_RECVPKTINFO"):
            wanted.append((socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1))
        elif not self._is_ipv6:
            wanted.append((socket.SOL_SOCKET, socket.SO_BROADCAST, 1))
            if _IP_PKTINFO is not None:
                wanted.append((socket.IPPROTO_IP, _IP_PKTINFO, 1))
        for level, option, value in wanted:
            with suppress(OSError):
                self._socket.setsockopt(level, option, value)

    @property
    def bound(self) -> Bound:
        host, port = self._socket.getsockname()[:2]
        return Bound(transport=Transport.UDP, host=host, port=port)

    @property
    def is_blocked(self) -> bool:
        """Whether the operating system takes no more for now; `on_writable` is called when it does again."""
        return bool(self._held)

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self._local_of)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        if self._held:
            self._loop.remove_writer(self._socket)
        self._socket.close()

    # Receiving

    def _readable(self) -> None:
        received: list[tuple[Peer, bytes]] = []
        for _ in range(MAX_BATCH):
            try:
                received.append(self._receive())
            except BlockingIOError:
                break
            except OSError:
                continue  # Windows reports here that an earlier datagram found no one (WSAECONNRESET)
        if received:
            self._on_datagrams(received)

    def _receive(self) -> tuple[Peer, bytes]:
        if not hasattr(self._socket, "recvmsg"):
            octets, address = self._socket.recvfrom(MAX_MESSAGE_BYTES)
            return self._peer(address, b"", 0), octets
        octets, ancillary, _, address = self._socket.recvmsg(MAX_MESSAGE_BYTES, _ANCILLARY_BYTES)
        local, interface = b"", 0
        for level, kind, told in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                interface, local, _ = _PKTINFO_4.unpack(told)
            elif self._is_ipv6 and level == socket.IPPROTO_IPV6 and len(told) == _PKTINFO_6.size:
                local, _ = _PKTINFO_6.unpack(told)
                local = b"" if local.startswith(b"\xff") else local  # nothing is sent from a multicast group
        return self._peer(address, local, interface), octets

    def _peer(self, address: tuple[str | int, ...], local: bytes, interface: int) -> Peer:
        """interface: of an IPv4 datagram; an IPv6 address carries its own where it needs one."""
        host, port = str(address[0]).partition("%")[0], int(address[1])
        scope = int(address[3]) if self._is_ipv6 else interface
        channel = self._channel_of.get(local)
        if channel is None:
            channel = self._channel_of[local] = self._new_channel(self)
            self._local_of[channel] = local
        return Peer(transport=Transport.UDP, host=host, port=port, scope=scope, channel=channel)

    # Sending

    def send(self, peer: Peer, octets: bytes) -> None:
        """Send one datagram, or hold it until the socket takes it. What the network refuses is lost."""
        if self._held:
            self._held.append((peer, octets))
        elif not self._sent(peer, octets):
            self._held.append((peer, octets))
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        while self._held:
            if not self._sent(*self._held[0]):
                return
            self._held.popleft()
        self._loop.remove_writer(self._socket)
        self._on_writable()

    def _sent(self, peer: Peer, octets: bytes) -> bool:
        """False only if it should be tried again when the socket is writable."""
        local = self._local_of.get(peer.channel, b"")
        return self._transmit(octets, _address(peer), local, peer.scope)

    def _transmit(self, octets: bytes, address: Address, local: bytes, interface: int) -> bool:
        ancillary: list[tuple[int, int, bytes]] = []
        if self._is_ipv6 and local and hasattr(socket, "IPV6_PKTINFO"):
            ancillary.append((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO_6.pack(local, interface)))
        elif not self._is_ipv6 and _IP_PKTINFO is not None and interface:
            told = _PKTINFO_4.pack(interface, local or bytes(4), bytes(4))
            ancillary.append((socket.IPPROTO_IP, _IP_PKTINFO, told))
        try:
            if ancillary and sys.platform != "win32":
                self._socket.sendmsg((octets,), ancillary, 0, address)
            else:
                self._socket.sendto(octets, address)
        except BlockingIOError:
            return False
        except OSError:
            pass  # EMSGSIZE (the path takes less), ENETUNREACH, ENOBUFS and their like: lost, as on any network
        return True

    # Being found

    def join(self, interfaces: list[int]) -> None:
        """Hear Probes on these interfaces, and forget those that went away. Call it again as they come and go."""
        if not (self._is_ipv6 and self._is_any):
            return
        group = socket.inet_pton(socket.AF_INET6, MULTICAST_GROUP)
        self._joined &= set(interfaces)
        for index in set(interfaces) - self._joined:
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", index))
            self._joined.add(index)

    def announce(self, octets: bytes, interfaces: list[int]) -> None:
        """Send to every device on every link (§4.15). Not from a socket that is bound to one address."""
        if not self._is_any or self._held:
            return
        if self._is_ipv6:
            for index in interfaces:
                self._transmit(octets, (MULTICAST_GROUP, DEVICE_PORT, 0, index), b"", index)
        elif _IP_PKTINFO is None:
            self._transmit(octets, (BROADCAST, DEVICE_PORT), b"", 0)
        else:
            for index in interfaces:
                self._transmit(octets, (BROADCAST, DEVICE_PORT), b"", index)


def _address(peer: Peer) -> Address:
    return (peer.host, peer.port, 0, peer.scope) if ":" in peer.host else (peer.host, peer.port)


def interfaces() -> list[int]:
    """The indexes of this host's interfaces now; empty where the platform does not tell."""
    try:
        return [index for index, _ in socket.if_nameindex()]
    except OSError:
        return []
