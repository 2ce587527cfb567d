# SPDX-License-Identifier: Apache-2.0
"""What a back-end of the store offers: images, documents and a catalogue of both.

Knows no paths, no threads and no clock. Images and documents are the truth; the catalogue is an index of them that can
be rebuilt. An *image* is named by its image digest and a *document* by its generation (spec/flash-format.md §3.2, §4).
Everything that returns is durable: it holds after a power cut. Every failure of a back-end is a StorageError, with the
code "disk-full", "not-writable", "read-only", "missing", "corrupt-catalogue", "busy" or "io".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Protocol, Self

DIGEST_START_BYTES = 8
"""Of a generation's digest, so much names its documents: 64 bits, beside device and number."""
GOOD_SEAL_BYTES = 32


class BlobReader(Protocol):
    """An image that is stored whole, open for reading."""

    @property
    def length_bytes(self) -> int: ...

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes from there on; fewer only where the image ends."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Upload(Protocol):
    """One image on its way in, invisible until `commit`. Exactly one of commit, suspend and discard ends it.

    A power cut loses at most what was written since the last `suspend`; the image shows only after `commit`.
    """

    @property
    def length_bytes(self) -> int:
        """Of the whole image, not of what has arrived."""

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """What has arrived: a hole reads as zeros, and beyond the last byte written there is nothing (short read)."""

    def write(self, offset_bytes: int, octets: bytes) -> None:
        """Put bytes of the image in their place, in any order, within `length_bytes`."""

    def sync(self) -> None:
        """Make what was written durable; may be called from another thread while no other method is."""

    def commit(self) -> None:
        """Make the image show, durably; what was quarantined under its name is dropped. The caller has verified it."""

    def suspend(self) -> None:
        """Keep what has arrived, durably, for the next `upload` of the same owner."""

    def discard(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobEntry:
    """One stored image in a listing. stored_at_s: unix time by the back-end's own clock."""

    image_digest: bytes
    length_bytes: int
    stored_at_s: float


class BlobStore(Protocol):
    """Whole images by their image digest: one for all devices that have it."""

    def has(self, image_digest: bytes) -> bool: ...

    def open(self, image_digest: bytes, *, quarantined: bool = False) -> BlobReader:
        """Raises StorageError "missing". `quarantined` opens what `quarantine` set aside instead."""

    def upload(self, image_digest: bytes, length_bytes: int, *, owner: bytes) -> Upload:
        """Begin, or resume what this owner (a device id) left of this image.

        Raises StorageError "disk-full" ahead of time, and "busy" while this owner's upload of the image is open.
        """

    def delete(self, image_digest: bytes) -> None:
        """Image and quarantined image; none there is no error."""

    def quarantine(self, image_digest: bytes) -> None:
        """No longer offer the image, but keep it for inspection and for what is still right in it."""

    def entries(self) -> Iterator[BlobEntry]:
        """Every image that shows; not uploads, not what is quarantined."""

    def expire_uploads(self, *, before_s: float) -> int:
        """Discard uploads last written before that unix time and not open; how many."""

    def free_bytes(self) -> int: ...


class DocumentKind(Enum):
    """What is kept of a generation beside its images."""

    GENERATION = "gen"
    """The sealed document; there is a generation because there is this."""
    GOOD = "good"
    """The 32-byte good seal."""
    PIN = "pin"
    """Empty: the user pinned the generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentName:
    """Names a generation's documents. digest_start: the first 8 bytes of its digest."""

    device_id: bytes
    number: int
    digest_start: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentEntry:
    name: DocumentName
    kind: DocumentKind
    stored_at_s: float


class DocumentStore(Protocol):
    """The small immutable documents of generations."""

    def put(self, name: DocumentName, kind: DocumentKind, octets: bytes) -> None:
        """Whole or not at all, also over a power cut; an older one is replaced."""

    def get(self, name: DocumentName, kind: DocumentKind) -> bytes | None: ...

    def delete(self, name: DocumentName, kind: DocumentKind) -> None:
        """None there is no error."""

    def entries(self) -> Iterator[DocumentEntry]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationKey:
    """The identity of a generation: a counter that was used twice gives two generations, told apart by digest."""

    device_id: bytes
    number: int
    digest: bytes

    @property
    def name(self) -> DocumentName:
        return DocumentName(device_id=self.device_id, number=self.number, digest_start=self.digest[:DIGEST_START_BYTES])


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRow:
    """What the catalogue says of one generation. Times are unix seconds.

    images: image digests, in the order of the components; size_bytes: of all its images, shared or not;
    damaged: its document or one of its images is gone or rotten.
    """

    key: GenerationKey
    model: str
    images: tuple[bytes, ...]
    size_bytes: int
    created_at_s: float
    good_at_s: float | None
    pinned: bool
    damaged: bool

    @property
    def good(self) -> bool:
        return self.good_at_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """A device the catalogue knows. name: what the user calls it ("" if nothing)."""

    device_id: bytes
    model: str
    name: str
    last_seen_s: float | None


class Catalogue(Protocol):
    """The index. Each call is one transaction, durable when it returns; an unknown key changes nothing."""

    def devices(self) -> tuple[DeviceRow, ...]:
        """Every device that was seen, named or backed up, by device id."""

    def generations(self, device_id: bytes | None = None) -> tuple[GenerationRow, ...]:
        """Of one device, or of all, by device id; newest first: by number, then by time of creation, then digest."""

    def referring(self, image_digest: bytes) -> tuple[GenerationRow, ...]:
        """Every generation, of any device, that has this image."""

    def add(self, row: GenerationRow) -> None:
        """Insert, or replace the row of the same key; the device becomes known with the row's model."""

    def mark_good(self, key: GenerationKey, at_s: float) -> None: ...

    def set_pinned(self, key: GenerationKey, pinned: bool) -> None: ...

    def set_damaged(self, key: GenerationKey, damaged: bool) -> None: ...

    def remove(self, key: GenerationKey) -> None: ...

    def saw(self, device_ids: Collection[bytes], at_s: float) -> None:
        """Note when these devices were last heard of."""

    def name_device(self, device_id: bytes, name: str) -> None: ...
