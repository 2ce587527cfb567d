# SPDX-License-Identifier: Apache-2.0
"""Datagrams in and out of one UDP socket, as many in one system call as the platform takes.

Linux cuts one large buffer into datagrams (UDP_SEGMENT, since 4.18) and puts those of one sender together again
(UDP_GRO, since 5.0): a system call for 45 DataBlocks instead of one for each. Whatever lacks that, other platforms,
older kernels, a network card that does not sum, gets the same datagrams one by one. Which it is shows at run time.
Knows datagrams, not what they mean.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache

from unbrickd.adapters.net import packet_info
from unbrickd.adapters.net.packet_info import ANY, Ancillary, Local, Origin, Way
from unbrickd.model.peer import Batch, Datagram, Peer
from unbrickd.wire.framing import MAX_MESSAGE_BYTES, Octets

SEND_MAX_MESSAGES, SEND_MAX_BYTES = 64, 65_507
"""Of one system call: UDP_MAX_SEGMENTS (linux/udp.h before 6.9), and what one IPv4 packet could carry."""
_BUFFER_BYTES = 4 * (MAX_MESSAGE_BYTES + 1)
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = socket.IPPROTO_UDP, 103, 104
"""linux/udp.h; the socket module of Python 3.11 does not name them."""
_SEGMENT_BYTES = struct.Struct("=H")
_REFUSES_BATCH = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP}
"""EIO: the network card leaves checksums to us; the others: the batch, or each datagram of it, is too long."""
_ANCILLARY_BYTES = 256
_Address = tuple[str | int, ...]


class DatagramSocket:
    """A bound, non-blocking UDP socket.

    peer_of: called only for who is not one of the last `peers` that something came from, and so may look around.
    """

    def __init__(self, sock: socket.socket, *, peer_of: Callable[[Origin], Peer], peers: int = 1) -> None:
        def peer(address: _Address, told: tuple[Ancillary, ...]) -> Peer:
            return peer_of(packet_info.origin_of(family, address, told))

        def way(host: str, port: int, interface: int, local: Local) -> Way:
            return packet_info.way_to(family, host, port, interface=interface, local=local)

        family = int(sock.family)
        self._socket = sock
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._peer = lru_cache(peers)(peer)
        self._last_way: tuple[_Address, list[Ancillary]] | None = None
        self._last_peer: Peer
        """Whom it led to: most datagrams come as the one before did, and to compare takes half as long as to hash."""
        self._way = lru_cache(peers)(way)
        self.sends_batches = _knows_segments(sock)
        """Whether datagrams leave together; false once the way out has refused that."""
        if sys.platform == "linux":
            with suppress(OSError):
                sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)

    def receive(self, most: int) -> list[tuple[Peer, Octets]]:
        """What has come: at most so many system calls, or a few beyond `most` messages. Valid until the next call."""
        received: list[tuple[Peer, Octets]] = []
        at, buffer = 0, self._buffer
        for _ in range(most):
            if len(received) >= most or len(buffer) - at < MAX_MESSAGE_BYTES:
                break
            try:
                length, ancillary, address = _receive_into(self._socket, buffer[at:])
            except BlockingIOError:
                break
            except OSError:
                continue  # an earlier datagram found no one (ECONNREFUSED; Windows: WSAECONNRESET)
            end = at + length
            if (address, ancillary) == self._last_way:
                received.append((self._last_peer, buffer[at:end]))
                at = end
                continue
            message_bytes = length
            for item in ancillary:
                if item[:2] == (_SOL_UDP, _UDP_GRO):
                    message_bytes = int.from_bytes(item[2], sys.byteorder)
                    ancillary.remove(item)
                    break
            peer = self._peer(address, tuple(ancillary))
            self._last_way, self._last_peer = (address, ancillary), peer
            while at < end:
                received.append((peer, buffer[at : min(at + message_bytes, end)]))
                at += message_bytes
            at = end
        return received

    def send(
        self, octets: Octets, message_bytes: int, host: str, port: int, *, interface: int = 0, local: Local = ANY
    ) -> int:
        """Send datagrams of `message_bytes`, the last maybe shorter. What the network refuses is lost.

        Returns how many bytes are done with; the rest is to be sent again when the socket is writable.
        """
        view, at, refused = memoryview(octets), 0, False
        way = self._way(host, port, interface, local)
        several_bytes = min(SEND_MAX_MESSAGES, SEND_MAX_BYTES // message_bytes) * message_bytes
        while at < len(view):
            several = self.sends_batches and several_bytes > message_bytes and len(view) - at > message_bytes
            piece = view[at : at + (several_bytes if several else message_bytes)]
            extra = ((_SOL_UDP, _UDP_SEGMENT, _SEGMENT_BYTES.pack(message_bytes)),) if several else ()
            try:
                packet_info.send(self._socket, piece, way, ancillary=extra)
            except BlockingIOError:
                self.sends_batches = self.sends_batches or refused
                return at
            except OSError as error:
                if several and error.errno in _REFUSES_BATCH:
                    self.sends_batches, refused = False, True
                    continue  # is it the batch? One datagram shows
                if refused:
                    self.sends_batches = True
                    return len(view)  # no, the path takes none of this length (EMSGSIZE)
            refused = False
            at += len(piece)
        return at


def batches(messages: Iterable[Datagram]) -> Iterator[Batch]:
    """The same messages in the same order: what can leave together, for one peer and of one length, in one batch."""
    peer: Peer | None = None
    together: list[bytes] = []
    for to, octets in messages:
        fits = together and peer == to and len(together[-1]) == len(together[0]) >= len(octets)
        if peer is not None and together and not fits:
            yield Batch(peer=peer, octets=b"".join(together), message_bytes=len(together[0]))
            together = []
        peer = to
        together.append(octets)
    if peer is not None:
        yield Batch(peer=peer, octets=b"".join(together), message_bytes=len(together[0]))


def _knows_segments(sock: socket.socket) -> bool:
    """A kernel that does not know the option would take the batch for one long datagram."""
    if sys.platform != "linux":
        return False
    try:
        sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
    except OSError:
        return False
    return True


def _receive_into(sock: socket.socket, buffer: memoryview) -> tuple[int, list[Ancillary], _Address]:
    if not hasattr(sock, "recvmsg_into"):  # Windows
        length, address = sock.recvfrom_into(buffer)
        return length, [], address
    length, ancillary, _, address = sock.recvmsg_into((buffer,), _ANCILLARY_BYTES)
    return length, ancillary, address
