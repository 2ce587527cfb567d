# SPDX-License-Identifier: Apache-2.0
"""The messages that are the same in every version for ever: Probe, Probe-Ack, Error and Announce.

Spec: spec/protocol.md §3, §4.1, §4.2, §4.14 and §4.15. Knows no order of messages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from unbrickd.model.manifest import DEVICE_ID_BYTES
from unbrickd.wire.fields import Body, Type, fixed, text_field
from unbrickd.wire.framing import MIN_MAX_MESSAGE_BYTES

NONCE_BYTES = 8
COOKIE_BYTES = 16
SERVER_ID_BYTES = 16
MAX_ERROR_TEXT_BYTES = 200


class Purpose(IntEnum):
    BACKUP = 1
    RESTORE = 2


class ErrorCode(IntEnum):
    """Why a message was refused (§4.14)."""

    VERSION = 1
    MALFORMED = 2
    COOKIE = 3
    NO_SESSION = 4
    NOT_AUTHENTIC = 5
    UNKNOWN_DEVICE = 6
    UNKNOWN_COMPONENT = 7
    RANGE = 8
    SUPERSEDED = 9
    BUSY = 10
    NO_SPACE = 11
    STORAGE = 12
    ROTTEN = 13
    TOO_LARGE = 14
    NOT_ACCEPTED = 15
    UNEXPECTED = 16
    UNKNOWN_TYPE = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    TYPE: ClassVar[Type] = Type.PROBE
    device_id: bytes
    nonce: bytes
    purpose: Purpose
    version_lowest: int = 1
    version_highest: int = 1
    max_message_bytes: int = MIN_MAX_MESSAGE_BYTES
    ring_frames: int = 0

    def encode_body(self) -> bytes:
        return struct.pack(
            ">16s8sBBBxHH",
            fixed(self.device_id, DEVICE_ID_BYTES),
            fixed(self.nonce, NONCE_BYTES),
            self.purpose,
            self.version_lowest,
            self.version_highest,
            self.max_message_bytes,
            self.ring_frames,
        )

    @classmethod
    def decode_body(cls, octets: bytes) -> Probe:
        b = Body(octets, "Probe")
        device_id, nonce, purpose = b.take(DEVICE_ID_BYTES), b.take(NONCE_BYTES), b.closed(Purpose)
        lowest, highest = b.unsigned(1), b.unsigned(1)
        b.skip(1)
        longest, ring = b.unsigned(2), b.unsigned(2)
        b.require(1 <= lowest <= highest, "its versions are out of order")
        b.require(longest >= MIN_MAX_MESSAGE_BYTES, f"max message is below {MIN_MAX_MESSAGE_BYTES}")
        return cls(
            device_id=device_id,
            nonce=nonce,
            purpose=purpose,
            version_lowest=lowest,
            version_highest=highest,
            max_message_bytes=longest,
            ring_frames=ring,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAck:
    TYPE: ClassVar[Type] = Type.PROBE_ACK
    nonce: bytes
    server_id: bytes
    cookie: bytes
    version: int = 1
    holds_device: bool = False
    busy: bool = False
    retry_after_s: int = 0
    max_message_bytes: int = MIN_MAX_MESSAGE_BYTES

    def encode_body(self) -> bytes:
        return struct.pack(
            ">8s16s16sBBHHxx",
            fixed(self.nonce, NONCE_BYTES),
            fixed(self.server_id, SERVER_ID_BYTES),
            fixed(self.cookie, COOKIE_BYTES),
            self.version,
            self.holds_device | self.busy << 1,
            self.retry_after_s,
            self.max_message_bytes,
        )

    @classmethod
    def decode_body(cls, octets: bytes) -> ProbeAck:
        b = Body(octets, "Probe-Ack")
        nonce, server_id, cookie = b.take(NONCE_BYTES), b.take(SERVER_ID_BYTES), b.take(COOKIE_BYTES)
        version, flags, retry, longest = b.unsigned(1), b.unsigned(1), b.unsigned(2), b.unsigned(2)
        b.skip(2)
        b.require(version >= 1, "version 0")
        b.require(longest >= MIN_MAX_MESSAGE_BYTES, f"max message is below {MIN_MAX_MESSAGE_BYTES}")
        return cls(
            nonce=nonce,
            server_id=server_id,
            cookie=cookie,
            version=version,
            holds_device=bool(flags & 1),
            busy=bool(flags & 2),
            retry_after_s=retry,
            max_message_bytes=longest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """`code` is an int, not an ErrorCode, so that a newer peer's code still decodes; `name` says which it is."""

    TYPE: ClassVar[Type] = Type.ERROR
    code: int
    about: int = 0
    retry_after_s: int = 0
    text: str = ""

    @property
    def name(self) -> str:
        known = {c.value: c.name.lower().replace("_", "-") for c in ErrorCode}
        return known.get(self.code, f"error-{self.code}")

    def encode_body(self) -> bytes:
        cut = self.text.encode()[:MAX_ERROR_TEXT_BYTES].decode(errors="ignore")
        return struct.pack(">HHBx", self.code, self.retry_after_s, self.about) + text_field(cut, MAX_ERROR_TEXT_BYTES)

    @classmethod
    def decode_body(cls, octets: bytes) -> Error:
        b = Body(octets, "Error")
        code, retry, about = b.unsigned(2), b.unsigned(2), b.unsigned(1)
        b.skip(1)
        return cls(code=code, retry_after_s=retry, about=about, text=b.text(MAX_ERROR_TEXT_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """prefix_bits: of the IPv4 address that it came from, those that name the server's network there; 0: not told."""

    TYPE: ClassVar[Type] = Type.ANNOUNCE
    server_id: bytes
    version_lowest: int = 1
    version_highest: int = 1
    prefix_bits: int = 0

    def encode_body(self) -> bytes:
        server_id = fixed(self.server_id, SERVER_ID_BYTES)
        return struct.pack(">16sBBBx", server_id, self.version_lowest, self.version_highest, self.prefix_bits)

    @classmethod
    def decode_body(cls, octets: bytes) -> Announce:
        b = Body(octets, "Announce")
        server_id, lowest, highest = b.take(SERVER_ID_BYTES), b.unsigned(1), b.unsigned(1)
        prefix_bits = b.unsigned(1)
        b.skip(1)
        b.require(1 <= lowest <= highest, "its versions are out of order")
        return cls(server_id=server_id, version_lowest=lowest, version_highest=highest, prefix_bits=prefix_bits)
