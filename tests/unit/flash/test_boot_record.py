# SPDX-License-Identifier: Apache-2.0
"""The boot record's bytes and its store, without power cuts (those are in test_boot_record_power_cuts)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace

import pytest

from unbrickd.errors import ConfigError, FlashError, IntegrityError
from unbrickd.flash.journal import MIN_JOURNAL_SLOTS, SLOT_BYTES, JournalEntry
from unbrickd.flash.partition import Partition
from unbrickd.flash.record import BootRecord, RecordStore, decode_record, encode_record, needed_half_bytes
from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.model.manifest import SealedGeneration
from unbrickd.seal.keys import DeviceKeys
from unbrickd.sim.nor import NorChip

MakeSealed = Callable[..., SealedGeneration]
A, U, G = JournalEntry.ATTEMPT, JournalEntry.UP, JournalEntry.GOOD
ERASE_BLOCK_BYTES = 512
HALF_BYTES = 2 * ERASE_BLOCK_BYTES
GEOMETRY = Geometry.uniform(total_bytes=5 * ERASE_BLOCK_BYTES, erase_block_bytes=ERASE_BLOCK_BYTES)
"""Two halves of two erase blocks, and an odd one that is left alone."""


@pytest.fixture
def chip() -> NorChip:
    return NorChip(GEOMETRY)


@pytest.fixture
def store(chip: NorChip, keys: DeviceKeys) -> RecordStore:
    return RecordStore(chip, keys)


@pytest.fixture
def record(make_sealed: MakeSealed) -> BootRecord:
    return BootRecord(counter=9, rollback_floor=3, rejected_from=6, rejected_to=8, sealed=make_sealed(5))


def erase_half(chip: NorChip, half: int) -> None:
    for index in (2 * half, 2 * half + 1):
        chip.erase(index * ERASE_BLOCK_BYTES)


def verdict(store: RecordStore) -> tuple[bool, int, tuple[bool, bool]]:
    loaded = store.load()
    assert loaded is not None
    return loaded.is_good, loaded.failed_boots, loaded.copies


# Bytes.


def test_record_encoded_has_the_bytes_of_the_specification(keys: DeviceKeys, record: BootRecord) -> None:
    document = record.sealed.document
    body = bytes.fromhex("55424252 01 01 0000 00000004 00000009 00000003 00000006 00000008")
    body += len(document).to_bytes(4, "big") + document
    assert encode_record(keys, replace(record, sequence=4, good=True)) == body + hmac.digest(
        keys.record, body, "sha256"
    )


def test_record_decoded_is_what_was_encoded(keys: DeviceKeys, record: BootRecord) -> None:
    for good in (False, True):
        written = replace(record, sequence=(1 << 32) - 1, good=good)
        assert decode_record(keys, encode_record(keys, written)) == written


def test_record_with_any_byte_changed_raises(keys: DeviceKeys, record: BootRecord) -> None:
    octets = encode_record(keys, record)
    for at in range(len(octets)):
        with pytest.raises(IntegrityError):
            decode_record(keys, octets[:at] + bytes([octets[at] ^ 0x10]) + octets[at + 1 :])


def test_record_cut_short_or_too_long_raises(keys: DeviceKeys, record: BootRecord) -> None:
    octets = encode_record(keys, record)
    for length in range(len(octets)):
        with pytest.raises(IntegrityError):
            decode_record(keys, octets[:length])
    with pytest.raises(IntegrityError):
        decode_record(keys, octets + b"\xff")


def test_record_of_another_device_raises(other_keys: DeviceKeys, keys: DeviceKeys, record: BootRecord) -> None:
    with pytest.raises(IntegrityError):
        decode_record(other_keys, encode_record(keys, record))


def resealed(keys: DeviceKeys, octets: bytes) -> bytes:
    return octets[:-32] + hmac.digest(keys.record, octets[:-32], "sha256")


def test_record_sealed_around_an_altered_document_raises(keys: DeviceKeys, record: BootRecord) -> None:
    octets = bytearray(encode_record(keys, record))
    octets[32 + 60] ^= 1
    with pytest.raises(IntegrityError) as caught:
        decode_record(keys, resealed(keys, bytes(octets)))
    assert caught.value.code == "generation-mac"


@pytest.mark.parametrize(("at", "value"), [(4, 2), (31, 0), (20, 0xFF)])
def test_record_sealed_with_fields_out_of_range_raises(
    keys: DeviceKeys, record: BootRecord, at: int, value: int
) -> None:
    octets = bytearray(encode_record(keys, record))
    octets[at] = value  # format; document length; rejected from, past rejected to
    with pytest.raises(IntegrityError) as caught:
        decode_record(keys, resealed(keys, bytes(octets)))
    assert caught.value.code == "record"


def test_record_reserved_bits_are_ignored(keys: DeviceKeys, record: BootRecord) -> None:
    octets = bytearray(encode_record(keys, record))
    octets[5:8] = b"\xfe\xff\xff"
    assert decode_record(keys, resealed(keys, bytes(octets))) == record


def test_record_rejects_its_range_only(record: BootRecord) -> None:
    assert [n for n in range(12) if record.rejects(n)] == [6, 7, 8]
    assert not replace(record, rejected_from=0, rejected_to=0).rejects(0)


# Layout.


@pytest.mark.parametrize(
    "runs",
    [
        (EraseRun(count=1, size_bytes=4096),),
        (EraseRun(count=1, size_bytes=1024), EraseRun(count=1, size_bytes=4096)),
    ],
)
def test_record_store_that_does_not_halve_raises(keys: DeviceKeys, runs: tuple[EraseRun, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        RecordStore(NorChip(Geometry(runs)), keys)
    assert caught.value.code == "record-layout"


def test_record_store_too_small_says_the_size_and_writes_nothing(keys: DeviceKeys, make_sealed: MakeSealed) -> None:
    sealed = make_sealed(1, erase_blocks=12)
    needed = needed_half_bytes(len(sealed.document))
    assert needed == -(-(64 + len(sealed.document)) // 32) * 32 + MIN_JOURNAL_SLOTS * SLOT_BYTES
    fits = NorChip(Geometry.uniform(total_bytes=2 * needed, erase_block_bytes=needed))
    RecordStore(fits, keys).commit(BootRecord(counter=1, rollback_floor=0, sealed=sealed))
    small = NorChip(Geometry.uniform(total_bytes=2 * (needed - 16), erase_block_bytes=needed - 16))
    with pytest.raises(ConfigError, match=str(needed)) as caught:
        RecordStore(small, keys).commit(BootRecord(counter=1, rollback_floor=0, sealed=sealed))
    assert (caught.value.code, small.operations) == ("record-too-small", 0)


# Store.


def test_record_store_erased_loads_none(store: RecordStore) -> None:
    assert store.load() is None
    assert store.repair() is False
    with pytest.raises(IntegrityError) as caught:
        store.mark(A)
    assert caught.value.code == "no-record"


def test_record_store_commit_loads_from_both_copies(chip: NorChip, store: RecordStore, record: BootRecord) -> None:
    written = store.commit(replace(record, sequence=77))
    assert written == replace(record, sequence=1)
    loaded = store.load()
    assert loaded is not None
    assert loaded.record == written
    assert verdict(store) == (False, 0, (True, True))
    assert chip.read(0, HALF_BYTES) == chip.read(HALF_BYTES, HALF_BYTES)
    assert chip.read(2 * HALF_BYTES, ERASE_BLOCK_BYTES) == b"\xff" * ERASE_BLOCK_BYTES


def test_record_store_commit_counts_on_and_empties_the_journal(store: RecordStore, record: BootRecord) -> None:
    store.commit(record)
    for entry in (A, U, G, A):
        store.mark(entry)
    assert verdict(store) == (True, 1, (True, True))
    assert store.commit(record).sequence == 2
    assert verdict(store) == (False, 0, (True, True))


@pytest.mark.parametrize("lost", [0, 1])
def test_record_store_one_copy_lost_loads_and_repairs_from_the_other(
    chip: NorChip, store: RecordStore, record: BootRecord, lost: int
) -> None:
    written = store.commit(record)
    for entry in (A, U, G, A, A):
        store.mark(entry)
    erase_half(chip, lost)
    assert verdict(store) == (True, 2, (lost == 1, lost == 0))
    assert store.repair() is True
    erase_half(chip, 1 - lost)  # what was repaired stands alone
    loaded = store.load()
    assert loaded is not None
    assert (loaded.record, loaded.is_good, loaded.failed_boots) == (written, True, 2)
    assert store.repair() is True
    assert verdict(store) == (True, 2, (True, True))
    assert store.repair() is False


@pytest.mark.parametrize("lost", [0, 1])
def test_record_store_older_copy_does_not_count_and_is_written_first(
    chip: NorChip, store: RecordStore, record: BootRecord, make_sealed: MakeSealed, lost: int
) -> None:
    store.commit(record)
    store.mark(A)
    old = chip.read(lost * HALF_BYTES, HALF_BYTES)
    newer = store.commit(replace(record, sealed=make_sealed(6), good=True))
    erase_half(chip, lost)
    chip.program(lost * HALF_BYTES, old)
    loaded = store.load()
    assert loaded is not None
    assert (loaded.record, loaded.failed_boots, loaded.copies) == (newer, 0, (lost == 1, lost == 0))
    kept = chip.read((1 - lost) * HALF_BYTES, HALF_BYTES)
    chip.stuck = {2 * lost}  # the first that it erases: nothing else may have been touched
    with pytest.raises(FlashError):
        store.commit(record)
    assert chip.read((1 - lost) * HALF_BYTES, HALF_BYTES) == kept


@pytest.mark.parametrize("flag", [False, True])
def test_record_store_full_journal_is_renewed_and_keeps_what_it_says(
    chip: NorChip, store: RecordStore, record: BootRecord, flag: bool
) -> None:
    store.commit(replace(record, good=flag))
    if not flag:
        store.mark(G)
    for _ in range(20):
        store.mark(A)
        store.mark(U)
    store.mark(A)
    store.mark(A)
    erased = chip.erases
    for failed in range(3, 9):
        store.mark(A)
        assert verdict(store) == (True, failed, (True, True))
    assert erased > 0, "40 entries do not fit without a renewal"
    store.mark(U)
    assert verdict(store) == (True, 0, (True, True))


def test_record_store_renewed_again_and_again_never_forgets_failed_boots(
    store: RecordStore, record: BootRecord
) -> None:
    store.commit(record)
    slots = (HALF_BYTES - -(-(64 + len(record.sealed.document)) // 32) * 32) // 32
    seen = []
    for _ in range(5 * slots):
        store.mark(A)
        is_good, failed, copies = verdict(store)
        assert (is_good, copies) == (False, (True, True))
        seen.append(failed)
    assert seen[:slots] == list(range(1, slots + 1))
    assert min(seen[slots:]) == slots // 2


def test_record_store_up_of_a_full_journal_vouches_only_where_good(store: RecordStore, record: BootRecord) -> None:
    for good, failed_after in ((False, 22), (True, 0)):
        written = store.commit(replace(record, good=good))
        slots = (HALF_BYTES - -(-(64 + len(record.sealed.document)) // 32) * 32) // 32
        for _ in range(slots):
            store.mark(A)
        store.mark(U)
        loaded = store.load()
        assert loaded is not None
        assert loaded.record.sequence == written.sequence + 1
        assert loaded.failed_boots == min(failed_after, slots // 2)


def test_record_store_slot_that_does_not_take_is_renewed(keys: DeviceKeys, record: BootRecord) -> None:
    class Faulty(NorChip):
        faulty = False

        def program(self, offset_bytes: int, octets: bytes) -> None:
            if self.faulty and len(octets) == SLOT_BYTES:
                self.faulty = False
                octets = bytes(SLOT_BYTES)
            super().program(offset_bytes, octets)

    chip = Faulty(GEOMETRY)
    store = RecordStore(chip, keys)
    store.commit(record)
    store.mark(A)
    chip.faulty = True
    store.mark(A)
    loaded = store.load()
    assert loaded is not None
    assert (loaded.record.sequence, loaded.failed_boots, loaded.copies) == (2, 2, (True, True))


@pytest.mark.parametrize("stuck", [0, 2])
def test_record_store_half_that_does_not_erase_leaves_the_other(
    chip: NorChip, store: RecordStore, record: BootRecord, make_sealed: MakeSealed, stuck: int
) -> None:
    written = store.commit(record)
    chip.stuck = {stuck}
    with pytest.raises(FlashError):
        store.commit(replace(record, sealed=make_sealed(6)))
    loaded = store.load()
    assert loaded is not None
    # Half A goes first: if it is the one that does not erase, the old record counts; if B is, A has the new one.
    assert loaded.record.sealed == (written.sealed if stuck == 0 else make_sealed(6))
    store.mark(A)
    assert verdict(store)[1] == 1


def test_record_store_copy_that_cannot_be_read_is_as_good_as_torn(
    keys: DeviceKeys, chip: NorChip, store: RecordStore, record: BootRecord
) -> None:
    class Unreadable(Partition):
        def read(self, offset_bytes: int, length_bytes: int) -> bytes:
            if offset_bytes < HALF_BYTES:
                raise FlashError("uncorrectable", code="uncorrectable")
            return super().read(offset_bytes, length_bytes)

    written = store.commit(record)
    loaded = RecordStore(Unreadable(chip, offset_bytes=0, length_bytes=GEOMETRY.total_bytes), keys).load()
    assert loaded is not None
    assert (loaded.record, loaded.copies) == (written, (False, True))


def test_record_store_any_flipped_bit_leaves_the_record(keys: DeviceKeys, record: BootRecord) -> None:
    for seed in range(100):
        chip = NorChip(GEOMETRY, seed=seed)
        store = RecordStore(chip, keys)
        written = store.commit(replace(record, good=True))
        store.mark(A)
        chip.flip_bits(3, offset_bytes=HALF_BYTES * (seed % 2), length_bytes=HALF_BYTES)
        loaded = store.load()
        assert loaded is not None, seed
        assert (loaded.record, loaded.is_good, loaded.failed_boots) == (written, True, 1), seed
        store.repair()
        assert verdict(store) == (True, 1, (True, True)), seed
