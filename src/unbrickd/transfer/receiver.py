# SPDX-License-Identifier: Apache-2.0
"""The receiving side of a transfer, which is in charge of it: what to ask for, when, how much, and what is lost.

Each block requested is outstanding until it arrives or counts as lost: when blocks requested some places later have
arrived (the sender keeps the order), when the sender says it has sent all, or when nothing comes for a while. Lost
blocks are requested again, first. Because a DataBlock names its request, a late one is told from a repeated one.

Knows no sockets, no clock, no digests: whoever drives it verifies what is complete. Spec: spec/protocol.md §4.10 to
§4.13 and §6.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unbrickd.transfer.rtt import RttEstimator
from unbrickd.transfer.segments import Segment
from unbrickd.transfer.sender import MAX_PENDING_BYTES, MAX_PENDING_RANGES
from unbrickd.transfer.window import Window
from unbrickd.wire.messages import MAX_RANGES, BlockRequest

MIN_REORDERING_PLACES = 3
"""As TCP's three duplicate acknowledgements (RFC 5681 §3.2). Grows when a block comes that counted as lost, halves
when nothing comes for so long that waiting for later arrivals was the mistake."""
BATCHES_PER_WINDOW = 4
"""A request asks for about this part of the window: for no less, so that requests stay few; for no more, so that the
loss of one leaves others whose blocks show it."""
REPEATING_LOSS = 0.02
"""From this loss on each request is sent twice, as the loss of one costs a round trip and all of its blocks; it is 2 %
of their bytes at most, and the sender serves it once (spec/protocol.md §4.10)."""

_UNASKED, _ASKED, _HELD = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Completed:
    """All of a segment has arrived. `octets` is a view of the receiver's buffer, valid until accept or reject."""

    segment: Segment
    octets: memoryview


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


@dataclass(frozen=True, slots=True)
class _Flight:
    """A block that was requested and has not arrived."""

    place: int
    request: int
    asked_s: float


class _Slot:
    """A buffer and the segment it is being filled with."""

    def __init__(self, size_bytes: int, blocks: int) -> None:
        self.view = memoryview(bytearray(size_bytes))
        self.states = bytearray(blocks)
        self.segment = Segment(0, 0, 0)
        self.blocks = self.unasked_from = self.missing = 0

    def open(self, segment: Segment, block_bytes: int) -> None:
        self.segment = segment
        self.blocks = self.missing = -(-segment.length_bytes // block_bytes)
        self.unasked_from = 0
        self.states[:] = bytes(len(self.states))


class Receiver:
    """Fetches `segments`, in this order, in blocks of `block_bytes`.

    max_open_segments: how many are filled, or wait for accept or reject, at once: the RAM is that many times the
    largest. max_window_blocks: how many blocks may be outstanding: the frames the device's ring takes, or the
    socket's buffer.

    Drive it: after receive_block, receive_end, accept and reject, and at `timer()`, send what `requests()` returns.
    Nothing a peer sends makes it raise.
    """

    def __init__(
        self,
        *,
        segments: Sequence[Segment],
        block_bytes: int,
        max_open_segments: int,
        max_window_blocks: int,
        now_s: float,
    ) -> None:
        assert block_bytes >= 1 and max_open_segments >= 1 and max_window_blocks >= 1
        assert all(s.length_bytes >= 1 for s in segments)
        self._block = block_bytes
        self._unopened = deque(segments)
        self._by_offset = sorted(segments, key=lambda s: s.offset_bytes)
        self._offsets = [s.offset_bytes for s in self._by_offset]
        assert all(a.end_bytes <= b for a, b in zip(self._by_offset, self._offsets[1:], strict=False))
        largest = max((s.length_bytes for s in segments), default=0)
        self._free = [
            _Slot(largest, -(-largest // block_bytes)) for _ in range(min(max_open_segments, len(self._unopened)))
        ]
        self.buffer_bytes = sum(len(slot.view) + len(slot.states) for slot in self._free)
        """RAM for segments and what is known of their blocks."""
        self._open: dict[int, _Slot] = {}
        self._unasked: deque[_Slot] = deque()
        self._begun: set[int] = set()
        self._whole: dict[int, _Slot] = {}
        self._flights: OrderedDict[int, _Flight] = OrderedDict()
        self._lost: dict[int, None] = {}
        self._given_up: dict[int, _Flight] = {}
        self._unserved: deque[tuple[int, int]] = deque()
        self._unserved_ranges = 0
        self._max_window = max(1, min(max_window_blocks, MAX_PENDING_BYTES // block_bytes))
        self._window = Window(max_blocks=self._max_window)
        self._rtt = RttEstimator()
        self._reordering_places = MIN_REORDERING_PLACES
        self._request = 0
        self._next_place = 0
        self._newest_place = -1
        self._armed_s = now_s
        self._quiet_since_s = now_s
        self._end: tuple[int, float] | None = None
        self.stats = TransferStats()

    @property
    def complete(self) -> bool:
        """Whether every segment was accepted."""
        return not (self._unopened or self._open or self._whole)

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
    ) -> tuple[Completed, ...]:
        """A DataBlock. Returns the segment it completes, if any. What was not asked for is counted and ignored."""
        slot, index = self._find(request, offset_bytes, len(payload))
        if slot is None:
            return ()
        at = index * self._block
        slot.view[at : at + len(payload)] = payload
        slot.states[index] = _HELD
        slot.missing -= 1
        self.stats.blocks_received += 1
        self.stats.bytes_delivered += len(payload)
        self._armed_s = self._quiet_since_s = now_s
        self._learn(request, offset_bytes, now_s)
        if slot.missing:
            return ()
        segment = slot.segment
        self._whole[segment.index] = self._open.pop(segment.offset_bytes)
        return (Completed(segment, slot.view[: segment.length_bytes]),)

    def receive_end(self, *, request: int, blocks_sent: int, now_s: float) -> None:
        """A DataEnd: what is outstanding of requests up to this one is lost, but for what the network reordered."""
        if 1 <= request <= self._request:
            self.stats.sender_blocks_sent = blocks_sent
            if self._end is None or self._end[0] < request:
                self._end = (request, now_s + self._rtt.reordering_s)

    def accept(self, segment_index: int) -> None:
        """The segment is verified and done with; its buffer is free."""
        self._free.append(self._whole.pop(segment_index))

    def reject(self, segment_index: int, now_s: float) -> None:
        """The segment is not what its digest says: fetch it again."""
        slot = self._whole.pop(segment_index)
        self.stats.rejected_segments += 1
        self._begin(slot, slot.segment)

    def requests(self, now_s: float) -> list[BlockRequest]:
        """What to send now, lost blocks first; empty if it is better to wait for more arrivals.

        On a lossy path a request stands in it twice, and is sent twice.
        """
        if not self._flights and not self._lost:
            self._quiet_since_s = now_s
        self._expire(now_s)
        if not self._flights:
            self._unserved.clear()
            self._unserved_ranges = 0
        room = self._window.blocks - len(self._flights)
        batch = -(-self._window.blocks // BATCHES_PER_WINDOW)
        if self._flights and room < batch and self._wants_more_than(room):
            return []
        requests: list[BlockRequest] = []
        while room > 0 and self._unserved_ranges < MAX_PENDING_RANGES:
            request = self._next_request(min(room, batch), now_s)
            if request is None:
                break
            requests += [request] * (2 if self._window.loss > REPEATING_LOSS else 1)
            room = self._window.blocks - len(self._flights)
        return requests

    def _find(self, request: int, offset: int, length: int) -> tuple[_Slot | None, int]:
        """The slot and the block a DataBlock fills; counts those that fill none."""
        position = bisect_right(self._offsets, offset) - 1
        if position < 0 or not 1 <= request <= self._request:
            self.stats.stray_blocks += 1
            return None, 0
        segment = self._by_offset[position]
        index, odd = divmod(offset - segment.offset_bytes, self._block)
        if odd or length != min(self._block, segment.end_bytes - offset):
            self.stats.stray_blocks += 1
            return None, 0
        slot = self._open.get(segment.offset_bytes)
        if slot is not None and slot.states[index] == _ASKED:
            return slot, index
        if slot.states[index] == _HELD if slot is not None else segment.offset_bytes in self._begun:
            self.stats.duplicate_blocks += 1
        else:
            self.stats.stray_blocks += 1
        return None, 0

    def _learn(self, request: int, offset: int, now_s: float) -> None:
        """Round trip, order and losses, from one new block."""
        flight = self._flights.pop(offset, None)
        given_up = self._given_up.pop(offset, None)
        self._lost.pop(offset, None)
        if flight is None or flight.request != request:
            self.stats.late_blocks += 1
            if given_up is not None and given_up.request == request:
                behind = self._newest_place - given_up.place + 1
                self._reordering_places = min(max(self._reordering_places, behind), self._max_window)
                self._sample(given_up, now_s)
            return
        self._newest_place = max(self._newest_place, flight.place)
        while self._unserved and self._unserved[0][0] <= self._newest_place:
            self._unserved_ranges -= self._unserved.popleft()[1]
        self._sample(flight, now_s)
        while self._flights and self._oldest().place <= self._newest_place - self._reordering_places:
            self._give_up_oldest()

    def _sample(self, flight: _Flight, now_s: float) -> None:
        rtt_s = now_s - flight.asked_s
        self._rtt.sample(rtt_s)
        self.stats.srtt_s = self._rtt.srtt_s or 0.0
        self._window.on_delivered(
            place=flight.place,
            next_place=self._next_place,
            rtt_s=rtt_s,
            limited=bool(self._lost or self._unasked or (self._unopened and self._free)),
            now_s=now_s,
        )

    def _oldest(self) -> _Flight:
        return next(iter(self._flights.values()))

    def _give_up_oldest(self) -> None:
        offset, flight = self._flights.popitem(last=False)
        self._given_up[offset] = flight
        self._lost[offset] = None
        self._window.on_lost(1)
        self.stats.blocks_lost += 1

    def _expire(self, now_s: float) -> None:
        """Gives up what the sender's DataEnd or the retransmission timer says is lost."""
        if self._flights and now_s >= self._armed_s + self._rtt.timeout_s:
            self.stats.timeouts += 1
            self._reordering_places = max(self._reordering_places // 2, MIN_REORDERING_PLACES)
            self._rtt.back_off()
            while self._flights:
                self._give_up_oldest()
            self._window.on_timeout()
        if self._end is not None and now_s >= self._end[1]:
            while self._flights and self._oldest().request <= self._end[0]:
                self._give_up_oldest()
            self._end = None

    def _begin(self, slot: _Slot, segment: Segment) -> None:
        slot.open(segment, self._block)
        self._open[segment.offset_bytes] = slot
        self._begun.add(segment.offset_bytes)
        self._unasked.append(slot)

    def _wants_more_than(self, blocks: int) -> bool:
        """Whether more than so many blocks could be requested now."""
        if len(self._lost) > blocks or (self._unopened and self._free):
            return True
        return len(self._lost) + sum(slot.blocks - slot.unasked_from for slot in self._unasked) > blocks

    def _wanted(self) -> Iterator[tuple[int, int]]:
        """Takes (offset, length) of one block after the other to request: lost ones, then new ones."""
        while self._lost:
            offset = next(iter(self._lost))
            del self._lost[offset]
            segment = self._by_offset[bisect_right(self._offsets, offset) - 1]
            yield offset, min(self._block, segment.end_bytes - offset)
        while self._unasked or (self._unopened and self._free):
            if not self._unasked:
                self._begin(self._free.pop(), self._unopened.popleft())
            slot = self._unasked[0]
            index = slot.unasked_from
            slot.unasked_from += 1
            slot.states[index] = _ASKED
            if slot.unasked_from == slot.blocks:
                self._unasked.popleft()
            offset = slot.segment.offset_bytes + index * self._block
            yield offset, min(self._block, slot.segment.end_bytes - offset)

    def _next_request(self, room: int, now_s: float) -> BlockRequest | None:
        """One BlockRequest of at most `room` blocks, and their flights; None if nothing is wanted."""
        request = self._request + 1
        ranges: list[tuple[int, int]] = []
        grows = False
        for offset, length in self._wanted():
            if grows and offset == sum(ranges[-1]):
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
            else:
                ranges.append((offset, length))
                self._unserved_ranges += 1
            grows = length == self._block
            self._flights[offset] = _Flight(self._next_place, request, now_s)
            self._next_place += 1
            room -= 1
            if room == 0 or len(ranges) == MAX_RANGES or self._unserved_ranges == MAX_PENDING_RANGES:
                break
        if not ranges:
            return None
        self._request = request
        self._armed_s = now_s
        self._unserved.append((self._next_place - 1, len(ranges)))
        self.stats.requests_sent += 1
        self.stats.blocks_requested += sum(-(-length // self._block) for _, length in ranges)
        last = not (self._lost or self._unasked or self._unopened)
        return BlockRequest(request=request, last=last, ranges=tuple(ranges))
