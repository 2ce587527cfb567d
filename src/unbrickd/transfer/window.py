# SPDX-License-Identifier: Apache-2.0
"""How many blocks may be outstanding: as many as the path takes without a queue that others would have to wait in.

Delay bounds it: the window is what keeps the round trip at most SLACK_S over its shortest (TCP Vegas, Brakmo 1995;
FAST TCP, Wei 2006), and half of the receiving card's ring free, where that is known. So does loss, for queues too short
to show as delay. But a Wi-Fi link loses at random, and then a smaller window only costs speed. So loss that rises is
put to the test: for a while the window is less than half. If the loss goes away, it was an overflowing queue, and the
window stays at what fitted through; if it stays, it is the path's usual loss, and the window is what it was.

It also says how many to ask for at once: of the window, what waits in a queue anyway.

Knows no clock and no blocks, only how many. Spec: spec/protocol.md §4.10 leaves all of it to the receiver.
What the figures give on the links of the goals: tests/sim/test_transfer_over_links.py.
"""

from __future__ import annotations

INITIAL_BLOCKS = 10
"""RFC 6928."""
MIN_BLOCKS = 4
"""Enough for losses to show by later arrivals."""
SLACK_S = 0.008
SLACK_BLOCKS = 48
"""Queueing that is never held against the path: scheduling and interrupts of both ends, and 67 KB, which harm no path
however slow; besides, a delay may be the sender's, who serves a street."""
LEFT_S = 0.0025
"""Of it ends the doubling, and is left while what waits behind it is asked for at once."""
LEAST_PART = 8
MOST_PART = 5 / 8
"""A request asks for an eighth to five eighths of what may be outstanding: for no less, as each costs a busy server as
much as many blocks; for no more, so that the loss of one leaves others whose blocks show it; nor for more than
SLACK_BLOCKS, as a burst may find a short queue."""
SMALL_BLOCKS = 32
"""A ring that no queue between is shorter than: what is lost on the way to a larger one may be its doing."""
LOSSY = 0.005
"""From this loss on a request is so likely to be lost that it is sent twice: the loss of one costs a round trip and all
of its blocks; it is a few bytes for each of them, and the sender serves it once (spec/protocol.md §4.10)."""
EXCESS_LOSS = 1 / 64
EXCESS_PART = 0.25
START_EXCESS_LOSS = 0.25
"""Loss over the usual, and over this part of it more, that adds up to an alarm (a CUSUM test, Page 1954). While the
window doubles, an overflow loses half of a round at once, and less is left to the delay to find."""
ALARM_BLOCKS = 1
ALARM_PART = 8
"""The alarm: so many more were lost than that, and this part of the window, so that a large one, which random loss is
to leave alone, waits longer. Twice that while the window doubles."""
EARLY_BLOCKS = 16
"""While the window doubles, no alarm comes of so few: one lost request is half of them. If they do overflow a queue,
twice as many will tell."""
RUN_BLOCKS = 4
"""Losses so close to each other, or within an eighth of the window, count as one: a lost request loses many blocks."""
TRIAL_BLOCKS = 128
TRIAL_LOSSES = 8
"""A trial lasts until so many losses are to be expected if they are random, or for so many blocks at most."""
STAYING_PART = 0.25
"""The loss stays if this part of those to be expected comes."""
LOSS_MEMORY_BLOCKS = 256
"""Blocks that `loss` is averaged over."""
USUAL_MEMORY_BLOCKS = 4096
"""The usual loss is forgotten so slowly: the path may get better."""
SHRINK = 0.6
"""After an overflow: this part of what fitted through. TCP's is 0.7 (RFC 9438 §4.6), and it waits for timers too."""
GROWTH_PART = 16
"""The window grows by this part of itself in a round at most: what it does shows two rounds later."""
CALM_ROUNDS = 128
"""Since the last overflow, until the window grows by one block a round; as CUBIC, slowly near where it overflowed."""
CALM_FOR_EVER = 2 * CALM_ROUNDS
"""Before the first: what ended the doubling was delay, which may have been a busy host's."""
GRACE_WINDOWS = 2
"""After a trial, until losses count again."""


class Window:
    """Size in blocks, up to `max_blocks`. A round is one window's worth of blocks.

    ring_blocks: what the receiving card takes at once, 0 if no matter. So many may always be outstanding; more, as far
    as they are under way and not in the ring. A place is a block's number in the order of request.
    """

    def __init__(self, *, max_blocks: int, ring_blocks: int = 0) -> None:
        assert max_blocks >= 1
        self._max = max_blocks
        self._ring = ring_blocks if ring_blocks < max_blocks else 0
        self._least = min(MIN_BLOCKS, self._ring or max_blocks)
        self._size = float(min(INITIAL_BLOCKS, self._ring or max_blocks))
        self._starting = not self._ring
        """It doubles each round, as nothing is known yet."""
        self.loss = 0.0
        """Part of the blocks lost lately, 0 to 1."""
        self._next_place = 0
        self._timeouts = 0
        # Of the round, and of the one before it.
        self._round_ends_at = 0
        self._shortest_s = self._last_s = float("inf")
        self._rate = self._last_rate = 0.0
        self._limited = False
        # Of the delay. _left: blocks, those that no queue holds, and some.
        self._base_s = float("inf")
        self._left = 0.0
        self._calm_rounds = CALM_FOR_EVER
        # Of the loss. Blocks before _counts_from were asked for with another window.
        self._usual_loss = 0.0
        self._counts_from = 0
        self._excess = 0.0
        self._counted = self._lost = 0
        self._run_ends_at = 0.0
        # Of the trial: blocks to come, and what was before it.
        self._trial_left = 0
        self._before = 0.0
        self._before_loss = 0.0

    @property
    def blocks(self) -> int:
        return int(self._size)

    @property
    def is_lossy(self) -> bool:
        """Whether requests had better be sent twice."""
        return self.loss > LOSSY

    def batch(self, room_blocks: int) -> int:
        """How many blocks to ask for at once, if the device has room for so many in all.

        Where the device bounds what comes, no queue waits; on a LAN half of what it takes, as nothing runs dry there.
        """
        blocks = min(self.blocks, room_blocks)
        if blocks == self._max:
            is_near = self._base_s < LEFT_S and (blocks <= SMALL_BLOCKS or not self.is_lossy)
            return -(-blocks // (2 if is_near else LEAST_PART))
        left = blocks if self._starting else self._left
        return max(-(-blocks // LEAST_PART), int(min(blocks - left, blocks * MOST_PART, SLACK_BLOCKS)))

    def on_delivered(self, *, place: int, next_place: int, rtt_s: float, outstanding: int, limited: bool) -> None:
        """A block arrived. next_place: that of the next one requested.

        outstanding: blocks when it had been requested, with it; 0: the window did not bound them. limited: whether it,
        rather than what is wanted, bounds the requests now; else it does not grow.
        """
        self._timeouts = 0
        self._next_place = next_place
        self._limited = self._limited or limited
        self._shortest_s = min(self._shortest_s, rtt_s)
        if outstanding:
            self._rate = max(self._rate, outstanding / max(rtt_s, 1e-6))
        if self._starting and limited and rtt_s < self._base_s + LEFT_S and self._excess < 1 and not self._trial_left:
            self._resize(self._size + 1)
        self._count(place, lost=0)
        if place >= self._round_ends_at:
            self._end_round()
            self._round_ends_at = next_place

    def on_lost(self, place: int) -> None:
        """Later ones arrived, or the sender says it has sent all."""
        self._count(place, lost=1)

    def on_timeout(self, *, next_place: int) -> None:
        """Nothing came. Once is bad luck, or a server that serves a street, unless a queue overflowed of late; twice in
        a row is another path, to be learnt from the start."""
        self._timeouts += 1
        self._trial_left = 0
        self._forget_losses(from_place=next_place)
        if self._timeouts > 1:
            self._resize(self._least)
            self._starting = not self._ring
            self._base_s = float("inf")
        elif self._calm_rounds < CALM_FOR_EVER:
            self._resize(self._size / 2)

    def _resize(self, size: float) -> None:
        self._size = float(min(max(size, self._least), self._max))

    def _end_round(self) -> None:
        # Of two rounds: a busy server sends one block ahead, which shows the path. The next that is asked for then
        # waits in the server's queue, and a round of such blocks would show nothing else.
        shortest_s, limited = min(self._shortest_s, self._last_s), self._limited
        self._last_s = self._shortest_s
        self._shortest_s, self._limited = float("inf"), False
        # With the least window the queue is our own no more: whatever the round trip is now, it is the path's.
        self._base_s = shortest_s if self._size <= self._least else min(self._base_s, shortest_s)
        # The first of a request had few before it and says too little, none says too much. A round that the window did
        # not bound says nothing, and the next may begin with few.
        rate = max(self._rate, self._last_rate)
        if self._rate:
            self._last_rate, self._rate = self._rate, 0.0
        room = float("inf")
        if rate:
            room = rate * self._base_s + max(rate * SLACK_S, SLACK_BLOCKS)
            self._left = rate * (self._base_s + LEFT_S)
        if self._ring:
            room = min(room, max(self._ring, rate * self._base_s + self._ring / 2))
        if self._starting and shortest_s < self._base_s + LEFT_S:
            return
        self._starting = False
        if room < self._size:
            self._resize(room)
        elif limited and not self._trial_left:
            self._calm_rounds += 1
            self._resize(min(room, self._size + min((self._calm_rounds / CALM_ROUNDS) ** 3, self._size / GROWTH_PART)))

    def _count(self, place: int, *, lost: int) -> None:
        self.loss += (lost - self.loss) / LOSS_MEMORY_BLOCKS
        if lost and not self._starting:
            if place < self._run_ends_at:
                return
            self._run_ends_at = place + min(RUN_BLOCKS, self._size / 8)
        if place < self._counts_from:
            return
        if not (lost or self._excess or self._trial_left):
            self._usual_loss -= self._usual_loss / USUAL_MEMORY_BLOCKS
            return
        self._counted += 1
        self._lost += lost
        if self._trial_left:
            self._trial_left -= 1
            if not self._trial_left:
                self._end_trial()
            return
        self._usual_loss -= self._usual_loss / USUAL_MEMORY_BLOCKS
        excess_loss = START_EXCESS_LOSS if self._starting else EXCESS_LOSS
        self._excess += lost - self._usual_loss * (1 + EXCESS_PART) - excess_loss
        if self._excess <= 0:
            self._forget_losses(from_place=self._counts_from)
        elif self._excess > (ALARM_BLOCKS + self._size / ALARM_PART) * (1 + self._starting):
            if self._starting and self._size <= EARLY_BLOCKS:
                self._forget_losses(from_place=self._next_place + self.blocks)
            else:
                self._begin_trial()

    def _forget_losses(self, *, from_place: int) -> None:
        self._excess, self._counted, self._lost = 0.0, 0, 0
        self._counts_from = from_place

    def _begin_trial(self) -> None:
        self._before = self._size
        self._before_loss = min(self._lost / self._counted, 0.5)
        self._trial_left = min(TRIAL_BLOCKS, int(TRIAL_LOSSES / self._before_loss))
        self._resize(self._size * (1 - self._before_loss) / 2)
        self._forget_losses(from_place=self._next_place + self.blocks)

    def _end_trial(self) -> None:
        loss = self._lost / self._counted
        self._usual_loss = min(loss, self._before_loss)
        if loss >= self._before_loss * STAYING_PART:
            self._resize(self._before)
        else:
            self._resize(self._before * (1 - self._before_loss) * SHRINK)
            self._starting = False
            self._calm_rounds = 0
        self._forget_losses(from_place=self._next_place + GRACE_WINDOWS * self.blocks)
