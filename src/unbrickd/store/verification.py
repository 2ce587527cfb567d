# SPDX-License-Identifier: Apache-2.0
"""Reading everything again: is what is stored still what its digests say? Reports; marks and moves nothing.

Digests: spec/flash-format.md §3.1 (erase blocks), §4 (documents). Knows no key, so it cannot check a document's MAC;
that is the device's part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from unbrickd.errors import IntegrityError, StorageError
from unbrickd.model.codec import decode_generation
from unbrickd.model.manifest import Manifest, SealedGeneration
from unbrickd.store.interface import (
    GOOD_SEAL_BYTES,
    BlobStore,
    Catalogue,
    DocumentKind,
    DocumentName,
    DocumentStore,
    GenerationKey,
    GenerationRow,
)


class FindingKind(Enum):
    """What is wrong, and so what it means for the owner."""

    ROTTEN_IMAGE = "rotten-image"
    """Erase blocks of a stored image are not what they were."""
    MISSING_IMAGE = "missing-image"
    """A generation's image is not there, or was quarantined before."""
    ROTTEN_DOCUMENT = "rotten-document"
    MISSING_DOCUMENT = "missing-document"
    LOST_GOOD_SEAL = "lost-good-seal"
    """The catalogue calls the generation good, but the seal that says so is gone."""
    UNLISTED_DOCUMENT = "unlisted-document"
    """A generation the catalogue does not show; the next start of the server adopts it."""
    UNREFERENCED_IMAGE = "unreferenced-image"
    """An image of no generation: an upload under way, or one that was given up."""


HARMLESS = frozenset({FindingKind.UNLISTED_DOCUMENT, FindingKind.UNREFERENCED_IMAGE})
"""Findings that are no loss of data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found. `name` and `image_digest` where it is about a generation, an image, or both."""

    kind: FindingKind
    text: str
    name: DocumentName | None = None
    image_digest: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyProgress:
    """How far `verify` is, in bytes of images."""

    done_bytes: int
    total_bytes: int


def read_document(documents: DocumentStore, name: DocumentName) -> SealedGeneration:
    """The generation document of that name, proved by the digest in its name.

    Raises StorageError "missing" or "rotten".
    """
    octets = documents.get(name, DocumentKind.GENERATION)
    if octets is None:
        raise StorageError(f"the document of {describe(name)} is missing", code="missing")
    rotten = StorageError(f"the document of {describe(name)} is rotten", code="rotten")
    if not hashlib.sha256(octets).digest().startswith(name.digest_start):
        raise rotten
    try:
        sealed = decode_generation(octets)
    except IntegrityError as error:
        raise rotten from error
    if (sealed.generation.device_id, sealed.generation.number) != (name.device_id, name.number):
        raise rotten
    return sealed


def read_generation(documents: DocumentStore, key: GenerationKey) -> SealedGeneration:
    """As `read_document`, proved by the whole digest."""
    sealed = read_document(documents, key.name)
    if sealed.digest != key.digest:
        raise StorageError(f"the document of {describe(key.name)} is another one", code="rotten")
    return sealed


def read_good_seal(documents: DocumentStore, name: DocumentName) -> bytes | None:
    """The good seal, or None where there is none of the right length; only the device can say whether it holds."""
    seal = documents.get(name, DocumentKind.GOOD)
    return seal if seal is not None and len(seal) == GOOD_SEAL_BYTES else None


def wrong_erase_blocks(read: Callable[[int, int], bytes], manifest: Manifest) -> Iterator[tuple[int, int, bool]]:
    """Index, bytes and whether it is wrong, of every erase block, as `read(offset, length)` gives it.

    Holes of a sparse upload read as zeros; these are compared, not hashed, so that a resumed upload starts at once.
    """
    zeros: dict[int, bytes] = {}
    for block, size in manifest.erase_blocks():
        octets = read(block.offset_bytes, size)
        if len(octets) < size:
            digest = b""
        elif octets.count(0) < size:
            digest = hashlib.sha256(octets).digest()
        else:
            digest = zeros.setdefault(size, b"") or hashlib.sha256(octets).digest()
            zeros[size] = digest
        yield block.index, size, digest != manifest.transfer_digests[block.index]


def verify(
    blobs: BlobStore, documents: DocumentStore, catalogue: Catalogue, progress: Callable[[VerifyProgress], None]
) -> Iterator[Finding]:
    """Read every document and every image of every generation again, each image once, and tell what is wrong."""
    rows = catalogue.generations()
    manifests: dict[bytes, Manifest] = {}
    for row in rows:
        try:
            sealed = read_generation(documents, row.key)
        except StorageError as error:
            missing = error.code == "missing"
            if not missing and error.code != "rotten":
                raise
            kind = FindingKind.MISSING_DOCUMENT if missing else FindingKind.ROTTEN_DOCUMENT
            yield Finding(kind=kind, text=str(error), name=row.key.name)
            continue
        manifests |= {c.image_digest: c for c in sealed.generation.components}
        if row.good and read_good_seal(documents, row.key.name) is None:
            text = f"the good seal of {describe(row.key.name)} is missing"
            yield Finding(kind=FindingKind.LOST_GOOD_SEAL, text=text, name=row.key.name)
    yield from _images(blobs, manifests, progress)
    listed = {row.key.name for row in rows}
    for entry in documents.entries():
        if entry.kind is DocumentKind.GENERATION and entry.name not in listed:
            text = f"{describe(entry.name)} is not in the catalogue"
            yield Finding(kind=FindingKind.UNLISTED_DOCUMENT, text=text, name=entry.name)
    referred = {image for row in rows for image in row.images}
    for blob in blobs.entries():
        if blob.image_digest not in referred:
            text = f"image {blob.image_digest.hex()[:16]} belongs to no generation"
            yield Finding(kind=FindingKind.UNREFERENCED_IMAGE, text=text, image_digest=blob.image_digest)


def _images(
    blobs: BlobStore, manifests: dict[bytes, Manifest], progress: Callable[[VerifyProgress], None]
) -> Iterator[Finding]:
    done, total = 0, sum(m.length_bytes for m in manifests.values())
    for image, manifest in sorted(manifests.items()):
        what = f"{manifest.name} {manifest.version} (image {image.hex()[:16]})"
        if not blobs.has(image):
            done += manifest.length_bytes
            yield Finding(kind=FindingKind.MISSING_IMAGE, text=f"{what} is missing", image_digest=image)
            continue
        wrong: list[int] = []
        with blobs.open(image) as reader:
            longer = reader.length_bytes > manifest.length_bytes
            for index, size, is_wrong in wrong_erase_blocks(tolerant(reader.read), manifest):
                if is_wrong:
                    wrong.append(index)
                done += size
                progress(VerifyProgress(done_bytes=done, total_bytes=total))
        if wrong or longer:
            text = f"{what} is rotten: {len(wrong)} of {manifest.geometry.count} erase blocks are not what they were"
            yield Finding(kind=FindingKind.ROTTEN_IMAGE, text=text, image_digest=image)


def tolerant(read: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    """An unreadable sector gives nothing, which no digest matches; it is not the end of the search."""

    def attempt(offset_bytes: int, length_bytes: int) -> bytes:
        try:
            return read(offset_bytes, length_bytes)
        except StorageError:
            return b""

    return attempt


def describe(name: DocumentName) -> str:
    return f"generation {name.number} of device {name.device_id.hex()}"


def is_whole(blobs: BlobStore, documents: DocumentStore, row: GenerationRow) -> bool:
    """Whether everything of the generation is there: the document proved, the images by their presence."""
    try:
        read_generation(documents, row.key)
    except StorageError as error:
        if error.code in {"missing", "rotten"}:
            return False
        raise
    return all(blobs.has(image) for image in row.images)
