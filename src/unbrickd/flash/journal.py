# SPDX-License-Identifier: Apache-2.0
"""The journal behind a boot record: slots ↔ bytes, and what they add up to (spec/flash-format.md §7.1).

Knows no flash and no record; `flash.record` reads and appends the bytes. Decoding never raises: what is not a valid
slot of this record means nothing, because a power cut or an older record may have left anything there.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from unbrickd.flash.interface import ERASED

SLOT_BYTES = 32
MIN_JOURNAL_SLOTS = 16
"""A record with fewer would be renewed, hence erased, every few boots (spec/flash-format.md §7.1)."""

_SLOT = struct.Struct(">B3xII16x")
"""entry, reserved, sequence, slot index, reserved: 28 bytes; the CRC-32 follows."""
_CRC = struct.Struct(">I")
_FREE = bytes([ERASED]) * SLOT_BYTES


class JournalEntry(IntEnum):
    """What a slot says happened."""

    ATTEMPT = 1
    """The bootloader is about to boot."""
    UP = 2
    """The system's agent runs."""
    GOOD = 3
    """The generation has run for long enough to count as one that works."""


_ENTRIES = {int(entry): entry for entry in JournalEntry}


def encode_slot(entry: JournalEntry, *, sequence: int, index: int) -> bytes:
    """The 32 bytes of one slot of the record with that sequence."""
    body = _SLOT.pack(entry, sequence, index)
    return body + _CRC.pack(zlib.crc32(body))


def decode_slot(octets: bytes, *, sequence: int, index: int) -> JournalEntry | None:
    """What the slot of that index says; None if it is free, torn or another record's."""
    body, crc = octets[: _SLOT.size], octets[_SLOT.size :]
    if crc != _CRC.pack(zlib.crc32(body)):
        return None
    kind, slot_sequence, slot_index = _SLOT.unpack(body)
    return _ENTRIES.get(kind) if (slot_sequence, slot_index) == (sequence, index) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """The entries of one copy, oldest first; the slot to program next; how many slots there are."""

    entries: tuple[JournalEntry, ...]
    next_index: int
    slots: int

    @property
    def is_full(self) -> bool:
        return self.next_index >= self.slots

    @property
    def says_good(self) -> bool:
        return JournalEntry.GOOD in self.entries

    def failed_boots(self, *, is_good: bool) -> int:
        """Attempts after the last slot that vouches: *good*, or *up* where the generation is good."""
        failed = 0
        for entry in self.entries:
            failed = count_failed(failed, entry, is_good=is_good)
        return failed


def count_failed(failed_boots: int, entry: JournalEntry, *, is_good: bool) -> int:
    """The number of failed boots once `entry` has been added."""
    if entry is JournalEntry.ATTEMPT:
        return failed_boots + 1
    return 0 if entry is JournalEntry.GOOD or is_good else failed_boots


def decode_journal(octets: bytes, *, sequence: int) -> Journal:
    """All slots of a journal, whose bytes these are; what is left behind the last whole slot is ignored."""
    entries: list[JournalEntry] = []
    next_index = 0
    slots = len(octets) // SLOT_BYTES
    for index in range(slots):
        slot = octets[index * SLOT_BYTES : (index + 1) * SLOT_BYTES]
        if slot == _FREE:
            continue
        next_index = index + 1
        entry = decode_slot(slot, sequence=sequence, index=index)
        if entry is not None:
            entries.append(entry)
    return Journal(entries=tuple(entries), next_index=next_index, slots=slots)


def encode_journal(entries: tuple[JournalEntry, ...], *, sequence: int) -> bytes:
    """The slots of a record that is written with entries in its journal from the start."""
    return b"".join(encode_slot(entry, sequence=sequence, index=i) for i, entry in enumerate(entries))
