# SPDX-License-Identifier: Apache-2.0
"""How many blocks may be outstanding, by rounds that are told block by block."""

from __future__ import annotations

from unbrickd.transfer.window import Window

BASE_S = 0.001
BLOCKS_PER_S = 84_000.0
"""Of 1400 bytes at 1 Gbit/s."""


class Rounds:
    """A window, and the place that comes next."""

    def __init__(self) -> None:
        self.window = Window(max_blocks=512)
        self._place = 0

    def pass_one(self, *, outstanding: int, rtt_s: float) -> None:
        """A window of blocks, each requested with so many outstanding; 0: the window did not bound them."""
        for _ in range(self.window.blocks):
            self.deliver(outstanding=outstanding, rtt_s=rtt_s)

    def deliver(self, *, outstanding: int, rtt_s: float) -> None:
        self.window.on_delivered(
            place=self._place,
            next_place=self._place + self.window.blocks,
            rtt_s=rtt_s,
            outstanding=outstanding,
            limited=outstanding > 0,
        )
        self._place += 1


def test_window_after_rounds_it_did_not_bound_is_not_judged_by_the_first_blocks_of_a_burst() -> None:
    rounds = Rounds()
    while rounds.window.blocks < 300:
        rounds.pass_one(outstanding=rounds.window.blocks, rtt_s=max(BASE_S, rounds.window.blocks / BLOCKS_PER_S))
    for _ in range(3):  # the buffer is full, as a block is missing at its head
        rounds.pass_one(outstanding=0, rtt_s=0.005)
    for _ in range(30):  # there is room again: all of the window is asked for at once, and its first blocks come
        rounds.deliver(outstanding=20, rtt_s=0.005)
    assert rounds.window.blocks >= 300
