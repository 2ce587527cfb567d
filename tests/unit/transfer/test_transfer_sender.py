# SPDX-License-Identifier: Apache-2.0
"""The sending side on its own: order, bounds, the DataEnd (spec/protocol.md §4.10 to §4.12)."""

from __future__ import annotations

import pytest

from unbrickd.errors import RemoteProtocolError
from unbrickd.transfer.sender import MAX_PENDING_BYTES, MAX_PENDING_RANGES, MAX_PENDING_REQUESTS, Sender
from unbrickd.wire.messages import BlockRequest, ErrorCode


def ask(request: int, *ranges: tuple[int, int], last: bool = False) -> BlockRequest:
    return BlockRequest(request=request, last=last, ranges=ranges)


def sent(sender: Sender) -> list[tuple[int, int, int]]:
    blocks = []
    while (block := sender.next_block()) is not None:
        blocks.append((block.request, block.offset_bytes, block.length_bytes))
    return blocks


def test_sender_ranges_go_out_in_order_from_their_own_offset() -> None:
    sender = Sender(length_bytes=10_000, block_bytes=1000)
    sender.request(ask(1, (4000, 2500), (0, 1000)))
    sender.request(ask(2, (100, 1), last=True))
    assert sender.pending
    assert sent(sender) == [(1, 4000, 1000), (1, 5000, 1000), (1, 6000, 500), (1, 0, 1000), (2, 100, 1)]
    assert sender.blocks_sent == 5
    assert sender.end_due() == 2
    assert sender.end_due() is None
    assert not sender.pending


def test_sender_end_is_due_only_after_the_blocks_of_the_last_request() -> None:
    sender = Sender(length_bytes=2000, block_bytes=1000)
    sender.request(ask(1, (0, 2000), last=True))
    assert sender.end_due() is None
    sender.next_block()
    assert sender.end_due() is None
    sender.next_block()
    assert sender.end_due() == 1


def test_sender_request_of_no_range_that_is_last_ends_at_once() -> None:
    sender = Sender(length_bytes=2000, block_bytes=1000)
    sender.request(ask(1, last=True))
    assert sender.next_block() is None
    assert sender.end_due() == 1


def test_sender_repeated_request_is_served_once_and_reordered_ones_in_order_of_arrival() -> None:
    sender = Sender(length_bytes=3000, block_bytes=1000)
    for request in (ask(2, (1000, 1000)), ask(1, (0, 1000)), ask(2, (1000, 1000)), ask(1, (0, 1000))):
        sender.request(request)
    assert sent(sender) == [(2, 1000, 1000), (1, 0, 1000)]
    sender.request(ask(2, (1000, 1000)))
    assert sent(sender) == []


@pytest.mark.parametrize("bad", [(9999, 2), (10_000, 1), (2**32 - 1, 2**32 - 1)])
def test_sender_range_past_the_end_raises_range_and_queues_nothing(bad: tuple[int, int]) -> None:
    sender = Sender(length_bytes=10_000, block_bytes=1000)
    with pytest.raises(RemoteProtocolError) as raised:
        sender.request(ask(1, (0, 1000), bad))
    assert raised.value.wire_code == ErrorCode.RANGE
    assert not sender.pending


def test_sender_bytes_beyond_four_mebibytes_are_dropped() -> None:
    sender = Sender(length_bytes=3 * MAX_PENDING_BYTES, block_bytes=65_536)
    sender.request(ask(1, (0, MAX_PENDING_BYTES - 65_536), (MAX_PENDING_BYTES, 2 * MAX_PENDING_BYTES), last=True))
    sender.request(ask(2, (0, 1)))
    assert sum(length for _, _, length in sent(sender)) == MAX_PENDING_BYTES
    assert sender.end_due() == 1
    sender.request(ask(3, (0, 10)))
    assert sent(sender) == [(3, 0, 10)], "what is sent makes room"


def test_sender_ranges_beyond_256_are_dropped() -> None:
    sender = Sender(length_bytes=1000, block_bytes=10)
    for number in range(1, 6):
        sender.request(ask(number, *[(k * 10, 10) for k in range(64)]))
    assert len(sent(sender)) == MAX_PENDING_RANGES
    sender.request(ask(6, (0, 10)))
    assert len(sent(sender)) == 1


def test_sender_flood_of_empty_requests_is_bounded() -> None:
    sender = Sender(length_bytes=1000, block_bytes=10)
    sender.request(ask(1, (0, 1000)))
    for number in range(2, 10_000):
        sender.request(ask(number))
    assert len(sender._queue) <= MAX_PENDING_REQUESTS
    assert len(sent(sender)) == 100
