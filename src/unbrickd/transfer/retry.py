# SPDX-License-Identifier: Apache-2.0
"""When to repeat a request that is not answered (spec/protocol.md §6). Time comes in as an argument."""

from __future__ import annotations

PROBE_WAIT_S = 0.05
"""For the answer of whoever is there."""
FIRST_WAIT_S = 0.1
"""For that of a server whose round trip is not known."""
SHORTEST_WAIT_S = 0.02
"""As for blocks (rtt.MIN_TIMEOUT_S): it leaves room for a busy PC's scheduler."""
LONGEST_WAIT_S = 2.0
TRIES = 11


def wait_after(rtt_s: float) -> float:
    """The first wait for the answer of a server that took so long for a Probe: RFC 6298 §2.2, with bounds."""
    return min(max(3 * rtt_s, SHORTEST_WAIT_S), LONGEST_WAIT_S)


class Repeater:
    """A request sent at once, then after `first_wait_s`, doubling to 2 s, `tries` times in all; None: for ever.

    `jitter` (0 to 1, from a random source) moves each wait by up to ± 20 %, so that a street does not ask in step.
    """

    def __init__(self, *, now_s: float, tries: int | None = TRIES, first_wait_s: float = FIRST_WAIT_S) -> None:
        self._left = tries
        self._wait_s = first_wait_s
        self._due_s = now_s

    @property
    def due_s(self) -> float:
        """When it is to be sent again or, after the last try, counts as unanswered."""
        return self._due_s

    def due(self, now_s: float) -> bool:
        return now_s >= self._due_s and not self.exhausted(now_s)

    def exhausted(self, now_s: float) -> bool:
        """All tries were sent and the last one's wait is over."""
        return self._left == 0 and now_s >= self._due_s

    def sent(self, now_s: float, *, jitter: float = 0.5) -> None:
        self._due_s = now_s + self._wait_s * (0.8 + 0.4 * jitter)
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        if self._left is not None:
            self._left -= 1

    def hurry(self, at_s: float) -> None:
        """Send the next try at that time, if there is one and that is sooner."""
        if self._left != 0:
            self._due_s = min(self._due_s, at_s)
