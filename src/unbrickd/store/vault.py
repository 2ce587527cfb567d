# SPDX-License-Identifier: Apache-2.0
"""The one thing that server and command line use of the store: backups of devices, and the order they are written in.

Knows neither disk nor network nor key: images, documents and catalogue come in as interfaces, the time as a function.
Order of writes: images, then the generation's documents, then the catalogue, because what shows must be whole.
Order of deletion: the catalogue, the documents, then images that no generation refers to, so that a power cut brings a
deleted generation back whole rather than leaving one that lacks its images. `reconcile` then makes the catalogue agree.
Not safe for threads: one caller at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from unbrickd.errors import IntegrityError, StorageError
from unbrickd.model.manifest import Generation, Manifest, SealedGeneration
from unbrickd.store import reconcile, verification
from unbrickd.store.interface import (
    GOOD_SEAL_BYTES,
    BlobReader,
    BlobStore,
    Catalogue,
    DeviceRow,
    DocumentKind,
    DocumentStore,
    GenerationKey,
    GenerationRow,
)
from unbrickd.store.retention import RetentionPolicy, expired
from unbrickd.store.staging import Staging
from unbrickd.store.verification import Finding, FindingKind, VerifyProgress, describe

MAX_DONORS = 4
"""Earlier images of a component that `stage` searches for erase blocks; older ones have little in common."""
GRACE_S = 7 * 86_400.0
"""An image without a generation, and an upload that rests, are kept so long: the device may come back to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGeneration:
    """A generation as stored: its row, its document (proved by digest) and its good seal, if it has one."""

    row: GenerationRow
    sealed: SealedGeneration
    good_seal: bytes | None

    @property
    def key(self) -> GenerationKey:
        return self.row.key

    @property
    def generation(self) -> Generation:
        return self.sealed.generation

    @property
    def number(self) -> int:
        return self.row.key.number

    @property
    def created_at_s(self) -> float:
        return self.row.created_at_s

    @property
    def pinned(self) -> bool:
        return self.row.pinned

    @property
    def damaged(self) -> bool:
        return self.row.damaged


class Vault:
    """Backups of devices. clock: unix seconds; read_only: rot is reported, but not marked, and no sighting noted."""

    def __init__(
        self,
        blobs: BlobStore,
        documents: DocumentStore,
        catalogue: Catalogue,
        clock: Callable[[], float],
        *,
        policy: RetentionPolicy | None = None,
        read_only: bool = False,
    ) -> None:
        self._blobs = blobs
        self._documents = documents
        self._catalogue = catalogue
        self._clock = clock
        self._policy = policy or RetentionPolicy()
        self._read_only = read_only

    # What is known

    def devices(self) -> tuple[DeviceRow, ...]:
        return self._catalogue.devices()

    def generations(self, device_id: bytes | None = None) -> tuple[GenerationRow, ...]:
        """Of one device, or of all; newest first."""
        return self._catalogue.generations(device_id)

    def known(self, device_id: bytes) -> bool:
        """Whether there is any generation of the device."""
        return bool(self._catalogue.generations(device_id))

    def saw(self, device_ids: Collection[bytes]) -> None:
        """Note that these devices were heard of now. One durable write for all."""
        if not self._read_only:
            self._catalogue.saw(device_ids, self._clock())

    def name_device(self, device_id: bytes, name: str) -> None:
        self._catalogue.name_device(device_id, name)

    def newest(self, device_id: bytes) -> StoredGeneration | None:
        """The newest whose document can be read: the highest number, of equal numbers the latest. May be damaged."""
        return next(self._readable(self._catalogue.generations(device_id)), None)

    def newest_good(self, device_id: bytes, *, excluding: tuple[int, int] = (0, 0)) -> StoredGeneration | None:
        """The newest good one, numbers from excluding[0] to excluding[1] left out.

        A damaged one only where no good one is whole: most of its erase blocks can still be read.
        """
        first, last = excluding
        good = [r for r in self._catalogue.generations(device_id) if r.good and not first <= r.key.number <= last]
        sealed = (s for s in self._readable(sorted(good, key=lambda r: r.damaged)) if s.good_seal is not None)
        return next(sealed, None)

    def find(self, device_id: bytes, number: int, digest: bytes | None = None) -> StoredGeneration | None:
        """The generation of that number (and digest; else the latest of that number). Raises StorageError "rotten"."""
        row = self._row(device_id, number, digest)
        return None if row is None else self._load(row)

    def _row(self, device_id: bytes, number: int, digest: bytes | None) -> GenerationRow | None:
        for row in self._catalogue.generations(device_id):
            if row.key.number == number and digest in (None, row.key.digest):
                return row
        return None

    def _required(self, device_id: bytes, number: int, digest: bytes | None) -> GenerationRow:
        row = self._row(device_id, number, digest)
        if row is None:
            raise StorageError(f"there is no generation {number} of device {device_id.hex()}", code="missing")
        return row

    def _load(self, row: GenerationRow) -> StoredGeneration:
        try:
            sealed = verification.read_generation(self._documents, row.key)
        except StorageError as error:
            if error.code in {"missing", "rotten"}:
                self._mark_damaged((row,))
                raise StorageError(
                    str(error), code="rotten", hint="unbrickd verify shows all that is damaged"
                ) from error
            raise
        return StoredGeneration(
            row=row, sealed=sealed, good_seal=verification.read_good_seal(self._documents, row.key.name)
        )

    def _readable(self, rows: Iterable[GenerationRow]) -> Iterator[StoredGeneration]:
        for row in rows:
            try:
                yield self._load(row)
            except StorageError as error:
                if error.code != "rotten":
                    raise

    # Images

    def has_image(self, manifest: Manifest) -> bool:
        """Whether the image is stored, for whichever device; then there is nothing to upload."""
        return self._blobs.has(manifest.image_digest)

    def open_image(self, manifest: Manifest) -> BlobReader:
        """The whole image as a file to read; not verified. Raises StorageError "missing"."""
        return self._blobs.open(manifest.image_digest)

    def stage(self, device_id: bytes, manifest: Manifest) -> Staging:
        """Begin or resume the upload of an image, and copy in every erase block that the store already holds of it.

        What the device still has to send is then its `missing`. Raises StorageError "disk-full".
        """
        upload = self._blobs.upload(manifest.image_digest, manifest.length_bytes, owner=device_id)
        try:
            staging = Staging(upload, manifest)
            staging.copy_from(self._blobs, self._donors(device_id, manifest))
        except BaseException:
            upload.suspend()
            raise
        return staging

    def commit_image(self, staging: Staging) -> None:
        """Make the image show, durably. What was damaged for lack of it is healed.

        Raises IntegrityError, and keeps what came, if an erase block is missing. Power cut: the image shows whole or
        not at all.
        """
        staging.commit()
        for row in self._catalogue.referring(staging.manifest.image_digest):
            if row.damaged and verification.is_whole(self._blobs, self._documents, row):
                self._catalogue.set_damaged(row.key, False)

    def _donors(self, device_id: bytes, manifest: Manifest) -> Iterator[Manifest]:
        """The image itself, which may lie in quarantine, then earlier images of the component."""
        yield manifest
        seen = {manifest.image_digest}
        for stored in self._readable(self._catalogue.generations(device_id)):
            donor = stored.generation.component(manifest.component_id)
            if donor is not None and donor.image_digest not in seen:
                seen.add(donor.image_digest)
                yield donor
            if len(seen) > MAX_DONORS:
                return

    def read_erase_block(self, stored: StoredGeneration, component_id: int, index: int) -> bytes:
        """One erase block of a stored image, as transferred, verified.

        Rot damages every generation, of every device, that has this image: all are marked, the image is set aside, and
        StorageError "rotten" is raised. Its other erase blocks can still be read. Raises IndexError for an index that
        the component does not have, StorageError "missing" for a component that the generation does not have.
        """
        manifest = stored.generation.component(component_id)
        if manifest is None:
            raise StorageError(f"generation {stored.number} has no component {component_id}", code="missing")
        block = manifest.geometry.erase_block(index)
        offset, size = block.offset_bytes, min(block.end_bytes, manifest.length_bytes) - block.offset_bytes
        expected, image = manifest.transfer_digests[index], manifest.image_digest
        for quarantined in (False, True):
            try:
                with self._blobs.open(image, quarantined=quarantined) as reader:
                    octets = verification.tolerant(reader.read)(offset, size)
            except StorageError as error:
                if error.code != "missing":
                    raise
                continue
            if hashlib.sha256(octets).digest() == expected:
                return octets
        self._mark_rotten(image)
        raise StorageError(
            f"erase block {index} of {manifest.name} {manifest.version} is rotten",
            code="rotten",
            hint="the next backup of any device that runs this image heals it",
        )

    def distrust(self, device_id: bytes, number: int, component: str) -> None:
        """Another reader found rot in this component: as if it had been found here. Raises StorageError."""
        stored = self.find(device_id, number)
        for manifest in stored.generation.components if stored else ():
            if manifest.name == component:
                self._mark_rotten(manifest.image_digest)

    def _mark_rotten(self, image_digest: bytes) -> None:
        if not self._read_only and self._blobs.has(image_digest):
            self._blobs.quarantine(image_digest)
        self._mark_damaged(self._catalogue.referring(image_digest))

    def _mark_damaged(self, rows: Iterable[GenerationRow]) -> None:
        for row in rows:
            if not self._read_only and not row.damaged:
                self._catalogue.set_damaged(row.key, True)

    # Generations

    def commit_generation(self, sealed: SealedGeneration, good_seal: bytes | None = None) -> StoredGeneration:
        """Make a generation show whose images are all stored; then delete what retention lets go.

        Doing it again changes nothing but may add the good seal. Raises StorageError "missing" if an image is not
        there, whole. Power cut: the generation is there with all of this, or not at all.
        """
        for c in sealed.generation.components:
            with self._blobs.open(c.image_digest) as reader:
                if reader.length_bytes == c.length_bytes:
                    continue
            self._mark_rotten(c.image_digest)
            raise StorageError(f"the stored image of {c.name} is cut short", code="missing", retry=True)
        now_s = self._clock()
        row = reconcile.row_of(sealed, created_at_s=now_s)
        old = self._row(row.key.device_id, row.key.number, row.key.digest)
        if old is not None:
            row = replace(old, damaged=False)
        if good_seal is not None:
            # Before the document, because from the document on there is a generation, and it must be complete.
            self._put_good_seal(row.key, good_seal)
            row = replace(row, good_at_s=row.good_at_s if row.good else now_s)
        self._documents.put(row.key.name, DocumentKind.GENERATION, sealed.document)
        self._catalogue.add(row)
        self._retain(row.key.device_id)
        seal = good_seal or verification.read_good_seal(self._documents, row.key.name)
        return StoredGeneration(row=row, sealed=sealed, good_seal=seal)

    def mark_good(self, device_id: bytes, number: int, digest: bytes, good_seal: bytes) -> None:
        """The device vouches for a generation: seal first, then the catalogue. Raises StorageError "missing"."""
        row = self._required(device_id, number, digest)
        self._put_good_seal(row.key, good_seal)
        if not row.good:
            self._catalogue.mark_good(row.key, self._clock())
            self._retain(device_id)

    def _put_good_seal(self, key: GenerationKey, good_seal: bytes) -> None:
        if len(good_seal) != GOOD_SEAL_BYTES:
            raise IntegrityError(f"a good seal of {len(good_seal)} bytes", code="good-seal")
        if self._documents.get(key.name, DocumentKind.GOOD) != good_seal:
            self._documents.put(key.name, DocumentKind.GOOD, good_seal)

    def pin(self, device_id: bytes, number: int, *, digest: bytes | None = None) -> None:
        """Never delete this generation. Raises StorageError "missing"."""
        key = self._required(device_id, number, digest).key
        self._documents.put(key.name, DocumentKind.PIN, b"")
        self._catalogue.set_pinned(key, True)

    def unpin(self, device_id: bytes, number: int, *, digest: bytes | None = None) -> None:
        key = self._required(device_id, number, digest).key
        self._documents.delete(key.name, DocumentKind.PIN)
        self._catalogue.set_pinned(key, False)

    def delete(self, device_id: bytes, number: int, *, digest: bytes | None = None, force: bool = False) -> None:
        """Delete a generation, and the images that no other one has.

        Raises StorageError "missing", and "protected" for a pinned one and for the last good one, unless forced.
        """
        row = self._required(device_id, number, digest)
        others = [r for r in self._catalogue.generations(device_id) if r.key != row.key]
        what = describe(row.key.name)
        if row.pinned and not force:
            raise StorageError(f"{what} is pinned", code="protected", hint="unpin it first, or use --force")
        if row.good and not force and not any(r.good and not r.damaged for r in others):
            raise StorageError(
                f"{what} is its last good one; without it the device cannot be restored",
                code="protected",
                hint="back the device up first, or use --force",
            )
        self._remove(row)

    def _retain(self, device_id: bytes) -> None:
        rows = self._catalogue.generations(device_id)
        for row in expired(rows, self._policy, now_s=self._clock()):
            self._remove(row)

    def _remove(self, row: GenerationRow) -> None:
        self._catalogue.remove(row.key)
        for kind in (DocumentKind.GENERATION, DocumentKind.GOOD, DocumentKind.PIN):
            self._documents.delete(row.key.name, kind)
        for image in set(row.images):
            if not self._catalogue.referring(image):
                self._blobs.delete(image)

    # Upkeep

    def reconcile(self) -> list[Finding]:
        """Make the catalogue agree with images and documents; before first use after a start."""
        return list(reconcile.reconcile(self._blobs, self._documents, self._catalogue))

    def collect(self, *, grace_s: float = GRACE_S) -> int:
        """Delete images of no generation and uploads that rest, both older than `grace_s`; how many.

        With no generation at all it deletes no image: then rather the documents are lost than all images garbage.
        """
        before_s = self._clock() - grace_s
        count = self._blobs.expire_uploads(before_s=before_s)
        rows = self._catalogue.generations()
        referred = {image for row in rows for image in row.images}
        for entry in list(self._blobs.entries()) if rows else []:
            if entry.image_digest not in referred and entry.stored_at_s < before_s:
                self._blobs.delete(entry.image_digest)
                count += 1
        return count

    def verify(self, progress: Callable[[VerifyProgress], None] = lambda _: None) -> list[Finding]:
        """Read everything again and report what is wrong; rot is marked, and rotten images are set aside."""
        findings: list[Finding] = []
        for finding in verification.verify(self._blobs, self._documents, self._catalogue, progress):
            findings.append(finding)
            if finding.kind in {FindingKind.ROTTEN_IMAGE, FindingKind.MISSING_IMAGE} and finding.image_digest:
                self._mark_rotten(finding.image_digest)
            elif finding.kind in {FindingKind.ROTTEN_DOCUMENT, FindingKind.MISSING_DOCUMENT}:
                self._mark_damaged(r for r in self._catalogue.generations() if r.key.name == finding.name)
        return findings

    def free_bytes(self) -> int:
        return self._blobs.free_bytes()
