# SPDX-License-Identifier: Apache-2.0
"""Who uses a link: a transfer of ours, with the real receiver and sender, and a TCP flow as its neighbour."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from itertools import takewhile

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
    """A long TCP download as Linux does it: CUBIC (RFC 9438) with SACK, once a round trip; every second segment
    acknowledged (RFC 5681 §4.2); a third of the window sent at once (tcp_tso_win_divisor), which a short queue has no
    room for; and 200 ms of silence when a retransmission, or all of a small window, is lost.

    Loss is seen by later arrivals, for here nothing is reordered. Acknowledgements are never lost.
    """

    SEGMENT_BYTES = 1448
    HEADERS_BYTES = 52
    BETA, C = 0.7, 0.4
    BURSTS = 3
    DELAYED_S = 0.04
    MIN_RTO_S = 0.2

    def __init__(self, timeline: Timeline, *, forth: Pipe, back: Pipe, sending: Host | None = None) -> None:
        self._timeline = timeline
        self._forth, self._back = forth, back
        self._sending = sending or Host(timeline)
        self.window = 10.0
        self._threshold = float("inf")
        self._w_max = 0.0
        self._w_reno = 0.0
        self._epoch_s = 0.0
        self._sent = 0
        self._recover = 0
        self._flights: OrderedDict[int, tuple[int, float]] = OrderedDict()
        """By number of transmission: the segment, and when."""
        self._next_segment = 0
        self._lost: list[int] = []
        self._srtt_s, self._variation_s = 0.1, 0.05
        self._armed_s = 0.0
        self._probed = False
        self._expected = 0
        self._early: set[int] = set()
        self._unacknowledged: list[int] = []
        self.delivered_bytes = 0
        timeline.at(timeline.now_s, self._send)

    # The sender

    @property
    def _recovers(self) -> bool:
        return bool(self._flights) and next(iter(self._flights)) < self._recover

    def _send(self, now_s: float) -> None:
        room = max(1, int(self.window)) - len(self._flights)
        if self._flights and not self._recovers and room < int(self.window) // self.BURSTS:
            return
        for _ in range(room):
            self._transmit(now_s)

    def _transmit(self, now_s: float) -> None:
        if self._lost:
            segment = self._lost.pop(0)
        else:
            segment, self._next_segment = self._next_segment, self._next_segment + 1
        self._flights[self._sent] = segment, now_s
        size = self.SEGMENT_BYTES + self.HEADERS_BYTES
        self._forth.send(size, partial(self._arrived, self._sent, segment))
        self._sent += 1
        self._arm(now_s)

    def _acknowledged(self, numbers: list[int], now_s: float) -> None:
        for number in numbers:
            flight = self._flights.pop(number, None)
            if flight is None:
                continue
            rtt_s = now_s - flight[1]
            self._variation_s += (abs(rtt_s - self._srtt_s) - self._variation_s) / 4
            self._srtt_s += (rtt_s - self._srtt_s) / 8
            lost = list(takewhile(number.__gt__, self._flights))
            self._lost += [self._flights.pop(n)[0] for n in lost]
            if lost and lost[-1] >= self._recover:
                self._reduce(now_s)
            elif number >= self._recover:
                self._grow(now_s)
        self._probed = False
        self._arm(now_s)
        self._send(now_s)

    def _arm(self, now_s: float) -> None:
        """Of the probe for a lost tail (RFC 8985 §7.2) or, while it recovers and after that, of the RTO (RFC 6298)."""
        alone_s = self.MIN_RTO_S if len(self._flights) == 1 else 0.002
        wait_s = 2 * self._srtt_s + alone_s
        if self._probed or self._recovers:
            wait_s = self._srtt_s + max(4 * self._variation_s, self.MIN_RTO_S)
        self._armed_s = now_s + wait_s
        self._timeline.at(self._armed_s, self._time_out)

    def _time_out(self, now_s: float) -> None:
        if now_s < self._armed_s or not self._flights:
            return
        if not self._probed and not self._recovers:
            self._probed = True
            self._transmit(now_s)
            return
        self._lost = [segment for segment, _ in self._flights.values()] + self._lost
        self._flights.clear()
        self._reduce(now_s)
        self.window = 1.0
        self._send(now_s)

    def _reduce(self, now_s: float) -> None:
        self._recover = self._sent
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

    # The receiver

    def _arrived(self, number: int, segment: int, now_s: float) -> None:
        if segment >= self._expected and segment not in self._early:
            self._early.add(segment)
            self.delivered_bytes += self.SEGMENT_BYTES
        while self._expected in self._early:
            self._early.remove(self._expected)
            self._expected += 1
        self._unacknowledged.append(number)
        if self._early or len(self._unacknowledged) == 2:
            self._acknowledge()
        else:
            self._timeline.at(now_s + self.DELAYED_S, partial(self._delayed, number))

    def _delayed(self, number: int, _now_s: float) -> None:
        if number in self._unacknowledged:
            self._acknowledge()

    def _acknowledge(self) -> None:
        numbers, self._unacknowledged = self._unacknowledged, []
        self._back.send(self.HEADERS_BYTES, self._sending.receives(partial(self._acknowledged, numbers)))
