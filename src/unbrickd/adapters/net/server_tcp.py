# SPDX-License-Identifier: Apache-2.0
"""The server's TCP connections (R1): messages out of a stream, and back-pressure from the device to the core.

A connection that takes no more is a blocked channel: the core sends it no blocks, and nothing more is read from it, so
that what waits for it stays small. Knows messages, not what they mean. Spec: spec/protocol.md §1.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from unbrickd.adapters.net.binding import Bound, bound_socket
from unbrickd.errors import RemoteProtocolError
from unbrickd.model.peer import Batch, Peer, Transport
from unbrickd.wire.framing import Octets, StreamSplitter

MAX_CONNECTIONS = 2048
HIGH_WATER_BYTES = 256 << 10
"""Waiting for one connection, beyond which it is blocked; a LAN's bandwidth times delay is less."""
IDLE_S = 120.0
"""A connection without a message is closed after this; the session it carried is long forgotten (§6)."""


class TcpConnection(asyncio.Protocol):
    """One device's connection."""

    def __init__(self, listener: TcpListener, channel: int) -> None:
        self.channel = channel
        self.peer: Peer | None = None
        self.is_blocked = False
        self.heard_s = listener.loop.time()
        self._listener = listener
        self._splitter = StreamSplitter()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        address = transport.get_extra_info("peername")
        if address is None or not self._listener.admit(self):
            transport.abort()
            return
        # asyncio does so only for sockets made with IPPROTO_TCP, which accepted ones here are not. With Nagle's rule
        # on, the last block of every request waits for the device's delayed acknowledgement: 40 ms an erase block.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        scope = int(address[3]) if len(address) > 3 else 0
        host = str(address[0]).partition("%")[0]
        self.peer = Peer(transport=Transport.TCP, host=host, port=address[1], scope=scope, channel=self.channel)

    def data_received(self, data: bytes) -> None:
        if self.peer is None or self._transport is None:
            return
        try:
            messages = self._splitter.feed(data)
        except RemoteProtocolError:
            self.close()
            return
        if messages:
            self.heard_s = self._listener.loop.time()
            self._listener.on_datagrams([(self.peer, message) for message in messages])

    def send(self, batch: Batch) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(batch.octets)

    def pause_writing(self) -> None:
        self.is_blocked = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.is_blocked = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._listener.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.forget(self)
        self._listener.on_gone(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class TcpListener:
    """One listening socket and its connections."""

    def __init__(
        self,
        *,
        channels: Callable[[TcpConnection], int],
        on_datagrams: Callable[[list[tuple[Peer, Octets]]], object],
        on_writable: Callable[[], None],
        on_gone: Callable[[TcpConnection], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.on_datagrams = on_datagrams
        self.on_writable = on_writable
        self.on_gone = on_gone
        self._channels = channels
        self._connections: set[TcpConnection] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, address: tuple[str, int]) -> Bound:
        """Raises ConfigError as `bound_socket` does."""
        sock = bound_socket(socket.SOCK_STREAM, address)
        self._server = await self.loop.create_server(self._connection, sock=sock)
        host, port = sock.getsockname()[:2]
        return Bound(transport=Transport.TCP, host=host, port=port)

    def _connection(self) -> TcpConnection:
        connection = TcpConnection(self, 0)
        connection.channel = self._channels(connection)
        return connection

    def admit(self, connection: TcpConnection) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: TcpConnection) -> None:
        self._connections.discard(connection)

    def close_idle(self) -> None:
        """Close connections that say nothing; call it now and then."""
        deadline_s = self.loop.time() - IDLE_S
        for connection in [c for c in self._connections if c.heard_s < deadline_s]:
            connection.close()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()
        if self._server is not None:
            with suppress(asyncio.CancelledError):
                await self._server.wait_closed()
