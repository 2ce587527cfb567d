# SPDX-License-Identifier: Apache-2.0
"""How many blocks may be outstanding: grows while it pays, shrinks when the path's queue fills.

Delay-based, after TCP Vegas (Brakmo 1995), with BBR's way out of slow start. Loss alone does not shrink it: a Wi-Fi
link loses at random, and so may a gateway's switch; loss above what the path always had does, for queues too short to
show as delay. Knows no clock and no blocks, only how many.
Spec: spec/protocol.md §4.10 leaves all of it to the receiver.
"""

from __future__ import annotations

INITIAL_BLOCKS = 10
"""RFC 6928."""
MIN_BLOCKS = 4
"""Enough for losses to show by later arrivals."""
PLATEAU_ROUNDS = 3
GROWTH = 1.25
"""Slow start ends after PLATEAU_ROUNDS rounds whose delivery rate grew by less (BBR, Startup)."""
SLACK_S = 0.004
"""Queueing that is never held against the path: scheduling and interrupts of both ends."""
EXCESS_LOSS = 0.10
"""Loss over the path's usual that counts as an overflowing queue: over three times the deviation of its average."""
LOSS_MEMORY_BLOCKS = 256
"""Blocks that loss is averaged over."""
LEARNING_BLOCKS = 64
"""Before the window can have filled a queue, what is lost of these is the path's usual loss."""
LOSS_CREEP = 0.01 / 256
"""Per block: so slowly does lasting loss become usual."""
BASE_AGE_S = 10.0
"""After this the shortest round trip is measured anew; the route may have changed (BBR's min_rtt window)."""
SHRINK = 0.85


class Window:
    """Size in blocks, from 1 (or MIN_BLOCKS) to `max_blocks`. A round is one window's worth of blocks."""

    def __init__(self, *, max_blocks: int) -> None:
        assert max_blocks >= 1
        self._max = max_blocks
        self._size = float(min(INITIAL_BLOCKS, max_blocks))
        self._slow_start = True
        self._base_s = float("inf")
        self._base_at_s = 0.0
        self._best_rate = 0.0
        self._flat_rounds = 0
        self.loss = 0.0
        """Part of the blocks lost lately, 0 to 1."""
        self._usual_loss = 0.0
        self._seen = 0
        self._round_ends_at = 0
        self._round_started_s: float | None = None
        self._shortest_s = float("inf")
        self._delivered = 0
        self._lost = 0
        self._limited = False
        self._timeouts = 0

    @property
    def blocks(self) -> int:
        return int(self._size)

    def on_delivered(self, *, place: int, next_place: int, rtt_s: float, limited: bool, now_s: float) -> None:
        """A block arrived. place: its number in the order of request; next_place: that of the next one requested.

        limited: whether the window, rather than what is wanted, bounds the requests; else nothing is learnt from it.
        """
        self._timeouts = 0
        self._delivered += 1
        self._limited = self._limited or limited
        self._shortest_s = min(self._shortest_s, rtt_s)
        if self._slow_start and limited:
            self._resize(self._size + 1)
        if place >= self._round_ends_at:
            self._end_round(now_s)
            self._round_ends_at = next_place

    def on_lost(self, count: int) -> None:
        self._lost += count

    def on_timeout(self) -> None:
        """Nothing came. Once is bad luck; twice in a row is another path, to be learnt from the start."""
        self._timeouts += 1
        if self._timeouts == 1:
            self._resize(self._size / 2)
            return
        self._resize(MIN_BLOCKS)
        self._slow_start = True
        self._best_rate, self._flat_rounds = 0.0, 0

    def _resize(self, size: float) -> None:
        self._size = float(min(max(size, MIN_BLOCKS), self._max))

    def _end_round(self, now_s: float) -> None:
        shortest_s, delivered, lost, limited = self._shortest_s, self._delivered, self._lost, self._limited
        started_s, self._round_started_s = self._round_started_s, now_s
        self._shortest_s, self._delivered, self._lost, self._limited = float("inf"), 0, 0, False
        if shortest_s < self._base_s or now_s - self._base_at_s > BASE_AGE_S:
            self._base_s, self._base_at_s = shortest_s, now_s
        self._learn_loss(delivered, lost)
        if not limited or started_s is None:
            return
        inflated = shortest_s > 1.5 * self._base_s + SLACK_S
        overflowing = self.loss > self._usual_loss + EXCESS_LOSS
        if self._slow_start:
            rate = delivered / max(now_s - started_s, 1e-6)
            self._flat_rounds = 0 if rate >= GROWTH * self._best_rate else self._flat_rounds + 1
            self._best_rate = max(self._best_rate, rate)
            if inflated or overflowing or self._flat_rounds >= PLATEAU_ROUNDS:
                self._slow_start = False
                self._resize(self._size / 2)
        elif inflated or overflowing:
            self._resize(self._size * SHRINK)
        elif shortest_s < 1.25 * self._base_s + SLACK_S:
            self._resize(self._size + max(1.0, self._size / 8))

    def _learn_loss(self, delivered: int, lost: int) -> None:
        """`loss`: averaged; `_usual_loss`: what it is at the start, or its floor, which creeps up while it is above."""
        count = delivered + lost
        self._seen += count
        learning = self._seen <= LEARNING_BLOCKS
        self.loss += (lost / count - self.loss) * min(count / min(self._seen, LOSS_MEMORY_BLOCKS), 1.0)
        self._usual_loss = self.loss if learning else min(self._usual_loss + LOSS_CREEP * count, self.loss)
