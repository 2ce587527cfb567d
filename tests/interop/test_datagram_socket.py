# SPDX-License-Identifier: Apache-2.0
"""Datagrams in batches over real sockets on loopback: the same datagrams come out, whatever either side can do."""

from __future__ import annotations

import errno
import random
import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from unbrickd.adapters.net import datagrams, packet_info
from unbrickd.adapters.net.datagrams import SEND_MAX_MESSAGES, DatagramSocket, batches
from unbrickd.adapters.net.packet_info import Origin
from unbrickd.model.peer import Peer, Transport

PATIENCE_S = 5.0
HOSTS = ("127.0.0.1", "::1")
_SO_NO_CHECK = 11
"""socket(7), asm-generic/socket.h"""
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="batches are Linux's")

Opened = Callable[..., socket.socket]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens bound sockets, with nothing of ours asked of them."""
    with ExitStack() as stack:

        def open_at(host: str) -> socket.socket:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                sock.bind((host, 0))
            except OSError:
                pytest.skip(f"no {host} here")
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            return sock

        yield open_at


def peer_of(origin: Origin) -> Peer:
    return Peer(transport=Transport.UDP, host=origin.host, port=origin.port)


def ours(sock: socket.socket) -> DatagramSocket:
    packet_info.ask_for_interface(sock)
    return DatagramSocket(sock, peer_of=peer_of)


def send(sender: DatagramSocket, octets: bytes, message_bytes: int, to: socket.socket) -> int:
    host, port = to.getsockname()[:2]
    return sender.send(octets, message_bytes, host, port)


def all_of(receive: Callable[[], list[bytes]], sock: socket.socket, count: int) -> list[bytes]:
    """So many messages, and none beyond them."""
    got: list[bytes] = []
    while select.select([sock], [], [], PATIENCE_S if len(got) < count else 0)[0]:
        got += receive()
    return got


def received(receiver: DatagramSocket, sock: socket.socket, count: int) -> list[bytes]:
    return all_of(lambda: [bytes(octets) for _, octets in receiver.receive(64)], sock, count)


def cut(octets: bytes, size: int) -> list[bytes]:
    return [octets[at : at + size] for at in range(0, len(octets), size)]


@pytest.mark.parametrize("gives", ["batches", "one by one"])
@pytest.mark.parametrize("takes", ["ours", "without GRO"])
@pytest.mark.parametrize("host", HOSTS)
def test_datagram_socket_batch_arrives_as_the_datagrams_it_is_made_of(
    opened: Opened, host: str, gives: str, takes: str
) -> None:
    source, target = opened(host), opened(host)
    sender = ours(source)
    if gives == "one by one":
        sender.sends_batches = False
    receiver = ours(target)
    if takes == "without GRO" and sys.platform == "linux":
        target.setsockopt(socket.IPPROTO_UDP, 104, 0)
    for size, length in ((1452, 45 * 1452), (1452, 3 * 1452 - 1000), (100, 150 * 100 + 1), (1452, 700), (1, 64)):
        octets = random.Random(size).randbytes(length)
        assert send(sender, octets, size, target) == length
        assert received(receiver, target, -(-length // size)) == cut(octets, size)
    assert sender.sends_batches == (gives == "batches" and sys.platform == "linux")


@pytest.mark.parametrize("host", HOSTS)
def test_datagram_socket_tells_the_sender_of_each_message(opened: Opened, host: str) -> None:
    sources, target = [opened(host) for _ in range(2)], opened(host)
    receiver = ours(target)
    for sock in sources:
        send(ours(sock), bytes(300), 100, target)
    got: list[tuple[Peer, int]] = []
    while len(got) < 6 and select.select([target], [], [], PATIENCE_S)[0]:
        got += [(peer, len(octets)) for peer, octets in receiver.receive(64)]
    expected = [Peer(transport=Transport.UDP, host=host, port=sock.getsockname()[1]) for sock in sources]
    assert got == [(peer, 100) for peer in expected for _ in range(3)]


def test_datagram_socket_batch_reaches_a_plain_socket_as_datagrams(opened: Opened) -> None:
    source, target = opened("127.0.0.1"), opened("127.0.0.1")
    octets = bytes(range(250))
    assert send(ours(source), octets, 100, target) == len(octets)
    assert all_of(lambda: [target.recv(1 << 16)], target, 3) == cut(octets, 100)


@linux_only
def test_datagram_socket_whose_kernel_refuses_batches_sends_one_by_one_from_then_on(opened: Opened) -> None:
    source, target = opened("127.0.0.1"), opened("127.0.0.1")
    source.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)  # whose datagrams Linux does not cut
    sender, receiver = ours(source), ours(target)
    assert sender.sends_batches
    for _ in range(2):
        octets = random.Random(1).randbytes(250)
        assert send(sender, octets, 100, target) == 250
        assert received(receiver, target, 3) == cut(octets, 100)
        assert not sender.sends_batches


@linux_only
@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
def test_datagram_socket_whose_way_out_refuses_batches_sends_one_by_one_from_then_on(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source, target = opened("127.0.0.1"), opened("127.0.0.1")
    sender, receiver = ours(source), ours(target)
    plain, refused = packet_info.send, []

    def refusing(*arguments: object, ancillary: list[object], **options: object) -> None:
        if ancillary:
            refused.append(ancillary)
            raise OSError(number, "no batches here")
        plain(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(packet_info, "send", refusing)
    for _ in range(2):
        octets = random.Random(number).randbytes(250)
        assert send(sender, octets, 100, target) == 250
        assert received(receiver, target, 3) == cut(octets, 100)
    assert len(refused) == 1 and not sender.sends_batches


@linux_only
def test_datagram_socket_whose_path_takes_no_message_of_this_length_loses_them_and_keeps_batches(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = opened("127.0.0.1"), opened("127.0.0.1")
    sender, receiver = ours(source), ours(target)
    with monkeypatch.context() as narrow:

        def refusing(*_arguments: object, **_options: object) -> None:
            raise OSError(errno.EMSGSIZE, "too long")

        narrow.setattr(packet_info, "send", refusing)
        assert send(sender, bytes(250), 100, target) == 250
    assert sender.sends_batches
    send(sender, b"after", 5, target)
    assert received(receiver, target, 1) == [b"after"]


@linux_only
def test_datagram_socket_that_is_full_when_it_would_learn_whether_batches_pass_tries_them_again(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = opened("127.0.0.1"), opened("127.0.0.1")
    sender, receiver = ours(source), ours(target)
    with monkeypatch.context() as full:

        def refusing(*_arguments: object, ancillary: list[object], **_options: object) -> None:
            raise OSError(errno.EINVAL, "no batches here") if ancillary else BlockingIOError

        full.setattr(packet_info, "send", refusing)
        assert send(sender, bytes(250), 100, target) == 0
    assert sender.sends_batches
    assert send(sender, bytes(250), 100, target) == 250
    assert received(receiver, target, 3) == cut(bytes(250), 100)


def test_datagram_socket_that_is_full_says_how_far_it_came(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = opened("127.0.0.1"), opened("127.0.0.1")
    sender, receiver = ours(source), ours(target)
    sender.sends_batches = False
    plain, room = packet_info.send, [2]

    def filling(*arguments: object, **options: object) -> None:
        if not room[0]:
            raise BlockingIOError
        room[0] -= 1
        plain(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(packet_info, "send", filling)
    assert send(sender, bytes(500), 100, target) == 200
    assert received(receiver, target, 2) == [bytes(100)] * 2


class _Foreign:
    """A socket of another platform: without recvmsg_into and sendmsg (Windows), and options that are Linux's."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.family = sock.family
        self.recvfrom_into, self.sendto = sock.recvfrom_into, sock.sendto

    def setsockopt(self, *_: object) -> None:
        raise OSError(errno.ENOPROTOOPT, "no such option")

    getsockopt = setsockopt


@pytest.mark.parametrize("platform", ["win32", "darwin", "linux"])
def test_datagram_socket_where_the_platform_has_none_of_it_sends_and_takes_one_by_one(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(packet_info, "_LINUX", False)
    source, target = opened("127.0.0.1"), opened("127.0.0.1")
    sender = DatagramSocket(_Foreign(source), peer_of=peer_of)  # type: ignore[arg-type]
    receiver = DatagramSocket(_Foreign(target), peer_of=peer_of)  # type: ignore[arg-type]
    assert not sender.sends_batches
    octets = random.Random(1).randbytes(1000)
    assert send(sender, octets, 300, target) == 1000
    assert received(receiver, target, 4) == cut(octets, 300)


@linux_only
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_datagram_socket_asks_no_other_platform_for_what_is_linux_s(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    sock = opened("127.0.0.1")
    assert not DatagramSocket(sock, peer_of=peer_of).sends_batches
    assert sock.getsockopt(socket.IPPROTO_UDP, 104) == 0


def test_datagram_socket_receive_stops_at_what_was_wanted(opened: Opened) -> None:
    source, target = opened("127.0.0.1"), opened("127.0.0.1")
    receiver = ours(target)
    for number in range(10):
        source.sendto(bytes([number]) * (number + 1), target.getsockname())
    first = [bytes(octets) for _, octets in receiver.receive(4)]
    assert first == [bytes([n]) * (n + 1) for n in range(4)]
    assert len(received(receiver, target, 6)) == 6


def test_datagram_socket_buffer_takes_the_longest_datagrams_one_after_the_other(opened: Opened) -> None:
    source, target = opened("127.0.0.1"), opened("127.0.0.1")
    target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    receiver = ours(target)
    longest = [bytes([n]) * datagrams.SEND_MAX_BYTES for n in range(5)]
    got: list[bytes] = []
    for octets in longest:
        source.sendto(octets, target.getsockname())
    while len(got) < len(longest) and select.select([target], [], [], 0.2)[0]:
        got += [bytes(octets) for _, octets in receiver.receive(64)]
    assert got and got == longest[: len(got)], "a small receive buffer may have dropped the last"


def test_batches_of_any_messages_are_those_messages_in_order() -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    peers = [Peer(transport=Transport.UDP, host="192.0.2.1", port=port) for port in (1, 2)]
    for _ in range(300):
        messages = [(rng.choice(peers), bytes(rng.choice((3, 3, 3, 2, 5)))) for _ in range(rng.randrange(12))]
        made = list(batches(messages))
        assert [(b.peer, octets) for b in made for octets in b.messages()] == messages, f"seed {seed}"
    assert list(batches([])) == []
    assert len(list(batches([(peers[0], bytes(3))] * SEND_MAX_MESSAGES))) == 1
