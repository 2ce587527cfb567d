# SPDX-License-Identifier: Apache-2.0
"""A message with the session and transfer it belongs to ↔ the bytes of one datagram (spec/protocol.md §2 to §4)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from unbrickd.errors import RemoteProtocolError
from unbrickd.wire import messages as m
from unbrickd.wire.framing import (
    CRC_AT,
    HEADER_BYTES,
    MAGIC,
    TYPE_AT,
    VERSION,
    Frame,
    Octets,
    decode_frame,
    encode_frame,
)

Message = (
    m.Probe
    | m.ProbeAck
    | m.Backup
    | m.BackupAck
    | m.Restore
    | m.RestoreAck
    | m.DataRequest
    | m.DataStart
    | m.DataStartAck
    | m.DataBlock
    | m.DataEnd
    | m.DataEndAck
    | m.BlockRequest
    | m.Error
    | m.Announce
)

_DECODERS: dict[int, Callable[[bytes], Message]] = {
    kind.TYPE: kind.decode_body
    for kind in (
        m.Probe,
        m.ProbeAck,
        m.Backup,
        m.BackupAck,
        m.Restore,
        m.RestoreAck,
        m.DataRequest,
        m.DataStart,
        m.DataStartAck,
        m.DataBlock,
        m.DataEnd,
        m.DataEndAck,
        m.BlockRequest,
        m.Error,
        m.Announce,
    )
}
_FROZEN_TYPES = frozenset({m.Type.PROBE, m.Type.PROBE_ACK, m.Type.ERROR, m.Type.ANNOUNCE})
"""The same in every version (§3)."""

BLOCK_OVERHEAD_BYTES = HEADER_BYTES + m.DataBlock.FIXED_BYTES
"""Bytes of a DataBlock message besides its payload."""


@dataclass(slots=True, kw_only=True)
class Packet:
    """Not frozen, as DataBlock: one is made for every block that comes, and freezing takes twice the time."""

    message: Message
    session: int = 0
    transfer: int = 0


def encode(message: Message, *, session: int = 0, transfer: int = 0) -> bytes:
    """The bytes of one datagram, or of one message in a stream."""
    return encode_frame(message.TYPE, message.encode_body(), session=session, transfer=transfer)


_BLOCK_HEAD = struct.Struct(">2sBBHHI")
_HEAD_AND_BLOCK = struct.Struct(">12sIII")
_BLOCK = struct.Struct(">2sBBHHIIII")
_DATA_BLOCK = int(m.Type.DATA_BLOCK)


def encode_blocks(
    *, session: int, transfer: int, request: int, offset_bytes: int, block_bytes: int, payload: bytes
) -> bytes:
    """The DataBlocks that carry `payload`, end to end; all of `block_bytes`, but the last one may be shorter.

    The hot path of a sender, without the intermediate values of `encode`. Same bytes.
    """
    view, number = memoryview(payload), request.to_bytes(4, "big")
    parts: list[bytes | memoryview] = []
    add, crc32, pack = parts.append, zlib.crc32, _HEAD_AND_BLOCK.pack
    whole_bytes = len(view) // block_bytes * block_bytes
    for begin, end, length in ((0, whole_bytes, block_bytes), (whole_bytes, len(view), len(view) - whole_bytes)):
        if begin == end:
            continue
        head = _BLOCK_HEAD.pack(MAGIC, VERSION, m.Type.DATA_BLOCK, BLOCK_OVERHEAD_BYTES + length, transfer, session)
        head_crc = crc32(number, crc32(head + b"\0\0\0\0"))
        for at in range(begin, end, length):
            piece, place = view[at : at + length], offset_bytes + at
            add(pack(head, crc32(piece, crc32(place.to_bytes(4, "big"), head_crc)), request, place))
            add(piece)
    return b"".join(parts)


def decode(octets: Octets) -> Packet:
    """One whole message. The payload of a DataBlock is a view if `octets` is one; everything else is copied.

    Raises RemoteProtocolError: code "frame" (drop it silently), "version" or "unknown-type" (answer Error with its
    `wire_code`), "malformed" (likewise).
    """
    return _decode_block(octets) or decode_message(decode_frame(octets))


def _decode_block(octets: Octets) -> Packet | None:
    """A DataBlock, without the intermediate values of the others and without a copy: the hot path of a receiver.

    None if it is another message, or if anything is wrong with it: the plain path then says what.
    """
    if len(octets) <= BLOCK_OVERHEAD_BYTES or octets[TYPE_AT] != _DATA_BLOCK:
        return None
    magic, version, _, length, transfer, session, crc, request, offset = _BLOCK.unpack_from(octets)
    if magic != MAGIC or version != VERSION or length != len(octets):
        return None
    view = memoryview(octets)
    if zlib.crc32(view[HEADER_BYTES:], zlib.crc32(b"\0\0\0\0", zlib.crc32(view[:CRC_AT]))) != crc:
        return None
    message = m.DataBlock(request=request, offset_bytes=offset, payload=octets[BLOCK_OVERHEAD_BYTES:])
    return Packet(message=message, session=session, transfer=transfer)


def decode_message(frame: Frame) -> Packet:
    """As `decode`, for whoever must know the session and type of a message that does not decode, to answer it."""
    if frame.version != VERSION and frame.type not in _FROZEN_TYPES:
        raise RemoteProtocolError(
            f"a message of version {frame.version}", code="version", wire_code=m.ErrorCode.VERSION
        )
    decoder = _DECODERS.get(frame.type)
    if decoder is None:
        raise RemoteProtocolError(
            f"a message of type {frame.type}", code="unknown-type", wire_code=m.ErrorCode.UNKNOWN_TYPE
        )
    return Packet(message=decoder(frame.body), session=frame.session, transfer=frame.transfer)
