# SPDX-License-Identifier: Apache-2.0
"""The vault over the in-memory back-end: what shows, what is copied, what is healed, what is never deleted."""

from __future__ import annotations

import pytest

from unbrickd.errors import IntegrityError, StorageError
from unbrickd.sim.backups import (
    ERASE_BLOCK_BYTES,
    back_up,
    device_id,
    generation,
    good_seal,
    image,
    manifest,
    put_missing,
)
from unbrickd.sim.memory_store import MemoryBlobStore, MemoryCatalogue, MemoryDocumentStore
from unbrickd.store.interface import DocumentKind
from unbrickd.store.retention import RetentionPolicy
from unbrickd.store.vault import StoredGeneration, Vault
from unbrickd.store.verification import HARMLESS, FindingKind, VerifyProgress

A, B = device_id(1), device_id(2)


class World:
    """A vault with its parts, and a clock that is set by hand."""

    def __init__(self, *, policy: RetentionPolicy | None = None) -> None:
        self.now_s = 1000.0
        self.blobs = MemoryBlobStore(lambda: self.now_s)
        self.documents = MemoryDocumentStore(lambda: self.now_s)
        self.catalogue = MemoryCatalogue()
        self.vault = self.restarted(policy=policy)

    def restarted(self, *, policy: RetentionPolicy | None = None) -> Vault:
        return Vault(self.blobs, self.documents, self.catalogue, lambda: self.now_s, policy=policy)

    def spoil(self, octets: bytes, offset: int) -> None:
        digest = manifest(octets).image_digest
        stored, at_s = self.blobs.images[digest]
        spoilt = bytearray(stored)
        spoilt[offset] ^= 1
        self.blobs.images[digest] = (bytes(spoilt), at_s)


@pytest.fixture
def world() -> World:
    return World()


def _numbers(world: World, device: bytes = A) -> list[int]:
    return [row.key.number for row in world.vault.generations(device)]


def _erase_block(octets: bytes, index: int) -> bytes:
    return octets[index * ERASE_BLOCK_BYTES : (index + 1) * ERASE_BLOCK_BYTES]


def _read_all(vault: Vault, stored: StoredGeneration, component_id: int) -> bytes:
    component = stored.generation.component(component_id)
    assert component is not None
    return b"".join(vault.read_erase_block(stored, component_id, i) for i in range(component.geometry.count))


def test_vault_backup_reads_back_whole(world: World) -> None:
    back_up(world.vault, A, 1, {1: image(1), 2: image(2, 700)})
    stored = world.vault.newest(A)
    assert stored is not None
    assert (stored.number, stored.good_seal, stored.damaged, stored.created_at_s) == (1, None, False, 1000.0)
    assert _read_all(world.vault, stored, 1) == image(1)
    assert _read_all(world.vault, stored, 2) == image(2, 700)
    assert world.vault.known(A)
    assert not world.vault.known(B)
    assert world.vault.newest(B) is None


def test_vault_newest_good_leaves_out_trials_and_rejected(world: World) -> None:
    for number, good in ((1, True), (2, True), (3, False)):
        back_up(world.vault, A, number, {1: image(number)}, good=good)
    newest, good_one = world.vault.newest(A), world.vault.newest_good(A)
    other = world.vault.newest_good(A, excluding=(2, 9))
    assert newest is not None and newest.number == 3
    assert good_one is not None and (good_one.number, good_one.good_seal) == (2, good_seal(2))
    assert other is not None and other.number == 1
    assert world.vault.newest_good(A, excluding=(1, 3)) is None


def test_vault_newest_good_prefers_whole_and_falls_back_to_damaged(world: World) -> None:
    back_up(world.vault, A, 1, {1: image(1)}, good=True)
    back_up(world.vault, A, 2, {1: image(2)}, good=True)
    world.spoil(image(2), 0)
    world.vault.verify()
    chosen = world.vault.newest_good(A)
    assert chosen is not None and chosen.number == 1
    fallback = world.vault.newest_good(A, excluding=(1, 1))
    assert fallback is not None and fallback.damaged
    assert world.vault.read_erase_block(fallback, 1, 1) == image(2)[ERASE_BLOCK_BYTES : 2 * ERASE_BLOCK_BYTES]


def test_vault_commit_generation_without_its_images_is_refused(world: World) -> None:
    with pytest.raises(StorageError) as raised:
        world.vault.commit_generation(generation(A, 1, {1: image(1)}))
    assert raised.value.code == "missing"
    assert not world.vault.known(A)
    assert world.documents.documents == {}


def test_vault_commit_image_with_a_wrong_erase_block_is_refused_and_kept(world: World) -> None:
    component = manifest(image(1))
    staging = world.vault.stage(A, component)
    last = component.geometry.count - 1
    for index in range(last):
        assert staging.put(index, _erase_block(image(1), index))
    assert not staging.put(last, _erase_block(image(1)[:-1] + b"?", last))
    with pytest.raises(IntegrityError):
        world.vault.commit_image(staging)
    assert not world.vault.has_image(component)
    assert world.vault.stage(A, component).missing == [last]


def test_vault_stage_hashes_again_what_an_upload_holds_that_resumes(world: World) -> None:
    component = manifest(image(1))
    staging = world.vault.stage(A, component)
    put_missing(staging, image(1))
    staging.suspend()
    (part,) = world.blobs.parts.values()
    part.octets[ERASE_BLOCK_BYTES] ^= 1
    resumed = world.vault.stage(A, component)
    assert resumed.missing == [1]


def test_vault_commit_twice_changes_nothing(world: World) -> None:
    first = back_up(world.vault, A, 1, {1: image(1)}, good=True)
    world.vault.pin(A, 1)
    world.now_s += 50
    again = back_up(world.vault, A, 1, {1: image(1)})
    assert world.vault.generations() == (again.row,)
    assert (again.created_at_s, again.pinned, again.good_seal) == (first.created_at_s, True, first.good_seal)


def test_vault_same_number_twice_keeps_both_and_the_later_is_newest(world: World) -> None:
    back_up(world.vault, A, 4, {1: image(1)})
    world.now_s += 1
    later = back_up(world.vault, A, 4, {1: image(2)})
    newest = world.vault.newest(A)
    assert _numbers(world) == [4, 4]
    assert newest is not None and newest.key == later.key


def test_vault_stage_copies_erase_blocks_of_earlier_generations(world: World) -> None:
    old = image(1)
    new = old[:ERASE_BLOCK_BYTES] + image(9, ERASE_BLOCK_BYTES) + old[2 * ERASE_BLOCK_BYTES :]
    back_up(world.vault, A, 1, {1: old})
    component = manifest(new)
    assert world.vault.stage(A, component).missing == [1]


def test_vault_stage_of_a_rotten_donor_copies_only_what_is_right(world: World) -> None:
    back_up(world.vault, A, 1, {1: image(1)})
    world.spoil(image(1), 2 * ERASE_BLOCK_BYTES)
    component = manifest(image(1) + b"longer")
    assert world.vault.stage(A, component).missing == [2, 4]


def test_vault_stage_after_a_restart_does_not_start_again(world: World) -> None:
    component = manifest(image(1))
    staging = world.vault.stage(A, component)
    for index in (0, 3):
        assert staging.put(index, _erase_block(image(1), index))
    staging.suspend()
    assert world.restarted().stage(A, component).missing == [1, 2, 4]


def test_vault_missing_of_an_all_zero_erase_block_is_told_by_content(world: World) -> None:
    octets = bytes(2 * ERASE_BLOCK_BYTES) + image(1, ERASE_BLOCK_BYTES)
    component = manifest(octets)
    staging = world.vault.stage(A, component)
    assert staging.missing == [0, 1, 2]
    assert staging.put(2, _erase_block(octets, 2))
    staging.suspend()
    assert world.vault.stage(A, component).missing == []


def test_vault_thousand_equal_devices_keep_one_image(world: World) -> None:
    for n in range(1000):
        back_up(world.vault, device_id(n), 1, {1: image(1, 9000), 2: b"config %d" % n})
    firmware = manifest(image(1, 9000)).image_digest
    assert len(world.blobs.images) == 1001
    assert len(world.catalogue.referring(firmware)) == 1000


def test_vault_read_of_rot_marks_every_device_and_an_upload_heals_all(world: World) -> None:
    for device in (A, B):
        back_up(world.vault, device, 1, {1: image(1)}, good=True)
    world.spoil(image(1), 2 * ERASE_BLOCK_BYTES + 5)
    stored = world.vault.newest(A)
    assert stored is not None
    with pytest.raises(StorageError) as raised:
        world.vault.read_erase_block(stored, 1, 2)
    assert raised.value.code == "rotten"
    assert [row.damaged for row in world.vault.generations()] == [True, True]
    component = manifest(image(1))
    assert not world.vault.has_image(component)
    staging = world.vault.stage(B, component)
    assert staging.missing == [2]
    put_missing(staging, image(1))
    world.vault.commit_image(staging)
    assert [row.damaged for row in world.vault.generations()] == [False, False]
    assert _read_all(world.vault, stored, 1) == image(1)
    assert world.blobs.quarantined == {}


def test_vault_rotten_document_is_passed_over_and_found(world: World) -> None:
    back_up(world.vault, A, 1, {1: image(1)})
    key = back_up(world.vault, A, 2, {1: image(2)}).key
    world.documents.put(key.name, DocumentKind.GENERATION, b"UBGN rubbish")
    newest = world.vault.newest(A)
    assert newest is not None and newest.number == 1
    with pytest.raises(StorageError) as raised:
        world.vault.find(A, 2)
    assert raised.value.code == "rotten"
    assert [f.kind for f in world.vault.verify()] == [FindingKind.ROTTEN_DOCUMENT]
    back_up(world.vault, A, 2, {1: image(2)})
    assert world.vault.verify() == []


def test_vault_mark_good_of_an_unknown_generation_is_refused(world: World) -> None:
    stored = back_up(world.vault, A, 1, {1: image(1)})
    with pytest.raises(StorageError):
        world.vault.mark_good(A, 1, bytes(32), good_seal(1))
    with pytest.raises(IntegrityError):
        world.vault.mark_good(A, 1, stored.key.digest, b"short")
    world.vault.mark_good(A, 1, stored.key.digest, good_seal(1))
    found = world.vault.find(A, 1)
    assert found is not None and found.row.good and found.good_seal == good_seal(1)


def test_vault_delete_refuses_the_last_good_and_the_pinned(world: World) -> None:
    back_up(world.vault, A, 1, {1: image(1)}, good=True)
    back_up(world.vault, A, 2, {1: image(2)})
    world.vault.pin(A, 2)
    for number in (1, 2):
        with pytest.raises(StorageError) as raised:
            world.vault.delete(A, number)
        assert raised.value.code == "protected"
    world.vault.unpin(A, 2)
    world.vault.delete(A, 2)
    world.vault.delete(A, 1, force=True)
    assert (_numbers(world), world.blobs.images, world.documents.documents) == ([], {}, {})


def test_vault_delete_keeps_images_that_others_have(world: World) -> None:
    back_up(world.vault, A, 1, {1: image(1), 2: b"a"})
    back_up(world.vault, B, 1, {1: image(1), 2: b"b"})
    world.vault.delete(A, 1)
    left = world.vault.newest(B)
    assert left is not None and _read_all(world.vault, left, 1) == image(1)
    assert len(world.blobs.images) == 2


def test_vault_retention_runs_with_each_commit_and_frees_images() -> None:
    world = World(policy=RetentionPolicy(keep_good=2, keep_trial=1))
    for number in range(1, 8):
        back_up(world.vault, A, number, {1: image(number)}, good=number < 6)
    assert _numbers(world) == [7, 5, 4]
    assert len(world.blobs.images) == 3


def test_vault_collect_spares_the_young_and_everything_if_no_generation_is_left(world: World) -> None:
    component = manifest(image(1))
    staging = world.vault.stage(A, component)
    put_missing(staging, image(1))
    world.vault.commit_image(staging)
    world.now_s += 10_000_000
    assert world.vault.collect() == 0
    back_up(world.vault, A, 1, {1: image(2)})
    assert world.vault.collect(grace_s=20_000_000) == 0
    assert world.vault.collect() == 1
    assert [e.image_digest for e in world.blobs.entries()] == [manifest(image(2)).image_digest]


def test_vault_verify_reports_each_kind_and_progress_reaches_the_end(world: World) -> None:
    back_up(world.vault, A, 1, {1: image(1)}, good=True)
    lost = back_up(world.vault, A, 2, {1: image(2)}, good=True)
    back_up(world.vault, A, 3, {1: image(3)})
    assert world.vault.verify() == []
    world.spoil(image(1), 0)
    world.blobs.delete(manifest(image(3)).image_digest)
    world.documents.delete(lost.key.name, DocumentKind.GOOD)
    world.blobs.images[bytes(32)] = (b"stray", 0.0)
    progress: list[VerifyProgress] = []
    kinds = {f.kind for f in world.vault.verify(progress.append)}
    assert kinds - HARMLESS == {FindingKind.ROTTEN_IMAGE, FindingKind.MISSING_IMAGE, FindingKind.LOST_GOOD_SEAL}
    assert kinds & HARMLESS == {FindingKind.UNREFERENCED_IMAGE}
    assert progress[-1].total_bytes == 3 * len(image(1))
    assert {r.key.number: r.damaged for r in world.vault.generations()} == {1: True, 2: False, 3: True}


def test_vault_reconcile_of_an_empty_catalogue_loses_nothing(world: World) -> None:
    back_up(world.vault, A, 1, {1: image(1)}, good=True)
    back_up(world.vault, A, 2, {1: image(2)})
    back_up(world.vault, B, 1, {1: image(1)})
    world.vault.pin(A, 1)
    before = world.vault.generations()
    world.catalogue = MemoryCatalogue()
    vault = world.restarted()
    assert vault.reconcile() == []
    assert vault.generations() == before
    assert vault.reconcile() == []


def test_vault_reconcile_with_lost_documents_keeps_rows_and_images(world: World) -> None:
    key = back_up(world.vault, A, 1, {1: image(1)}, good=True).key
    document, seal = generation(A, 1, {1: image(1)}).document, good_seal(1)
    world.documents.documents.clear()
    assert [f.kind for f in world.vault.reconcile()] == [FindingKind.MISSING_DOCUMENT]
    world.now_s += 1e9
    assert world.vault.collect() == 0
    world.documents.put(key.name, DocumentKind.GENERATION, document)
    world.documents.put(key.name, DocumentKind.GOOD, seal)
    assert world.vault.reconcile() == []
    row = world.vault.generations()[0]
    assert (row.damaged, row.good) == (False, True)
