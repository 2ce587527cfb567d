# SPDX-License-Identifier: Apache-2.0
"""What a decoder refuses, what it forgives, and what our own side may not encode (spec/protocol.md §2 to §4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unbrickd.errors import RemoteProtocolError
from unbrickd.model.manifest import ComponentKind
from unbrickd.wire import messages as m
from unbrickd.wire.framing import MAX_MESSAGE_BYTES, StreamSplitter, decode_frame, encode_frame
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES, decode, decode_message, encode

PROBE = m.Probe(device_id=bytes(16), nonce=bytes(8), purpose=m.Purpose.RESTORE)
RECORD = m.ComponentRecord(
    component_id=1, kind=ComponentKind.FIRMWARE, sealed=False, length_bytes=1, image_digest=bytes(32), version="1"
)
BACKUP = m.Backup(
    cookie=bytes(16),
    device_id=bytes(16),
    public_key=bytes(32),
    generation=1,
    document_length_bytes=1,
    document_digest=bytes(32),
    components=(RECORD,),
)


def spoil(message: m.Probe | m.Backup | m.RestoreAck | m.BlockRequest | m.Error, at: int, *octets: int) -> bytes:
    """The message with bytes of its body replaced, and a right CRC."""
    body = bytearray(message.encode_body())
    body[at : at + len(octets)] = bytes(octets)
    return encode_frame(message.TYPE, bytes(body))


TWO = replace(BACKUP, components=(RECORD, replace(RECORD, component_id=2)))
REFUSED = {
    "purpose 3": spoil(PROBE, 24, 3),
    "lowest version 0": spoil(PROBE, 25, 0),
    "lowest version above the highest": spoil(PROBE, 25, 2, 1),
    "max message of 1231": spoil(PROBE, 28, 1231 >> 8, 1231 & 0xFF),
    "backup of generation 0": spoil(BACKUP, 64, 0, 0, 0, 0),
    "backup of no component": spoil(BACKUP, 69, 0),
    "backup of nine components": spoil(BACKUP, 69, 9),
    "record of no length": spoil(BACKUP, 140, 0),
    "record shorter than its fields": spoil(BACKUP, 140, 10),
    "record longer than the message": spoil(BACKUP, 140, 200),
    "record of component 0": spoil(BACKUP, 141, 0),
    "record of kind 9": spoil(BACKUP, 142, 9),
    "version that is not UTF-8": spoil(BACKUP, 181, 0xFF),
    "two records of one component": spoil(TWO, 140 + 42 + 1, 1),
    "restore-ack of generation 0 with a component": spoil(
        m.RestoreAck(generation=1, components=(RECORD,)), 0, 0, 0, 0, 0
    ),
    "block-request numbered 0": spoil(m.BlockRequest(request=1, last=False, ranges=()), 0, 0, 0, 0, 0),
    "block-request of 65 ranges": encode_frame(m.Type.BLOCK_REQUEST, b"\0\0\0\1\0\x41\0\0" + b"\0\0\0\1" * 130),
    "empty range": spoil(m.BlockRequest(request=1, last=False, ranges=((0, 1),)), 12, 0, 0, 0, 0),
    "error text of 201 bytes": encode_frame(m.Type.ERROR, bytes(6) + b"\xc9" + b"x" * 201),
    "data-block of nothing": encode_frame(m.Type.DATA_BLOCK, bytes(8)),
}


@pytest.mark.parametrize("octets", REFUSED.values(), ids=REFUSED.keys())
def test_decode_of_a_value_out_of_range_raises_malformed(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        decode(octets)
    assert (raised.value.code, raised.value.wire_code) == ("malformed", m.ErrorCode.MALFORMED)


def test_decode_ignores_reserved_bytes_and_unknown_flags() -> None:
    assert decode(spoil(PROBE, 27, 0xFF)).message == PROBE
    assert decode(spoil(BACKUP, 68, 0xFE)).message == BACKUP
    assert decode(spoil(BACKUP, 143, 0xFE)).message == BACKUP


def test_decode_of_another_version_raises_version_but_for_the_frozen_messages() -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        decode(encode_frame(m.Type.BACKUP, BACKUP.encode_body(), version=2))
    assert raised.value.wire_code == m.ErrorCode.VERSION
    assert decode(encode_frame(m.Type.PROBE, PROBE.encode_body(), version=2)).message == PROBE


def test_decode_of_an_unknown_type_tells_the_session_to_answer() -> None:
    frame = decode_frame(encode_frame(200, b"", session=7, transfer=8))
    with pytest.raises(RemoteProtocolError) as raised:
        decode_message(frame)
    assert raised.value.wire_code == m.ErrorCode.UNKNOWN_TYPE
    assert (frame.session, frame.transfer, frame.type) == (7, 8, 200)


def test_backup_signed_bytes_are_the_same_on_both_sides() -> None:
    assert decode(encode(BACKUP)).message == BACKUP
    decoded = decode(encode(BACKUP)).message
    assert isinstance(decoded, m.Backup)
    assert decoded.signed_bytes(9) == BACKUP.signed_bytes(9) != BACKUP.signed_bytes(10)


def test_backup_of_eight_components_with_the_longest_versions_fits_any_path() -> None:
    eight = tuple(replace(RECORD, component_id=i, version="v" * 64) for i in range(1, 9))
    assert len(encode(replace(BACKUP, components=eight))) <= 1232


def test_error_text_is_cut_between_characters() -> None:
    decoded = decode(encode(m.Error(code=1, text="x" + "é" * 100))).message
    assert isinstance(decoded, m.Error)
    assert decoded.text == "x" + "é" * 99


def test_error_name_of_a_code_is_that_of_the_specification() -> None:
    assert m.Error(code=m.ErrorCode.NO_SESSION).name == "no-session"
    assert m.Error(code=999).name == "error-999"


@pytest.mark.parametrize(
    "message",
    [
        replace(PROBE, device_id=bytes(15)),
        replace(BACKUP, good_seal=b""),
        replace(BACKUP, signature=bytes(65)),
        replace(BACKUP, components=(replace(RECORD, version="v" * 65),)),
        m.BlockRequest(request=1, last=False, ranges=((0, 1),) * 65),
        m.DataBlock(request=1, offset_bytes=0, payload=bytes(MAX_MESSAGE_BYTES - BLOCK_OVERHEAD_BYTES + 1)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_encode_of_what_does_not_fit_is_our_mistake(message: m.Probe | m.Backup | m.BlockRequest) -> None:
    with pytest.raises(AssertionError):
        encode(message)


def test_frame_whose_length_is_not_the_datagrams_is_dropped() -> None:
    for octets in (encode(PROBE) + b"\0", encode(PROBE)[:-1]):
        with pytest.raises(RemoteProtocolError) as raised:
            decode(octets)
        assert raised.value.code == "frame"


def test_stream_of_single_bytes_gives_the_message_with_its_last_byte() -> None:
    splitter = StreamSplitter()
    octets = encode(PROBE)
    assert [splitter.feed(octets[i : i + 1]) for i in range(len(octets))] == [[]] * (len(octets) - 1) + [[octets]]


def test_stream_whose_length_is_below_the_header_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        StreamSplitter().feed(b"uB\x01\x01\x00\x0f" + bytes(10))
