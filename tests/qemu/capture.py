# SPDX-License-Identifier: Apache-2.0
"""What went through the gateway's network card, as QEMU's filter-dump keeps it (pcap), and how full its ring may be."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unbrickd.errors import RemoteProtocolError
from unbrickd.wire.messages import BlockRequest, DataBlock, DataRequest, DataStartAck, Probe
from unbrickd.wire.packet import Message, decode

SERVER_PORT, DEVICE_PORT = 21530, 21531
_FILE_HEADER, _RECORD_HEADER = struct.Struct("<IHHiIII"), struct.Struct("<IIII")
_MAGIC = 0xA1B2C3D4
_ETHERNET = struct.Struct(">6s6sH")
_IPV4, _UDP = 0x0800, 17
_HEADERS_BYTES = _ETHERNET.size + 20 + 8


def options(file: Path) -> list[str]:
    """What QEMU is started with."""
    return ["-object", f"filter-dump,id=capture,netdev=lan,file={file}"]


def messages(file: Path) -> Iterator[Message]:
    """All of our protocol, both ways, in order. Host to gateway: what reached the card; back: what left it."""
    octets = file.read_bytes()
    assert _FILE_HEADER.unpack_from(octets)[0] == _MAGIC, "no pcap of this byte order"
    at = _FILE_HEADER.size
    while at < len(octets):
        _, _, length, _ = _RECORD_HEADER.unpack_from(octets, at)
        at += _RECORD_HEADER.size
        frame = octets[at : at + length]
        at += length
        if len(frame) < _HEADERS_BYTES or _ETHERNET.unpack_from(frame)[2] != _IPV4 or frame[23] != _UDP:
            continue
        source, target, udp_bytes = struct.unpack_from(">HHH", frame, 34)
        if DEVICE_PORT not in (source, target) and SERVER_PORT not in (source, target):
            continue
        try:
            yield decode(frame[_HEADERS_BYTES : 34 + udp_bytes]).message
        except RemoteProtocolError:
            continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """frames: what the gateway advertised; fullest: the most blocks, ever, that were asked for and had not come."""

    frames: int
    fullest: int


def ring(file: Path) -> Ring:
    """A block counts from the request that first names it until it first reaches the card.

    So a copy of one that came does not count. The gateway asks for some after a stall of the server that it takes for
    loss, and then the ring may overflow: it cannot know better.
    """
    frames = fullest = block_bytes = 0
    outstanding: set[int] = set()
    came: set[int] = set()
    for message in messages(file):
        match message:
            case Probe():
                frames = message.ring_frames
            case DataRequest():
                outstanding.clear()
                came.clear()
            case DataStartAck():
                block_bytes = message.block_bytes
            case BlockRequest():
                for offset, length in message.ranges:
                    outstanding.update(range(offset, offset + length, block_bytes))
                outstanding -= came
                fullest = max(fullest, len(outstanding))
            case DataBlock():
                outstanding.discard(message.offset_bytes)
                came.add(message.offset_bytes)
            case _:
                pass
    return Ring(frames=frames, fullest=fullest)
