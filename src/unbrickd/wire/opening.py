# SPDX-License-Identifier: Apache-2.0
"""The messages that open a session: Backup, Restore, and the answers to them.

Spec: spec/protocol.md §4.3 to §4.6. Knows no order of messages and no keys: the signature is carried, not checked.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar

from unbrickd.model.manifest import (
    DEVICE_ID_BYTES,
    DIGEST_BYTES,
    MAX_COMPONENTS,
    MAX_VERSION_BYTES,
    ComponentKind,
    Manifest,
)
from unbrickd.wire.fields import Body, Type, fixed, text_field
from unbrickd.wire.frozen import COOKIE_BYTES

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
NO_SEAL = bytes(DIGEST_BYTES)
BACKUP_SIGNATURE_CONTEXT = b"unbrickd backup v1"


class ComponentStatus(IntEnum):
    SAME = 0
    WANTED = 1


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
        digest = fixed(self.image_digest, DIGEST_BYTES)
        head = struct.pack(">BBBI32s", self.component_id, self.kind, int(self.sealed), self.length_bytes, digest)
        rest = head + text_field(self.version, MAX_VERSION_BYTES)
        return bytes([1 + len(rest)]) + rest

    @classmethod
    def decode(cls, outer: Body) -> ComponentRecord:
        size = outer.unsigned(1)
        outer.require(size >= 1, "a component record of no length")
        b = Body(outer.take(size - 1), f"a component record of {outer.what}")
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


def _decode_components(b: Body, count: int) -> tuple[ComponentRecord, ...]:
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
    received: bytes = field(default=b"", compare=False, repr=False)
    """Of a decoded message, the body before the signature as it came: a newer device may have signed fields that this
    version does not know (§3)."""

    def _unsigned_body(self) -> bytes:
        head = struct.pack(
            ">16s16s32sIBBxxI32s32s",
            fixed(self.cookie, COOKIE_BYTES),
            fixed(self.device_id, DEVICE_ID_BYTES),
            fixed(self.public_key, PUBLIC_KEY_BYTES),
            self.generation,
            int(self.good_seal is not None),
            len(self.components),
            self.document_length_bytes,
            fixed(self.document_digest, DIGEST_BYTES),
            NO_SEAL if self.good_seal is None else fixed(self.good_seal, DIGEST_BYTES),
        )
        return head + b"".join(c.encode() for c in self.components)

    def encode_body(self) -> bytes:
        return self._unsigned_body() + fixed(self.signature, SIGNATURE_BYTES)

    def signed_bytes(self, session: int) -> bytes:
        """What the device signs (§4.3): context, session, and the body before the signature."""
        return BACKUP_SIGNATURE_CONTEXT + struct.pack(">I", session) + (self.received or self._unsigned_body())

    @classmethod
    def decode_body(cls, octets: bytes) -> Backup:
        received, signature = octets[:-SIGNATURE_BYTES], octets[-SIGNATURE_BYTES:]
        b = Body(received, "Backup")
        cookie, device_id, public_key = b.take(COOKIE_BYTES), b.take(DEVICE_ID_BYTES), b.take(PUBLIC_KEY_BYTES)
        generation, flags, count = b.unsigned(4), b.unsigned(1), b.unsigned(1)
        b.skip(2)
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
            signature=signature,
            received=received,
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
        b = Body(octets, "Backup-Ack")
        generation, flags, count = b.unsigned(4), b.unsigned(1), b.unsigned(1)
        b.skip(2)
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
        cookie, device_id = fixed(self.cookie, COOKIE_BYTES), fixed(self.device_id, DEVICE_ID_BYTES)
        return struct.pack(">16s16sIIIxxxx", cookie, device_id, self.named, self.rejected_from, self.rejected_to)

    @classmethod
    def decode_body(cls, octets: bytes) -> Restore:
        b = Body(octets, "Restore")
        cookie, device_id = b.take(COOKIE_BYTES), b.take(DEVICE_ID_BYTES)
        named, lowest, highest = b.unsigned(4), b.unsigned(4), b.unsigned(4)
        b.skip(4)
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
            fixed(self.document_digest, DIGEST_BYTES),
            NO_SEAL if self.good_seal is None else fixed(self.good_seal, DIGEST_BYTES),
        )
        return head + b"".join(c.encode() for c in self.components)

    @classmethod
    def decode_body(cls, octets: bytes) -> RestoreAck:
        b = Body(octets, "Restore-Ack")
        generation, flags, count = b.unsigned(4), b.unsigned(1), b.unsigned(1)
        b.skip(2)
        length, digest, seal = b.unsigned(4), b.take(DIGEST_BYTES), b.take(DIGEST_BYTES)
        b.require((generation == 0) == (count == 0), f"generation {generation} of {count} components")
        return cls(
            generation=generation,
            document_length_bytes=length,
            document_digest=digest,
            components=_decode_components(b, count),
            good_seal=seal if flags & 1 else None,
        )
