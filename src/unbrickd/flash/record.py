# SPDX-License-Identifier: Apache-2.0
"""The boot record: what the flash must hold, in two copies with a journal each (spec/flash-format.md §7).

`RecordStore` holds the order of writes that makes every change whole or not there. Knows nothing of images, of what a
failed boot leads to, or of who chose the generation.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, replace

from unbrickd.errors import ConfigError, FlashError, IntegrityError
from unbrickd.flash.interface import Flash
from unbrickd.flash.journal import (
    MIN_JOURNAL_SLOTS,
    SLOT_BYTES,
    Journal,
    JournalEntry,
    count_failed,
    decode_journal,
    encode_journal,
    encode_slot,
)
from unbrickd.flash.partition import Partition
from unbrickd.flash.write import write_erase_block
from unbrickd.model.manifest import SealedGeneration
from unbrickd.seal.generation import open_generation
from unbrickd.seal.keys import DeviceKeys

MAGIC = b"UBBR"
FORMAT = 1
MAC_BYTES = 32

_HEAD = struct.Struct(">4sBBHIIIIII")
"""magic, format, flags, reserved, sequence, counter, rollback floor, rejected from, to, document length: 32 bytes."""
_FLAG_GOOD = 0x01


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRecord:
    """What the flash must hold. `sequence` is the store's to set; `good` is the flag, the journal may add to it."""

    sequence: int = 0
    counter: int
    rollback_floor: int
    rejected_from: int = 0
    rejected_to: int = 0
    good: bool = False
    sealed: SealedGeneration

    def __post_init__(self) -> None:
        numbers = (self.sequence, self.counter, self.rollback_floor, self.rejected_from, self.rejected_to)
        if not all(0 <= number < 1 << 32 for number in numbers):
            raise IntegrityError("a number of the boot record does not fit 32 bits", code="record")
        if self.rejected_from > self.rejected_to:
            raise IntegrityError("the boot record rejects a range that ends before it begins", code="record")

    def rejects(self, generation_number: int) -> bool:
        """Whether that generation failed to boot and is not to be chosen by recovery."""
        return self.rejected_to > 0 and self.rejected_from <= generation_number <= self.rejected_to


def encode_record(keys: DeviceKeys, record: BootRecord) -> bytes:
    """One copy, MAC included, without its journal."""
    document = record.sealed.document
    head = _HEAD.pack(
        MAGIC,
        FORMAT,
        _FLAG_GOOD if record.good else 0,
        0,
        record.sequence,
        record.counter,
        record.rollback_floor,
        record.rejected_from,
        record.rejected_to,
        len(document),
    )
    body = head + document
    return body + hmac.digest(keys.record, body, "sha256")


def decode_record(keys: DeviceKeys, octets: bytes) -> BootRecord:
    """One copy, MAC included, without its journal. Raises IntegrityError unless it is valid in every part."""
    if len(octets) < _HEAD.size + MAC_BYTES or octets[:4] != MAGIC:
        raise IntegrityError("this is not a boot record", code="record")
    body, mac = octets[:-MAC_BYTES], octets[-MAC_BYTES:]
    if not hmac.compare_digest(hmac.digest(keys.record, body, "sha256"), mac):
        raise IntegrityError("the boot record is torn, or is not this device's", code="record-mac")
    (_, fmt, flags, _, sequence, counter, floor, rejected_from, rejected_to, length) = _HEAD.unpack_from(body)
    if fmt != FORMAT:
        raise IntegrityError(f"boot record of format {fmt}; this program knows {FORMAT}", code="record")
    if length != len(body) - _HEAD.size:
        raise IntegrityError("the boot record's length and its document disagree", code="record")
    return BootRecord(
        sequence=sequence,
        counter=counter,
        rollback_floor=floor,
        rejected_from=rejected_from,
        rejected_to=rejected_to,
        good=bool(flags & _FLAG_GOOD),
        sealed=open_generation(keys, body[_HEAD.size :]),
    )


def needed_half_bytes(document_bytes: int) -> int:
    """How large each half of the record partition must be for a generation document of that length."""
    return _journal_start(_HEAD.size + document_bytes + MAC_BYTES) + MIN_JOURNAL_SLOTS * SLOT_BYTES


def _journal_start(record_bytes: int) -> int:
    return -(-record_bytes // SLOT_BYTES) * SLOT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRecord:
    """What counts. is_good: by flag or journal; copies: which of A and B are valid and current."""

    record: BootRecord
    failed_boots: int
    is_good: bool
    copies: tuple[bool, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """A valid copy as it was read."""

    half: Partition
    record: BootRecord
    journal: Journal
    journal_start: int

    @property
    def is_good(self) -> bool:
        return self.record.good or self.journal.says_good


class RecordStore:
    """The record partition, halved into whole erase blocks; an odd last erase block is left unused.

    One writer at a time. After a power cut within any method, `load` gives what it gave before the call or what it
    would have given after it, whole; `repair` then brings both copies back.
    Raises ConfigError if there are fewer than two erase blocks or the halves differ in size.
    """

    def __init__(self, partition: Flash, keys: DeviceKeys) -> None:
        blocks = list(partition.geometry)
        half = len(blocks) // 2
        sizes = [sum(b.size_bytes for b in part) for part in (blocks[:half], blocks[half : 2 * half])]
        if not half or sizes[0] != sizes[1]:
            raise ConfigError(
                f"a record partition of {len(blocks)} erase blocks does not divide into two equal halves",
                code="record-layout",
                hint="give the record an even number of erase blocks of one size",
            )
        self._keys = keys
        self._half_bytes = sizes[0]
        self._halves = tuple(
            Partition(partition, offset_bytes=at, length_bytes=self._half_bytes) for at in (0, self._half_bytes)
        )

    def check_capacity(self, document_bytes: int) -> None:
        """Raises ConfigError (`record-too-small`) if a generation document of that length finds no room."""
        needed = needed_half_bytes(document_bytes)
        if needed > self._half_bytes:
            raise ConfigError(
                f"the boot record needs 2 × {needed} bytes of flash; its partition has 2 × {self._half_bytes}",
                code="record-too-small",
                hint="make the record partition larger, or the erase blocks of the components",
            )

    def load(self) -> LoadedRecord | None:
        """What counts, or None if neither copy is valid. Raises nothing for what lies in flash."""
        return self._judge(self._read_copies())

    def commit(self, record: BootRecord) -> BootRecord:
        """Make this the record, with the next sequence and an empty journal; returns it as written.

        The images it names must have been read back before. Raises ConfigError (`record-too-small`) before anything is
        written, FlashError. A power cut leaves the record that counted before, or this one.
        """
        return self._write_both(record, ())

    def mark(self, entry: JournalEntry) -> None:
        """Append to the journals; renews the record where one is full or does not take the slot.

        Raises IntegrityError (`no-record`) if there is no valid record, FlashError.
        A power cut leaves the entry made, or not.
        """
        copies = self._read_copies()
        loaded = self._judge(copies)
        if loaded is None:
            raise IntegrityError("there is no valid boot record", code="no-record")
        current = [copy for copy, counts in zip(copies, loaded.copies, strict=True) if copy is not None and counts]
        if not any(copy.journal.is_full for copy in current):
            taken = [_append(copy, entry) for copy in current]
            if all(taken):
                return
        is_good = loaded.is_good or entry is JournalEntry.GOOD
        self._renew(loaded.record, is_good, count_failed(loaded.failed_boots, entry, is_good=is_good))

    def repair(self) -> bool:
        """Rewrite a copy that is missing, torn, older or behind in its journal; True if there was one.

        Raises FlashError if the flash does not take it; the other copy still counts then.
        A power cut changes nothing that `load` gives.
        """
        copies = self._read_copies()
        loaded = self._judge(copies)
        if loaded is None:
            return False
        behind = [
            half
            for half, copy, counts in zip(self._halves, copies, loaded.copies, strict=True)
            if copy is None
            or not counts
            or copy.is_good != loaded.is_good
            or copy.journal.failed_boots(is_good=copy.is_good) != loaded.failed_boots
        ]
        good = (JournalEntry.GOOD,) if loaded.is_good and not loaded.record.good else ()
        entries = good + (JournalEntry.ATTEMPT,) * loaded.failed_boots
        if behind and len(entries) > self._slots(loaded.record):
            self._renew(loaded.record, loaded.is_good, loaded.failed_boots)
        else:
            for half in behind:
                self._write_copy(half, loaded.record, entries)
        return bool(behind)

    # Reading.

    def _read_copies(self) -> tuple[_Copy | None, _Copy | None]:
        a, b = (self._read_copy(half) for half in self._halves)
        return a, b

    def _read_copy(self, half: Partition) -> _Copy | None:
        try:
            length: int = _HEAD.unpack(half.read(0, _HEAD.size))[-1]
            record_bytes = _HEAD.size + length + MAC_BYTES
            if record_bytes > self._half_bytes:
                return None
            record = decode_record(self._keys, half.read(0, record_bytes))
            start = min(_journal_start(record_bytes), self._half_bytes)
            journal = decode_journal(half.read(start, self._half_bytes - start), sequence=record.sequence)
        except (IntegrityError, FlashError):
            # A copy that cannot be read is a torn copy: the other one is there for this.
            return None
        return _Copy(half=half, record=record, journal=journal, journal_start=start)

    def _judge(self, copies: tuple[_Copy | None, _Copy | None]) -> LoadedRecord | None:
        valid = [copy for copy in copies if copy is not None]
        if not valid:
            return None
        record = max(valid, key=lambda copy: copy.record.sequence).record
        current = [copy for copy in valid if copy.record == record]
        is_good = any(copy.is_good for copy in current)
        a, b = (copy is not None and copy.record == record for copy in copies)
        return LoadedRecord(
            record=record,
            failed_boots=max(copy.journal.failed_boots(is_good=is_good) for copy in current),
            is_good=is_good,
            copies=(a, b),
        )

    def _slots(self, record: BootRecord) -> int:
        start = _journal_start(_HEAD.size + len(record.sealed.document) + MAC_BYTES)
        return (self._half_bytes - start) // SLOT_BYTES

    # Writing.

    def _renew(self, record: BootRecord, is_good: bool, failed_boots: int) -> None:
        """The same record with an emptier journal. Carries over at most half a journal of failed boots (§7.1)."""
        carried = min(failed_boots, self._slots(record) // 2)
        self._write_both(replace(record, good=is_good), (JournalEntry.ATTEMPT,) * carried)

    def _write_both(self, record: BootRecord, entries: tuple[JournalEntry, ...]) -> BootRecord:
        self.check_capacity(len(record.sealed.document))
        loaded = self.load()
        counts = loaded.copies if loaded is not None else (False, False)
        record = replace(record, sequence=loaded.record.sequence + 1 if loaded is not None else 1)
        # The copy that does not count goes first: until it is whole, the other one is all there is (§7.2).
        for index in sorted((0, 1), key=lambda i: counts[i]):
            self._write_copy(self._halves[index], record, entries)
        return record

    def _write_copy(self, half: Partition, record: BootRecord, entries: tuple[JournalEntry, ...]) -> None:
        """One copy, read back. From the first erasure until the magic, which is programmed last, it is not valid.

        Erasing the head first keeps an old record from outliving parts of its journal; programming it last keeps the
        new one from counting before its journal is there.
        """
        octets = encode_record(self._keys, record)
        image = octets.ljust(_journal_start(len(octets)), b"\xff") + encode_journal(entries, sequence=record.sequence)
        first, *others = half.geometry
        write_erase_block(half, first, b"")
        for block in (*reversed(others), first):
            write_erase_block(half, block, image[block.offset_bytes : block.end_bytes])


def _append(copy: _Copy, entry: JournalEntry) -> bool:
    """Program the next free slot; False if it does not read back."""
    index = copy.journal.next_index
    at = copy.journal_start + index * SLOT_BYTES
    slot = encode_slot(entry, sequence=copy.record.sequence, index=index)
    copy.half.program(at, slot)
    return copy.half.read(at, SLOT_BYTES) == slot
