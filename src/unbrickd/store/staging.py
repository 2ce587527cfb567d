# SPDX-License-Identifier: Apache-2.0
"""An image on its way into the store, erase block by erase block. Knows digests; knows neither devices nor catalogue.

Each erase block is verified before it is written, and those of an upload that resumes when it does, so that a whole
image need not be read once more before it shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from unbrickd.errors import IntegrityError, StorageError
from unbrickd.model.manifest import Manifest
from unbrickd.store import verification
from unbrickd.store.interface import BlobStore, Upload


class Staging:
    """Exactly one of `Vault.commit_image` and `suspend` ends it."""

    def __init__(self, upload: Upload, manifest: Manifest) -> None:
        """What the upload holds already is hashed: an erase block that matches is done. Raises StorageError."""
        self.manifest = manifest
        self._upload = upload
        self._missing = {i for i, _, wrong in verification.wrong_erase_blocks(upload.read, manifest) if wrong}

    @property
    def missing(self) -> list[int]:
        """The erase blocks that have still to come."""
        return sorted(self._missing)

    def put(self, index: int, octets: bytes | memoryview) -> bool:
        """Keep one erase block; False, and nothing is written, if it is not what it should be. Raises StorageError."""
        if hashlib.sha256(octets).digest() != self.manifest.transfer_digests[index]:
            return False
        self._upload.write(self.manifest.geometry.erase_block(index).offset_bytes, bytes(octets))
        self._missing.discard(index)
        return True

    def copy_from(self, blobs: BlobStore, donors: Iterable[Manifest]) -> None:
        """Take what stored images hold, those set aside too: much of them may be right. Raises StorageError."""
        for donor in donors:
            for quarantined in (False, True):
                if not self._missing:
                    return
                self._copy(blobs, donor, quarantined=quarantined)

    def _copy(self, blobs: BlobStore, donor: Manifest, *, quarantined: bool) -> None:
        wanted: dict[bytes, list[int]] = {}
        for index in self._missing:
            wanted.setdefault(self.manifest.transfer_digests[index], []).append(index)
        if not wanted.keys() & set(donor.transfer_digests):
            return
        try:
            reader = blobs.open(donor.image_digest, quarantined=quarantined)
        except StorageError as error:
            if error.code == "missing":
                return
            raise
        with reader:
            read = verification.tolerant(reader.read)
            for block, size in donor.erase_blocks():
                digest = donor.transfer_digests[block.index]
                if digest in wanted:
                    octets = read(block.offset_bytes, size)
                    if all(self.put(index, octets) for index in wanted[digest]):
                        del wanted[digest]

    def sync(self) -> None:
        """Make what is written durable, which takes its time: on any thread, while nothing else is called."""
        self._upload.sync()

    def commit(self) -> None:
        """Make the image show, durably. Raises IntegrityError, and keeps what came, if something is missing."""
        if self._missing:
            self._upload.suspend()
            raise IntegrityError(
                f"{self.manifest.name} lacks {len(self._missing)} erase blocks, the first is {self.missing[0]}",
                code="upload",
                retry=True,
            )
        self._upload.commit()

    def suspend(self) -> None:
        """Keep what came, durably, for the next of the same device. Raises StorageError."""
        self._upload.suspend()
