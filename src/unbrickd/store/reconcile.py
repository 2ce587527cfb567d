# SPDX-License-Identifier: Apache-2.0
"""Making the catalogue agree with images and documents: after a power cut, and from nothing (rebuild).

The documents say which generations there are, which are good and which are pinned. Nothing is ever deleted here: what
contradicts itself is marked damaged and reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from unbrickd.errors import StorageError
from unbrickd.model.manifest import SealedGeneration
from unbrickd.store.interface import (
    BlobStore,
    Catalogue,
    DocumentKind,
    DocumentName,
    DocumentStore,
    GenerationKey,
    GenerationRow,
)
from unbrickd.store.verification import Finding, FindingKind, describe, is_whole, read_document, read_good_seal


def row_of(sealed: SealedGeneration, *, created_at_s: float) -> GenerationRow:
    """The row of a generation that is neither good nor pinned nor damaged."""
    generation = sealed.generation
    return GenerationRow(
        key=GenerationKey(device_id=generation.device_id, number=generation.number, digest=sealed.digest),
        model=generation.model,
        images=tuple(c.image_digest for c in generation.components),
        size_bytes=sum(c.length_bytes for c in generation.components),
        created_at_s=created_at_s,
        good_at_s=None,
        pinned=False,
        damaged=False,
    )


def reconcile(blobs: BlobStore, documents: DocumentStore, catalogue: Catalogue) -> Iterator[Finding]:
    """Bring every row up to date, adopt what the catalogue does not show, report what is damaged.

    Adopting is right because a document is written after its images: a generation with a document is whole. A row
    without a document is kept, damaged: its images must not be taken for garbage while a disk is, say, not mounted.
    """
    kinds: dict[DocumentName, dict[DocumentKind, float]] = {}
    for entry in documents.entries():
        kinds.setdefault(entry.name, {})[entry.kind] = entry.stored_at_s
    rows = {row.key.name: row for row in catalogue.generations()}
    for name, stored in kinds.items():
        if name in rows or DocumentKind.GENERATION not in stored:
            continue
        try:
            sealed = read_document(documents, name)
        except StorageError as error:
            if error.code not in {"missing", "rotten"}:
                raise
            yield Finding(kind=FindingKind.ROTTEN_DOCUMENT, text=f"{error}; it is left out", name=name)
            continue
        rows[name] = row_of(sealed, created_at_s=stored[DocumentKind.GENERATION])
        catalogue.add(rows[name])
    for name, row in rows.items():
        stored = kinds.get(name, {})
        listed = DocumentKind.GENERATION in stored
        good_at_s = row.good_at_s
        if listed and read_good_seal(documents, name) is None:
            good_at_s = None
            if row.good:
                text = f"the good seal of {describe(name)} is missing"
                yield Finding(kind=FindingKind.LOST_GOOD_SEAL, text=text, name=name)
        elif listed and good_at_s is None:
            good_at_s = stored[DocumentKind.GOOD]
        damaged = not listed or not all(blobs.has(image) for image in row.images)
        if row.damaged and not damaged:
            damaged = not is_whole(blobs, documents, row)
        if damaged and not row.damaged:
            kind = FindingKind.MISSING_IMAGE if listed else FindingKind.MISSING_DOCUMENT
            yield Finding(kind=kind, text=f"{describe(name)} is no longer whole", name=name)
        pinned = DocumentKind.PIN in stored if listed else row.pinned
        now = replace(row, good_at_s=good_at_s, damaged=damaged, pinned=pinned)
        if now != row:
            catalogue.add(now)
