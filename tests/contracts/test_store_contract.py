# SPDX-License-Identifier: Apache-2.0
"""What every back-end of the store must do, one suite for all: in memory, files and SQLite."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from unbrickd.adapters.store.files import FileBlobStore, FileDocumentStore
from unbrickd.adapters.store.sqlite import SqliteCatalogue
from unbrickd.errors import StorageError
from unbrickd.sim.memory_store import MemoryBlobStore, MemoryCatalogue, MemoryDocumentStore
from unbrickd.store.interface import (
    BlobStore,
    Catalogue,
    DocumentKind,
    DocumentName,
    DocumentStore,
    GenerationKey,
    GenerationRow,
)

IMAGE, OTHER = b"\x11" * 32, b"\x22" * 32
ALICE, BOB = b"a" * 16, b"b" * 16


def _file_blobs(directory: Path) -> FileBlobStore:
    blobs = FileBlobStore(directory, reserve_bytes=0)
    blobs.prepare()
    return blobs


def _file_documents(directory: Path) -> DocumentStore:
    documents = FileDocumentStore(directory)
    documents.prepare()
    return documents


@pytest.fixture(params=["memory", "files"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    if request.param == "memory":
        yield MemoryBlobStore(time.time)
        return
    with closing(_file_blobs(tmp_path)) as files:
        yield files


@pytest.fixture(params=["memory", "files"])
def documents(request: pytest.FixtureRequest, tmp_path: Path) -> DocumentStore:
    makers: dict[str, Callable[[], DocumentStore]] = {
        "memory": lambda: MemoryDocumentStore(time.time),
        "files": lambda: _file_documents(tmp_path),
    }
    return makers[request.param]()


@pytest.fixture(params=["memory", "sqlite"])
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalogue]:
    if request.param == "memory":
        yield MemoryCatalogue()
    else:
        sqlite = SqliteCatalogue(tmp_path / "catalogue.sqlite3")
        yield sqlite
        sqlite.close()


def _store(blobs: BlobStore, digest: bytes, octets: bytes, owner: bytes = ALICE) -> None:
    upload = blobs.upload(digest, len(octets), owner=owner)
    upload.write(0, octets)
    upload.commit()


def test_upload_before_commit_does_not_show(blobs: BlobStore) -> None:
    upload = blobs.upload(IMAGE, 4, owner=ALICE)
    upload.write(0, b"data")
    assert not blobs.has(IMAGE)
    assert list(blobs.entries()) == []
    with pytest.raises(StorageError) as raised:
        blobs.open(IMAGE)
    assert raised.value.code == "missing"
    upload.commit()
    assert blobs.has(IMAGE)


def test_image_after_commit_reads_back_at_any_offset(blobs: BlobStore) -> None:
    _store(blobs, IMAGE, b"0123456789")
    with blobs.open(IMAGE) as reader:
        assert reader.length_bytes == 10
        assert [reader.read(0, 10), reader.read(3, 4), reader.read(8, 9)] == [b"0123456789", b"3456", b"89"]
    entry = next(blobs.entries())
    assert (entry.image_digest, entry.length_bytes) == (IMAGE, 10)


def test_upload_with_holes_reads_zeros_and_ends_where_nothing_was_written(blobs: BlobStore) -> None:
    upload = blobs.upload(IMAGE, 100, owner=ALICE)
    upload.write(10, b"late")
    assert upload.length_bytes == 100
    assert upload.read(0, 100) == bytes(10) + b"late"
    upload.discard()


def test_upload_suspended_resumes_with_what_arrived(blobs: BlobStore) -> None:
    upload = blobs.upload(IMAGE, 8, owner=ALICE)
    upload.write(4, b"back")
    upload.suspend()
    resumed = blobs.upload(IMAGE, 8, owner=ALICE)
    assert resumed.read(0, 8) == bytes(4) + b"back"
    resumed.write(0, b"push")
    resumed.commit()
    with blobs.open(IMAGE) as reader:
        assert reader.read(0, 8) == b"pushback"


def test_upload_discarded_starts_again(blobs: BlobStore) -> None:
    upload = blobs.upload(IMAGE, 4, owner=ALICE)
    upload.write(0, b"oops")
    upload.discard()
    again = blobs.upload(IMAGE, 4, owner=ALICE)
    assert again.read(0, 4) == b""
    again.discard()


def test_uploads_of_two_owners_share_nothing_and_both_commit(blobs: BlobStore) -> None:
    first, second = blobs.upload(IMAGE, 4, owner=ALICE), blobs.upload(IMAGE, 4, owner=BOB)
    first.write(0, b"same")
    assert second.read(0, 4) == b""
    first.commit()
    second.write(0, b"same")
    second.commit()
    assert [e.image_digest for e in blobs.entries()] == [IMAGE]


def test_upload_open_twice_by_one_owner_is_refused(blobs: BlobStore) -> None:
    upload = blobs.upload(IMAGE, 4, owner=ALICE)
    with pytest.raises(StorageError) as raised:
        blobs.upload(IMAGE, 4, owner=ALICE)
    assert (raised.value.code, raised.value.retry) == ("busy", True)
    upload.suspend()
    blobs.upload(IMAGE, 4, owner=ALICE).discard()


def test_upload_larger_than_the_disk_is_refused_ahead(blobs: BlobStore) -> None:
    with pytest.raises(StorageError) as raised:
        blobs.upload(IMAGE, blobs.free_bytes() + (64 << 20), owner=ALICE)
    assert (raised.value.code, raised.value.retry) == ("disk-full", True)


def test_image_that_was_read_is_read_as_it_is_now(blobs: BlobStore) -> None:
    def read() -> bytes:
        with blobs.open(IMAGE) as reader:
            return reader.read(0, 10)

    _store(blobs, IMAGE, b"rotten")
    assert read() == read() == b"rotten"
    blobs.quarantine(IMAGE)
    with pytest.raises(StorageError, match="not stored"):
        read()
    _store(blobs, IMAGE, b"healed")
    assert read() == b"healed"
    _store(blobs, IMAGE, b"stored again")
    assert read() == b"stored aga"
    blobs.delete(IMAGE)
    with pytest.raises(StorageError, match="not stored"):
        read()


def test_delete_removes_image_and_quarantined_image(blobs: BlobStore) -> None:
    _store(blobs, IMAGE, b"one")
    _store(blobs, OTHER, b"two")
    blobs.quarantine(OTHER)
    blobs.delete(IMAGE)
    blobs.delete(OTHER)
    blobs.delete(OTHER)
    assert list(blobs.entries()) == []
    with pytest.raises(StorageError):
        blobs.open(OTHER, quarantined=True)


def test_quarantine_hides_the_image_and_keeps_its_bytes_until_it_is_stored_anew(blobs: BlobStore) -> None:
    _store(blobs, IMAGE, b"rotten")
    blobs.quarantine(IMAGE)
    assert not blobs.has(IMAGE)
    assert list(blobs.entries()) == []
    with blobs.open(IMAGE, quarantined=True) as reader:
        assert reader.read(0, 6) == b"rotten"
    _store(blobs, IMAGE, b"fresh!")
    with blobs.open(IMAGE) as reader:
        assert reader.read(0, 6) == b"fresh!"
    with pytest.raises(StorageError):
        blobs.open(IMAGE, quarantined=True)


def test_expire_uploads_takes_old_ones_that_are_not_open(blobs: BlobStore) -> None:
    resting, active = blobs.upload(IMAGE, 4, owner=ALICE), blobs.upload(IMAGE, 4, owner=BOB)
    resting.write(0, b"half")
    active.write(0, b"half")
    resting.suspend()
    assert blobs.expire_uploads(before_s=time.time() - 60) == 0
    assert blobs.expire_uploads(before_s=time.time() + 60) == 1
    again = blobs.upload(IMAGE, 4, owner=ALICE)
    assert (again.read(0, 4), active.read(0, 4)) == (b"", b"half")
    again.discard()
    active.discard()


NAME = DocumentName(device_id=ALICE, number=7, digest_start=b"\x07" * 8)


def test_documents_put_get_replace_delete(documents: DocumentStore) -> None:
    assert documents.get(NAME, DocumentKind.GENERATION) is None
    documents.put(NAME, DocumentKind.GENERATION, b"first")
    documents.put(NAME, DocumentKind.GENERATION, b"second")
    assert documents.get(NAME, DocumentKind.GENERATION) == b"second"
    documents.delete(NAME, DocumentKind.GENERATION)
    documents.delete(NAME, DocumentKind.GENERATION)
    assert documents.get(NAME, DocumentKind.GENERATION) is None


def test_documents_entries_name_each_document_once(documents: DocumentStore) -> None:
    other = replace(NAME, device_id=BOB, number=(1 << 32) - 1)
    documents.put(NAME, DocumentKind.GENERATION, b"x")
    documents.put(NAME, DocumentKind.PIN, b"")
    documents.put(other, DocumentKind.GOOD, b"s" * 32)
    found = sorted((e.name.number, e.kind.value, e.name) for e in documents.entries())
    assert found == [(7, "gen", NAME), (7, "pin", NAME), (other.number, "good", other)]
    assert all(abs(e.stored_at_s - time.time()) < 60 for e in documents.entries())
    assert documents.get(NAME, DocumentKind.PIN) == b""


def _row(number: int, *, device_id: bytes = ALICE, digest: bytes = IMAGE, created_at_s: float = 1.5) -> GenerationRow:
    return GenerationRow(
        key=GenerationKey(device_id=device_id, number=number, digest=digest),
        model="m1",
        images=(IMAGE, OTHER),
        size_bytes=12,
        created_at_s=created_at_s,
        good_at_s=None,
        pinned=False,
        damaged=False,
    )


def test_catalogue_generations_are_newest_first_of_one_device_or_all(catalogue: Catalogue) -> None:
    early, late = _row(2, digest=OTHER, created_at_s=1.0), _row(2, created_at_s=9.0)
    for row in (_row(1), early, late, _row(3, device_id=BOB)):
        catalogue.add(row)
    assert catalogue.generations(ALICE) == (late, early, _row(1))
    assert catalogue.generations() == (late, early, _row(1), _row(3, device_id=BOB))
    assert catalogue.generations(b"c" * 16) == ()


def test_catalogue_add_of_the_same_key_replaces_the_row(catalogue: Catalogue) -> None:
    catalogue.add(_row(1))
    other = replace(_row(1), images=(OTHER,), good_at_s=5.0, pinned=True, damaged=True)
    catalogue.add(other)
    assert catalogue.generations() == (other,)
    assert catalogue.referring(IMAGE) == ()


def test_catalogue_marks_change_their_field_only(catalogue: Catalogue) -> None:
    row = _row(1)
    catalogue.add(row)
    catalogue.mark_good(row.key, 8.5)
    catalogue.set_pinned(row.key, True)
    catalogue.set_damaged(row.key, True)
    assert catalogue.generations() == (replace(row, good_at_s=8.5, pinned=True, damaged=True),)
    catalogue.set_pinned(row.key, False)
    catalogue.set_damaged(row.key, False)
    assert catalogue.generations() == (replace(row, good_at_s=8.5),)


def test_catalogue_unknown_key_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.add(_row(1))
    unknown = _row(2).key
    catalogue.mark_good(unknown, 1.0)
    catalogue.set_pinned(unknown, True)
    catalogue.set_damaged(unknown, True)
    catalogue.remove(unknown)
    assert catalogue.generations() == (_row(1),)


def test_catalogue_referring_finds_every_generation_of_an_image(catalogue: Catalogue) -> None:
    rows = [_row(1), _row(2), _row(1, device_id=BOB)]
    for row in rows:
        catalogue.add(row)
    assert {r.key for r in catalogue.referring(OTHER)} == {r.key for r in rows}
    assert all(r.images == (IMAGE, OTHER) for r in catalogue.referring(OTHER))
    catalogue.remove(rows[0].key)
    assert {r.key for r in catalogue.referring(OTHER)} == {r.key for r in rows[1:]}


def test_catalogue_devices_are_those_seen_named_or_backed_up(catalogue: Catalogue) -> None:
    catalogue.saw((ALICE, BOB), 3.25)
    catalogue.add(_row(1))
    catalogue.name_device(ALICE, "Küche")
    catalogue.saw({ALICE}, 4.0)
    alice, bob = catalogue.devices()
    assert (alice.device_id, alice.model, alice.name, alice.last_seen_s) == (ALICE, "m1", "Küche", 4.0)
    assert (bob.device_id, bob.model, bob.name, bob.last_seen_s) == (BOB, "", "", 3.25)
    assert len(catalogue.generations()) == 1
