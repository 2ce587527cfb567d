# SPDX-License-Identifier: Apache-2.0
"""The vectors of the boot record and its journal, by the tables of spec/flash-format.md §7, then by the code.

The first half of each test calls nothing of unbrickd, so that a mistake shared by writer and reader is found.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import zlib
from pathlib import Path
from typing import TypedDict, cast

import pytest

from unbrickd.flash.journal import JournalEntry, decode_journal, decode_slot, encode_slot
from unbrickd.flash.record import decode_record, encode_record
from unbrickd.seal.identity import decode_identity
from unbrickd.seal.keys import DeviceKeys

DIRECTORY = Path(__file__).resolve().parents[2] / "spec" / "vectors"


class RecordVector(TypedDict):
    record_key: str
    sequence: int
    counter: int
    rollback_floor: int
    rejected_from: int
    rejected_to: int
    good: bool
    document: str
    octets: str


class SlotCase(TypedDict):
    entry: int
    sequence: int
    index: int
    octets: str


class JournalCase(TypedDict):
    octets: str
    next_index: int
    failed_boots: int
    is_good: bool


class JournalVector(TypedDict):
    cases: list[SlotCase]
    journals: list[JournalCase]


def _load(name: str) -> object:
    return json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))


RECORD = cast(RecordVector, _load("boot_record"))
JOURNAL = cast(JournalVector, _load("journal_slot"))


@pytest.fixture(scope="module")
def keys() -> DeviceKeys:
    cases = cast(dict[str, list[dict[str, str]]], _load("identity"))["cases"]
    return DeviceKeys.of(decode_identity(bytes.fromhex(cases[0]["octets"])))


def test_boot_record_vector_follows_the_table_of_section_7() -> None:
    octets, document = bytes.fromhex(RECORD["octets"]), bytes.fromhex(RECORD["document"])
    head = struct.unpack(">4sBBHIIIIII", octets[:32])
    assert head[:4] == (b"UBBR", 1, int(RECORD["good"]), 0)
    assert head[4:7] == (RECORD["sequence"], RECORD["counter"], RECORD["rollback_floor"])
    assert head[7:] == (RECORD["rejected_from"], RECORD["rejected_to"], len(document))
    assert octets[32:-32] == document
    assert octets[-32:] == hmac.new(bytes.fromhex(RECORD["record_key"]), octets[:-32], hashlib.sha256).digest()


def test_boot_record_vector_decodes_and_encodes_to_itself(keys: DeviceKeys) -> None:
    octets = bytes.fromhex(RECORD["octets"])
    record = decode_record(keys, octets)
    assert encode_record(keys, record) == octets
    assert (record.sequence, record.counter, record.rollback_floor, record.good) == (
        RECORD["sequence"], RECORD["counter"], RECORD["rollback_floor"], RECORD["good"],
    )  # fmt: skip
    assert (record.rejected_from, record.rejected_to) == (RECORD["rejected_from"], RECORD["rejected_to"])
    assert record.sealed.document.hex() == RECORD["document"]


@pytest.mark.parametrize("case", JOURNAL["cases"])
def test_journal_slot_vector_follows_the_table_of_section_7_1(case: SlotCase) -> None:
    octets = bytes.fromhex(case["octets"])
    body = bytes([case["entry"], 0, 0, 0]) + struct.pack(">II", case["sequence"], case["index"]) + bytes(16)
    assert octets == body + struct.pack(">I", zlib.crc32(body))
    entry = JournalEntry(case["entry"])
    assert encode_slot(entry, sequence=case["sequence"], index=case["index"]) == octets
    assert decode_slot(octets, sequence=case["sequence"], index=case["index"]) is entry


@pytest.mark.parametrize("case", JOURNAL["journals"])
def test_journal_vector_adds_up_by_section_7_1(case: JournalCase) -> None:
    octets = bytes.fromhex(case["octets"])
    assert len(octets) == 16 * 32
    failed = next_index = 0
    slots = [octets[at : at + 32] for at in range(0, len(octets), 32)]
    valid = {
        index: slot[0]
        for index, slot in enumerate(slots)
        if zlib.crc32(slot[:28]) == int.from_bytes(slot[28:], "big")
        and struct.unpack(">II", slot[4:12]) == (RECORD["sequence"], index)
    }
    is_good = 3 in valid.values()
    for index, slot in enumerate(slots):
        next_index = index + 1 if slot != b"\xff" * 32 else next_index
        kind = valid.get(index)
        failed = failed + 1 if kind == 1 else 0 if kind == 3 or (kind == 2 and is_good) else failed
    assert (next_index, failed, is_good) == (case["next_index"], case["failed_boots"], case["is_good"])
    journal = decode_journal(octets, sequence=RECORD["sequence"])
    assert (journal.next_index, journal.says_good) == (next_index, is_good)
    assert journal.failed_boots(is_good=journal.says_good) == failed
