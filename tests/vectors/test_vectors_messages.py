# SPDX-License-Identifier: Apache-2.0
"""spec/vectors/messages.json against the codec, and, without it, against the tables of spec/protocol.md by hand."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import pytest

from unbrickd.wire.messages import Type
from unbrickd.wire.packet import decode, encode


class Record(TypedDict):
    component_id: int
    kind: int
    sealed: bool
    length_bytes: int
    image_digest: str
    version: str


class Fields(TypedDict):
    """The fields of all messages; each has some of them."""

    about: NotRequired[int]
    block_bytes: NotRequired[int]
    blocks_sent: NotRequired[int]
    busy: NotRequired[bool]
    code: NotRequired[int]
    committed: NotRequired[bool]
    component_id: NotRequired[int]
    components: NotRequired[list[Record]]
    cookie: NotRequired[str]
    device_id: NotRequired[str]
    digest: NotRequired[str]
    document_digest: NotRequired[str]
    document_length_bytes: NotRequired[int]
    document_wanted: NotRequired[bool]
    generation: NotRequired[int]
    good_seal: NotRequired[str | None]
    holds_device: NotRequired[bool]
    last: NotRequired[bool]
    length_bytes: NotRequired[int]
    max_block_bytes: NotRequired[int]
    max_message_bytes: NotRequired[int]
    named: NotRequired[int]
    nonce: NotRequired[str]
    offset_bytes: NotRequired[int]
    payload: NotRequired[str]
    prefix_bits: NotRequired[int]
    public_key: NotRequired[str]
    purpose: NotRequired[int]
    ranges: NotRequired[list[list[int]]]
    rejected_from: NotRequired[int]
    rejected_to: NotRequired[int]
    request: NotRequired[int]
    retry_after_s: NotRequired[int]
    ring_frames: NotRequired[int]
    server_id: NotRequired[str]
    signature: NotRequired[str]
    status: NotRequired[int]
    statuses: NotRequired[list[list[int]]]
    text: NotRequired[str]
    version: NotRequired[int | str]
    version_highest: NotRequired[int]
    version_lowest: NotRequired[int]


class Case(TypedDict):
    name: str
    type: int
    session: int
    transfer: int
    fields: Fields
    octets: str


VECTORS = Path(__file__).resolve().parents[2] / "spec" / "vectors" / "messages.json"
CASES: list[Case] = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
each_case = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


def plain(value: object) -> object:
    """A message as the JSON holds it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.compare}
    return value


def at(body: bytes, offset: int, layout: str) -> tuple[int, ...]:
    """Integers of the body, big-endian, at an offset of the specification."""
    return struct.unpack_from(">" + layout, body, offset)


def records(body: bytes, offset: int, components: list[Record]) -> int:
    """Checks component records (§4.3) from the offset on; returns where they end."""
    for c in components:
        version = c["version"].encode()
        assert at(body, offset, "BBBBI") == (
            41 + len(version),
            c["component_id"],
            c["kind"],
            c["sealed"],
            c["length_bytes"],
        )
        assert body[offset + 8 : offset + 40].hex() == c["image_digest"]
        assert body[offset + 40] == len(version)
        assert body[offset + 41 : offset + 41 + len(version)] == version
        offset += 41 + len(version)
    return offset


def probe(body: bytes, f: Fields) -> int:
    assert body[0:16].hex() == f["device_id"]
    assert body[16:24].hex() == f["nonce"]
    assert at(body, 24, "BBBB") == (f["purpose"], f["version_lowest"], f["version_highest"], 0)
    assert at(body, 28, "HH") == (f["max_message_bytes"], f["ring_frames"])
    return 32


def probe_ack(body: bytes, f: Fields) -> int:
    assert body[0:8].hex() == f["nonce"]
    assert body[8:24].hex() == f["server_id"]
    assert body[24:40].hex() == f["cookie"]
    assert at(body, 40, "BB") == (f["version"], f["holds_device"] + 2 * f["busy"])
    assert at(body, 42, "HHH") == (f["retry_after_s"], f["max_message_bytes"], 0)
    return 48


def backup(body: bytes, f: Fields) -> int:
    assert body[0:16].hex() == f["cookie"]
    assert body[16:32].hex() == f["device_id"]
    assert body[32:64].hex() == f["public_key"]
    assert at(body, 64, "I") == (f["generation"],)
    assert at(body, 68, "BBH") == (f["good_seal"] is not None, len(f["components"]), 0)
    assert at(body, 72, "I") == (f["document_length_bytes"],)
    assert body[76:108].hex() == f["document_digest"]
    assert body[108:140].hex() == (f["good_seal"] or "00" * 32)
    end = records(body, 140, f["components"])
    assert body[-64:].hex() == f["signature"]
    return end + 64


def backup_ack(body: bytes, f: Fields) -> int:
    assert at(body, 0, "I") == (f["generation"],)
    assert at(body, 4, "BBH") == (f["document_wanted"] + 2 * f["committed"], len(f["statuses"]), 0)
    assert [list(at(body, 8 + 2 * i, "BB")) for i in range(len(f["statuses"]))] == f["statuses"]
    return 8 + 2 * len(f["statuses"])


def restore(body: bytes, f: Fields) -> int:
    assert body[0:16].hex() == f["cookie"]
    assert body[16:32].hex() == f["device_id"]
    assert at(body, 32, "IIII") == (f["named"], f["rejected_from"], f["rejected_to"], 0)
    return 48


def restore_ack(body: bytes, f: Fields) -> int:
    assert at(body, 0, "I") == (f["generation"],)
    assert at(body, 4, "BBH") == (f["good_seal"] is not None, len(f["components"]), 0)
    assert at(body, 8, "I") == (f["document_length_bytes"],)
    assert body[12:44].hex() == f["document_digest"]
    assert body[44:76].hex() == (f["good_seal"] or "00" * 32)
    return records(body, 76, f["components"])


def data_request(body: bytes, f: Fields) -> int:
    assert at(body, 0, "BBHI") == (f["component_id"], 0, f["max_block_bytes"], f["generation"])
    assert body[8:40].hex() == f["digest"]
    return 40


def data_start(body: bytes, f: Fields) -> int:
    assert at(body, 0, "BBHI") == (f["component_id"], 0, f["max_block_bytes"], f["generation"])
    assert at(body, 8, "I") == (f["length_bytes"],)
    assert body[12:44].hex() == f["digest"]
    version = body[45 : 45 + body[44]]
    assert version.decode() == f["version"]
    return 45 + len(version)


def data_start_ack(body: bytes, f: Fields) -> int:
    assert at(body, 0, "HBB") == (f["block_bytes"], f["status"], f["committed"])
    return 4


def data_block(body: bytes, f: Fields) -> int:
    assert at(body, 0, "II") == (f["request"], f["offset_bytes"])
    assert body[8:].hex() == f["payload"]
    return 8 + len(f["payload"]) // 2


def data_end(body: bytes, f: Fields) -> int:
    assert at(body, 0, "III") == (f["request"], f["blocks_sent"], 0)
    return 12


def data_end_ack(body: bytes, f: Fields) -> int:
    assert at(body, 0, "BBH") == (f["status"], f["committed"], 0)
    return 4


def block_request(body: bytes, f: Fields) -> int:
    assert at(body, 0, "IBBH") == (f["request"], f["last"], len(f["ranges"]), 0)
    assert [list(at(body, 8 + 8 * i, "II")) for i in range(len(f["ranges"]))] == f["ranges"]
    return 8 + 8 * len(f["ranges"])


def error(body: bytes, f: Fields) -> int:
    assert at(body, 0, "HHBB") == (f["code"], f["retry_after_s"], f["about"], 0)
    text = body[7 : 7 + body[6]]
    assert text.decode() == f["text"]
    return 7 + len(text)


def announce(body: bytes, f: Fields) -> int:
    assert body[0:16].hex() == f["server_id"]
    assert at(body, 16, "BBBB") == (f["version_lowest"], f["version_highest"], f["prefix_bits"], 0)
    return 20


LAYOUTS: dict[int, Callable[[bytes, Fields], int]] = {
    1: probe,
    2: probe_ack,
    3: backup,
    4: backup_ack,
    5: restore,
    6: restore_ack,
    7: data_request,
    8: data_start,
    9: data_start_ack,
    10: data_block,
    11: data_end,
    12: data_end_ack,
    13: block_request,
    14: error,
    15: announce,
}
"""Type → a check of its body by the offsets of spec/protocol.md §4; it returns the length of the body."""


def test_vectors_have_every_type() -> None:
    assert {case["type"] for case in CASES} == set(LAYOUTS) == {int(kind) for kind in Type}


@each_case
def test_codec_decodes_the_vector_to_its_fields(case: Case) -> None:
    packet = decode(bytes.fromhex(case["octets"]))
    assert case["type"] == packet.message.TYPE
    assert (packet.session, packet.transfer) == (case["session"], case["transfer"])
    assert plain(packet.message) == case["fields"]


@each_case
def test_codec_encodes_the_fields_to_the_vector(case: Case) -> None:
    packet = decode(bytes.fromhex(case["octets"]))
    assert encode(packet.message, session=packet.session, transfer=packet.transfer).hex() == case["octets"]


@each_case
def test_vector_has_every_field_at_the_offset_of_the_specification(case: Case) -> None:
    octets = bytes.fromhex(case["octets"])
    assert octets[0:4] == b"uB\x01" + bytes([case["type"]])
    assert struct.unpack_from(">HHI", octets, 4) == (len(octets), case["transfer"], case["session"])
    assert struct.unpack_from(">I", octets, 12) == (zlib.crc32(octets[:12] + bytes(4) + octets[16:]),)
    assert LAYOUTS[case["type"]](octets[16:], case["fields"]) == len(octets) - 16


@each_case
def test_vector_that_must_pass_any_path_fits_1232_bytes(case: Case) -> None:
    assert len(bytes.fromhex(case["octets"])) <= 1232
