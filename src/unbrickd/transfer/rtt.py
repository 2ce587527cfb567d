# SPDX-License-Identifier: Apache-2.0
"""The round-trip time and the time to wait before what was requested counts as lost, after RFC 6298.

Knows no clock: samples come in. Spec: spec/protocol.md §6.
"""

from __future__ import annotations

INITIAL_TIMEOUT_S = 0.25
"""Before the first sample, of a path of which nothing is known: longer than the wait for an answer, as blocks wait for
those of other devices."""
MIN_TIMEOUT_S = 0.020
"""A LAN's round trip is below a millisecond; this leaves room for a busy PC's scheduler. RFC 6298 §2.4 says 1 s, for
the Internet."""
MAX_TIMEOUT_S = 2.0
"""Where doubling ends (spec/protocol.md §6)."""


class RttEstimator:
    """Smoothed round-trip time and its variation (RFC 6298 §2), with back-off (§5.5)."""

    def __init__(self, initial_timeout_s: float = INITIAL_TIMEOUT_S) -> None:
        self._initial_timeout_s = initial_timeout_s
        self.srtt_s: float | None = None
        self.variation_s = 0.0
        self._shortest_s = float("inf")
        self._backoff = 0

    def sample(self, rtt_s: float) -> None:
        """A round trip measured on a block whose request is known, so that no sample is ambiguous. Ends back-off."""
        if self.srtt_s is None:
            self.srtt_s, self.variation_s = rtt_s, rtt_s / 2
        else:
            self.variation_s += (abs(self.srtt_s - rtt_s) - self.variation_s) / 4
            self.srtt_s += (rtt_s - self.srtt_s) / 8
        self._shortest_s = min(self._shortest_s, rtt_s)
        self._backoff = 0

    def back_off(self) -> None:
        """Double the timeout until the next sample, but not at once: one silence is often just the last block lost."""
        if self.timeout_s < MAX_TIMEOUT_S:
            self._backoff += 1

    @property
    def timeout_s(self) -> float:
        once = self._initial_timeout_s if self.srtt_s is None else self.srtt_s + 4 * self.variation_s
        return min(max(once, MIN_TIMEOUT_S) * 2.0 ** max(self._backoff - 1, 0), MAX_TIMEOUT_S)

    @property
    def queueing_s(self) -> float:
        """By how much the round trip is longer of late than the shortest: what waits in queues, as far as it shows."""
        return 0.0 if self.srtt_s is None else self.srtt_s - self._shortest_s

    @property
    def reordering_s(self) -> float:
        """How much later than its successors a block may arrive and still be on its way."""
        return min(max(2 * self.variation_s, MIN_TIMEOUT_S / 4), MAX_TIMEOUT_S / 4)
