# SPDX-License-Identifier: Apache-2.0
"""Journal slots: their bytes, what counts as torn, what the entries add up to (spec/flash-format.md §7.1)."""

from __future__ import annotations

import zlib

import pytest

from unbrickd.flash.journal import (
    SLOT_BYTES,
    JournalEntry,
    decode_journal,
    decode_slot,
    encode_journal,
    encode_slot,
)

A, U, G = JournalEntry.ATTEMPT, JournalEntry.UP, JournalEntry.GOOD
FREE = b"\xff" * SLOT_BYTES


def test_slot_encoded_has_the_bytes_of_the_specification() -> None:
    body = bytes([2, 0, 0, 0]) + bytes([0, 0, 1, 2]) + bytes([0, 0, 0, 7]) + bytes(16)
    assert encode_slot(U, sequence=0x102, index=7) == body + zlib.crc32(body).to_bytes(4, "big")


@pytest.mark.parametrize("entry", JournalEntry)
def test_slot_decoded_is_what_was_encoded(entry: JournalEntry) -> None:
    assert decode_slot(encode_slot(entry, sequence=3, index=4), sequence=3, index=4) is entry


def test_slot_of_another_record_or_place_means_nothing() -> None:
    slot = encode_slot(A, sequence=3, index=4)
    assert decode_slot(slot, sequence=4, index=4) is None
    assert decode_slot(slot, sequence=3, index=5) is None


def test_slot_with_any_bit_flipped_means_nothing() -> None:
    slot = encode_slot(G, sequence=3, index=4)
    for bit in range(SLOT_BYTES * 8):
        torn = bytearray(slot)
        torn[bit // 8] ^= 1 << bit % 8
        assert decode_slot(bytes(torn), sequence=3, index=4) is None


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_slot_of_unknown_kind_means_nothing(kind: int) -> None:
    body = bytes([kind]) + encode_slot(A, sequence=1, index=0)[1:28]
    assert decode_slot(body + zlib.crc32(body).to_bytes(4, "big"), sequence=1, index=0) is None


def test_slot_with_reserved_bytes_set_is_read() -> None:
    body = bytes([1, 9, 9, 9]) + encode_slot(A, sequence=1, index=0)[4:12] + b"\x09" * 16
    assert decode_slot(body + zlib.crc32(body).to_bytes(4, "big"), sequence=1, index=0) is A


def test_journal_free_starts_at_slot_0() -> None:
    journal = decode_journal(FREE * 20 + b"\xff" * 16, sequence=1)
    assert (journal.entries, journal.next_index, journal.slots, journal.is_full) == ((), 0, 20, False)


def test_journal_torn_slot_is_passed_over() -> None:
    torn = b"\x01" + b"\xff" * 31
    octets = encode_slot(A, sequence=1, index=0) + torn + encode_slot(U, sequence=1, index=2) + torn + FREE
    journal = decode_journal(octets, sequence=1)
    assert (journal.entries, journal.next_index) == ((A, U), 4)


def test_journal_next_slot_is_after_the_last_that_is_not_free() -> None:
    octets = FREE + encode_slot(A, sequence=1, index=1) + FREE
    assert decode_journal(octets, sequence=1).next_index == 2


def test_journal_without_free_slot_at_its_end_is_full() -> None:
    assert decode_journal(FREE + b"\x00" * 32, sequence=1).is_full


@pytest.mark.parametrize(
    ("entries", "flag", "failed", "good"),
    [
        ((), False, 0, False),
        ((A,), False, 1, False),
        ((A, U), False, 1, False),  # up does not vouch for what is not good
        ((A, U), True, 0, True),
        ((A, U, G), False, 0, True),
        ((A, U, G, A), False, 1, True),
        ((A, A, U, A, A), True, 2, True),
        ((A, G, A, U, A), False, 1, True),
        ((A, A, A), True, 3, True),
    ],
)
def test_journal_entries_add_up(entries: tuple[JournalEntry, ...], flag: bool, failed: int, good: bool) -> None:
    journal = decode_journal(encode_journal(entries, sequence=9), sequence=9)
    assert journal.entries == entries
    assert (flag or journal.says_good) == good
    assert journal.failed_boots(is_good=good) == failed
