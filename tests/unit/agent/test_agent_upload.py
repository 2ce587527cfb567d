# SPDX-License-Identifier: Apache-2.0
"""One transfer towards the server, message by message."""

from __future__ import annotations

import pytest

from unbrickd.agent.upload import BURST_BLOCKS, SILENCE_S, Upload, UploadError
from unbrickd.errors import RemoteProtocolError
from unbrickd.transfer.sender import MAX_EARLY_REQUESTS
from unbrickd.wire import messages as m
from unbrickd.wire.packet import Message, decode

IMAGE = bytes(range(256)) * 40
START = m.DataStart(
    component_id=1, max_block_bytes=1428, generation=5, length_bytes=len(IMAGE), digest=b"d" * 32, version="1.0"
)


def upload() -> Upload:
    return Upload(START, lambda at, n: IMAGE[at : at + n], session=9, transfer=2, now_s=0.0)


def said(u: Upload, now_s: float) -> list[Message]:
    packets = [decode(octets) for octets in u.outgoing(now_s)]
    assert all((p.session, p.transfer) == (9, 2) for p in packets)
    return [p.message for p in packets]


def begun(block_bytes: int = 1428) -> Upload:
    u = upload()
    assert said(u, 0.0) == [START]
    u.receive(m.DataStartAck(block_bytes=block_bytes), 0.0)
    return u


def ask(number: int, *ranges: tuple[int, int], last: bool = False) -> m.BlockRequest:
    return m.BlockRequest(request=number, last=last, ranges=ranges)


def test_upload_goes_as_specified() -> None:
    u = begun()
    u.receive(ask(1, (0, 2000)), 0.1)
    assert said(u, 0.1) == [
        m.DataBlock(request=1, offset_bytes=0, payload=IMAGE[:1428]),
        m.DataBlock(request=1, offset_bytes=1428, payload=IMAGE[1428:2000]),
    ]
    u.receive(ask(2, (2000, 100), last=True), 0.2)
    assert said(u, 0.2) == [
        m.DataBlock(request=2, offset_bytes=2000, payload=IMAGE[2000:2100]),
        m.DataEnd(request=2, blocks_sent=3),
    ]
    u.receive(m.DataEndAck(status=m.EndStatus.VERIFIED, committed=True), 0.3)
    assert u.done and u.committed and u.sent_bytes == 2100 and u.outgoing(0.3) == []


def test_upload_of_what_is_held_ends_at_once() -> None:
    u = upload()
    u.outgoing(0.0)
    u.receive(m.DataStartAck(block_bytes=0, status=m.StartStatus.HELD, committed=True), 0.0)
    assert u.done and u.committed


def test_upload_request_before_the_acknowledgement_makes_data_start_come_again() -> None:
    u = upload()
    u.outgoing(0.0)
    for number in range(1, 101):
        u.receive(ask(number, (number, 10)), 0.01)
    assert said(u, 0.01) == [START]
    assert said(u, 0.01) == []
    u.receive(m.DataStartAck(block_bytes=1000), 0.02)
    served = [message.request for message in said(u, 0.02) if isinstance(message, m.DataBlock)]
    assert served == [*range(101 - MAX_EARLY_REQUESTS, 101)], "and the last few are served when it has come"


def test_upload_incomplete_goes_on_with_what_is_asked_for() -> None:
    u = begun()
    u.receive(ask(1, (0, 10), last=True), 0.0)
    assert len(said(u, 0.0)) == 2
    u.receive(m.DataEndAck(status=m.EndStatus.INCOMPLETE), 0.05)
    assert said(u, 0.05) == [], "it is the server's turn"
    u.receive(ask(2, (0, 10), last=True), 0.2)
    assert said(u, 0.2)[-1] == m.DataEnd(request=2, blocks_sent=2)


def test_upload_incomplete_of_an_earlier_data_end_does_not_end_the_repeating_of_the_last() -> None:
    u = begun()
    u.receive(ask(1, (0, 10), last=True), 0.0)
    assert len(said(u, 0.0)) == 2
    u.receive(ask(2, (0, 10), last=True), 0.01)
    assert said(u, 0.01)[-1] == m.DataEnd(request=2, blocks_sent=2), "it is lost"
    u.receive(m.DataEndAck(status=m.EndStatus.INCOMPLETE), 0.02)
    assert u.timer() == pytest.approx(0.11)
    assert said(u, 0.11) == [m.DataEnd(request=2, blocks_sent=2)]


def test_upload_after_a_block_that_was_asked_for_again_repeats_data_end() -> None:
    u = begun()
    u.receive(ask(1, (0, 20), last=True), 0.0)
    assert len(said(u, 0.0)) == 2
    u.receive(ask(2, (0, 10)), 0.01)  # of two requests, the last of which is lost, while its block came late
    assert said(u, 0.01) == [m.DataBlock(request=2, offset_bytes=0, payload=IMAGE[:10])]
    assert u.timer() == pytest.approx(0.11)
    assert said(u, 0.11) == [m.DataEnd(request=1, blocks_sent=1)]


def test_upload_request_that_came_twice_is_served_once_and_data_end_goes_on_being_repeated() -> None:
    u = begun()
    u.receive(ask(1, (0, 10), last=True), 0.0)
    assert len(said(u, 0.0)) == 2
    u.receive(ask(1, (0, 10), last=True), 0.05)
    assert said(u, 0.05) == []
    assert said(u, 0.1) == [m.DataEnd(request=1, blocks_sent=1)]


def test_upload_opened_anew_with_shorter_blocks_obeys_and_never_goes_back() -> None:
    u = begun(1428)
    u.receive(m.DataStartAck(block_bytes=1208), 2.5)
    u.receive(m.DataStartAck(block_bytes=1428), 2.5)
    u.receive(ask(1, (0, 2000)), 2.5)
    assert [len(x.payload) for x in said(u, 2.5) if isinstance(x, m.DataBlock)] == [1208, 792]


def test_upload_block_size_beyond_what_was_offered_is_ignored() -> None:
    u = begun(1429)
    assert said(u, 0.1) == [START]


def test_upload_unanswered_is_given_up_as_gone() -> None:
    for u in (upload(), begun()):
        if u.timer() != 0.0:
            u.receive(ask(1, (0, 10), last=True), 0.0)
        now_s = 0.0
        with pytest.raises(UploadError) as lost:
            while True:
                u.outgoing(now_s)
                due_s = u.timer()
                assert due_s is not None and due_s > now_s
                now_s = due_s
        assert lost.value.gone and now_s < 16.0


def test_upload_nobody_asks_for_blocks_is_given_up_at_its_timer() -> None:
    u = begun()
    assert u.timer() == SILENCE_S and u.outgoing(SILENCE_S - 0.1) == []
    with pytest.raises(UploadError, match="stopped asking"):
        u.outgoing(SILENCE_S)


def test_upload_that_takes_long_to_send_is_no_silence() -> None:
    """Over a slow link what one request asks for may take longer than the silence that is borne."""
    u = Upload(START, lambda at, n: bytes(n), session=9, transfer=2, now_s=0.0)
    u.outgoing(0.0)
    u.receive(m.DataStartAck(block_bytes=10), 0.0)
    u.receive(ask(1, (0, len(IMAGE))), 0.0)
    for turn in range(len(IMAGE) // 10 // BURST_BLOCKS):
        assert len(u.outgoing(turn * 8.0)) == BURST_BLOCKS


def test_upload_request_past_the_end_is_the_servers_mistake() -> None:
    with pytest.raises(RemoteProtocolError) as wrong:
        begun().receive(ask(1, (len(IMAGE), 1)), 0.0)
    assert wrong.value.wire_code == m.ErrorCode.RANGE


def test_upload_refused_by_the_server_fails() -> None:
    u = begun()
    u.receive(ask(1, (0, 10), last=True), 0.0)
    u.outgoing(0.0)
    with pytest.raises(UploadError, match="not what was announced") as refused:
        u.receive(m.DataEndAck(status=m.EndStatus.REFUSED), 0.1)
    assert not refused.value.gone
