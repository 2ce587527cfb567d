# SPDX-License-Identifier: Apache-2.0
"""The messages of a transfer, from DataRequest to DataEnd-Ack.

Spec: spec/protocol.md §4.7 to §4.13. Knows no order of messages and no window.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from unbrickd.errors import RemoteProtocolError
from unbrickd.model.manifest import DIGEST_BYTES, MAX_VERSION_BYTES
from unbrickd.wire.fields import Body, Type, fixed, text_field
from unbrickd.wire.framing import Octets

MAX_RANGES = 64
_REQUEST, _RANGE = struct.Struct(">IBBxx"), struct.Struct(">II")


class StartStatus(IntEnum):
    GO_ON = 0
    HELD = 1


class EndStatus(IntEnum):
    VERIFIED = 0
    INCOMPLETE = 1
    REFUSED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRequest:
    TYPE: ClassVar[Type] = Type.DATA_REQUEST
    component_id: int
    max_block_bytes: int
    generation: int
    digest: bytes

    def encode_body(self) -> bytes:
        digest = fixed(self.digest, DIGEST_BYTES)
        return struct.pack(">BxHI32s", self.component_id, self.max_block_bytes, self.generation, digest)

    @classmethod
    def decode_body(cls, octets: bytes) -> DataRequest:
        b = Body(octets, "DataRequest")
        component_id = b.unsigned(1)
        b.skip(1)
        longest = b.unsigned(2)
        generation, digest = b.unsigned(4), b.take(DIGEST_BYTES)
        b.require(longest >= 1, "max block 0")
        return cls(component_id=component_id, max_block_bytes=longest, generation=generation, digest=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStart:
    TYPE: ClassVar[Type] = Type.DATA_START
    component_id: int
    max_block_bytes: int
    generation: int
    length_bytes: int
    digest: bytes
    version: str = ""

    def encode_body(self) -> bytes:
        head = struct.pack(
            ">BxHII32s",
            self.component_id,
            self.max_block_bytes,
            self.generation,
            self.length_bytes,
            fixed(self.digest, DIGEST_BYTES),
        )
        return head + text_field(self.version, MAX_VERSION_BYTES)

    @classmethod
    def decode_body(cls, octets: bytes) -> DataStart:
        b = Body(octets, "DataStart")
        component_id = b.unsigned(1)
        b.skip(1)
        longest = b.unsigned(2)
        generation, length, digest = b.unsigned(4), b.unsigned(4), b.take(DIGEST_BYTES)
        b.require(longest >= 1, "max block 0")
        return cls(
            component_id=component_id,
            max_block_bytes=longest,
            generation=generation,
            length_bytes=length,
            digest=digest,
            version=b.text(MAX_VERSION_BYTES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStartAck:
    TYPE: ClassVar[Type] = Type.DATA_START_ACK
    block_bytes: int
    status: StartStatus = StartStatus.GO_ON
    committed: bool = False

    def encode_body(self) -> bytes:
        return struct.pack(">HBB", self.block_bytes, self.status, int(self.committed))

    @classmethod
    def decode_body(cls, octets: bytes) -> DataStartAck:
        b = Body(octets, "DataStart-Ack")
        size, status, flags = b.unsigned(2), b.closed(StartStatus), b.unsigned(1)
        b.require(size >= 1 or status is StartStatus.HELD, "block size 0")
        return cls(block_bytes=size, status=status, committed=bool(flags & 1))


@dataclass(slots=True, kw_only=True)
class BlockRequest:
    """Not frozen, as Packet."""

    TYPE: ClassVar[Type] = Type.BLOCK_REQUEST
    request: int
    last: bool
    ranges: tuple[tuple[int, int], ...]
    """(offset in bytes, length in bytes)"""

    def encode_body(self) -> bytes:
        assert len(self.ranges) <= MAX_RANGES
        head = _REQUEST.pack(self.request, int(self.last), len(self.ranges))
        return head + b"".join(_RANGE.pack(offset, length) for offset, length in self.ranges)

    @classmethod
    def decode_body(cls, octets: bytes) -> BlockRequest:
        if len(octets) < _REQUEST.size:
            raise RemoteProtocolError("BlockRequest ends too early")
        request, flags, count = _REQUEST.unpack_from(octets)
        if request == 0:
            raise RemoteProtocolError("BlockRequest: request number 0")
        if count > MAX_RANGES:
            raise RemoteProtocolError("BlockRequest: too many ranges")
        end = _REQUEST.size + count * _RANGE.size
        if len(octets) < end:
            raise RemoteProtocolError("BlockRequest ends too early")
        ranges = tuple(_RANGE.iter_unpack(octets[_REQUEST.size : end]))
        for _, length in ranges:
            if length == 0:
                raise RemoteProtocolError("BlockRequest: an empty range")
        return cls(request=request, last=bool(flags & 1), ranges=ranges)


@dataclass(slots=True, kw_only=True)
class DataBlock:
    TYPE: ClassVar[Type] = Type.DATA_BLOCK
    FIXED_BYTES: ClassVar[int] = 8
    """Bytes of the body before the payload."""
    request: int
    offset_bytes: int
    payload: Octets

    def encode_body(self) -> bytes:
        return struct.pack(">II", self.request, self.offset_bytes) + self.payload

    @classmethod
    def decode_body(cls, octets: bytes) -> DataBlock:
        b = Body(octets, "DataBlock")
        request, offset, payload = b.unsigned(4), b.unsigned(4), b.rest()
        b.require(len(payload) >= 1, "it carries nothing")
        return cls(request=request, offset_bytes=offset, payload=payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataEnd:
    TYPE: ClassVar[Type] = Type.DATA_END
    request: int
    blocks_sent: int

    def encode_body(self) -> bytes:
        return struct.pack(">IIxxxx", self.request, self.blocks_sent)

    @classmethod
    def decode_body(cls, octets: bytes) -> DataEnd:
        b = Body(octets, "DataEnd")
        request, blocks_sent = b.unsigned(4), b.unsigned(4)
        b.skip(4)
        return cls(request=request, blocks_sent=blocks_sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataEndAck:
    TYPE: ClassVar[Type] = Type.DATA_END_ACK
    status: EndStatus
    committed: bool = False

    def encode_body(self) -> bytes:
        return struct.pack(">BBxx", self.status, int(self.committed))

    @classmethod
    def decode_body(cls, octets: bytes) -> DataEndAck:
        b = Body(octets, "DataEnd-Ack")
        status, flags = b.closed(EndStatus), b.unsigned(1)
        b.skip(2)
        return cls(status=status, committed=bool(flags & 1))
