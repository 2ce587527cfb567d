# SPDX-License-Identifier: Apache-2.0
"""What an image must be: the manifest of one component, and the generation of manifests backed up together.

Frozen values with their invariants; their bytes are in `model.codec`, their seal in `unbrickd.seal`
(spec/flash-format.md §3 and §4).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from unbrickd.errors import IntegrityError
from unbrickd.model.geometry import EraseBlock, Geometry

DIGEST_BYTES = 32
DEVICE_ID_BYTES = 16
MAX_COMPONENTS = 8
"""So that the parameters of all fit one datagram on a 1280-byte path (spec/protocol.md §2)."""
MAX_NAME_BYTES = 16
MAX_VERSION_BYTES = 64
MAX_MODEL_BYTES = 32
MAX_SIGNATURE_BYTES = 512
"""RSA-4096, the largest that U-Boot verifies."""
GENERATION_OBJECT_ID = 0
"""The component id by which a transfer names the generation document itself (spec/protocol.md §5.1)."""


class ComponentKind(IntEnum):
    """What a component is for, which decides what its damage means (spec/flash-format.md §3)."""

    FIRMWARE = 1
    CONFIG = 2
    OTHER = 3


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Manifest:
    """What the image of one component must be.

    digests: per erase block of `geometry`, 32 bytes each: SHA-256 of the image's bytes in it, or, where `sealed`, the
    keyed digest of spec/flash-format.md §5 (only the device and its owner can compute it).
    transfer_digests: SHA-256 of what is moved and stored: the same tuple where not sealed, of the ciphertext else.
    geometry covers exactly `length_bytes`: only its last erase block may be partly filled.
    """

    component_id: int
    kind: ComponentKind
    name: str
    version: str
    length_bytes: int
    geometry: Geometry
    sealed: bool
    digests: tuple[bytes, ...]
    transfer_digests: tuple[bytes, ...]
    rollback_index: int = 0
    signature: bytes = b""
    image_digest: bytes = field(init=False, repr=False, compare=False)
    """The name of the image by content: SHA-256 over length, geometry and transfer digests (§3.2)."""

    def __post_init__(self) -> None:
        def require(ok: bool, what: str) -> None:
            if not ok:
                raise IntegrityError(f"manifest of {self.name!r}: {what}", code="manifest")

        require(1 <= self.component_id <= 255, f"component id {self.component_id} is not 1 to 255")
        require(0 < len(self.name.encode()) <= MAX_NAME_BYTES, f"name is not 1 to {MAX_NAME_BYTES} bytes")
        require(
            self.name.isascii() and self.name.replace("-", "a").replace("_", "a").isalnum(),
            "name has characters other than letters, digits, - and _",
        )
        require(len(self.version.encode()) <= MAX_VERSION_BYTES, f"version is longer than {MAX_VERSION_BYTES} bytes")
        require("\0" not in self.version, "version holds a zero byte")
        require(0 < self.length_bytes <= self.geometry.total_bytes, "length does not lie within its erase blocks")
        last = self.geometry.erase_block(self.geometry.count - 1)
        require(self.length_bytes > last.offset_bytes, "an erase block holds nothing of the image")
        require(len(self.digests) == self.geometry.count, "one digest per erase block is needed")
        require(len(self.transfer_digests) == self.geometry.count, "one transfer digest per erase block is needed")
        require(all(len(d) == DIGEST_BYTES for d in self.digests + self.transfer_digests), "digests are 32 bytes")
        require(self.sealed or self.digests == self.transfer_digests, "an open component has one table of digests")
        require(0 <= self.rollback_index < 1 << 32, "rollback index does not fit 32 bits")
        require(len(self.signature) <= MAX_SIGNATURE_BYTES, "signature is too long")
        # Asked for at every access to the store, so it is computed once.
        named = image_digest(length_bytes=self.length_bytes, geometry=self.geometry, digests=self.transfer_digests)
        object.__setattr__(self, "image_digest", named)

    def content_bytes(self, index: int) -> int:
        """How many bytes of the image lie in the erase block of that index."""
        block = self.geometry.erase_block(index)
        return min(block.end_bytes, self.length_bytes) - block.offset_bytes

    def erase_blocks(self) -> Iterator[tuple[EraseBlock, int]]:
        """Every erase block of the image, with the bytes of the image that lie in it."""
        for block in self.geometry:
            yield block, min(block.end_bytes, self.length_bytes) - block.offset_bytes


def image_digest(*, length_bytes: int, geometry: Geometry, digests: tuple[bytes, ...]) -> bytes:
    """SHA-256("unbrickd image v1" ‖ length u32 ‖ runs u32 ‖ (count u32 ‖ size u32)… ‖ digests…); §3.2."""
    h = hashlib.sha256(b"unbrickd image v1")
    h.update(struct.pack(">II", length_bytes, len(geometry.runs)))
    for run in geometry.runs:
        h.update(struct.pack(">II", run.count, run.size_bytes))
    h.update(b"".join(digests))
    return h.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The manifests backed up together, before or after sealing. `number` grows by one with every change (from 1)."""

    device_id: bytes
    model: str
    number: int
    components: tuple[Manifest, ...]

    def __post_init__(self) -> None:
        def require(ok: bool, what: str) -> None:
            if not ok:
                raise IntegrityError(f"generation {self.number}: {what}", code="generation")

        require(len(self.device_id) == DEVICE_ID_BYTES, "device id is not 16 bytes")
        require(len(self.model.encode()) <= MAX_MODEL_BYTES, f"model is longer than {MAX_MODEL_BYTES} bytes")
        require("\0" not in self.model, "model holds a zero byte")
        require(1 <= self.number < 1 << 32, "number does not fit 32 bits")
        require(1 <= len(self.components) <= MAX_COMPONENTS, f"1 to {MAX_COMPONENTS} components are allowed")
        ids = [c.component_id for c in self.components]
        require(ids == sorted(set(ids)), "component ids are not unique and ascending")
        require(len({c.name for c in self.components}) == len(ids), "two components have one name")

    def component(self, component_id: int) -> Manifest | None:
        return next((c for c in self.components if c.component_id == component_id), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedGeneration:
    """A generation document as it is stored and moved: its bytes, MAC included, and what they decode to.

    Whether the MAC holds is for `unbrickd.seal` to say; the server, which lacks the key, only decodes.
    """

    generation: Generation
    document: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of the document, by which it is named."""
        return hashlib.sha256(self.document).digest()
