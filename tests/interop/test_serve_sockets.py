# SPDX-License-Identifier: Apache-2.0
"""`unbrickd serve` as a process, over real sockets on loopback: ready, probed, backed up to, stopped, refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from unbrickd.adapters.store.open import open_vault
from unbrickd.model.peer import Transport
from unbrickd.sim.trace import BLOCK_BYTES, FIRMWARE, TracedDevice, TracedServer
from unbrickd.wire import messages as m
from unbrickd.wire.framing import StreamSplitter
from unbrickd.wire.packet import Message, Packet, decode, encode

PATIENCE_S = 20.0
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once on Windows")


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class Serving:
    """One server process; `ready` holds its first lines."""

    def __init__(self, store: Path, *arguments: str, lines: int = 1) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("UNBRICKD_")}
        environment["UNBRICKD_CONFIG"] = os.devnull
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unbrickd", "serve", "--store", str(store), "--no-announce", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.ready = [self.process.stdout.readline().strip() for _ in range(lines)]

    def address(self, line: int = 0) -> tuple[str, int]:
        host, _, port = self.ready[line].split()[2].rpartition(":")
        return host.strip("[]"), int(port)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """(exit code, stderr) after this signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors


Start = Callable[..., Serving]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Serving] = []

    def begin(*arguments: str, store: Path = tmp_path / "store", lines: int = 1) -> Serving:
        running.append(Serving(store, *arguments, lines=lines))
        return running[-1]

    yield begin
    for serving in running:
        serving.end(signal.SIGKILL)


class SocketDevice(TracedDevice):
    """The device of the traces, but its server is a process."""

    def __init__(self, address: tuple[str, int], *, tcp: bool = False) -> None:
        super().__init__(TracedServer(), "a", transport=Transport.TCP if tcp else Transport.UDP)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(address)
        self.splitter = StreamSplitter() if tcp else None

    def say(self, message: Message, *, transfer: int = 0, session: int | None = None) -> list[Packet]:
        """Send, and wait for what comes until nothing does for a while; blocks are mostly answered by nothing."""
        self.send(message, transfer=transfer, session=session)
        return self.answers(quiet_s=0.02 if isinstance(message, m.DataBlock) else 0.2)

    def send(self, message: Message, *, transfer: int = 0, session: int | None = None) -> None:
        octets = encode(message, session=self.session if session is None else session, transfer=transfer)
        self.socket.sendall(octets)

    def answers(self, *, quiet_s: float) -> list[Packet]:
        """Everything until the socket is quiet for so long; the first answer may take longer."""
        packets: list[Packet] = []
        self.socket.settimeout(quiet_s)
        with suppress(TimeoutError):
            while octets := self.socket.recv(1 << 16):
                packets += [decode(o) for o in (self.splitter.feed(octets) if self.splitter else [octets])]
        return packets

    def probe(self, purpose: m.Purpose = m.Purpose.BACKUP) -> m.ProbeAck:
        """Asked again and again, as a device does, for a server may be slow to start on a busy machine."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            with suppress(ValueError):
                return super().probe(purpose)
            assert time.monotonic() < deadline_s

    def close(self) -> None:
        self.socket.close()


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_serve_probed_over_loopback_answers_and_stops_in_good_order(start: Start, host: str, tcp: bool) -> None:
    if ":" in host and not _has_ipv6_loopback():
        pytest.skip("no IPv6 here")
    serving = start("--tcp" if tcp else "--udp", f"{host}:0")
    assert serving.ready[0].split()[:2] == ["ready", "tcp" if tcp else "udp"]
    device = SocketDevice(serving.address(), tcp=tcp)
    ack = device.probe()
    assert ack.nonce == b"nonce678" and not ack.holds_device and not ack.busy
    device.close()
    code, errors = serving.end()
    assert code == 0 and "stopped" in errors


def test_serve_backs_up_and_resumes_after_sigterm_in_the_middle_of_an_upload(start: Start, tmp_path: Path) -> None:
    serving = start("--udp", "127.0.0.1:0")
    device = SocketDevice(serving.address())
    device.make(1, bytes(range(256)) * 128, b"settings")
    device.probe()
    device.ask(device.backup(good=True), m.BackupAck)
    device.upload(0, 1)
    _, *asked = device.say(device.data_start(FIRMWARE), transfer=2)
    device.send_blocks(FIRMWARE, 2, asked, at_most=16 * 1024)
    device.close()
    code, errors = serving.end()
    assert code == 0 and "1 transfers left to resume" in errors

    serving = start("--udp", "127.0.0.1:0")
    again = SocketDevice(serving.address())
    again.make(1, bytes(range(256)) * 128, b"settings")
    assert again.back_up() < len(again.octets_of(0)) + 20 * 1024
    assert again.offered().generation == 1
    again.close()
    code, errors = serving.end(signal.SIGINT)
    assert code == 0 and "backed up generation 1: firmware and config changed" in errors
    listed = subprocess.run(
        [sys.executable, "-m", "unbrickd", "devices", "--store", str(tmp_path / "store"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [d["device_id"] for d in json.loads(listed.stdout)] == [device.device_id.hex()]


def test_serve_in_json_says_ready_and_logs_as_objects(start: Start) -> None:
    serving = start("--udp", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--log-format", "json", lines=2)
    ready = [json.loads(line) for line in serving.ready]
    assert [(r["event"], r["transport"]) for r in ready] == [("ready", "udp"), ("ready", "tcp")]
    _, errors = serving.end()
    assert [json.loads(line)["level"] for line in errors.splitlines()] == ["info", "info"]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_serve_on_a_port_in_use_says_so(start: Start, tmp_path: Path, transport: str) -> None:
    first = start(f"--{transport}", "127.0.0.1:0")
    host, port = first.address()
    second = start(f"--{transport}", f"{host}:{port}", store=tmp_path / "other")
    code, errors = second.end()
    assert code == 2
    assert f"error: {transport.upper()} port {port} of 127.0.0.1 is in use\nhint: " in errors


def test_serve_on_a_store_in_use_says_by_whom(start: Start) -> None:
    first = start("--udp", "127.0.0.1:0")
    code, errors = start("--udp", "127.0.0.1:0").end()
    assert code == 4
    assert f"(pid {first.process.pid})" in errors and "hint: stop it first" in errors


def test_serve_on_a_store_that_cannot_be_written_says_so(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    code, errors = start("--udp", "127.0.0.1:0", store=tmp_path / "file" / "store").end()
    assert code == 4 and errors.startswith("error: ")


def test_serve_sent_garbage_over_udp_and_tcp_goes_on_serving(start: Start) -> None:
    serving = start("--udp", "127.0.0.1:0", "--tcp", "127.0.0.1:0", lines=2)
    device = SocketDevice(serving.address(0))
    for octets in (b"", b"x", bytes(60000), b"uB" * 700):
        device.socket.send(octets)
    stream = SocketDevice(serving.address(1), tcp=True)
    stream.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with suppress(ConnectionResetError):
        assert stream.socket.recv(1) == b"", "a stream that is not of this protocol is closed"
    assert device.probe().nonce == b"nonce678"
    device.close()
    stream.close()


def test_serve_over_tcp_to_a_device_that_does_not_read_serves_others_and_loses_nothing(
    start: Start, tmp_path: Path
) -> None:
    firmware = bytes(range(256)) * (1 << 14)
    with open_vault(tmp_path / "store", exclusive=True) as vault:
        local = TracedDevice(TracedServer(vault=vault))
        local.make(1, firmware, b"settings")
        local.back_up()
    serving = start("--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0", lines=2)
    device = SocketDevice(serving.address(1), tcp=True)
    offer = device.offered()
    device.ask(device.data_request(offer, FIRMWARE), m.DataStart, transfer=1)
    device.say(m.DataStartAck(block_bytes=BLOCK_BYTES), transfer=1)
    wanted = m.BlockRequest(request=1, last=True, ranges=((0, len(firmware)),))
    device.send(wanted, transfer=1)
    other = SocketDevice(serving.address(0))
    assert other.probe().holds_device, "served while the first one's connection is full"
    blocks = [p.message for p in device.answers(quiet_s=1.0)]
    assert blocks[-1] == m.DataEnd(request=1, blocks_sent=len(blocks) - 1)
    assert b"".join(b.payload for b in blocks if isinstance(b, m.DataBlock)) == firmware
    device.close()
    other.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on its loopback")
def test_serve_on_all_addresses_answers_from_the_one_that_was_asked(start: Start) -> None:
    serving = start("--udp", "0.0.0.0:0")
    device = SocketDevice(("127.0.0.2", serving.address()[1]))
    assert device.probe().nonce == b"nonce678", "a connected socket takes nothing from another address"
    device.close()
