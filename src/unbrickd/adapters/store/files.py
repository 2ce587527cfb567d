# SPDX-License-Identifier: Apache-2.0
"""Images and documents as plain files, so that a user can copy a firmware out of the store with any tool.

    images/ab/abcdef….img       an image, named by its image digest; .rotten once quarantined
    uploads/<image>-<owner>.part    an upload under way, sparse
    generations/<device>/<number>-<digest>.gen    a sealed document; beside it .good (the seal) and .pin (empty)

Knows neither the catalogue nor what a document means. What shows was written to a temporary, synced and renamed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from io import SEEK_END, FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from unbrickd.adapters.store.fileops import FileOps, disk_full, read_at, translated, write_whole
from unbrickd.errors import StorageError
from unbrickd.model.codec import MAX_DOCUMENT_BYTES
from unbrickd.store.interface import BlobEntry, DocumentEntry, DocumentKind, DocumentName

RESERVE_BYTES = 64 << 20
"""So much of the disk an upload leaves free: for the catalogue and documents, and for the owner's other programs."""
WRITE_BACK_BYTES = 1 << 20
"""An upload's bytes go to the disk by so many while it comes: else all of it waits for all of them in the end."""

_IMAGE = re.compile(r"([0-9a-f]{64})\.img")
_DOCUMENT = re.compile(r"(\d{10})-([0-9a-f]{16})\.(gen|good|pin)")
_DEVICE = re.compile(r"[0-9a-f]{32}")
_STAT_BLOCK_BYTES = 512
"""Unit of st_blocks (POSIX, sys/stat.h), whatever the file system's own block is."""


class FileBlobReader:
    """An open file of an image, which goes back to its store. name: its digest, and whether it is quarantined."""

    def __init__(self, store: FileBlobStore, name: tuple[bytes, bool], file: FileIO) -> None:
        self.name = name
        self._store = store
        self._file = file

    @property
    def length_bytes(self) -> int:
        with translated("cannot read an image"):
            return self._file.seek(0, SEEK_END)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        with translated("cannot read an image"):
            return read_at(self._file, offset_bytes, length_bytes)

    def close(self) -> None:
        self._store.keep(self)

    def end(self) -> None:
        """No longer kept."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FileUpload:
    """A temporary that grows, with holes, into an image."""

    def __init__(self, store: FileBlobStore, ops: FileOps, part: Path, image: Path, length_bytes: int) -> None:
        self._store = store
        self._ops = ops
        self._part = part
        self._image = image
        self._length_bytes = length_bytes
        self._is_synced = False
        with translated("cannot write an upload"):
            self._file = ops.open(part, truncate=False)

    @property
    def length_bytes(self) -> int:
        return self._length_bytes

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        with translated("cannot read an upload"):
            return read_at(self._file, offset_bytes, length_bytes)

    def write(self, offset_bytes: int, octets: bytes) -> None:
        assert 0 <= offset_bytes <= offset_bytes + len(octets) <= self._length_bytes
        self._is_synced = False
        with translated("cannot write an upload"):
            self._ops.write(self._file, offset_bytes, octets)
            border_bytes = (offset_bytes + len(octets)) // WRITE_BACK_BYTES * WRITE_BACK_BYTES
            if border_bytes > offset_bytes:
                self._ops.begin_write_back(self._file, border_bytes - WRITE_BACK_BYTES, WRITE_BACK_BYTES)

    def sync(self) -> None:
        with translated("cannot write an upload"):
            self._ops.fsync(self._file)
        self._is_synced = True

    def commit(self) -> None:
        folder = self._image.parent
        with translated("cannot store an image"):
            try:
                if not self._is_synced:  # before the rename, or a power cut could leave the name without the bytes
                    self._ops.fsync(self._file)
                assert self._file.seek(0, SEEK_END) == self._length_bytes
            finally:
                self._close()  # before the rename, because Windows renames no open file, nor over one
                self._store.close()
            self._ops.make_folder(folder)
            try:
                self._ops.replace(self._part, self._image)
            except PermissionError:
                if not self._image.exists():
                    raise
                # Windows, and somebody reads the image, which another device has stored meanwhile: it is the same.
                self._ops.unlink(self._part)
            self._ops.fsync_folder(folder)
            self._ops.fsync_folder(folder.parent)
            self._ops.unlink(self._image.with_suffix(".rotten"))

    def suspend(self) -> None:
        with translated("cannot write an upload"):
            try:
                self._ops.fsync(self._file)
                self._ops.fsync_folder(self._part.parent)
            finally:
                self._close()

    def discard(self) -> None:
        self._close()
        with translated("cannot delete an upload"):
            self._ops.unlink(self._part)

    def _close(self) -> None:
        self._file.close()
        self._store.closed(self._part)


class FileBlobStore:
    """Images in a directory. Raises StorageError only.

    keeps_open: the image that was read last, as the next erase block is mostly of the same. Not where another process
    may put a better one in its place.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ops: FileOps | None = None,
        reserve_bytes: int = RESERVE_BYTES,
        keeps_open: bool = True,
    ) -> None:
        self._directory = directory
        self._images = directory / "images"
        self._uploads = directory / "uploads"
        self._ops = ops or FileOps()
        self._reserve_bytes = reserve_bytes
        self._open_parts: set[Path] = set()
        self._keeps_open = keeps_open
        self._kept: FileBlobReader | None = None

    def prepare(self) -> None:
        """Make the folders, durably. Raises StorageError "not-writable"."""
        with translated(f"cannot make {self._directory}"):
            for folder in (self._images, self._uploads):
                self._ops.make_folder(folder)
            self._ops.fsync_folder(self._directory)

    def _path(self, image_digest: bytes, suffix: str = ".img") -> Path:
        name = image_digest.hex()
        return self._images.joinpath(name[:2], name + suffix)

    def has(self, image_digest: bytes) -> bool:
        with translated("cannot look for an image"):
            return self._path(image_digest).is_file()

    def open(self, image_digest: bytes, *, quarantined: bool = False) -> FileBlobReader:
        name, kept = (image_digest, quarantined), self._kept
        if kept is not None and kept.name == name:
            self._kept = None
            return kept
        with translated("cannot open an image"):
            try:
                file = FileIO(self._path(image_digest, ".rotten" if quarantined else ".img"))
            except FileNotFoundError as error:
                raise StorageError(f"image {image_digest.hex()[:16]} is not stored", code="missing") from error
            return FileBlobReader(self, name, file)

    def keep(self, reader: FileBlobReader) -> None:
        """Who read this image is done with it."""
        self.close()
        if self._keeps_open:
            self._kept = reader
        else:
            reader.end()

    def close(self) -> None:
        """Keep no image open: at the end, and before one is renamed or deleted, which Windows refuses while it is."""
        if self._kept is not None:
            self._kept.end()
            self._kept = None

    def upload(self, image_digest: bytes, length_bytes: int, *, owner: bytes) -> FileUpload:
        part = self._uploads / f"{image_digest.hex()}-{owner.hex()}.part"
        if part in self._open_parts:
            raise StorageError("this device is uploading this image already", code="busy", retry=True)
        with translated("cannot look for an upload"):
            there = _allocated_bytes(part)
        if self.free_bytes() < length_bytes - there + self._reserve_bytes:
            raise disk_full(
                f"{length_bytes} bytes do not fit beside the {self._reserve_bytes >> 20} MiB that stay free"
            )
        upload = FileUpload(self, self._ops, part, self._path(image_digest), length_bytes)
        self._open_parts.add(part)
        return upload

    def closed(self, part: Path) -> None:
        """An upload of this store is no longer open."""
        self._open_parts.discard(part)

    def delete(self, image_digest: bytes) -> None:
        self.close()
        with translated("cannot delete an image"):
            for suffix in (".img", ".rotten"):
                self._ops.unlink(self._path(image_digest, suffix))

    def quarantine(self, image_digest: bytes) -> None:
        self.close()
        path = self._path(image_digest)
        with translated("cannot set a rotten image aside"):
            self._ops.replace(path, path.with_suffix(".rotten"))
            self._ops.fsync_folder(path.parent)

    def entries(self) -> Iterator[BlobEntry]:
        with translated("cannot list the images"):
            for path in sorted(self._images.glob("??/*.img")):
                if match := _IMAGE.fullmatch(path.name):
                    stat = path.stat()
                    yield BlobEntry(
                        image_digest=bytes.fromhex(match[1]), length_bytes=stat.st_size, stored_at_s=stat.st_mtime
                    )

    def expire_uploads(self, *, before_s: float) -> int:
        count = 0
        with translated("cannot delete an upload"):
            for part in sorted(self._uploads.glob("*.part")):
                if part not in self._open_parts and part.stat().st_mtime < before_s:
                    self._ops.unlink(part)
                    count += 1
        return count

    def free_bytes(self) -> int:
        with translated("cannot ask for the free space"):
            return shutil.disk_usage(self._directory).free


class FileDocumentStore:
    """Documents of generations in a directory. Raises StorageError only."""

    def __init__(self, directory: Path, *, ops: FileOps | None = None) -> None:
        self._folder = directory / "generations"
        self._ops = ops or FileOps()

    def prepare(self) -> None:
        """Make the folder, durably, and clear away what a crash left half written."""
        with translated(f"cannot make {self._folder}"):
            self._ops.make_folder(self._folder)
            self._ops.fsync_folder(self._folder.parent)
            for temporary in sorted(self._folder.glob("*/*.tmp")):
                self._ops.unlink(temporary)

    def _path(self, name: DocumentName, kind: DocumentKind) -> Path:
        file = f"{name.number:010d}-{name.digest_start.hex()}.{kind.value}"
        return self._folder / name.device_id.hex() / file

    def put(self, name: DocumentName, kind: DocumentKind, octets: bytes) -> None:
        path = self._path(name, kind)
        with translated("cannot store a generation"):
            self._ops.make_folder(path.parent)
            self._ops.fsync_folder(self._folder)
            write_whole(self._ops, path, octets)

    def get(self, name: DocumentName, kind: DocumentKind) -> bytes | None:
        with translated("cannot read a generation"):
            try:
                with FileIO(self._path(name, kind)) as file:
                    return read_at(file, 0, MAX_DOCUMENT_BYTES + 1)
            except FileNotFoundError:
                return None

    def delete(self, name: DocumentName, kind: DocumentKind) -> None:
        path = self._path(name, kind)
        with translated("cannot delete a generation"):
            if path.exists():
                self._ops.unlink(path)
                # Durable at once: a seal or a pin must not outlive the document, and images go only after it.
                self._ops.fsync_folder(path.parent)

    def entries(self) -> Iterator[DocumentEntry]:
        with translated("cannot list the generations"):
            for path in sorted(self._folder.glob("*/*")):
                match = _DOCUMENT.fullmatch(path.name)
                if match is None or not _DEVICE.fullmatch(path.parent.name):
                    continue
                name = DocumentName(
                    device_id=bytes.fromhex(path.parent.name),
                    number=int(match[1]),
                    digest_start=bytes.fromhex(match[2]),
                )
                yield DocumentEntry(name=name, kind=DocumentKind(match[3]), stored_at_s=path.stat().st_mtime)


def _allocated_bytes(path: Path) -> int:
    """What a sparse file takes on the disk already; where the platform does not tell, nothing, to be safe."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0
    return int(getattr(stat, "st_blocks", 0)) * _STAT_BLOCK_BYTES
