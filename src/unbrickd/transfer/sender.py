# SPDX-License-Identifier: Apache-2.0
"""The sending side of a transfer: it answers BlockRequests, each block once, in order, and decides nothing.

Knows no sockets, no time and no bytes: it says which range to send next; the caller reads it and encodes it.
Spec: spec/protocol.md §4.10 to §4.12.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from unbrickd.errors import RemoteProtocolError
from unbrickd.wire.messages import BlockRequest, ErrorCode

MAX_PENDING_BYTES = 4 << 20
MAX_PENDING_RANGES = 256
"""What a sender keeps of requests (spec/protocol.md §4.10)."""
MAX_PENDING_REQUESTS = 256
"""Requests may be of no range, so they are counted too."""
MAX_EARLY_REQUESTS = 16
"""Kept until DataStart-Ack says how long blocks are, for it may be lost: more than a receiver begins with."""
REMEMBERED_REQUESTS = 256
"""A request that comes twice, the network's doing, is served once, if fewer than this many came in between."""
_REMEMBERED_BITS = (1 << REMEMBERED_REQUESTS) - 1


@dataclass(slots=True, kw_only=True)
class BlocksToSend:
    """DataBlocks in a row: the request they answer, and which bytes they carry. Only the last may be shorter.

    Not frozen, as EraseBlock.
    """

    request: int
    offset_bytes: int
    length_bytes: int


@dataclass(slots=True)
class _Pending:
    request: int
    last: bool
    ranges: deque[tuple[int, int]]
    """(next byte to send, end), both in bytes"""


class Sender:
    """Sends `length_bytes` in blocks of at most `block_bytes` as they are asked for."""

    def __init__(self, *, length_bytes: int, block_bytes: int) -> None:
        assert length_bytes >= 0 and block_bytes >= 1
        self._length = length_bytes
        self._block = block_bytes
        self._queue: deque[_Pending] = deque()
        self._pending_bytes = 0
        self._pending_ranges = 0
        self._newest = 0
        self._seen = 0
        """Bit n: whether request _newest − n has come."""
        self._end: int | None = None
        self.blocks_sent = 0

    def request(self, message: BlockRequest) -> None:
        """Queue what is asked for; what is beyond the bounds above is dropped, and R asks again.

        Raises RemoteProtocolError (wire code *range*) if it reaches past the end; then nothing of it is queued.
        """
        for offset, length in message.ranges:
            if offset + length > self._length:
                raise RemoteProtocolError(
                    f"{length} bytes at {offset} are asked for, of {self._length}",
                    code="range",
                    wire_code=ErrorCode.RANGE,
                )
        if len(self._queue) >= MAX_PENDING_REQUESTS or self._is_repeated(message.request):
            return
        ranges: deque[tuple[int, int]] = deque()
        for offset, length in message.ranges:
            kept = min(length, MAX_PENDING_BYTES - self._pending_bytes)
            if kept == 0 or self._pending_ranges == MAX_PENDING_RANGES:
                break
            ranges.append((offset, offset + kept))
            self._pending_bytes += kept
            self._pending_ranges += 1
        self._queue.append(_Pending(message.request, message.last, ranges))
        self._finish_served()

    def next_block(self) -> BlocksToSend | None:
        """The block to send now; counts as sent. None: nothing is asked for."""
        return self.next_blocks(1)

    def next_blocks(self, most: int) -> BlocksToSend | None:
        """What to send now of one range, at most so many blocks; they count as sent. None: nothing is asked for."""
        assert most >= 1
        if not self._queue:
            return None
        pending = self._queue[0]
        at, end = pending.ranges.popleft()
        length = min(self._block * most, end - at)
        if at + length < end:
            pending.ranges.appendleft((at + length, end))
        else:
            self._pending_ranges -= 1
        self._pending_bytes -= length
        self.blocks_sent += -(-length // self._block)
        self._finish_served()
        return BlocksToSend(request=pending.request, offset_bytes=at, length_bytes=length)

    def end_due(self) -> int | None:
        """The request to name in a DataEnd now: once per *last*, after its blocks. Repeating it is the caller's."""
        due, self._end = self._end, None
        return due

    @property
    def pending(self) -> bool:
        """Whether there is a block or a DataEnd to send."""
        return bool(self._queue) or self._end is not None

    def _is_repeated(self, request: int) -> bool:
        newer = request - self._newest
        if newer > 0:
            self._seen = (self._seen << newer | 1) & _REMEMBERED_BITS if newer < REMEMBERED_REQUESTS else 1
            self._newest = request
            return False
        bit = 1 << -newer if -newer < REMEMBERED_REQUESTS else 0
        if not bit or self._seen & bit:
            return True
        self._seen |= bit
        return False

    def _finish_served(self) -> None:
        """Keeps the head of the queue one that has blocks to send."""
        while self._queue and not self._queue[0].ranges:
            served = self._queue.popleft()
            if served.last:
                self._end = served.request
