# SPDX-License-Identifier: Apache-2.0
"""The receiving side on its own: what it asks for, when, and what it makes of what comes."""

from __future__ import annotations

from itertools import islice

import pytest

from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.model.manifest import ComponentKind, Manifest
from unbrickd.transfer.receiver import Receiver
from unbrickd.transfer.rtt import INITIAL_TIMEOUT_S, MAX_TIMEOUT_S, MIN_TIMEOUT_S, RttEstimator
from unbrickd.transfer.segments import Segment, document_segments, segments_of
from unbrickd.transfer.sender import MAX_PENDING_RANGES
from unbrickd.transfer.window import INITIAL_BLOCKS, MIN_BLOCKS, SLACK_BLOCKS, Window
from unbrickd.wire.messages import MAX_RANGES, BlockRequest


def receiver(
    length_bytes: int, *, slice_bytes: int = 4096, ahead_bytes: int = 12_288, window: int = 64, ring: int = 0
) -> Receiver:
    return Receiver(
        segments=document_segments(length_bytes, slice_bytes),
        block_bytes=1000,
        ahead_bytes=ahead_bytes,
        max_window_blocks=window,
        ring_frames=ring,
        now_s=0.0,
    )


def blocks_of(requests: list[BlockRequest], block_bytes: int = 1000) -> list[tuple[int, int, int]]:
    """(request, offset, length) of the DataBlocks a sender would answer with."""
    return [
        (r.request, at, min(block_bytes, offset + length - at))
        for r in requests
        for offset, length in r.ranges
        for at in range(offset, offset + length, block_bytes)
    ]


def give(r: Receiver, block: tuple[int, int, int], now_s: float) -> None:
    request, offset, length = block
    payload = bytes(at % 251 for at in range(offset, offset + length))
    r.receive_block(request=request, offset_bytes=offset, payload=payload, now_s=now_s)


def use_up(r: Receiver) -> list[Segment]:
    """What is whole, in order; accepted."""
    whole = []
    while r.is_whole:
        head = r.head()
        segment = head.segment
        assert head.octets == bytes(at % 251 for at in range(segment.offset_bytes, segment.end_bytes))
        whole.append(segment)
        r.accept()
    return whole


def test_segments_of_a_manifest_have_the_offsets_and_contents_of_its_erase_blocks() -> None:
    geometry = Geometry((EraseRun(count=2, size_bytes=256), EraseRun(count=2, size_bytes=1024)))
    digests = tuple(bytes([i]) * 32 for i in range(4))
    manifest = Manifest(
        component_id=1,
        kind=ComponentKind.FIRMWARE,
        name="firmware",
        version="1",
        length_bytes=1700,
        geometry=geometry,
        sealed=False,
        digests=digests,
        transfer_digests=digests,
    )
    assert segments_of(manifest, [3, 1]) == (Segment(3, 1536, 164), Segment(1, 256, 256))
    with pytest.raises(IndexError):
        segments_of(manifest, [4])


def test_document_segments_cover_the_document_without_gap() -> None:
    assert document_segments(0) == ()
    assert document_segments(4096) == (Segment(0, 0, 4096),)
    assert document_segments(4097) == (Segment(0, 0, 4096), Segment(1, 4096, 1))


def test_receiver_of_nothing_is_complete_and_asks_for_nothing() -> None:
    r = receiver(0)
    assert r.complete
    assert r.requests(0.0) == []
    assert r.timer() is None
    assert r.buffer_bytes == 0


def test_receiver_first_requests_open_the_initial_window_block_for_block() -> None:
    r = receiver(100_000)
    blocks = blocks_of(r.requests(0.0))
    assert len(blocks) == INITIAL_BLOCKS
    assert [block[1:] for block in blocks] == [(offset, 1000) for offset in range(0, 10_000, 1000)]
    assert r.requests(0.0) == [], "the window is full"


def test_receiver_last_is_set_on_the_request_after_which_nothing_is_wanted() -> None:
    r = receiver(8192)
    requests = r.requests(0.0)
    assert [request.last for request in requests] == [False] * (len(requests) - 1) + [True]
    assert [request.request for request in requests] == list(range(1, len(requests) + 1))


def test_receiver_with_a_buffer_of_one_segment_asks_for_the_next_only_after_accept() -> None:
    r = receiver(8192, ahead_bytes=0)
    assert r.buffer_bytes == 4096
    requests = r.requests(0.0)
    assert not requests[-1].last
    for block in blocks_of(requests):
        give(r, block, 0.001)
    assert r.is_whole and r.head().segment == Segment(0, 0, 4096)
    assert r.requests(0.001) == [] and r.timer() is None
    r.accept()
    requests = r.requests(0.5)
    assert requests[-1].last
    assert r.silent_s(0.6) == pytest.approx(0.1), "waiting for accept is not the peer's silence"
    for block in blocks_of(requests):
        give(r, block, 0.6)
    assert use_up(r) == [Segment(1, 4096, 4096)]
    assert r.complete


def test_receiver_asks_for_what_follows_as_room_is_released() -> None:
    r = receiver(16_384, ahead_bytes=0)
    for block in blocks_of(r.requests(0.0)):
        give(r, block, 0.001)
    assert r.is_whole and r.requests(0.001) == [], "no room"
    r.release(2048)
    asked = blocks_of(r.requests(0.002))
    assert [(at, length) for _, at, length in asked] == [(4096, 1000), (5096, 1000)], "two blocks fit, a third does not"
    r.release(2048)
    asked += blocks_of(r.requests(0.003))
    r.accept()
    asked += blocks_of(r.requests(0.003))
    for block in asked:
        give(r, block, 0.004)
    assert use_up(r) == [Segment(1, 4096, 4096)]


def test_receiver_segment_that_lies_across_the_end_of_the_ring_comes_in_two_pieces() -> None:
    r = receiver(16_384, ahead_bytes=2000)
    assert r.buffer_bytes == 6096
    pieces, whole, now_s = [], [], 0.0
    while not r.complete:
        now_s += 0.01
        for block in blocks_of(r.requests(now_s)):
            give(r, block, now_s)
        while r.is_whole:
            pieces.append(len(r.head().pieces))
            whole.append(bytes(r.head().octets))
            r.accept()
    assert pieces == [1, 2, 2, 1]
    assert b"".join(whole) == bytes(at % 251 for at in range(16_384))


def test_receiver_segments_are_handed_out_in_order_whatever_comes_first() -> None:
    r = receiver(8192)
    blocks = blocks_of(r.requests(0.0))
    for block in blocks[5:]:
        give(r, block, 0.001)
    assert not r.is_whole
    for block in blocks[:5]:
        give(r, block, 0.001)
    assert use_up(r) == [Segment(0, 0, 4096), Segment(1, 4096, 4096)]
    assert r.complete


def test_receiver_loss_shows_by_three_later_arrivals_and_is_requested_again_first() -> None:
    r = receiver(4096)
    first = blocks_of(r.requests(0.0))
    assert len(first) == 5
    for block in first[1:3]:
        give(r, block, 0.01)
    assert r.requests(0.01) == []
    give(r, first[3], 0.01)
    again = r.requests(0.01)
    assert blocks_of(again) == [(again[0].request, 0, 1000)]
    assert again[-1].last
    assert r.stats.blocks_lost == 1


def test_receiver_late_block_counts_once_and_makes_it_wait_longer() -> None:
    r = receiver(40_960, slice_bytes=40_960)
    first = blocks_of(r.requests(0.0))
    for block in first[1:6]:
        give(r, block, 0.01)
    r.requests(0.01)
    give(r, first[0], 0.02)
    assert (r.stats.blocks_lost, r.stats.late_blocks, r.stats.blocks_received) == (1, 1, 6)
    for block in first[7:]:
        give(r, block, 0.02)
    assert r.stats.blocks_lost == 1, "block 6 is three places behind, and now that is not enough"


def test_receiver_data_end_gives_up_what_did_not_come_after_a_moment() -> None:
    r = receiver(4096)
    requests = r.requests(0.0)
    for block in blocks_of(requests)[:-1]:
        give(r, block, 0.01)
    r.receive_end(request=requests[-1].request, blocks_sent=5, now_s=0.011)
    assert r.requests(0.011) == [], "it may only be reordered"
    due_s = r.timer()
    assert due_s is not None and due_s < 0.05
    assert [(offset, length) for _, offset, length in blocks_of(r.requests(due_s))] == [(4000, 96)]
    assert r.stats.sender_blocks_sent == 5


def test_receiver_data_end_of_an_earlier_request_leaves_later_ones_alone() -> None:
    r = receiver(100_000)
    requests = r.requests(0.0)
    for block in blocks_of(requests[:1]):
        give(r, block, 0.01)
    r.receive_end(request=1, blocks_sent=3, now_s=0.01)
    r.requests(0.02)
    assert r.stats.blocks_lost == 0


def test_receiver_asks_by_halves_for_what_it_can_ask_at_one_instant() -> None:
    r = receiver(100_000)
    requests = r.requests(0.0)
    assert [len(blocks_of([request])) for request in requests] == [5, 3, 2]
    for block in blocks_of(requests):
        give(r, block, 0.01)
    assert len(r.requests(0.01)) <= 4, "blocks that come at one instant are answered by few requests"


@pytest.mark.parametrize(("rtt_s", "sizes"), [(0.001, [4, 4]), (0.03, [4, 2, 1, 1])])
def test_receiver_small_window_at_its_limit_asks_for_half_of_it_at_least_on_a_lan(
    rtt_s: float, sizes: list[int]
) -> None:
    r = receiver(100_000, slice_bytes=100_000, window=8)
    for block in blocks_of(r.requests(0.0)):
        give(r, block, rtt_s)
    requests = r.requests(rtt_s)
    assert [len(blocks_of([request])) for request in requests] == sizes
    for block in blocks_of(requests)[:3]:
        give(r, block, 2 * rtt_s)
    assert bool(r.requests(2 * rtt_s)) == (rtt_s > 0.003)


def test_receiver_with_a_whole_segment_to_write_waits_for_room_for_half_a_window() -> None:
    r = receiver(100_000, slice_bytes=16_000, ahead_bytes=4000, window=16)
    now_s = 0.0
    while requests := r.requests(now_s):
        now_s += 0.001
        for block in blocks_of(requests):
            give(r, block, now_s)
    assert r.is_whole
    assert r.timer() is None
    r.release(7000)
    assert r.requests(now_s) == []
    r.release(1000)
    assert [len(blocks_of([request])) for request in r.requests(now_s)] == [8]


def test_receiver_asks_for_the_last_that_the_ring_takes_before_a_segment_is_whole() -> None:
    r = receiver(100_000, slice_bytes=16_000, ahead_bytes=4000, window=16)
    for block in blocks_of(r.requests(0.0)):
        give(r, block, 0.001)
    assert [len(blocks_of([request])) for request in r.requests(0.001)] == [8, 2], "to wait would make no more room"
    assert r.requests(0.001) == []


@pytest.mark.parametrize(
    ("second_at", "ahead_bytes", "expected"),
    [
        pytest.param(2500, 4096, [(0, 1000), (1000, 1000), (2000, 1000), (3000, 1000), (4000, 500)], id="follows"),
        pytest.param(2500, 499, [(0, 1000), (1000, 1000), (2000, 500)], id="no room"),
        pytest.param(2600, 4096, [(0, 1000), (1000, 1000), (2000, 500), (2600, 1000), (3600, 1000)], id="gap"),
    ],
)
def test_receiver_block_goes_on_into_the_next_segment_if_that_follows_and_there_is_room(
    second_at: int, ahead_bytes: int, expected: list[tuple[int, int]]
) -> None:
    segments = (Segment(0, 0, 2500), Segment(1, second_at, 2000))
    r = Receiver(segments=segments, block_bytes=1000, ahead_bytes=ahead_bytes, max_window_blocks=64, now_s=0.0)
    blocks = blocks_of(r.requests(0.0))
    assert [block[1:] for block in blocks][: len(expected)] == expected
    while blocks:
        for block in blocks:
            give(r, block, 0.01)
        assert use_up(r)
        blocks = blocks_of(r.requests(0.01))
    assert r.complete


@pytest.mark.parametrize(("length_bytes", "ring", "last"), [(8000, 8, False), (7000, 8, True), (8000, 0, True)])
def test_receiver_that_fills_the_ring_to_the_end_leaves_no_room_for_a_data_end(
    length_bytes: int, ring: int, last: bool
) -> None:
    r = receiver(length_bytes, slice_bytes=8000, window=8, ring=ring)
    assert r.requests(0.0)[-1].last is last


def test_receiver_in_silence_repeats_with_back_off_and_few_blocks() -> None:
    r = receiver(100_000)
    asked = [len(blocks_of(r.requests(0.0)))]  # each block once, though a request may stand there twice
    at_s = []
    for _ in range(8):
        due_s = r.timer()
        assert due_s is not None
        at_s.append(due_s)
        asked.append(len(set(blocks_of(r.requests(due_s)))))
    waits = [b - a for a, b in zip([0.0, *at_s], at_s, strict=False)]
    assert waits == [0.25, 0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert asked == [10, 10, 4, 4, 4, 4, 4, 4, 4]
    assert r.silent_s(at_s[-1]) == at_s[-1]


def test_receiver_rejected_segment_and_what_follows_are_fetched_anew_and_old_blocks_do_not_count() -> None:
    r = receiver(8192)
    first = blocks_of(r.requests(0.0))
    for block in first[:7]:
        give(r, block, 0.01)
    r.release(1000)
    r.reject()
    assert not r.is_whole
    for block in (first[0], first[8]):
        give(r, block, 0.01)
    assert r.stats.stray_blocks == 2, "asked for before: what comes of it may be spoilt, too"
    again = blocks_of(r.requests(0.01))
    assert [b[1:] for b in again] == [b[1:] for b in first]
    for block in again:
        give(r, block, 0.02)
    assert use_up(r) == [Segment(0, 0, 4096), Segment(1, 4096, 4096)]
    assert r.complete and r.stats.rejected_segments == 1


def test_receiver_ranges_of_one_request_never_exceed_the_limit() -> None:
    r = receiver(1_000_000, slice_bytes=1_000_000, window=1024)
    now_s = 0.0
    pending = blocks_of(r.requests(now_s))
    widest = 0
    for _ in range(200):
        now_s += 0.01
        kept = [block for k, block in enumerate(pending) if (block[1] // 1000) % 2 or k % 7 == 0]
        for block in kept:
            give(r, block, now_s)
        use_up(r)
        requests = r.requests(now_s) or r.requests(r.timer() or now_s)
        widest = max([widest, *(len(request.ranges) for request in requests)])
        assert widest <= MAX_RANGES
        pending = blocks_of(list({request.request: request for request in requests}.values()))
    assert widest > 8, "every other block lost must show as ranges"


def test_rtt_estimator_follows_rfc_6298() -> None:
    rtt = RttEstimator()
    assert rtt.timeout_s == INITIAL_TIMEOUT_S
    rtt.sample(0.1)
    assert rtt.timeout_s == pytest.approx(0.1 + 4 * 0.05)
    rtt.sample(0.2)
    assert rtt.srtt_s == pytest.approx(7 / 8 * 0.1 + 0.2 / 8)
    assert rtt.variation_s == pytest.approx(3 / 4 * 0.05 + 0.1 / 4)
    for _ in range(20):
        rtt.back_off()
    assert rtt.timeout_s == MAX_TIMEOUT_S
    for _ in range(200):
        rtt.sample(0.0001)
    assert rtt.timeout_s == MIN_TIMEOUT_S


def test_window_grows_while_the_round_trip_stays_and_shrinks_when_it_grows() -> None:
    window = Window(max_blocks=256)
    place = 0

    def rounds(count: int, rtt_s: float) -> None:
        nonlocal place
        for _ in range(count):
            size = window.blocks
            for k in range(size):
                window.on_delivered(
                    place=place + k, next_place=place + size + k + 1, rtt_s=rtt_s, outstanding=size, limited=True
                )
            place += size

    rounds(3, 0.01)
    assert window.blocks == 8 * INITIAL_BLOCKS
    sizes = []
    for _ in range(30):
        rounds(1, 0.05)
        sizes.append(window.blocks)
    assert min(sizes) == pytest.approx(1.25 * SLACK_BLOCKS, abs=1), "so many more than fill the path harm none"


@pytest.mark.parametrize(
    ("rate", "base_ms", "blocks", "batch"),
    [(10, 1, 90, 48), (10, 5, 130, 48), (10, 30, 380, 48), (1, 30, 78, 45), (0.1, 100, 58, 36)],
)
def test_window_batch_is_what_waits_in_the_queue_less_some_milliseconds(
    rate: float, base_ms: float, blocks: int, batch: int
) -> None:
    """The window is what the base needs at that rate, in blocks a millisecond, and 8 ms or 48 blocks. Of those in the
    queue 2.5 ms are spare, and three eighths of all; a request asks for 48 at most."""
    window = Window(max_blocks=1024)
    for place in range(50_000):
        size = window.blocks
        rtt_s = max(base_ms, size / rate) / 1e3
        window.on_delivered(place=place, next_place=place + size, rtt_s=rtt_s, outstanding=size, limited=True)
    assert window.blocks == pytest.approx(blocks, rel=0.05)
    assert window.batch(1024) == pytest.approx(batch, rel=0.05, abs=2)


def test_window_batch_of_a_device_that_takes_few_blocks_is_half_of_them_on_a_lan() -> None:
    near, far = Window(max_blocks=32), Window(max_blocks=32)
    for place in range(200):
        near.on_delivered(place=place, next_place=place + 1, rtt_s=0.001, outstanding=32, limited=True)
        far.on_delivered(place=place, next_place=place + 1, rtt_s=0.03, outstanding=32, limited=True)
    assert near.blocks == far.blocks == 32
    assert near.batch(64) == 16
    assert far.batch(64) == 4


def test_window_never_exceeds_the_ring() -> None:
    window = Window(max_blocks=2)
    for place in range(100):
        window.on_delivered(place=place, next_place=place + 1, rtt_s=0.001, outstanding=1, limited=True)
        assert window.blocks <= 2
    window.on_timeout(next_place=100)
    window.on_timeout(next_place=102)
    assert 1 <= window.blocks <= 2


@pytest.mark.parametrize("overflows", [False, True])
def test_window_that_times_out_halves_only_where_a_queue_overflowed(overflows: bool) -> None:
    """Else it is a busy server; to halve it made five hundred windows of six blocks, for ever."""
    window = Window(max_blocks=1024)
    places = iter(range(1000))

    def deliver(count: int) -> None:
        for place in islice(places, count):
            window.on_delivered(place=place, next_place=place + 1, rtt_s=0.01, outstanding=10, limited=True)

    deliver(30)
    assert window.blocks == 40
    if overflows:
        while window.blocks == 40:
            window.on_lost(next(places))
        deliver(200)
    size = window.blocks
    window.on_timeout(next_place=300)
    assert window.blocks == (size // 2 if overflows else size)
    window.on_timeout(next_place=340)
    assert window.blocks == MIN_BLOCKS


def test_receiver_of_scattered_segments_keeps_within_the_ranges_a_sender_keeps_and_goes_on() -> None:
    """Every other slice: each block is a range of its own, and a window of them is more than a sender takes."""
    r = Receiver(
        segments=document_segments(4_000_000, 1000)[::2],
        block_bytes=1000,
        ahead_bytes=2_000_000,
        max_window_blocks=1024,
        now_s=0.0,
    )
    now_s, most = 0.0, 0
    requests = r.requests(now_s)
    while len(blocks_of(requests)) < MAX_PENDING_RANGES:
        now_s += 0.001
        for block in blocks_of(requests):
            give(r, block, now_s)
        use_up(r)
        requests = r.requests(now_s)
        most = max(most, len(blocks_of(requests)))
    assert most == MAX_PENDING_RANGES
    assert max(len(request.ranges) for request in requests) <= MAX_RANGES
    assert r.requests(now_s) == [], "more would be dropped"
    r.receive_end(request=requests[-1].request, blocks_sent=0, now_s=now_s)
    due_s = r.timer()
    assert due_s is not None
    assert len(set(blocks_of(r.requests(due_s)))) == MAX_PENDING_RANGES, "all are lost, so the sender has none of them"
