# SPDX-License-Identifier: Apache-2.0
"""Messages from anybody: what is encoded decodes to itself; anything else raises RemoteProtocolError or nothing.

Hypothesis prints a failing example; replay it with the `@reproduce_failure` line that it prints.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from unbrickd.errors import RemoteProtocolError
from unbrickd.model.manifest import ComponentKind
from unbrickd.wire import messages as m
from unbrickd.wire.framing import HEADER_BYTES, StreamSplitter, encode_frame
from unbrickd.wire.packet import Message, decode, encode, encode_blocks

u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
from_1 = st.integers(1, 0xFFFFFFFF)
digests = st.binary(min_size=32, max_size=32)
ids = st.binary(min_size=16, max_size=16)
nonces = st.binary(min_size=8, max_size=8)
max_messages = st.integers(1232, 0xFFFF)
version_ranges = st.tuples(st.integers(1, 255), st.integers(1, 255)).map(sorted)


def texts(limit: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(codec="utf-8"), max_size=limit).filter(lambda t: len(t.encode()) <= limit)


@st.composite
def components(draw: st.DrawFn, *, least: int) -> tuple[m.ComponentRecord, ...]:
    chosen = draw(st.sets(st.integers(1, 255), min_size=least, max_size=8))
    return tuple(
        m.ComponentRecord(
            component_id=component_id,
            kind=draw(st.sampled_from(ComponentKind)),
            sealed=draw(st.booleans()),
            length_bytes=draw(u32),
            image_digest=draw(digests),
            version=draw(texts(64)),
        )
        for component_id in sorted(chosen)
    )


@st.composite
def probes(draw: st.DrawFn) -> m.Probe:
    lowest, highest = draw(version_ranges)
    return m.Probe(
        device_id=draw(ids),
        nonce=draw(nonces),
        purpose=draw(st.sampled_from(m.Purpose)),
        version_lowest=lowest,
        version_highest=highest,
        max_message_bytes=draw(max_messages),
        ring_frames=draw(u16),
    )


@st.composite
def announces(draw: st.DrawFn) -> m.Announce:
    lowest, highest = draw(version_ranges)
    return m.Announce(server_id=draw(ids), version_lowest=lowest, version_highest=highest, prefix_bits=draw(u8))


@st.composite
def restores(draw: st.DrawFn) -> m.Restore:
    rejected = sorted((draw(u32), draw(u32)))
    return m.Restore(
        cookie=draw(ids), device_id=draw(ids), named=draw(u32), rejected_from=rejected[0], rejected_to=rejected[1]
    )


@st.composite
def restore_acks(draw: st.DrawFn) -> m.RestoreAck:
    held = draw(st.booleans())
    return m.RestoreAck(
        generation=draw(from_1) if held else 0,
        document_length_bytes=draw(u32),
        document_digest=draw(digests),
        components=draw(components(least=1)) if held else (),
        good_seal=draw(st.none() | digests),
    )


STRATEGIES: dict[m.Type, st.SearchStrategy[Message]] = {
    m.Type.PROBE: probes(),
    m.Type.PROBE_ACK: st.builds(
        m.ProbeAck,
        nonce=nonces,
        server_id=ids,
        cookie=ids,
        version=st.integers(1, 255),
        holds_device=st.booleans(),
        busy=st.booleans(),
        retry_after_s=u16,
        max_message_bytes=max_messages,
    ),
    m.Type.BACKUP: st.builds(
        m.Backup,
        cookie=ids,
        device_id=ids,
        public_key=digests,
        generation=from_1,
        document_length_bytes=u32,
        document_digest=digests,
        components=components(least=1),
        good_seal=st.none() | digests,
        signature=st.binary(min_size=64, max_size=64),
        received=st.just(b""),
    ),
    m.Type.BACKUP_ACK: st.builds(
        m.BackupAck,
        generation=u32,
        document_wanted=st.booleans(),
        committed=st.booleans(),
        statuses=st.lists(st.tuples(u8, st.sampled_from(m.ComponentStatus)), max_size=8).map(tuple),
    ),
    m.Type.RESTORE: restores(),
    m.Type.RESTORE_ACK: restore_acks(),
    m.Type.DATA_REQUEST: st.builds(
        m.DataRequest, component_id=u8, max_block_bytes=st.integers(1, 0xFFFF), generation=u32, digest=digests
    ),
    m.Type.DATA_START: st.builds(
        m.DataStart,
        component_id=u8,
        max_block_bytes=st.integers(1, 0xFFFF),
        generation=u32,
        length_bytes=u32,
        digest=digests,
        version=texts(64),
    ),
    m.Type.DATA_START_ACK: st.builds(
        m.DataStartAck,
        block_bytes=st.integers(1, 0xFFFF),
        status=st.sampled_from(m.StartStatus),
        committed=st.booleans(),
    ),
    m.Type.DATA_BLOCK: st.builds(
        m.DataBlock, request=u32, offset_bytes=u32, payload=st.binary(min_size=1, max_size=1500)
    ),
    m.Type.DATA_END: st.builds(m.DataEnd, request=u32, blocks_sent=u32),
    m.Type.DATA_END_ACK: st.builds(m.DataEndAck, status=st.sampled_from(m.EndStatus), committed=st.booleans()),
    m.Type.BLOCK_REQUEST: st.builds(
        m.BlockRequest,
        request=from_1,
        last=st.booleans(),
        ranges=st.lists(st.tuples(u32, from_1), max_size=64).map(tuple),
    ),
    m.Type.ERROR: st.builds(m.Error, code=u16, about=u8, retry_after_s=u16, text=texts(200)),
    m.Type.ANNOUNCE: announces(),
}
any_message: st.SearchStrategy[Message] = st.one_of(*STRATEGIES.values())
wire_settings = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def decode_or_refuse(octets: bytes) -> None:
    """Whatever is raised but RemoteProtocolError fails the test."""
    try:
        decode(octets)
    except RemoteProtocolError as error:
        assert error.code in {"frame", "version", "unknown-type", "malformed"}
        assert error.wire_code in set(m.ErrorCode)


@pytest.mark.parametrize("kind", m.Type, ids=lambda kind: kind.name)
@wire_settings
@given(data=st.data(), session=u32, transfer=u16)
def test_message_encoded_decodes_to_itself(kind: m.Type, data: st.DataObject, session: int, transfer: int) -> None:
    message = data.draw(STRATEGIES[kind])
    packet = decode(encode(message, session=session, transfer=transfer))
    assert (packet.message, packet.session, packet.transfer) == (message, session, transfer)


@pytest.mark.parametrize("kind", [k for k in m.Type if k is not m.Type.DATA_BLOCK], ids=lambda kind: kind.name)
@wire_settings
@given(data=st.data(), extra=st.binary(min_size=1, max_size=40))
def test_message_of_a_later_minor_form_decodes_as_before(kind: m.Type, data: st.DataObject, extra: bytes) -> None:
    """Bytes after the known fields are ignored (§3); in Backup they precede the signature. A DataBlock has no end."""
    message = data.draw(STRATEGIES[kind])
    body = message.encode_body()
    grown = body[:-64] + extra + body[-64:] if kind is m.Type.BACKUP else body + extra
    decoded = decode(encode_frame(kind, grown)).message
    assert decoded == message
    if isinstance(decoded, m.Backup):
        assert decoded.signed_bytes(7) == b"unbrickd backup v1" + struct.pack(">I", 7) + grown[:-64]


@pytest.mark.parametrize("kind", m.Type, ids=lambda kind: kind.name)
@wire_settings
@given(data=st.data())
def test_message_cut_at_any_length_is_refused(kind: m.Type, data: st.DataObject) -> None:
    message = data.draw(STRATEGIES[kind])
    whole, body = encode(message), message.encode_body()
    shortest = m.DataBlock.FIXED_BYTES + 1 if kind is m.Type.DATA_BLOCK else len(body)
    for length in range(len(whole)):
        with pytest.raises(RemoteProtocolError) as raised:
            decode(whole[:length])
        assert raised.value.code == "frame"
    for length in range(shortest):
        with pytest.raises(RemoteProtocolError) as refused:
            decode(encode_frame(kind, body[:length]))
        assert refused.value.code == "malformed"


@wire_settings
@given(message=any_message, bits=st.lists(st.integers(0, 2**20), min_size=1, max_size=3, unique=True))
def test_message_with_up_to_three_bits_flipped_fails_its_crc(message: Message, bits: list[int]) -> None:
    spoilt = bytearray(encode(message))
    for bit in {bit % (len(spoilt) * 8) for bit in bits}:
        spoilt[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteProtocolError) as raised:
        decode(bytes(spoilt))
    assert raised.value.code == "frame"


@wire_settings
@given(message=any_message, spoil=st.lists(st.tuples(st.integers(0, 2**16), u8), min_size=1, max_size=8))
def test_message_with_a_spoilt_body_and_a_right_crc_decodes_or_is_refused(
    message: Message, spoil: list[tuple[int, int]]
) -> None:
    body = bytearray(message.encode_body())
    for at, value in spoil:
        body[at % len(body)] = value
    decode_or_refuse(encode_frame(message.TYPE, bytes(body)))


@settings(max_examples=400, deadline=None)
@given(kind=u8, version=u8, body=st.binary(max_size=400))
def test_message_of_random_bytes_decodes_or_is_refused(kind: int, version: int, body: bytes) -> None:
    decode_or_refuse(encode_frame(kind, body, version=version))


@settings(max_examples=300, deadline=None)
@given(octets=st.binary(max_size=200))
@example(octets=b"")
@example(octets=b"uB" + bytes(14))
def test_datagram_of_random_bytes_is_dropped(octets: bytes) -> None:
    decode_or_refuse(octets)


@wire_settings
@given(
    belongs_to=st.tuples(u32, u16),
    request=u32,
    offset=st.integers(0, 2**32 - 1501),
    block_bytes=st.integers(1, 1500),
    payload=st.binary(min_size=1, max_size=1500),
)
def test_encode_blocks_gives_the_bytes_of_encode_for_each(
    belongs_to: tuple[int, int], request: int, offset: int, block_bytes: int, payload: bytes
) -> None:
    session, transfer = belongs_to
    fast = encode_blocks(
        session=session,
        transfer=transfer,
        request=request,
        offset_bytes=offset,
        block_bytes=block_bytes,
        payload=payload,
    )
    blocks = (
        m.DataBlock(request=request, offset_bytes=offset + at, payload=payload[at : at + block_bytes])
        for at in range(0, len(payload), block_bytes)
    )
    assert fast == b"".join(encode(block, session=session, transfer=transfer) for block in blocks)


@wire_settings
@given(messages=st.lists(any_message, max_size=6), cuts=st.lists(st.integers(0, 2**16), max_size=30))
def test_stream_cut_anywhere_gives_the_messages_whole_and_in_order(messages: list[Message], cuts: list[int]) -> None:
    wholes = [encode(message) for message in messages]
    stream = b"".join(wholes)
    ends = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    splitter = StreamSplitter()
    assert [w for a, b in pairwise(ends) for w in splitter.feed(stream[a:b])] == wholes


@wire_settings
@given(message=any_message, junk=st.binary(min_size=HEADER_BYTES, max_size=100).filter(lambda j: j[:2] != b"uB"))
def test_stream_out_of_step_is_refused(message: Message, junk: bytes) -> None:
    splitter = StreamSplitter()
    assert splitter.feed(encode(message)) == [encode(message)]
    with pytest.raises(RemoteProtocolError):
        splitter.feed(junk)


@settings(max_examples=300, deadline=None)
@given(chunks=st.lists(st.binary(max_size=300), max_size=20))
def test_stream_of_random_bytes_is_refused_or_waits_within_bounds(chunks: list[bytes]) -> None:
    splitter = StreamSplitter()
    try:
        for chunk in chunks:
            for octets in splitter.feed(chunk):
                decode_or_refuse(octets)
            assert len(splitter._pending) <= 65_535
    except RemoteProtocolError as error:
        assert error.code == "frame"


def test_crc_is_that_of_zlib_over_the_message_with_the_field_zero() -> None:
    octets = encode(m.DataEnd(request=1, blocks_sent=2), session=3, transfer=4)
    assert int.from_bytes(octets[12:16], "big") == zlib.crc32(octets[:12] + bytes(4) + octets[16:])
