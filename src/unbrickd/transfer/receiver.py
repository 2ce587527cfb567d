# SPDX-License-Identifier: Apache-2.0
"""The receiving side of a transfer, which is in charge of it: what to ask for, when, how much, and what is lost.

The segments wanted, laid end to end, are one stream, and the buffer a ring over it: what fits the ring is asked for
without a pause at the end of a segment, and without a short block where the next follows. Segments are handed out whole
and in order, and make room as they are used up.

Each block requested is outstanding until it arrives or counts as lost: when blocks requested some places later have
arrived (the sender keeps the order), when the sender says it has sent all, or when nothing comes for a while. Lost
blocks are requested again, first. Because a DataBlock names its request, a late one is told from a repeated one.

Knows no sockets, no clock, no digests: whoever drives it verifies what is complete. Spec: spec/protocol.md §4.10 to
§4.13 and §6.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from unbrickd.transfer.rtt import RttEstimator
from unbrickd.transfer.segments import Segment
from unbrickd.transfer.sender import MAX_PENDING_BYTES, MAX_PENDING_RANGES
from unbrickd.transfer.window import Window
from unbrickd.wire.messages import MAX_RANGES, BlockRequest

MIN_REORDERING_PLACES = 3
"""As TCP's three duplicate acknowledgements (RFC 5681 §3.2). Grows when a block comes that counted as lost, halves
when nothing comes for so long that waiting for later arrivals was the mistake."""


@dataclass(frozen=True, slots=True)
class Completed:
    """All of a segment has arrived. `pieces`: views of the ring, two where it begins anew; valid until they are used
    up (`Receiver.release`, `accept`, `reject`)."""

    segment: Segment
    pieces: tuple[memoryview, ...]

    @property
    def octets(self) -> bytes | memoryview:
        """All of it, in one."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


@dataclass(slots=True)
class TransferStats:
    """What happened so far. srtt_s is 0 before the first round trip."""

    blocks_requested: int = 0
    requests_sent: int = 0
    blocks_received: int = 0
    duplicate_blocks: int = 0
    stray_blocks: int = 0
    """Never asked for, or of a wrong offset, length or request."""
    blocks_lost: int = 0
    late_blocks: int = 0
    """Arrived after they had counted as lost."""
    timeouts: int = 0
    bytes_delivered: int = 0
    rejected_segments: int = 0
    sender_blocks_sent: int = 0
    """As the sender's last DataEnd says."""
    srtt_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Block:
    """A block that was requested and has not arrived: in flight, or lost.

    segment: its index in the order of the stream; at_bytes: where in the stream it lies. place, request, asked_s,
    outstanding (blocks, with it; 0 if the window did not bound them): of when it was asked for last; given_up: the same
    of when it counted as lost last.
    """

    segment: int
    offset_bytes: int
    length_bytes: int
    at_bytes: int
    place: int = 0
    request: int = 0
    asked_s: float = 0.0
    outstanding: int = 0
    given_up: tuple[int, int, float, int] | None = None


class Receiver:
    """Fetches `segments`, ascending, in blocks of `block_bytes`.

    ahead_bytes: how much of what follows a segment is taken while that is filled or used up: the RAM is that much and
    the largest segment. max_window_blocks: how many blocks may be outstanding. ring_frames: how many frames the
    device takes at once, 0 if no matter. rtt: what is known of the path's round trip, which is learnt from here too.

    Drive it: after receive_block, receive_end, release, accept and reject, and at `timer()`, send what `requests()`
    returns; while `is_whole`, use up `head()`. Nothing a peer sends makes it raise.
    """

    def __init__(
        self,
        *,
        segments: Sequence[Segment],
        block_bytes: int,
        ahead_bytes: int,
        max_window_blocks: int,
        ring_frames: int = 0,
        rtt: RttEstimator | None = None,
        now_s: float,
    ) -> None:
        assert block_bytes >= 1 and ahead_bytes >= 0 and max_window_blocks >= 1
        assert all(s.length_bytes >= 1 for s in segments)
        assert all(a.end_bytes <= b.offset_bytes for a, b in pairwise(segments))
        self._block = block_bytes
        self._segments = segments
        self._offsets = [s.offset_bytes for s in segments]
        self._starts = list(accumulate((s.length_bytes for s in segments), initial=0))
        largest = max((s.length_bytes for s in segments), default=0)
        self.buffer_bytes = min(largest + ahead_bytes, self._starts[-1])
        """RAM for segments."""
        self._ring_blocks = max(1, (largest + ahead_bytes) // block_bytes)
        self._ring = memoryview(bytearray(self.buffer_bytes))
        self._head = 0
        self._request = 0
        self._next_place = 0
        self._newest_place = -1
        self._max_window = max(1, min(max_window_blocks, MAX_PENDING_BYTES // block_bytes))
        self._ring_frames = ring_frames
        self._window = Window(max_blocks=self._max_window, ring_blocks=ring_frames)
        self._rtt = rtt or RttEstimator()
        self._reordering_places = MIN_REORDERING_PLACES
        self._armed_s = now_s
        self._quiet_since_s = now_s
        self._end: tuple[int, float] | None = None
        self.stats = TransferStats()
        self._rewind()

    def _rewind(self) -> None:
        """Begin at the head, with nothing of it or behind it asked for."""
        self._missing: dict[int, int] = {}
        self._flights: OrderedDict[int, _Block] = OrderedDict()
        self._lost: dict[int, _Block] = {}
        self._unserved: deque[tuple[int, int]] = deque()
        self._unserved_ranges = 0
        self._void_up_to = self._request
        self._next_segment = self._head
        self._next_at = self._starts[self._head]
        self._free_up_to = self._next_at + self.buffer_bytes

    @property
    def complete(self) -> bool:
        """Whether every segment was accepted."""
        return self._head == len(self._segments)

    @property
    def outstanding_blocks(self) -> int:
        """Those that were asked for, have not come and do not count as lost."""
        return len(self._flights)

    def silent_s(self, now_s: float) -> float:
        """Since the last new block, or since blocks were first awaited if that is later."""
        return now_s - self._quiet_since_s

    def timer(self) -> float | None:
        """When to call `requests` again if nothing happens before; None if nothing is outstanding."""
        if not self._flights:
            return None
        due_s = self._armed_s + self._rtt.timeout_s
        return due_s if self._end is None else min(due_s, self._end[1])

    def receive_block(
        self, *, request: int, offset_bytes: int, payload: bytes | bytearray | memoryview, now_s: float
    ) -> None:
        """A DataBlock. What was not asked for is counted and ignored."""
        block = self._flights.get(offset_bytes) or self._lost.get(offset_bytes)
        length = len(payload)
        if block is None or length != block.length_bytes or not self._void_up_to < request <= self._request:
            self._count_unwanted(request, offset_bytes, length)
            return
        at = block.at_bytes % self.buffer_bytes
        if at + length <= self.buffer_bytes:
            self._ring[at : at + length] = payload
        else:
            split = self.buffer_bytes - at
            self._ring[at:] = payload[:split]
            self._ring[: length - split] = payload[split:]
        index, at, end = block.segment, block.at_bytes, block.at_bytes + length
        while at < end:
            stop = min(self._starts[index + 1], end)
            self._missing[index] -= stop - at
            index, at = index + 1, stop
        self.stats.blocks_received += 1
        self.stats.bytes_delivered += length
        self._armed_s = self._quiet_since_s = now_s
        self._learn(block, request, now_s)

    def receive_end(self, *, request: int, blocks_sent: int, now_s: float) -> None:
        """A DataEnd: what is outstanding of requests up to this one is lost, but for what the network reordered."""
        if 1 <= request <= self._request:
            self.stats.sender_blocks_sent = blocks_sent
            if self._end is None or self._end[0] < request:
                self._end = (request, now_s + self._rtt.reordering_s)

    @property
    def is_whole(self) -> bool:
        """Whether all of the first segment that was not accepted has arrived."""
        return self._missing.get(self._head) == 0

    def head(self) -> Completed:
        """That segment."""
        assert self.is_whole
        segment = self._segments[self._head]
        at = self._starts[self._head] % self.buffer_bytes
        end = at + segment.length_bytes
        if end <= self.buffer_bytes:
            return Completed(segment, (self._ring[at:end],))
        return Completed(segment, (self._ring[at:], self._ring[: end - self.buffer_bytes]))

    def release(self, length_bytes: int) -> None:
        """So many more bytes of its beginning are used up: make room."""
        self._free_up_to += length_bytes

    def accept(self) -> None:
        """All of it is used up: on to the next."""
        assert self.is_whole
        del self._missing[self._head]
        self._head += 1
        self._free_up_to = self._starts[self._head] + self.buffer_bytes

    def reject(self) -> None:
        """It is not what it should be: fetch it again, and what follows, as that may lie where it has to come."""
        assert self.is_whole
        self.stats.rejected_segments += 1
        self._rewind()

    def requests(self, now_s: float) -> list[BlockRequest]:
        """What to send now, lost blocks first; empty if it is better to wait for more arrivals, or room.

        On a lossy path a request stands in it twice, and is sent twice.
        """
        if not self._flights:
            self._quiet_since_s = now_s
        self._expire(now_s)
        if not self._flights:
            self._unserved.clear()
            self._unserved_ranges = 0
        requests: list[BlockRequest] = []
        while self._unserved_ranges < MAX_PENDING_RANGES and not self._waits():
            request = self._next_request(now_s)
            if request is None:
                break
            requests += [request] * (2 if self._window.is_lossy else 1)
        return requests

    @property
    def _batch(self) -> int:
        return self._window.batch(self._ring_blocks)

    def _waits(self) -> bool:
        """Whether so little can be asked for now that it had better wait: window or ring will soon have more room."""
        wanted = takes = self._takes
        if self.is_whole:
            # It is being written, which makes room in the ring.
            wanted = len(self._lost) + -(-(self._starts[-1] - self._next_at) // self._block)
        elif not self._flights:
            return False
        return not wanted or min(takes, self._window.blocks - len(self._flights)) < min(wanted, self._batch)

    @property
    def _takes(self) -> int:
        """Blocks to ask for that the ring has room for."""
        if not self._can_ask_anew():
            return len(self._lost)
        room_bytes = min(self._starts[-1], self._free_up_to) - self._next_at
        return len(self._lost) + -(-room_bytes // self._block)

    def _count_unwanted(self, request: int, offset: int, length: int) -> None:
        """A block that was not awaited: one that is there already, or one that was never asked for."""
        position = bisect_right(self._offsets, offset) - 1
        if position >= 0 and self._void_up_to < request <= self._request:
            segment = self._segments[position]
            within = offset - segment.offset_bytes
            end = self._starts[position] + within + length
            if within < segment.length_bytes and end <= self._next_at and offset not in self._lost:
                self.stats.duplicate_blocks += 1
                return
        self.stats.stray_blocks += 1

    def _learn(self, block: _Block, request: int, now_s: float) -> None:
        """Round trip, order and losses, from one new block."""
        was_lost = self._flights.pop(block.offset_bytes, None) is None
        if was_lost:
            del self._lost[block.offset_bytes]
        if was_lost or block.request != request:
            self.stats.late_blocks += 1
            if block.given_up is not None and block.given_up[1] == request:
                place, _, asked_s, outstanding = block.given_up
                behind = self._newest_place - place + 1
                self._reordering_places = min(max(self._reordering_places, behind), self._max_window)
                self._sample(place, asked_s, outstanding, now_s)
            return
        self._newest_place = max(self._newest_place, block.place)
        while self._unserved and self._unserved[0][0] <= self._newest_place:
            self._unserved_ranges -= self._unserved.popleft()[1]
        self._sample(block.place, block.asked_s, block.outstanding, now_s)
        while self._flights and self._oldest().place <= self._newest_place - self._reordering_places:
            self._window.on_lost(self._give_up_oldest())

    def _sample(self, place: int, asked_s: float, outstanding: int, now_s: float) -> None:
        rtt_s = now_s - asked_s
        self._rtt.sample(rtt_s)
        self.stats.srtt_s = self._rtt.srtt_s or 0.0
        self._window.on_delivered(
            place=place,
            next_place=self._next_place,
            rtt_s=rtt_s,
            outstanding=outstanding,
            limited=bool(self._lost) or self._can_ask_anew(),
        )

    def _oldest(self) -> _Block:
        return next(iter(self._flights.values()))

    def _give_up_oldest(self) -> int:
        """Returns its place."""
        offset, block = self._flights.popitem(last=False)
        block.given_up = (block.place, block.request, block.asked_s, block.outstanding)
        self._lost[offset] = block
        self.stats.blocks_lost += 1
        return block.place

    def _expire(self, now_s: float) -> None:
        """Gives up what the sender's DataEnd or the retransmission timer says is lost."""
        if self._flights and now_s >= self._armed_s + self._rtt.timeout_s:
            self.stats.timeouts += 1
            self._reordering_places = max(self._reordering_places // 2, MIN_REORDERING_PLACES)
            self._rtt.back_off()
            self._window.on_timeout(next_place=self._next_place)
            while self._flights:
                self._give_up_oldest()
        if self._end is not None and now_s >= self._end[1]:
            while self._flights and self._oldest().request <= self._end[0]:
                self._window.on_lost(self._give_up_oldest())
            self._end = None

    def _can_ask_anew(self) -> bool:
        """Whether there is a block that was never asked for, and room for it."""
        at, free = self._next_at, self._free_up_to
        return at < self._starts[-1] and (at + self._block <= free or self._starts[self._next_segment + 1] <= free)

    def _next_wanted(self) -> _Block | None:
        """Takes the next block to request: lost ones, the first of the stream first, then new ones."""
        if self._lost:
            return self._lost.pop(min(self._lost))
        if not self._can_ask_anew():
            return None
        first, at = self._next_segment, self._next_at
        if at == self._starts[first]:
            self._missing[first] = self._segments[first].length_bytes
        end = self._starts[first + 1]
        while end - at < self._block and self._reaches_on():
            self._next_segment += 1
            self._missing[self._next_segment] = self._segments[self._next_segment].length_bytes
            end = self._starts[self._next_segment + 1]
        block = _Block(first, self._offsets[first] + at - self._starts[first], min(self._block, end - at), at)
        self._next_at += block.length_bytes
        if self._next_at == end:
            self._next_segment += 1
        return block

    def _reaches_on(self) -> bool:
        """Whether the block at the end of this segment can go on with the next: it follows, and there is room."""
        this = self._next_segment
        if this + 1 == len(self._segments) or self._segments[this].end_bytes != self._offsets[this + 1]:
            return False
        return min(self._next_at + self._block, self._starts[this + 2]) <= self._free_up_to

    def _next_request(self, now_s: float) -> BlockRequest | None:
        """One BlockRequest, and its blocks in flight; None if there is nothing to request, or no room for it."""
        room = min(self._window.blocks - len(self._flights), self._takes)
        limited = room < self._takes
        room = min(room, max(self._batch, -(-room // 2)))
        request = self._request + 1
        ranges: list[tuple[int, int]] = []
        blocks = 0
        grows = False
        while blocks < room and len(ranges) < MAX_RANGES and self._unserved_ranges < MAX_PENDING_RANGES:
            block = self._next_wanted()
            if block is None:
                break
            offset, length = block.offset_bytes, block.length_bytes
            if grows and offset == sum(ranges[-1]):
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
            else:
                ranges.append((offset, length))
                self._unserved_ranges += 1
            grows = length == self._block
            block.place, block.request, block.asked_s = self._next_place, request, now_s
            self._flights[offset] = block
            block.outstanding = len(self._flights) if limited else 0
            self._next_place += 1
            blocks += 1
        if not ranges:
            return None
        self._request = request
        self._armed_s = now_s
        self._unserved.append((self._next_place - 1, len(ranges)))
        self.stats.requests_sent += 1
        self.stats.blocks_requested += blocks
        # If the device's ring is full, it has no place for the DataEnd.
        last = not self._lost and self._next_at == self._starts[-1] and len(self._flights) != self._ring_frames
        return BlockRequest(request=request, last=last, ranges=tuple(ranges))
