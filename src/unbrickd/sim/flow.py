# SPDX-License-Identifier: Apache-2.0
"""Who uses a link: a transfer of ours, with the real receiver and sender, and a TCP flow as its neighbour."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from unbrickd.sim.link import Host, Pipe, Timeline
from unbrickd.transfer.receiver import Receiver
from unbrickd.transfer.segments import document_segments
from unbrickd.transfer.sender import Sender
from unbrickd.wire import messages as m
from unbrickd.wire.framing import HEADER_BYTES

BLOCK_BYTES = 1400
UDP_IP_BYTES = 28
BLOCK_HEADERS_BYTES = UDP_IP_BYTES + HEADER_BYTES + m.DataBlock.FIXED_BYTES
SEGMENT_BYTES = 1 << 16
AHEAD_BYTES = 4 << 20


def receiver_of(length_bytes: int, *, ring_frames: int) -> Receiver:
    """One that nothing but the window bounds."""
    return Receiver(
        segments=document_segments(length_bytes, SEGMENT_BYTES),
        block_bytes=BLOCK_BYTES,
        ahead_bytes=AHEAD_BYTES,
        max_window_blocks=1024,
        ring_frames=ring_frames,
        now_s=0.0,
    )


class Transfer:
    """`length_bytes` from a sender to a receiver. Ends when all is there; begins at once."""

    def __init__(
        self,
        timeline: Timeline,
        *,
        forth: Pipe,
        back: Pipe,
        length_bytes: int,
        ring_frames: int = 0,
        receiving: Host | None = None,
        sending: Host | None = None,
    ) -> None:
        self._timeline = timeline
        self._forth, self._back = forth, back
        self._receiving, self._sending = receiving or Host(timeline), sending or Host(timeline)
        self.receiver = receiver_of(length_bytes, ring_frames=ring_frames)
        self._sender = Sender(length_bytes=length_bytes, block_bytes=BLOCK_BYTES)
        self._bytes = bytes(BLOCK_BYTES)
        self._length = length_bytes
        self._began_s = timeline.now_s
        self.took_s = 0.0
        self._timer_s = float("inf")
        timeline.at(timeline.now_s, self._ask)

    @property
    def complete(self) -> bool:
        return self.receiver.complete

    @property
    def waste(self) -> float:
        """Blocks sent per block delivered."""
        return self._sender.blocks_sent / self.receiver.stats.blocks_received

    def _ask(self, now_s: float) -> None:
        if self.receiver.complete:
            self.took_s = self.took_s or now_s - self._began_s
            return
        for request in self.receiver.requests(now_s):
            size = UDP_IP_BYTES + HEADER_BYTES + len(request.encode_body())
            self._back.send(size, self._sending.receives(partial(self._serve, request)))
        self._set_timer()

    def _set_timer(self) -> None:
        due_s = self.receiver.timer()
        if due_s is not None and due_s < self._timer_s:
            self._timer_s = due_s
            self._timeline.at(due_s, self._time_out)

    def _time_out(self, now_s: float) -> None:
        if now_s < self._timer_s:
            return
        self._timer_s = float("inf")
        due_s = self.receiver.timer()
        if due_s is not None and due_s <= now_s:
            self._ask(now_s)
        else:
            self._set_timer()

    def _serve(self, request: m.BlockRequest, _now_s: float) -> None:
        self._sender.request(request)
        while (block := self._sender.next_block()) is not None:
            length = min(BLOCK_BYTES, block.length_bytes)
            self._forth.send(
                BLOCK_HEADERS_BYTES + length,
                self._receiving.receives(partial(self._take, block.request, block.offset_bytes, length)),
            )
        end = self._sender.end_due()
        if end is not None:
            ended = partial(self._end, end, self._sender.blocks_sent)
            self._forth.send(UDP_IP_BYTES + HEADER_BYTES + 12, self._receiving.receives(ended))

    def _take(self, request: int, at: int, length: int, now_s: float) -> None:
        self.receiver.receive_block(request=request, offset_bytes=at, payload=self._bytes[:length], now_s=now_s)
        while self.receiver.is_whole:
            self.receiver.accept()
        self._ask(now_s)

    def _end(self, request: int, sent: int, now_s: float) -> None:
        self.receiver.receive_end(request=request, blocks_sent=sent, now_s=now_s)
        self._ask(now_s)


class TcpFlow:
    """A long TCP download: CUBIC (RFC 9438) with SACK, recovery once a round trip, and a tail probe (RFC 8985).

    Loss is seen by later arrivals, for here nothing is reordered. Acknowledgements are one a packet and never lost.
    """

    SEGMENT_BYTES = 1448
    HEADERS_BYTES = 52
    BETA, C = 0.7, 0.4

    def __init__(self, timeline: Timeline, *, forth: Pipe, back: Pipe) -> None:
        self._timeline = timeline
        self._forth, self._back = forth, back
        self.window = 10.0
        self._threshold = float("inf")
        self._w_max = 0.0
        self._w_reno = 0.0
        self._epoch_s = 0.0
        self._next = 0
        self._recover = 0
        self._flights: OrderedDict[int, float] = OrderedDict()
        self._srtt_s = 0.1
        self._last_ack_s = 0.0
        self.delivered_bytes = 0
        timeline.at(timeline.now_s, self._send)
        timeline.at(timeline.now_s + 0.2, self._probe)

    def _send(self, now_s: float) -> None:
        while len(self._flights) < max(1, int(self.window)):
            number = self._next
            self._next += 1
            self._flights[number] = now_s
            self._forth.send(self.SEGMENT_BYTES + self.HEADERS_BYTES, partial(self._arrived, number))

    def _arrived(self, number: int, _now_s: float) -> None:
        self.delivered_bytes += self.SEGMENT_BYTES
        self._back.send(self.HEADERS_BYTES, partial(self._acknowledged, number))

    def _acknowledged(self, number: int, now_s: float) -> None:
        sent_s = self._flights.pop(number, None)
        self._last_ack_s = now_s
        if sent_s is None:
            return
        rtt_s = now_s - sent_s
        self._srtt_s += (rtt_s - self._srtt_s) / 8
        lost = []
        for n in self._flights:
            if n > number:
                break
            lost.append(n)
        for n in lost:
            del self._flights[n]
        if lost and lost[-1] >= self._recover:
            self._reduce(now_s)
        elif number >= self._recover:
            self._grow(now_s)
        self._send(now_s)

    def _reduce(self, now_s: float) -> None:
        self._recover = self._next
        self._w_max = self.window if self.window > self._w_max else self.window * (1 + self.BETA) / 2
        self.window = self._threshold = self._w_reno = max(self.window * self.BETA, 2.0)
        self._epoch_s = now_s

    def _grow(self, now_s: float) -> None:
        if self.window < self._threshold:
            self.window += 1
            return
        k_s = ((self._w_max - self._threshold) / self.C) ** (1 / 3) if self._w_max > self._threshold else 0.0
        target = self.C * (now_s - self._epoch_s + self._srtt_s - k_s) ** 3 + self._w_max
        alpha = 3 * (1 - self.BETA) / (1 + self.BETA) if self._w_reno < self._w_max else 1.0
        self._w_reno += alpha / self.window
        target = max(min(target, 1.5 * self.window), self._w_reno)
        if target > self.window:
            self.window += (target - self.window) / self.window if target != self._w_reno else target - self.window

    def _probe(self, now_s: float) -> None:
        """Nothing was acknowledged for two round trips: the tail was lost."""
        if self._flights and now_s - self._last_ack_s > max(2 * self._srtt_s, 0.002):
            self._flights.clear()
            self._reduce(now_s)
            self._send(now_s)
        self._timeline.at(now_s + max(self._srtt_s, 0.002), self._probe)
