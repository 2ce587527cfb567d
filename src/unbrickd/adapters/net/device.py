# SPDX-License-Identifier: Apache-2.0
"""The device's link to its server: UDP or TCP client sockets behind one small interface (R1, R3).

The only place where agent and recovery meet sockets. Addresses come from the layout file; "discover" is broadcast and
multicast on every link (spec/protocol.md §1). What the operating system refuses to send is lost, as on any network.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from unbrickd.adapters.net import packet_info
from unbrickd.adapters.net.borrowed_address import BorrowedAddress, Say, unheard
from unbrickd.adapters.net.datagrams import DatagramSocket, batches
from unbrickd.adapters.net.packet_info import BROADCAST, MULTICAST_GROUP, Origin
from unbrickd.errors import ConfigError, RemoteProtocolError
from unbrickd.model.layout import LinkLayout
from unbrickd.model.peer import Batch, Datagram, Peer, Transport
from unbrickd.wire.framing import DEFAULT_PORT, DEVICE_PORT, MAX_MESSAGE_BYTES, Octets, StreamSplitter

DISCOVER = "discover"
RECEIVE_BUFFER_BYTES = 1 << 20
"""Asked of the operating system; a burst of one window must fit while flash is being written."""
MAX_BATCH = 64
"""Messages handed out by one `receive`, so that answers are not held up by a flood."""
SEND_PATIENCE_S = 0.1
"""While the operating system takes no datagram; what it does not take by then is lost, as on any network."""
TCP_PATIENCE_S = 5.0


class DeviceLink(Protocol):
    """What agent and recovery are driven over."""

    targets: tuple[Peer, ...]
    max_message_bytes: int
    sent_bytes: int
    received_bytes: int
    """Of messages, headers of the layers below not counted."""

    def send(self, messages: Sequence[Datagram]) -> None:
        """Send messages, in this order; they may be lost."""
        ...

    def receive(self, timeout_s: float) -> list[tuple[Peer, Octets]]:
        """Messages that are there, or that come within that time; not many more than MAX_BATCH.

        Their octets hold until the next call.
        """
        ...

    def close(self) -> None: ...


def open_link(layout: LinkLayout, *, say: Say = unheard) -> DeviceLink:
    """The link that a layout file describes. Raises ConfigError for an address that cannot be found."""
    if layout.transport == "tcp":
        return TcpLink(layout)
    return UdpLink(layout, say)


def split_address(text: str, *, default_port: int) -> tuple[str, int]:
    """Host and port of "host", "host:port", "[v6]", "[v6]:port" or a bare IPv6 address. Raises ConfigError."""
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isdigit() and int(port) < 1 << 16)):
        raise ConfigError(
            f"{text!r} is not an address", code="address", hint="write it like 192.168.1.10, pc.lan:21530 or [fe80::1]"
        )
    return host, int(port) if port else default_port


def _resolve(layout: LinkLayout) -> tuple[Peer, ...]:
    """The peers that a layout's `servers` name; names are looked up once, when the link is opened."""
    transport = Transport(layout.transport)
    peers: list[Peer] = []
    for server in layout.servers:
        if server == DISCOVER:
            if transport is Transport.UDP:
                peers += _everywhere()
            continue
        host, port = split_address(server, default_port=DEFAULT_PORT)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise ConfigError(
                f"the server {host!r} cannot be found: {error}", code="address", hint="check [link] servers"
            ) from error
        peers += [_peer(transport, address) for *_, address in found]
    if not peers:
        raise ConfigError(
            "over TCP a server's address must be named", code="address", hint='set [link] servers = ["192.168.1.10"]'
        )
    return tuple(dict.fromkeys(peers))


def _everywhere() -> list[Peer]:
    """Broadcast and multicast on every link; where the platform cannot name the link of a broadcast, it chooses."""
    links = packet_info.interfaces()
    broadcast_links = links if links and packet_info.tells_interface(socket.AF_INET) else [0]
    return [
        Peer(transport=Transport.UDP, host=host, port=DEFAULT_PORT, scope=index)
        for host, indexes in ((BROADCAST, broadcast_links), (MULTICAST_GROUP, links))
        for index in indexes
    ]


def _peer(transport: Transport, address: tuple[str | int | bytes, ...]) -> Peer:
    host, port = str(address[0]).partition("%")[0], int(address[1])
    return Peer(transport=transport, host=host, port=port, scope=int(address[3]) if len(address) > 3 else 0)


class UdpLink:
    """One socket for IPv4 and one for IPv6, as far as the machine has them."""

    def __init__(self, layout: LinkLayout, say: Say) -> None:
        self.targets = _resolve(layout)
        self.max_message_bytes = layout.max_message_bytes
        self.sent_bytes = self.received_bytes = 0
        self._sockets: dict[int, socket.socket] = {}
        self._datagrams: dict[int, DatagramSocket] = {}
        self._without_address: dict[int, bool] = {}
        """The interfaces on which we turned out to have no IPv4 address, so that servers are met by broadcast."""
        listens = DISCOVER in layout.servers
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                self._sockets[family] = _udp_socket(family, DEVICE_PORT if listens else 0)
                self._datagrams[family] = DatagramSocket(self._sockets[family], peer_of=self._peer_of)
        if not self._sockets:
            raise ConfigError("this machine offers neither IPv4 nor IPv6", code="network")
        self._borrowed = BorrowedAddress(layout.borrow_address, say=say) if layout.borrow_address else None

    def send(self, messages: Sequence[Datagram]) -> None:
        for batch in batches(messages):
            self._send(batch)

    def _send(self, batch: Batch) -> None:
        peer, octets = batch.peer, memoryview(batch.octets)
        family = socket.AF_INET6 if ":" in peer.host else socket.AF_INET
        if family not in self._sockets:
            return
        self.sent_bytes += len(octets)
        without_address = family == socket.AF_INET and self._without_address.get(peer.scope, False)
        host = BROADCAST if without_address else peer.host
        deadline_s = time.monotonic() + SEND_PATIENCE_S
        while octets:
            done = self._datagrams[family].send(octets, batch.message_bytes, host, peer.port, interface=peer.scope)
            octets = octets[done:]
            if octets:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not select.select([], [self._sockets[family]], [], left_s)[1]:
                    return

    def receive(self, timeout_s: float) -> list[tuple[Peer, Octets]]:
        borrowed = None if self._borrowed is None or self._borrowed.is_settled else self._borrowed
        if borrowed is not None:
            timeout_s = min(timeout_s, borrowed.due_s - time.monotonic())
        ready, _, _ = select.select(list(self._sockets.values()), [], [], max(0.0, timeout_s))
        received: list[tuple[Peer, Octets]] = []
        for sock in ready:
            received += self._datagrams[sock.family].receive(MAX_BATCH)
        self.received_bytes += sum(len(octets) for _, octets in received)
        if borrowed is not None:
            received = borrowed.sift(received, time.monotonic())
            if borrowed.address is not None:
                self._without_address[borrowed.interface] = False
        return received

    def _peer_of(self, origin: Origin) -> Peer:
        if ":" not in origin.host:
            self._without_address[origin.interface] = origin.local.has_no_address
        return Peer(transport=Transport.UDP, host=origin.host, port=origin.port, scope=origin.interface)

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        if self._borrowed is not None:
            self._borrowed.close()


def _udp_socket(family: int, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    if family == socket.AF_INET:
        packet_info.ask_for_interface(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if sys.platform == "linux":
            # IP_MTU_DISCOVER = IP_PMTUDISC_DO: never fragment (ip(7)); the socket module does not name them.
            sock.setsockopt(socket.IPPROTO_IP, 10, 2)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind(("", port))
    except OSError:
        sock.bind(("", 0))  # another program listens for Announce here; Probes work all the same
    if family == socket.AF_INET6 and port:
        for index in packet_info.interfaces():
            with contextlib.suppress(OSError):
                packet_info.join(sock, index)
    return sock


class TcpLink:
    """One connection to each server that is talked to, made when the first message for it is sent."""

    def __init__(self, layout: LinkLayout) -> None:
        self.targets = _resolve(layout)
        self.max_message_bytes = MAX_MESSAGE_BYTES
        self.sent_bytes = self.received_bytes = 0
        self._connections: dict[Peer, tuple[socket.socket, StreamSplitter]] = {}

    def send(self, messages: Sequence[Datagram]) -> None:
        for peer, of_peer in itertools.groupby(messages, key=lambda message: message[0]):
            connection = self._connections.get(peer) or self._connect(peer)
            if connection is None:
                continue
            octets = b"".join(octets for _, octets in of_peer)
            self.sent_bytes += len(octets)
            try:
                connection[0].sendall(octets)
            except OSError:
                self._drop(peer)

    def receive(self, timeout_s: float) -> list[tuple[Peer, Octets]]:
        by_socket = {sock: (peer, splitter) for peer, (sock, splitter) in self._connections.items()}
        # With no connection there is nothing to wait on, and Windows' select refuses empty lists.
        if not by_socket:
            time.sleep(max(0.0, timeout_s))
            return []
        ready, _, _ = select.select(list(by_socket), [], [], max(0.0, timeout_s))
        received: list[tuple[Peer, Octets]] = []
        for sock in ready:
            peer, splitter = by_socket[sock]
            try:
                octets = sock.recv(1 << 18)
                messages = splitter.feed(octets)
            except (OSError, RemoteProtocolError):
                octets, messages = b"", []
            if not octets:
                self._drop(peer)
            received += [(peer, message) for message in messages]
        self.received_bytes += sum(len(octets) for _, octets in received)
        return received

    def close(self) -> None:
        for peer in list(self._connections):
            self._drop(peer)

    def _connect(self, peer: Peer) -> tuple[socket.socket, StreamSplitter] | None:
        try:
            sock = socket.create_connection((peer.host, peer.port), timeout=TCP_PATIENCE_S)
        except OSError:
            return None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[peer] = (sock, StreamSplitter())
        return self._connections[peer]

    def _drop(self, peer: Peer) -> None:
        sock, _ = self._connections.pop(peer)
        sock.close()
