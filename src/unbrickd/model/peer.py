# SPDX-License-Identifier: Apache-2.0
"""Where a message came from and where its answer goes. Opaque to the cores, which only compare and return it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Transport(Enum):
    UDP = "udp"
    TCP = "tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """An address of the other side.

    scope: index of the network interface that a link-local, broadcast or multicast address needs, else 0.
    channel: which socket or connection of ours it was met on; adapters number them, so that an answer leaves where
    the question came in.
    """

    transport: Transport
    host: str
    port: int
    scope: int = 0
    channel: int = 0

    def __hash__(self) -> int:
        """Of what tells peers apart mostly: sessions are found by it at every message."""
        return hash((self.host, self.port, self.scope, self.channel))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport.value}:{host}:{self.port}"

    def encode(self) -> bytes:
        """Bytes that differ for different addresses, for a cookie. The channel is ours, no part of the address."""
        return f"{self.transport.value}|{self.host}|{self.port}|{self.scope}".encode()


Datagram = tuple[Peer, bytes]
"""One message and where it goes."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """Messages to one peer, end to end: each is `message_bytes` long, the last may be shorter. Mostly it is one.

    Not frozen, as EraseBlock.
    """

    peer: Peer
    octets: bytes
    message_bytes: int

    def messages(self) -> Iterator[bytes]:
        for at in range(0, len(self.octets), self.message_bytes):
            yield self.octets[at : at + self.message_bytes]
