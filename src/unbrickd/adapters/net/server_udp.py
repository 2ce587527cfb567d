# SPDX-License-Identifier: Apache-2.0
"""The server's UDP sockets: raw and non-blocking, so that a datagram that does not fit waits here and nowhere else.

An answer leaves by the interface, and from the address, that the question came to, where the platform tells (Linux:
ip(7) IP_PKTINFO, ipv6(7) IPV6_PKTINFO). So it reaches a device whose address no route of this host leads to, and a
device that asked by broadcast or multicast. Knows datagrams, not what they mean. Spec: spec/protocol.md §1.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface

from unbrickd.adapters.net import packet_info
from unbrickd.adapters.net.binding import Bound, bound_socket
from unbrickd.adapters.net.datagrams import DatagramSocket
from unbrickd.adapters.net.neighbours import Neighbour
from unbrickd.adapters.net.packet_info import ANY, BROADCAST, MULTICAST_GROUP, Local, Origin
from unbrickd.model.peer import Batch, Peer, Transport
from unbrickd.wire.framing import DEVICE_PORT, Octets

RECEIVE_BUFFER_BYTES = 4 << 20
"""Asked of the operating system, which may give less: requests and backups of a street at once."""
SEND_BUFFER_BYTES = 256 << 10
"""What the network card takes in 2 ms at 1 Gbit/s. More would overflow the queue before it, where nobody waits."""
MAX_BATCH = 32
"""Datagrams read at once, so that answers are not held up by a flood, nor what an upload is asked for next by half a
window of its blocks."""
LOOK_EVERY = 4
"""While they come alone, it is looked for a second one only so often: to find none costs as much as to read one."""
REMEMBERED_PEERS = 1024
"""And how to answer them: to find that out anew costs as much as a block."""
MAX_HELD = 256
"""Batches, mostly of one answer, that wait for the socket to take them; more are lost, as on any network."""

_DONT_FRAGMENT: dict[str, tuple[tuple[int, int, int], ...]] = {
    # (level, option, value), from ip(7), ipv6(7), ws2ipdef.h and netinet/in.h; the socket module names few of them.
    "linux": ((socket.IPPROTO_IP, 10, 2), (socket.IPPROTO_IPV6, 23, 2)),
    "win32": ((socket.IPPROTO_IP, 14, 1), (socket.IPPROTO_IPV6, 14, 1)),
    "darwin": ((socket.IPPROTO_IP, 28, 1), (socket.IPPROTO_IPV6, 62, 1)),
}

OnDatagrams = Callable[[list[tuple[Peer, Octets]]], float]
"""The octets hold until it returns for how many seconds what comes next may gather."""


def listening_socket(address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    """Bound, with every option that this platform has: each is an improvement, and the server serves without.

    shared, errors: as `bound_socket`'s.
    """
    sock = bound_socket(socket.SOCK_DGRAM, address, shared=shared)
    wanted = [
        (socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
        *_DONT_FRAGMENT.get(sys.platform, ()),
    ]
    if sock.family == socket.AF_INET:
        wanted.append((socket.SOL_SOCKET, socket.SO_BROADCAST, 1))
    for level, option, value in wanted:
        with suppress(OSError):
            sock.setsockopt(level, option, value)
    with suppress(OSError):
        packet_info.ask_for_interface(sock)
    return sock


class UdpSocket:
    """One bound socket. Each way in, address of this host and link or not, is a channel of its own."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        channels: Callable[[UdpSocket], int],
        on_datagrams: OnDatagrams,
        on_writable: Callable[[], None],
    ) -> None:
        """sock: as `listening_socket` makes it; closed with this. channels: gives out a number not used before."""
        self._loop = loop
        self._new_channel = channels
        self._on_datagrams = on_datagrams
        self._on_writable = on_writable
        self._socket = sock
        self._is_ipv6 = self._socket.family == socket.AF_INET6
        self._is_any = sock.getsockname()[0] in ("0.0.0.0", "::")
        self._channel_of: dict[Local, int] = {}
        self._local_of: dict[int, Local] = {}
        self._held: deque[Batch] = deque(maxlen=MAX_HELD)
        self._joined: set[int] = set()
        self._gathering: asyncio.TimerHandle | None = None
        """Until when nothing is read."""
        self._alone = 0
        """How often in a row no more than one came."""
        self._datagrams = DatagramSocket(self._socket, peer_of=self._peer_of, peers=REMEMBERED_PEERS)
        loop.add_reader(self._socket, self._readable)

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
        if self._gathering is not None:
            self._gathering.cancel()
        if self._held:
            self._loop.remove_writer(self._socket)
        self._socket.close()

    # Receiving

    def _readable(self) -> None:
        looks_for_more = self._gathering is not None or self._alone % LOOK_EVERY == 0
        received = self._datagrams.receive(MAX_BATCH if looks_for_more else 1)
        self._alone = self._alone + 1 if len(received) < 2 else 0
        gather_s = self._on_datagrams(received) if received else 0.0
        if gather_s and len(received) < MAX_BATCH:
            if self._gathering is None:
                self._loop.remove_reader(self._socket)
            self._gathering = self._loop.call_later(gather_s, self._readable)
        elif self._gathering is not None:
            self._gathering = None
            self._loop.add_reader(self._socket, self._readable)

    def _peer_of(self, origin: Origin) -> Peer:
        channel = self._channel_of.get(origin.local)
        if channel is None:
            channel = self._channel_of[origin.local] = self._new_channel(self)
            self._local_of[channel] = origin.local
        return Peer(
            transport=Transport.UDP, host=origin.host, port=origin.port, scope=origin.interface, channel=channel
        )

    # Sending

    def send(self, batch: Batch) -> None:
        """Send datagrams, or hold them until the socket takes them. What the network refuses is lost."""
        if self._held:
            self._held.append(batch)
        elif (rest := self._rest_of(batch)) is not None:
            self._held.append(rest)
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        while self._held:
            rest = self._rest_of(self._held[0])
            if rest is not None:
                self._held[0] = rest
                return
            self._held.popleft()
        self._loop.remove_writer(self._socket)
        self._on_writable()

    def _rest_of(self, batch: Batch) -> Batch | None:
        """Send it; what is left of it, to be sent when the socket is writable."""
        peer, local = batch.peer, self._local_of.get(batch.peer.channel, ANY)
        done = self._datagrams.send(
            batch.octets, batch.message_bytes, peer.host, peer.port, interface=peer.scope, local=local
        )
        return None if done == len(batch.octets) else replace(batch, octets=batch.octets[done:])

    def _tell(self, octets: bytes, host: str, interface: int, local: Local = ANY) -> None:
        self._datagrams.send(octets, len(octets), host, DEVICE_PORT, interface=interface, local=local)

    # Being found

    def join(self, interfaces: list[int]) -> None:
        """Hear Probes on these interfaces, and forget those that went away. Call it again as they come and go."""
        if not (self._is_ipv6 and self._is_any):
            return
        self._joined &= set(interfaces)
        for index in set(interfaces) - self._joined:
            with suppress(OSError):
                packet_info.join(self._socket, index)
            self._joined.add(index)

    def announce(
        self,
        message: Callable[[int], bytes],
        interfaces: list[int],
        sources: Mapping[int, IPv4Interface],
        flows: Iterable[Neighbour],
    ) -> None:
        """Send to every device on every link, and to those neighbours (§4.15). Not from a socket bound to one address.

        message: made of how many bits of the address that it is sent from name the network; sources: that address, by
        link. To a neighbour because a firewall lets in what answers a datagram to that very host, but nothing that
        answers a broadcast.
        """
        if not self._is_any or self._held:
            return
        nowhere = message(0)
        if self._is_ipv6:
            for index in interfaces:
                self._tell(nowhere, MULTICAST_GROUP, index)
        else:
            for index in interfaces if packet_info.tells_interface(self._socket.family) else [0]:
                source = sources.get(index)
                if source is None:
                    self._tell(nowhere, BROADCAST, index)
                else:
                    self._tell(message(source.network.prefixlen), BROADCAST, index, Local(source.packed))
        for neighbour in flows:
            if (":" in neighbour.host) == self._is_ipv6:
                self._tell(nowhere, neighbour.host, neighbour.interface, Local(on_link=True))
