# SPDX-License-Identifier: Apache-2.0
"""Writes down what goes in and out of the C core, so that c/ports/sim/replay.c can hold another machine's core to it.

One file is any number of power-ons. All integers are big-endian; an entry is a letter, a u32 length and so many bytes:

C configuration: fields as `_configuration` writes them. F flash of one part: id u8, bytes.
P power on: now u64, button u8. R receive: now u64, peer (24), message. L poll: now u64.
Then what the core must do, in this order: s send: peer (24), message. n random: the bytes it gets. p program: part u8,
offset u32, bytes. e erase: part u8, offset u32, size u32. l light: u8. x flash says stop at this operation.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import BinaryIO, ClassVar

import twins
from cffi import FFI
from unbrickd_c import CBootloader, CCore, ffi

from unbrickd.model.geometry import Geometry
from unbrickd.model.peer import Peer
from unbrickd.seal.identity import encode_identity

STORIES = 150


class TranscribedCore(CCore):
    """Every call of the core and of its table of functions goes into `file`."""

    file: ClassVar[BinaryIO]

    def put(self, letter: str, *pieces: bytes) -> None:
        entry = b"".join(pieces)
        self.file.write(letter.encode() + struct.pack(">I", len(entry)) + entry)

    def begin(self, *, button: bool, now_us: int) -> None:
        self.put("C", self._configuration())
        for part, flash in self._flashes.items():
            self.put("F", bytes([part]), flash.read(0, flash.geometry.total_bytes))
        self.put("P", struct.pack(">QB", now_us, button))

    def peer_octets(self, peer: Peer) -> bytes:
        return bytes(self.octets_of(peer).octets)

    def _configuration(self) -> bytes:
        c = self.config
        identity = encode_identity(self.device.keys.identity)
        targets = b"".join(bytes(c.targets[i].octets) for i in range(c.target_count))
        head = struct.pack(
            ">HHBIBB", c.max_message_bytes, c.ring_frames, c.boot_limit, c.wait_ms, c.target_count, c.component_count
        )
        parts = [
            struct.pack(">BBB", s.component_id, s.kind, s.sealed) + _runs(s.flash.geometry) for s in self.device.slots
        ]
        return (
            head
            + struct.pack(">H", len(identity))
            + identity
            + targets
            + _runs(self._flashes[0].geometry)
            + b"".join(parts)
        )

    def _program(self, app: FFI.CData, part: int, offset: int, wanted: FFI.CData, length: int) -> int:
        try:
            result = super()._program(app, part, offset, wanted, length)
        except BaseException:
            self.put("x")
            raise
        self.put("p", struct.pack(">BI", part, offset), bytes(ffi().buffer(wanted, length)))
        return result

    def _erase(self, app: FFI.CData, part: int, offset: int, length: int) -> int:
        try:
            result = super()._erase(app, part, offset, length)
        except BaseException:
            self.put("x")
            raise
        self.put("e", struct.pack(">BII", part, offset, length))
        return result

    def _send(self, app: FFI.CData, to: FFI.CData, message: FFI.CData, length: int) -> None:
        super()._send(app, to, message, length)
        self.put("s", bytes(to.octets), bytes(ffi().buffer(message, length)))

    def _random(self, app: FFI.CData, to: FFI.CData, length: int) -> None:
        super()._random(app, to, length)
        self.put("n", bytes(ffi().buffer(to, length)))

    def _light(self, app: FFI.CData, light: int) -> None:
        super()._light(app, light)
        self.put("l", bytes([light]))


def _runs(geometry: Geometry) -> bytes:
    runs = b"".join(struct.pack(">II", run.count, run.size_bytes) for run in geometry.runs)
    return bytes([len(geometry.runs)]) + runs


class TranscribedBootloader(CBootloader):
    core_class = TranscribedCore
    core: TranscribedCore

    def _power_on(self, *, button: bool, now_us: int) -> None:
        self.core.begin(button=button, now_us=now_us)
        super()._power_on(button=button, now_us=now_us)

    def _receive(self, peer: Peer, message: bytes, now_us: int) -> None:
        self.core.put("R", struct.pack(">Q", now_us), self.core.peer_octets(peer), message)
        super()._receive(peer, message, now_us)

    def _poll(self, now_us: int) -> None:
        self.core.put("L", struct.pack(">Q", now_us))
        super()._poll(now_us)


def transcribe(path: Path, seeds: range) -> None:
    """Tell these stories and write down the C core's part in them."""
    with path.open("wb") as file:
        TranscribedCore.file = file
        for seed in seeds:
            twins.tell(twins.make_story(seed), TranscribedBootloader)


if __name__ == "__main__":
    transcribe(Path(sys.argv[1]), range(STORIES))
