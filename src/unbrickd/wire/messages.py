# SPDX-License-Identifier: Apache-2.0
"""The fifteen messages as frozen values, each with its body's bytes (spec/protocol.md §4).

Decoding takes a body of any origin and raises only RemoteProtocolError. Bytes after the known fields are ignored (§3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, TypeVar

from unbrickd.errors import RemoteProtocolError
from unbrickd.model.manifest import (
    DEVICE_ID_BYTES,
    DIGEST_BYTES,
    MAX_COMPONENTS,
    MAX_VERSION_BYTES,
    ComponentKind,
    Manifest,
)
from unbrickd.wire.framing import MIN_MAX_MESSAGE_BYTES

NONCE_BYTES = 8
COOKIE_BYTES = 16
SERVER_ID_BYTES = 16
SIGNATURE_BYTES = 64
MAX_RANGES = 64
MAX_ERROR_TEXT_BYTES = 200
NO_SEAL = bytes(DIGEST_BYTES)
BACKUP_SIGNATURE_CONTEXT = b"unbrickd backup v1"


class Type(IntEnum):
    PROBE = 1
    PROBE_ACK = 2
    BACKUP = 3
    BACKUP_ACK = 4
    RESTORE = 5
    RESTORE_ACK = 6
    DATA_REQUEST = 7
    DATA_START = 8
    DATA_START_ACK = 9
    DATA_BLOCK = 10
    DATA_END = 11
    DATA_END_ACK = 12
    BLOCK_REQUEST = 13
    ERROR = 14
    ANNOUNCE = 15


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


class ComponentStatus(IntEnum):
    SAME = 0
    WANTED = 1


class StartStatus(IntEnum):
    GO_ON = 0
    HELD = 1


class EndStatus(IntEnum):
    VERIFIED = 0
    INCOMPLETE = 1
    REFUSED = 2


_Closed = TypeVar("_Closed", bound=IntEnum)


class _Body:
    """Takes fields from the front of a body; whatever is missing or out of range is the peer's error."""

    def __init__(self, octets: bytes, what: str) -> None:
        self._octets = octets
        self._at = 0
        self.what = what

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._octets):
            raise RemoteProtocolError(f"{self.what} ends too early")
        piece = self._octets[self._at : end]
        self._at = end
        return piece

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def rest(self) -> bytes:
        return self.take(len(self._octets) - self._at)

    def text(self, limit: int) -> str:
        octets = self.take(self.unsigned(1))
        if len(octets) > limit:
            raise RemoteProtocolError(f"{self.what} has a text of {len(octets)} bytes; at most {limit}")
        try:
            return octets.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RemoteProtocolError(f"{self.what} has a text that is not UTF-8") from error

    def closed(self, kind: type[_Closed], size: int = 1) -> _Closed:
        value = self.unsigned(size)
        try:
            return kind(value)
        except ValueError as error:
            raise RemoteProtocolError(f"{self.what}: {value} is no {kind.__name__}") from error

    def require(self, ok: bool, what: str) -> None:
        if not ok:
            raise RemoteProtocolError(f"{self.what}: {what}")


def _text(text: str) -> bytes:
    octets = text.encode()
    return bytes([len(octets)]) + octets


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
            self.device_id,
            self.nonce,
            self.purpose,
            self.version_lowest,
            self.version_highest,
            self.max_message_bytes,
            self.ring_frames,
        )

    @classmethod
    def decode_body(cls, octets: bytes) -> Probe:
        b = _Body(octets, "Probe")
        device_id, nonce, purpose = b.take(DEVICE_ID_BYTES), b.take(NONCE_BYTES), b.closed(Purpose)
        lowest, highest, _ = b.unsigned(1), b.unsigned(1), b.unsigned(1)
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
            self.nonce,
            self.server_id,
            self.cookie,
            self.version,
            self.holds_device | self.busy << 1,
            self.retry_after_s,
            self.max_message_bytes,
        )

    @classmethod
    def decode_body(cls, octets: bytes) -> ProbeAck:
        b = _Body(octets, "Probe-Ack")
        nonce, server_id, cookie = b.take(NONCE_BYTES), b.take(SERVER_ID_BYTES), b.take(COOKIE_BYTES)
        version, flags, retry, longest = b.unsigned(1), b.unsigned(1), b.unsigned(2), b.unsigned(2)
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
class ComponentRecord:
    """The parameters of one component in Backup and Restore-Ack (R9, R20)."""

    component_id: int
    kind: ComponentKind
    sealed: bool
    length_bytes: int
    image_digest: bytes
    version: str

    @classmethod
    def of(cls, manifest: Manifest) -> ComponentRecord:
        return cls(
            component_id=manifest.component_id,
            kind=manifest.kind,
            sealed=manifest.sealed,
            length_bytes=manifest.length_bytes,
            image_digest=manifest.image_digest,
            version=manifest.version,
        )

    def encode(self) -> bytes:
        fixed = struct.pack(
            ">BBBI32s", self.component_id, self.kind, int(self.sealed), self.length_bytes, self.image_digest
        )
        rest = fixed + _text(self.version)
        return bytes([1 + len(rest)]) + rest

    @classmethod
    def decode(cls, outer: _Body) -> ComponentRecord:
        size = outer.unsigned(1)
        outer.require(size >= 1, "a component record of no length")
        b = _Body(outer.take(size - 1), f"a component record of {outer.what}")
        component_id, kind, flags = b.unsigned(1), b.closed(ComponentKind), b.unsigned(1)
        length, digest, version = b.unsigned(4), b.take(DIGEST_BYTES), b.text(MAX_VERSION_BYTES)
        b.require(component_id != 0, "component id 0")
        return cls(
            component_id=component_id,
            kind=kind,
            sealed=bool(flags & 1),
            length_bytes=length,
            image_digest=digest,
            version=version,
        )


def _decode_components(b: _Body, count: int) -> tuple[ComponentRecord, ...]:
    b.require(count <= MAX_COMPONENTS, f"{count} components; at most {MAX_COMPONENTS}")
    records = tuple(ComponentRecord.decode(b) for _ in range(count))
    ids = [r.component_id for r in records]
    b.require(ids == sorted(set(ids)), "component ids are not unique and ascending")
    return records


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """`signature` covers `signed_bytes`; whoever encodes signs those first."""

    TYPE: ClassVar[Type] = Type.BACKUP
    cookie: bytes
    device_id: bytes
    public_key: bytes
    generation: int
    document_length_bytes: int
    document_digest: bytes
    components: tuple[ComponentRecord, ...]
    good_seal: bytes | None = None
    signature: bytes = bytes(SIGNATURE_BYTES)

    def _unsigned_body(self) -> bytes:
        fixed = struct.pack(
            ">16s16s32sIBBxxI32s32s",
            self.cookie,
            self.device_id,
            self.public_key,
            self.generation,
            int(self.good_seal is not None),
            len(self.components),
            self.document_length_bytes,
            self.document_digest,
            self.good_seal or NO_SEAL,
        )
        return fixed + b"".join(c.encode() for c in self.components)

    def encode_body(self) -> bytes:
        return self._unsigned_body() + self.signature

    def signed_bytes(self, session: int) -> bytes:
        """What the device signs (§4.3): context, session, and the body before the signature."""
        return BACKUP_SIGNATURE_CONTEXT + struct.pack(">I", session) + self._unsigned_body()

    @classmethod
    def decode_body(cls, octets: bytes) -> Backup:
        b = _Body(octets[:-SIGNATURE_BYTES], "Backup")
        b.require(len(octets) > SIGNATURE_BYTES, "it is too short")
        cookie, device_id, public_key = b.take(COOKIE_BYTES), b.take(DEVICE_ID_BYTES), b.take(32)
        generation, flags, count, _ = b.unsigned(4), b.unsigned(1), b.unsigned(1), b.unsigned(2)
        length, digest, seal = b.unsigned(4), b.take(DIGEST_BYTES), b.take(DIGEST_BYTES)
        b.require(generation >= 1, "generation 0")
        b.require(count >= 1, "it names no component")
        return cls(
            cookie=cookie,
            device_id=device_id,
            public_key=public_key,
            generation=generation,
            document_length_bytes=length,
            document_digest=digest,
            components=_decode_components(b, count),
            good_seal=seal if flags & 1 else None,
            signature=octets[-SIGNATURE_BYTES:],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupAck:
    TYPE: ClassVar[Type] = Type.BACKUP_ACK
    generation: int
    document_wanted: bool
    committed: bool
    statuses: tuple[tuple[int, ComponentStatus], ...]
    """(component id, status)"""

    def encode_body(self) -> bytes:
        head = struct.pack(">IBBxx", self.generation, self.document_wanted | self.committed << 1, len(self.statuses))
        return head + b"".join(struct.pack(">BB", cid, status) for cid, status in self.statuses)

    @classmethod
    def decode_body(cls, octets: bytes) -> BackupAck:
        b = _Body(octets, "Backup-Ack")
        generation, flags, count, _ = b.unsigned(4), b.unsigned(1), b.unsigned(1), b.unsigned(2)
        b.require(count <= MAX_COMPONENTS, f"{count} components; at most {MAX_COMPONENTS}")
        return cls(
            generation=generation,
            document_wanted=bool(flags & 1),
            committed=bool(flags & 2),
            statuses=tuple((b.unsigned(1), b.closed(ComponentStatus)) for _ in range(count)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    TYPE: ClassVar[Type] = Type.RESTORE
    cookie: bytes
    device_id: bytes
    named: int
    rejected_from: int = 0
    rejected_to: int = 0

    def encode_body(self) -> bytes:
        return struct.pack(
            ">16s16sIIIxxxx", self.cookie, self.device_id, self.named, self.rejected_from, self.rejected_to
        )

    @classmethod
    def decode_body(cls, octets: bytes) -> Restore:
        b = _Body(octets, "Restore")
        cookie, device_id = b.take(COOKIE_BYTES), b.take(DEVICE_ID_BYTES)
        named, lowest, highest = b.unsigned(4), b.unsigned(4), b.unsigned(4)
        b.take(4)
        b.require(lowest <= highest, "the rejected generations are out of order")
        return cls(cookie=cookie, device_id=device_id, named=named, rejected_from=lowest, rejected_to=highest)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreAck:
    """generation 0 with no components: nothing is held that may be offered."""

    TYPE: ClassVar[Type] = Type.RESTORE_ACK
    generation: int = 0
    document_length_bytes: int = 0
    document_digest: bytes = bytes(DIGEST_BYTES)
    components: tuple[ComponentRecord, ...] = ()
    good_seal: bytes | None = None

    def encode_body(self) -> bytes:
        head = struct.pack(
            ">IBBxxI32s32s",
            self.generation,
            int(self.good_seal is not None),
            len(self.components),
            self.document_length_bytes,
            self.document_digest,
            self.good_seal or NO_SEAL,
        )
        return head + b"".join(c.encode() for c in self.components)

    @classmethod
    def decode_body(cls, octets: bytes) -> RestoreAck:
        b = _Body(octets, "Restore-Ack")
        generation, flags, count, _ = b.unsigned(4), b.unsigned(1), b.unsigned(1), b.unsigned(2)
        length, digest, seal = b.unsigned(4), b.take(DIGEST_BYTES), b.take(DIGEST_BYTES)
        return cls(
            generation=generation,
            document_length_bytes=length,
            document_digest=digest,
            components=_decode_components(b, count),
            good_seal=seal if flags & 1 else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRequest:
    TYPE: ClassVar[Type] = Type.DATA_REQUEST
    component_id: int
    max_block_bytes: int
    generation: int
    digest: bytes

    def encode_body(self) -> bytes:
        return struct.pack(">BxHI32s", self.component_id, self.max_block_bytes, self.generation, self.digest)

    @classmethod
    def decode_body(cls, octets: bytes) -> DataRequest:
        b = _Body(octets, "DataRequest")
        component_id, _, longest = b.unsigned(1), b.unsigned(1), b.unsigned(2)
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
            ">BxHII32s", self.component_id, self.max_block_bytes, self.generation, self.length_bytes, self.digest
        )
        return head + _text(self.version)

    @classmethod
    def decode_body(cls, octets: bytes) -> DataStart:
        b = _Body(octets, "DataStart")
        component_id, _, longest = b.unsigned(1), b.unsigned(1), b.unsigned(2)
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
        b = _Body(octets, "DataStart-Ack")
        size, status, flags = b.unsigned(2), b.closed(StartStatus), b.unsigned(1)
        b.require(size >= 1 or status is StartStatus.HELD, "block size 0")
        return cls(block_bytes=size, status=status, committed=bool(flags & 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRequest:
    TYPE: ClassVar[Type] = Type.BLOCK_REQUEST
    request: int
    last: bool
    ranges: tuple[tuple[int, int], ...]
    """(offset in bytes, length in bytes)"""

    def encode_body(self) -> bytes:
        head = struct.pack(">IBBxx", self.request, int(self.last), len(self.ranges))
        return head + b"".join(struct.pack(">II", offset, length) for offset, length in self.ranges)

    @classmethod
    def decode_body(cls, octets: bytes) -> BlockRequest:
        b = _Body(octets, "BlockRequest")
        request, flags, count, _ = b.unsigned(4), b.unsigned(1), b.unsigned(1), b.unsigned(2)
        b.require(count <= MAX_RANGES, f"{count} ranges; at most {MAX_RANGES}")
        ranges = tuple((b.unsigned(4), b.unsigned(4)) for _ in range(count))
        b.require(all(length >= 1 for _, length in ranges), "an empty range")
        return cls(request=request, last=bool(flags & 1), ranges=ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataBlock:
    TYPE: ClassVar[Type] = Type.DATA_BLOCK
    FIXED_BYTES: ClassVar[int] = 8
    """Bytes of the body before the payload."""
    request: int
    offset_bytes: int
    payload: bytes

    def encode_body(self) -> bytes:
        return struct.pack(">II", self.request, self.offset_bytes) + self.payload

    @classmethod
    def decode_body(cls, octets: bytes) -> DataBlock:
        b = _Body(octets, "DataBlock")
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
        b = _Body(octets, "DataEnd")
        return cls(request=b.unsigned(4), blocks_sent=b.unsigned(4))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataEndAck:
    TYPE: ClassVar[Type] = Type.DATA_END_ACK
    status: EndStatus
    committed: bool = False

    def encode_body(self) -> bytes:
        return struct.pack(">BBxx", self.status, int(self.committed))

    @classmethod
    def decode_body(cls, octets: bytes) -> DataEndAck:
        b = _Body(octets, "DataEnd-Ack")
        return cls(status=b.closed(EndStatus), committed=bool(b.unsigned(1) & 1))


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
        text = self.text.encode()[:MAX_ERROR_TEXT_BYTES].decode(errors="ignore")
        return struct.pack(">HHBx", self.code, self.retry_after_s, self.about) + _text(text)

    @classmethod
    def decode_body(cls, octets: bytes) -> Error:
        b = _Body(octets, "Error")
        code, retry, about, _ = b.unsigned(2), b.unsigned(2), b.unsigned(1), b.unsigned(1)
        return cls(code=code, retry_after_s=retry, about=about, text=b.text(MAX_ERROR_TEXT_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    TYPE: ClassVar[Type] = Type.ANNOUNCE
    server_id: bytes
    version_lowest: int = 1
    version_highest: int = 1

    def encode_body(self) -> bytes:
        return struct.pack(">16sBBxx", self.server_id, self.version_lowest, self.version_highest)

    @classmethod
    def decode_body(cls, octets: bytes) -> Announce:
        b = _Body(octets, "Announce")
        server_id, lowest, highest = b.take(SERVER_ID_BYTES), b.unsigned(1), b.unsigned(1)
        b.require(1 <= lowest <= highest, "its versions are out of order")
        return cls(server_id=server_id, version_lowest=lowest, version_highest=highest)
