# SPDX-License-Identifier: Apache-2.0
"""Generation documents ↔ bytes (spec/flash-format.md §4). Knows no key: the MAC is carried, not checked, here.

All integers are big-endian. Decoding bounds every count before it reads on and raises only IntegrityError.
"""

from __future__ import annotations

import struct

from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.model.geometry import MAX_RUNS, EraseRun, Geometry
from unbrickd.model.manifest import (
    DIGEST_BYTES,
    MAX_COMPONENTS,
    MAX_SIGNATURE_BYTES,
    ComponentKind,
    Generation,
    Manifest,
    SealedGeneration,
)

MAGIC = b"UBGN"
FORMAT = 1
MAC_BYTES = 32
MAX_DOCUMENT_BYTES = 4 << 20
"""65 536 erase blocks with two tables of 32 bytes each."""

_HEAD = struct.Struct(">4sBBHI16sI32s")
"""magic, format, component count, reserved, total length, device id, number, model: 64 bytes."""
_COMPONENT = struct.Struct(">BBBB16s64sIIIHH")
"""id, kind, flags, runs, name, version, length, rollback index, erase blocks, signature length, reserved: 100 bytes."""
_RUN = struct.Struct(">II")
_FLAG_SEALED = 0x01


def encode_generation(generation: Generation) -> bytes:
    """The document without its MAC; `total length` counts the MAC that is to follow."""
    parts: list[bytes] = []
    for c in generation.components:
        parts.append(
            _COMPONENT.pack(
                c.component_id,
                c.kind,
                _FLAG_SEALED if c.sealed else 0,
                len(c.geometry.runs),
                c.name.encode(),
                c.version.encode(),
                c.length_bytes,
                c.rollback_index,
                c.geometry.count,
                len(c.signature),
                0,
            )
        )
        parts += [_RUN.pack(run.count, run.size_bytes) for run in c.geometry.runs]
        parts.append(c.signature)
        parts += c.digests
        if c.sealed:
            parts += c.transfer_digests
    body = b"".join(parts)
    head = _HEAD.pack(
        MAGIC,
        FORMAT,
        len(generation.components),
        0,
        _HEAD.size + len(body) + MAC_BYTES,
        generation.device_id,
        generation.number,
        generation.model.encode(),
    )
    return head + body


class _Reader:
    """Takes bytes from the front; running out is an IntegrityError, never an IndexError."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._octets):
            raise IntegrityError("a generation document ends too early", code="generation")
        piece = self._octets[self._at : end]
        self._at = end
        return piece

    @property
    def left(self) -> int:
        return len(self._octets) - self._at


def decode_generation(document: bytes) -> SealedGeneration:
    """A whole document, MAC included, into its values. Raises IntegrityError; the MAC is not checked."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise IntegrityError("a generation document is too long", code="generation")
    if len(document) < _HEAD.size + MAC_BYTES:
        raise IntegrityError("a generation document is too short", code="generation")
    magic, fmt, count, _, total, device_id, number, model = _HEAD.unpack_from(document)
    if magic != MAGIC:
        raise IntegrityError("this is not a generation document", code="generation")
    if fmt != FORMAT:
        raise IntegrityError(f"generation document of format {fmt}; this program knows {FORMAT}", code="generation")
    if total != len(document):
        raise IntegrityError(f"a generation document of {len(document)} bytes says {total}", code="generation")
    if not 1 <= count <= MAX_COMPONENTS:
        raise IntegrityError(f"a generation document of {count} components", code="generation")
    reader = _Reader(document[_HEAD.size : -MAC_BYTES])
    components = tuple(_decode_component(reader) for _ in range(count))
    if reader.left:
        raise IntegrityError("a generation document has bytes to spare", code="generation")
    generation = Generation(device_id=device_id, model=_text(model), number=number, components=components)
    return SealedGeneration(generation=generation, document=document)


def _decode_component(reader: _Reader) -> Manifest:
    (cid, kind, flags, runs, name, version, length, rollback, blocks, sig_length, _) = _COMPONENT.unpack(
        reader.take(_COMPONENT.size)
    )
    if not 1 <= runs <= MAX_RUNS or sig_length > MAX_SIGNATURE_BYTES:
        raise IntegrityError("a component's counts are out of range", code="generation")
    try:
        geometry = Geometry(
            tuple(
                EraseRun(count=n, size_bytes=size)
                for n, size in (_RUN.unpack(reader.take(_RUN.size)) for _ in range(runs))
            )
        )
        component_kind = ComponentKind(kind)
    except (ConfigError, ValueError) as error:
        raise IntegrityError(f"a component is out of range: {error}", code="generation") from error
    if geometry.count != blocks:
        raise IntegrityError("a component's runs and its erase blocks disagree", code="generation")
    signature = reader.take(sig_length)
    digests = _digests(reader, blocks)
    sealed = bool(flags & _FLAG_SEALED)
    return Manifest(
        component_id=cid,
        kind=component_kind,
        name=_text(name),
        version=_text(version),
        length_bytes=length,
        geometry=geometry,
        sealed=sealed,
        digests=digests,
        transfer_digests=_digests(reader, blocks) if sealed else digests,
        rollback_index=rollback,
        signature=signature,
    )


def _digests(reader: _Reader, count: int) -> tuple[bytes, ...]:
    table = reader.take(count * DIGEST_BYTES)
    return tuple(table[i : i + DIGEST_BYTES] for i in range(0, len(table), DIGEST_BYTES))


def _text(field: bytes) -> str:
    """A zero-padded text field; bytes after the first zero must be zero, so that one value has one encoding."""
    octets, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise IntegrityError("a text field has bytes after its end", code="generation")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError("a text field is not UTF-8", code="generation") from error
