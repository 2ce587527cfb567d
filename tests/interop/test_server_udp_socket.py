# SPDX-License-Identifier: Apache-2.0
"""The server's UDP socket on loopback: what does not fit waits in order and in bounds, what is refused is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest

from unbrickd.adapters.net import packet_info
from unbrickd.adapters.net.server_udp import MAX_BATCH, MAX_HELD, SEND_BUFFER_BYTES, UdpSocket, listening_socket
from unbrickd.model.peer import Batch, Peer, Transport
from unbrickd.wire.framing import Octets

PATIENCE_S = 10.0


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(PATIENCE_S)
        yield sock


def in_loop(scene: Callable[[UdpSocket, asyncio.Event], None]) -> bool:
    """Run the scene with an open socket; whether it became writable again afterwards."""

    async def play() -> bool:
        writable = asyncio.Event()
        opened = UdpSocket(
            asyncio.get_running_loop(),
            listening_socket(("127.0.0.1", 0)),
            channels=lambda _: 1,
            on_datagrams=lambda _: 0.0,
            on_writable=writable.set,
        )
        try:
            scene(opened, writable)
            if opened.is_blocked:
                await asyncio.wait_for(writable.wait(), PATIENCE_S)
            return writable.is_set()
        finally:
            opened.close()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(play())


def peer_of(client: socket.socket) -> Peer:
    host, port = client.getsockname()
    return Peer(transport=Transport.UDP, host=host, port=port)


def datagram(peer: Peer, octets: bytes) -> Batch:
    return Batch(peer=peer, octets=octets, message_bytes=len(octets))


def test_udp_socket_that_is_full_holds_what_follows_and_sends_it_in_order(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise BlockingIOError

    def scene(opened: UdpSocket, writable: asyncio.Event) -> None:
        with monkeypatch.context() as full:
            full.setattr(packet_info, "send", no_room)
            for number in range(MAX_HELD + 3):
                opened.send(datagram(peer_of(client), number.to_bytes(2, "big")))
        assert opened.is_blocked

    assert in_loop(scene)
    arrived = [int.from_bytes(client.recv(100), "big") for _ in range(20)]
    assert arrived == list(range(3, 23)), "the oldest made room; the rest kept its order"


def test_udp_socket_loses_what_the_network_refuses_and_goes_on(client: socket.socket) -> None:
    def scene(opened: UdpSocket, writable: asyncio.Event) -> None:
        opened.send(datagram(peer_of(client), bytes(70_000)))
        opened.send(datagram(Peer(transport=Transport.UDP, host="127.0.0.1", port=0), b"to nobody"))
        opened.send(datagram(peer_of(client), b"after"))
        assert not opened.is_blocked

    assert not in_loop(scene)
    assert client.recv(100) == b"after"


def taken(client: socket.socket, *, first: int, gather_s: float) -> list[tuple[float, int]]:
    """(when, how many) at each reading: of `first` datagrams, then of two that came meanwhile, then of one more."""

    async def play() -> list[tuple[float, int]]:
        loop = asyncio.get_running_loop()
        readings: list[tuple[float, int]] = []
        done = asyncio.Event()

        def say(count: int) -> None:
            for _ in range(count):
                client.sendto(b"?", ("127.0.0.1", opened.bound.port))

        def take(datagrams: list[tuple[Peer, Octets]]) -> float:
            readings.append((loop.time(), len(datagrams)))
            say({1: 2, 2: 1}.get(len(readings), 0))
            if len(readings) == 3:
                done.set()
            return gather_s if len(readings) == 1 else 0.0

        sock = listening_socket(("127.0.0.1", 0))
        opened = UdpSocket(loop, sock, channels=lambda _: 1, on_datagrams=take, on_writable=lambda: None)
        try:
            say(first)
            await asyncio.wait_for(done.wait(), PATIENCE_S)
            return readings
        finally:
            opened.close()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(play())


def test_listening_socket_makes_a_server_wait_before_a_network_card_s_queue_overflows() -> None:
    with listening_socket(("127.0.0.1", 0)) as sock:
        # Linux doubles it: socket(7)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES


def test_udp_socket_lets_gather_what_may_and_then_reads_as_before(client: socket.socket) -> None:
    gather_s = 0.05
    readings = taken(client, first=1, gather_s=gather_s)
    assert [count for _, count in readings] == [1, 2, 1]
    assert readings[1][0] - readings[0][0] >= gather_s


def test_udp_socket_with_more_to_read_lets_nothing_gather(client: socket.socket) -> None:
    readings = taken(client, first=MAX_BATCH, gather_s=10 * PATIENCE_S)
    assert [count for _, count in readings] == [MAX_BATCH, 2, 1]
