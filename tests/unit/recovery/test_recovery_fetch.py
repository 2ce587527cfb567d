# SPDX-License-Identifier: Apache-2.0
"""One transfer towards the device, message by message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unbrickd.recovery.fetch import SILENCE_S, Fetch, NoHelp, Wanted
from unbrickd.transfer.retry import TRIES
from unbrickd.transfer.segments import Segment
from unbrickd.wire import messages as m

WANTED = Wanted(component_id=1, generation=5, length_bytes=8192, digest=b"d" * 32, segments=(Segment(1, 4096, 4096),))
START = m.DataStart(component_id=1, max_block_bytes=1428, generation=5, length_bytes=8192, digest=b"d" * 32)


def fetch() -> Fetch:
    return Fetch(WANTED, transfer=3, max_block_bytes=1428, now_s=0.0)


def blocks(request: m.BlockRequest | object, fill: bytes = b"x") -> list[m.DataBlock]:
    assert isinstance(request, m.BlockRequest)
    sent = []
    for offset, length in request.ranges:
        for at in range(offset, offset + length, 1428):
            payload = fill * min(1428, offset + length - at)
            sent.append(m.DataBlock(request=request.request, offset_bytes=at, payload=payload))
    return sent


def test_fetch_of_one_erase_block_goes_as_specified() -> None:
    f = fetch()
    (request,) = f.outgoing(0.0)
    assert request == m.DataRequest(component_id=1, max_block_bytes=1428, generation=5, digest=b"d" * 32)
    f.receive(START, 0.01)
    assert f.head is None
    ack, *asks = f.outgoing(0.01)
    assert ack == m.DataStartAck(block_bytes=1428)
    assert asks == [
        m.BlockRequest(request=1, last=False, ranges=((4096, 2856),)),
        m.BlockRequest(request=2, last=True, ranges=((6952, 1240),)),
    ]
    *first, last = [block for ask in asks for block in blocks(ask)]
    for block in first:
        f.receive(block, 0.02)
        assert f.head is None
    f.receive(last, 0.02)
    assert f.head is not None and bytes(f.head.octets) == b"x" * 4096 and not f.complete
    f.release(4096)
    f.accept()
    assert f.complete and f.head is None


def test_fetch_unanswered_is_repeated_and_then_given_up_as_gone() -> None:
    f, now_s, sent = fetch(), 0.0, 0
    with pytest.raises(NoHelp, match="stopped answering") as lost:
        while True:
            sent += len(f.outgoing(now_s))
            due_s = f.timer()
            assert due_s is not None and due_s > now_s
            now_s = due_s
    assert sent == TRIES and lost.value.gone


def test_fetch_in_silence_repeats_its_requests_and_then_gives_up() -> None:
    f, now_s, sent = fetch(), 0.0, 0
    f.receive(START, 0.0)
    with pytest.raises(NoHelp, match="stopped sending") as lost:
        while True:
            sent += len(f.outgoing(now_s))
            due_s = f.timer()
            assert due_s is not None and due_s > now_s
            now_s = due_s
    assert lost.value.gone and SILENCE_S <= now_s < SILENCE_S + 2.0 and 5 < sent < 40


def test_fetch_repeated_data_start_is_acknowledged_with_the_same_block_size() -> None:
    f = fetch()
    f.receive(replace(START, max_block_bytes=1300), 0.0)
    assert f.outgoing(0.0)[0] == m.DataStartAck(block_bytes=1300)
    for _ in range(100):
        f.receive(START, 0.1)
    assert [x for x in f.outgoing(0.1) if isinstance(x, m.DataStartAck)] == [m.DataStartAck(block_bytes=1300)]


@pytest.mark.parametrize(
    "other",
    [
        replace(START, component_id=2),
        replace(START, generation=6),
        replace(START, length_bytes=8193),
        replace(START, digest=bytes(32)),
        replace(START, max_block_bytes=511),
    ],
)
def test_fetch_of_something_else_than_asked_for_is_refused(other: m.DataStart) -> None:
    with pytest.raises(NoHelp) as refused:
        fetch().receive(other, 0.0)
    assert refused.value.refused and not refused.value.gone


@pytest.mark.parametrize(
    "stray",
    [
        m.DataBlock(request=1, offset_bytes=0, payload=b"x" * 1428),
        m.DataEnd(request=1, blocks_sent=3),
        m.DataEndAck(status=m.EndStatus.VERIFIED),
        m.BackupAck(generation=1, document_wanted=True, committed=True, statuses=()),
    ],
)
def test_fetch_message_out_of_order_changes_nothing(
    stray: m.DataBlock | m.DataEnd | m.DataEndAck | m.BackupAck,
) -> None:
    f = fetch()
    f.receive(stray, 0.0)
    assert f.head is None and not f.complete
    assert len(f.outgoing(0.0)) == 1


def test_fetch_rejected_erase_block_is_fetched_again() -> None:
    f = fetch()
    f.receive(START, 0.0)
    _, *asks = f.outgoing(0.0)
    for block in [block for ask in asks for block in blocks(ask, b"?")]:
        f.receive(block, 0.1)
    f.reject()
    assert f.rejected == 1 and f.head is None
    again = f.outgoing(0.1)
    assert [x.ranges for x in again if isinstance(x, m.BlockRequest)] == [((4096, 2856),), ((6952, 1240),)]
    for block in [block for ask in again for block in blocks(ask)]:
        f.receive(block, 0.2)
    f.again()
    assert f.rejected == 1, "flash that reads back wrong is not held against the server"


def test_fetch_no_block_of_a_full_length_comes_says_so_once_they_were_sent_long_enough() -> None:
    f = fetch()
    f.receive(START, 0.0)
    f.outgoing(0.0)
    assert not f.blocks_do_not_pass(1.5) and f.blocks_do_not_pass(1.6)
    short = Fetch(WANTED, transfer=3, max_block_bytes=1208, now_s=0.0)
    short.receive(START, 0.0)
    short.outgoing(0.0)
    assert not short.blocks_do_not_pass(9.0)
