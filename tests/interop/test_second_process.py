# SPDX-License-Identifier: Apache-2.0
"""The second process of `unbrickd serve`: what is its own comes to it and to nobody else, and nothing needs it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unbrickd.adapters.net.binding import bound_socket
from unbrickd.adapters.net.steering import OF_RESTORES, share_out, take_all
from unbrickd.cli.demo_process import ServerProcess
from unbrickd.errors import ConfigError
from unbrickd.wire import messages as m
from unbrickd.wire.fields import Type
from unbrickd.wire.framing import SESSION_AT, TYPE_AT, encode_frame
from unbrickd.wire.packet import Message, decode, encode

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="wants Linux and two processors"
)

PATIENCE_S = 10.0
SILENCE_S = 0.3
DEVICE_ID = bytes(range(16))
OF_THE_FIRST, OF_THE_SECOND = 2, 3
"""Sessions."""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


class Serving:
    """A server with an empty store, and one who asks it."""

    def __init__(self, server: ServerProcess) -> None:
        assert server.process is not None
        self.pid = server.process.pid
        host, _, port = server.address.rpartition(":")
        self.to = (host, int(port))
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.sock.bind(("127.0.0.1", 0))

    def answers(self, message: Message, *, session: int = 0, host: str = "") -> list[Message]:
        """All that comes within a while."""
        self.sock.sendto(encode(message, session=session), (host or self.to[0], self.to[1]))
        self.sock.settimeout(SILENCE_S)
        found: list[Message] = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(decode(self.sock.recv(2048)).message)
        return found

    def cookie(self) -> bytes:
        [ack] = self.answers(m.Probe(device_id=DEVICE_ID, nonce=bytes(8), purpose=m.Purpose.RESTORE))
        assert isinstance(ack, m.ProbeAck)
        return ack.cookie

    def asks_for_restore(self, session: int, host: str = "") -> list[int]:
        """The codes of the Errors that come back: nothing is held for this device."""
        restore = m.Restore(cookie=self.cookie(), device_id=DEVICE_ID, named=0)
        answers = self.answers(restore, session=session, host=host)
        return [answer.code for answer in answers if isinstance(answer, m.Error)]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with ServerProcess(tmp_path / "store", "udp") as server:
        serving = Serving(server)
        with serving.sock:
            yield serving


def gone(pid: int) -> bool:
    """Within a while."""
    deadline_s = time.monotonic() + PATIENCE_S
    while state(pid) not in ("", "Z") and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return state(pid) in ("", "Z")


def test_second_process_serves_every_other_restore_and_nothing_else(serving: Serving) -> None:
    [second] = children(serving.pid)
    os.kill(second, signal.SIGSTOP)
    try:
        assert serving.asks_for_restore(OF_THE_FIRST) == [m.ErrorCode.UNKNOWN_DEVICE]
        assert serving.asks_for_restore(OF_THE_SECOND) == []
        # The first takes all of a backup.
        [refused] = serving.answers(m.DataEnd(request=1, blocks_sent=0), session=OF_THE_SECOND)
        assert isinstance(refused, m.Error) and refused.code == m.ErrorCode.NO_SESSION, (
            "the first takes all of a backup"
        )
    finally:
        os.kill(second, signal.SIGCONT)
    serving.sock.settimeout(PATIENCE_S)
    late = decode(serving.sock.recv(2048)).message
    assert isinstance(late, m.Error) and late.code == m.ErrorCode.UNKNOWN_DEVICE
    assert serving.asks_for_restore(OF_THE_SECOND) == [m.ErrorCode.UNKNOWN_DEVICE]


def test_first_process_goes_on_alone_when_the_second_is_killed(serving: Serving) -> None:
    [second] = children(serving.pid)
    os.kill(second, signal.SIGKILL)
    assert gone(second)
    time.sleep(SILENCE_S)
    for session in (OF_THE_FIRST, OF_THE_SECOND):
        assert serving.asks_for_restore(session) == [m.ErrorCode.UNKNOWN_DEVICE]


def test_second_process_ends_when_the_first_is_killed(serving: Serving) -> None:
    [second] = children(serving.pid)
    os.kill(serving.pid, signal.SIGKILL)
    assert gone(second)
    bound_socket(socket.SOCK_DGRAM, serving.to).close()


def test_second_process_outlives_ctrl_c_until_the_first_ended(serving: Serving) -> None:
    [second] = children(serving.pid)
    os.kill(second, signal.SIGINT)
    os.kill(second, signal.SIGTERM)
    time.sleep(SILENCE_S)
    assert serving.asks_for_restore(OF_THE_SECOND) == [m.ErrorCode.UNKNOWN_DEVICE]
    os.kill(serving.pid, signal.SIGTERM)
    assert gone(second) and gone(serving.pid)


def test_second_process_that_does_not_end_is_killed(serving: Serving) -> None:
    [second] = children(serving.pid)
    os.kill(second, signal.SIGSTOP)
    os.kill(serving.pid, signal.SIGTERM)
    assert gone(second) and gone(serving.pid)


def test_another_server_is_refused_the_port_that_two_processes_share(serving: Serving, tmp_path: Path) -> None:
    another = ServerProcess(tmp_path / "another", "udp")
    another.address = f"{serving.to[0]}:{serving.to[1]}"
    with pytest.raises(ConfigError, match="in use"):
        another.start()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    first = bound_socket(socket.SOCK_DGRAM, ("0.0.0.0", 0), shared=True)
    second = bound_socket(socket.SOCK_DGRAM, first.getsockname()[:2], shared=True)
    with first, second:
        yield first, second


def came(sock: socket.socket) -> list[tuple[int, int]]:
    """Type and session of what is there."""
    found: list[tuple[int, int]] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            octets = sock.recv(2048)
            found.append((octets[TYPE_AT], octets[SESSION_AT + 3]))
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.255.255"], ids=["unicast", "broadcast"])
def test_steering_brings_each_message_to_one_of_the_sockets(
    pair: tuple[socket.socket, socket.socket], host: str
) -> None:
    share_out(*pair)
    messages = [(kind, session) for kind in Type for session in (OF_THE_FIRST, OF_THE_SECOND)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for kind, session in messages:
            sender.sendto(encode_frame(kind, b"", session=session), (host, pair[0].getsockname()[1]))
    its = [(kind, session) for kind, session in messages if kind in OF_RESTORES and session == OF_THE_SECOND]
    assert came(pair[1]) == its and len(its) == 5
    assert came(pair[0]) == [message for message in messages if message not in its]


def test_steering_drops_what_is_too_short_for_a_message(pair: tuple[socket.socket, socket.socket]) -> None:
    share_out(*pair)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for length in range(4):
            sender.sendto(bytes(length), ("127.0.0.1", pair[0].getsockname()[1]))
    assert came(pair[0]) == came(pair[1]) == []


def test_steering_ended_brings_all_to_the_first(pair: tuple[socket.socket, socket.socket]) -> None:
    share_out(*pair)
    pair[1].close()
    take_all(pair[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for session in range(20):
            octets = encode_frame(Type.BLOCK_REQUEST, b"", session=session)
            sender.sendto(octets, ("127.0.0.1", pair[0].getsockname()[1]))
    assert [session for _, session in came(pair[0])] == list(range(20))
