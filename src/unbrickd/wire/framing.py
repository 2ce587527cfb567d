# SPDX-License-Identifier: Apache-2.0
"""The 16-byte header that every message begins with (spec/protocol.md §2), and messages out of a byte stream (§1)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from unbrickd.errors import RemoteProtocolError

MAGIC = b"uB"
VERSION = 1
"""The only version there is so far; also the version that Probe, Probe-Ack, Error and Announce carry for ever (§3)."""
DEFAULT_PORT = 21530
DEVICE_PORT = 21531
"""Where devices listen for Announce (§1)."""
HEADER_BYTES = 16
MIN_MAX_MESSAGE_BYTES = 1232
"""UDP payload of a 1280-byte IPv6 path: 1280 − 40 − 8 (§1)."""
ETHERNET_MESSAGE_BYTES = 1452
"""UDP payload of a 1500-byte path over IPv6, 1500 − 40 − 8; over IPv4 it leaves 20 bytes unused."""
MAX_MESSAGE_BYTES = 65535

Octets = bytes | memoryview
"""Bytes of messages, where they lie: a view is of a buffer that will be used again; whoever gives it says when."""

_HEADER = struct.Struct(">2sBBHHII")
_CRC = struct.Struct(">I")
TYPE_AT, SESSION_AT, CRC_AT = 3, 8, 12
"""Where they lie in a message."""


@dataclass(slots=True)
class Frame:
    """One message whose header holds: its type, the session and transfer it belongs to, and its body. Not frozen, as
    Packet."""

    type: int
    version: int
    session: int
    transfer: int
    body: bytes


def encode_frame(type_: int, body: bytes, *, session: int = 0, transfer: int = 0, version: int = VERSION) -> bytes:
    """Header and body, CRC set. The body must leave room within 65 535 bytes."""
    assert len(body) <= MAX_MESSAGE_BYTES - HEADER_BYTES
    head = _HEADER.pack(MAGIC, version, type_, HEADER_BYTES + len(body), transfer, session, 0)
    crc = zlib.crc32(body, zlib.crc32(head))
    return head[:CRC_AT] + _CRC.pack(crc) + body


def decode_frame(octets: Octets) -> Frame:
    """One whole message. Raises RemoteProtocolError(code="frame") if magic, length or CRC are wrong: drop it."""
    if len(octets) < HEADER_BYTES:
        raise RemoteProtocolError(f"a message of {len(octets)} bytes", code="frame")
    magic, version, type_, length, transfer, session, crc = _HEADER.unpack_from(octets)
    if magic != MAGIC:
        raise RemoteProtocolError("not a message of this protocol", code="frame")
    if length != len(octets):
        raise RemoteProtocolError(f"a message of {len(octets)} bytes says {length}", code="frame")
    body = bytes(octets[HEADER_BYTES:])
    if zlib.crc32(body, zlib.crc32(b"\0\0\0\0", zlib.crc32(octets[:CRC_AT]))) != crc:
        raise RemoteProtocolError("a message with a wrong CRC", code="frame")
    return Frame(type_, version, session, transfer, body)


class StreamSplitter:
    """Cuts a byte stream into messages (TCP, §1). Holds at most one message of 65 535 bytes."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, octets: bytes) -> list[bytes]:
        """The messages that are complete now. Raises RemoteProtocolError on a stream out of step: close it."""
        self._pending += octets
        messages: list[bytes] = []
        at = 0
        while len(self._pending) - at >= HEADER_BYTES:
            magic, _, _, length, *_ = _HEADER.unpack_from(self._pending, at)
            if magic != MAGIC or length < HEADER_BYTES:
                raise RemoteProtocolError("a stream that is not of this protocol", code="frame")
            if len(self._pending) - at < length:
                break
            messages.append(bytes(self._pending[at : at + length]))
            at += length
        del self._pending[:at]
        return messages
