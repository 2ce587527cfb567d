# SPDX-License-Identifier: Apache-2.0
"""The interfaces of the store in memory: the shortest back-end that keeps their contract, for tests and simulations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from unbrickd.errors import StorageError
from unbrickd.store.interface import (
    BlobEntry,
    DeviceRow,
    DocumentEntry,
    DocumentKind,
    DocumentName,
    GenerationKey,
    GenerationRow,
)
from unbrickd.store.retention import newest_first


class MemoryReader:
    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    @property
    def length_bytes(self) -> int:
        return len(self._octets)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        return self._octets[offset_bytes : offset_bytes + length_bytes]

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


@dataclass(slots=True, kw_only=True)
class _Part:
    octets: bytearray = field(default_factory=bytearray)
    written_at_s: float
    open: bool = True


class MemoryUpload:
    def __init__(self, store: MemoryBlobStore, key: tuple[bytes, bytes], length_bytes: int) -> None:
        self._store = store
        self._key = key
        self._length_bytes = length_bytes

    @property
    def length_bytes(self) -> int:
        return self._length_bytes

    @property
    def _part(self) -> _Part:
        return self._store.parts[self._key]

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        return bytes(self._part.octets[offset_bytes : offset_bytes + length_bytes])

    def write(self, offset_bytes: int, octets: bytes) -> None:
        end = offset_bytes + len(octets)
        assert 0 <= offset_bytes <= end <= self._length_bytes
        self._part.octets.extend(bytes(max(0, end - len(self._part.octets))))
        self._part.octets[offset_bytes:end] = octets
        self._part.written_at_s = self._store.clock()

    def sync(self) -> None:
        """Memory is as durable as it gets."""

    def commit(self) -> None:
        assert len(self._part.octets) == self._length_bytes
        part = self._store.parts.pop(self._key)
        self._store.images[self._key[0]] = (bytes(part.octets), self._store.clock())
        self._store.quarantined.pop(self._key[0], None)

    def suspend(self) -> None:
        self._part.open = False

    def discard(self) -> None:
        del self._store.parts[self._key]


class MemoryBlobStore:
    """capacity_bytes: of all images together, for `free_bytes`."""

    def __init__(self, clock: Callable[[], float], *, capacity_bytes: int = 1 << 30) -> None:
        self.clock = clock
        self.images: dict[bytes, tuple[bytes, float]] = {}
        self.quarantined: dict[bytes, bytes] = {}
        self.parts: dict[tuple[bytes, bytes], _Part] = {}
        self._capacity_bytes = capacity_bytes

    def has(self, image_digest: bytes) -> bool:
        return image_digest in self.images

    def open(self, image_digest: bytes, *, quarantined: bool = False) -> MemoryReader:
        octets = self.quarantined.get(image_digest) if quarantined else self.images.get(image_digest, (None, 0.0))[0]
        if octets is None:
            raise StorageError(f"image {image_digest.hex()[:16]} is not stored", code="missing")
        return MemoryReader(octets)

    def upload(self, image_digest: bytes, length_bytes: int, *, owner: bytes) -> MemoryUpload:
        key = (image_digest, owner)
        part = self.parts.get(key)
        if part is not None and part.open:
            raise StorageError("this device is uploading this image already", code="busy", retry=True)
        if self.free_bytes() < length_bytes - (len(part.octets) if part else 0):
            raise StorageError("the disk is full", code="disk-full", retry=True)
        if part is None:
            self.parts[key] = _Part(written_at_s=self.clock())
        else:
            part.open = True
        return MemoryUpload(self, key, length_bytes)

    def delete(self, image_digest: bytes) -> None:
        self.images.pop(image_digest, None)
        self.quarantined.pop(image_digest, None)

    def quarantine(self, image_digest: bytes) -> None:
        self.quarantined[image_digest] = self.images.pop(image_digest)[0]

    def entries(self) -> Iterator[BlobEntry]:
        for digest, (octets, stored_at_s) in self.images.items():
            yield BlobEntry(image_digest=digest, length_bytes=len(octets), stored_at_s=stored_at_s)

    def expire_uploads(self, *, before_s: float) -> int:
        old = [key for key, part in self.parts.items() if not part.open and part.written_at_s < before_s]
        for key in old:
            del self.parts[key]
        return len(old)

    def free_bytes(self) -> int:
        used = sum(len(octets) for octets, _ in self.images.values()) + sum(len(p.octets) for p in self.parts.values())
        return self._capacity_bytes - used


class MemoryDocumentStore:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.documents: dict[tuple[DocumentName, DocumentKind], tuple[bytes, float]] = {}

    def put(self, name: DocumentName, kind: DocumentKind, octets: bytes) -> None:
        self.documents[name, kind] = (octets, self._clock())

    def get(self, name: DocumentName, kind: DocumentKind) -> bytes | None:
        entry = self.documents.get((name, kind))
        return None if entry is None else entry[0]

    def delete(self, name: DocumentName, kind: DocumentKind) -> None:
        self.documents.pop((name, kind), None)

    def entries(self) -> Iterator[DocumentEntry]:
        for (name, kind), (_, stored_at_s) in self.documents.items():
            yield DocumentEntry(name=name, kind=kind, stored_at_s=stored_at_s)


class MemoryCatalogue:
    def __init__(self) -> None:
        self._devices: dict[bytes, DeviceRow] = {}
        self._rows: dict[GenerationKey, GenerationRow] = {}

    def devices(self) -> tuple[DeviceRow, ...]:
        return tuple(row for _, row in sorted(self._devices.items()))

    def generations(self, device_id: bytes | None = None) -> tuple[GenerationRow, ...]:
        rows = [r for r in newest_first(self._rows.values()) if device_id in (None, r.key.device_id)]
        return tuple(sorted(rows, key=lambda r: r.key.device_id))

    def referring(self, image_digest: bytes) -> tuple[GenerationRow, ...]:
        return tuple(row for row in self.generations() if image_digest in row.images)

    def add(self, row: GenerationRow) -> None:
        self._rows[row.key] = row
        self._devices[row.key.device_id] = replace(self._device(row.key.device_id), model=row.model)

    def mark_good(self, key: GenerationKey, at_s: float) -> None:
        if key in self._rows:
            self._rows[key] = replace(self._rows[key], good_at_s=at_s)

    def set_pinned(self, key: GenerationKey, pinned: bool) -> None:
        if key in self._rows:
            self._rows[key] = replace(self._rows[key], pinned=pinned)

    def set_damaged(self, key: GenerationKey, damaged: bool) -> None:
        if key in self._rows:
            self._rows[key] = replace(self._rows[key], damaged=damaged)

    def remove(self, key: GenerationKey) -> None:
        self._rows.pop(key, None)

    def saw(self, device_ids: Collection[bytes], at_s: float) -> None:
        for device_id in device_ids:
            self._devices[device_id] = replace(self._device(device_id), last_seen_s=at_s)

    def name_device(self, device_id: bytes, name: str) -> None:
        self._devices[device_id] = replace(self._device(device_id), name=name)

    def _device(self, device_id: bytes) -> DeviceRow:
        empty = DeviceRow(device_id=device_id, model="", name="", last_seen_s=None)
        return self._devices.get(device_id, empty)
