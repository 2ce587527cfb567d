# SPDX-License-Identifier: Apache-2.0
"""The server over real sockets, on a disk that does not answer: whoever does not wait for it is served."""

from __future__ import annotations

import asyncio
import queue
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from unbrickd.adapters.net.binding import Bound
from unbrickd.adapters.net.serve import serve
from unbrickd.model.manifest import GENERATION_OBJECT_ID
from unbrickd.sim.memory_store import MemoryUpload
from unbrickd.sim.trace import CONFIG, ERASE_BLOCK_BYTES, FIRMWARE, TracedDevice, TracedServer
from unbrickd.wire import messages as m
from unbrickd.wire.packet import Message, Packet, decode, encode

PATIENCE_S = 20.0


class Disk:
    """While it is not released, whatever syncs waits."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    def sync(self) -> None:
        self.asked.set()
        assert self.released.wait(PATIENCE_S)


class LoopbackDevice(TracedDevice):
    """The device of the traces over a socket."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(TracedServer(), name)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(("127.0.0.1", port))

    def send(self, message: Message, transfer: int) -> None:
        self.socket.sendall(encode(message, session=self.session, transfer=transfer))

    def hear(self) -> Message:
        return decode(self.socket.recv(1 << 16)).message

    def say(self, message: Message, *, transfer: int = 0, session: int | None = None) -> list[Packet]:
        """The next message of this transfer is the answer; DataEnd-Acks of the one before may still come."""
        self.send(message, transfer)
        while (packet := decode(self.socket.recv(1 << 16))).transfer != transfer:
            pass
        return [packet]

    def send_all(self, component_id: int, transfer: int) -> None:
        """From DataStart to DataEnd; its answer is left to be heard."""
        octets = self.octets_of(component_id)
        start = self.ask(self.data_start(component_id), m.DataStartAck, transfer=transfer)
        came = 0
        while came < len(octets):
            request = self.hear()
            if not isinstance(request, m.BlockRequest):
                continue
            for offset, length in request.ranges:
                for at in range(offset, offset + length, start.block_bytes):
                    payload = octets[at : min(at + start.block_bytes, offset + length)]
                    self.send(m.DataBlock(request=request.request, offset_bytes=at, payload=payload), transfer)
                    came += len(payload)
            if request.last:
                self.send(m.DataEnd(request=request.request, blocks_sent=0), transfer)
                return

    def end(self) -> m.DataEndAck:
        while not isinstance(message := self.hear(), m.DataEndAck):
            pass
        return message


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> Iterator[int]:
    monkeypatch.setattr(MemoryUpload, "sync", lambda _: disk.sync())
    ready: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event, Bound]] = queue.Queue()

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(
            TracedServer().server,
            udp_addresses=[("127.0.0.1", 0)],
            announce=False,
            on_event=lambda _: None,
            on_ready=lambda bound: ready.put((loop, stop, bound[0])),
            stop=stop,
        )

    def main() -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(run())

    thread = threading.Thread(target=main)
    thread.start()
    loop, stop, bound = ready.get(timeout=PATIENCE_S)
    yield bound.port
    loop.call_soon_threadsafe(stop.set)
    disk.released.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_serve_disk_that_does_not_answer_holds_up_nobody_else(port: int, disk: Disk) -> None:
    device, other = LoopbackDevice(port, "a"), LoopbackDevice(port, "other")
    device.make(1, random.Random(1).randbytes(9 * ERASE_BLOCK_BYTES), bytes(ERASE_BLOCK_BYTES))
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.send_all(GENERATION_OBJECT_ID, 1)
    assert device.end() == m.DataEndAck(status=m.EndStatus.VERIFIED)
    device.send_all(FIRMWARE, 2)
    assert disk.asked.wait(PATIENCE_S)
    for _ in range(10):
        other.probe()
    disk.released.set()
    assert device.end() == m.DataEndAck(status=m.EndStatus.VERIFIED)
    device.send_all(CONFIG, 3)
    assert device.end() == m.DataEndAck(status=m.EndStatus.VERIFIED, committed=True)
    for each in (device, other):
        each.socket.close()
