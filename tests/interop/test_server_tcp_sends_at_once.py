# SPDX-License-Identifier: Apache-2.0
"""What the server sends over TCP does not wait in its kernel for the device's acknowledgement of what went before."""

from __future__ import annotations

import asyncio
import socket

from unbrickd.adapters.net.server_tcp import TcpConnection, TcpListener


def test_tcp_listener_accepted_connection_has_nodelay() -> None:
    asyncio.run(_accepted_connection_has_nodelay())


async def _accepted_connection_has_nodelay() -> None:
    made: list[TcpConnection] = []
    channels = iter(range(1, 10))

    def new_channel(connection: TcpConnection) -> int:
        made.append(connection)
        return next(channels)

    listener = TcpListener(
        channels=new_channel, on_datagrams=lambda _: None, on_writable=lambda: None, on_gone=lambda _: None
    )
    bound = await listener.listen(("127.0.0.1", 0))
    _, writer = await asyncio.open_connection(bound.host, bound.port)
    try:
        while not made or made[0].peer is None:
            await asyncio.sleep(0.01)
        transport = made[0]._transport
        assert transport is not None
        accepted = transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    finally:
        writer.close()
        await writer.wait_closed()
        await listener.close()
