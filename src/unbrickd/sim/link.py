# SPDX-License-Identifier: Apache-2.0
"""A link in virtual time, to the packet: rate, propagation, a short queue, random loss, a slow receiving card.

The same stages as bench/linkemu.c has, but here nothing is late and nothing else runs, so what a transfer gets out of
the link is the transfer's own doing. Knows sizes, not bytes: who sends says what is to be called on arrival.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

ETHERNET_BYTES = 38
"""Preamble 8, header 14, FCS 4, gap 12 (IEEE 802.3): what each IP packet costs the link besides itself."""

Arrival = Callable[[float], None]


class Timeline:
    """What happens when; the only clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Arrival]] = []
        self._number = 0

    def at(self, due_s: float, what: Arrival) -> None:
        """Call it then, with the time; things due at one instant come in the order they were asked for."""
        self._number += 1
        heapq.heappush(self._due, (due_s, self._number, what))

    def run(self, until: Callable[[], bool], *, limit_s: float) -> None:
        """Raises TimeoutError if it is not so by limit_s, or nothing is due any more."""
        while not until():
            if not self._due or self._due[0][0] > limit_s:
                raise TimeoutError(f"not done at {self.now_s:.3f} s")
            self.now_s, _, what = heapq.heappop(self._due)
            what(self.now_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """rate_mbit, rtt_ms: of the link when empty. loss: probability, each direction. queue_bytes: before it, each way.

    ring_frames, service_us: the card of the receiving host holds so many packets and takes so long for each; 0: it
    keeps up.
    """

    rate_mbit: float
    rtt_ms: float
    loss: float = 0.0
    queue_bytes: int = 128 << 10
    ring_frames: int = 0
    service_us: float = 0.0


class Pipe:
    """One direction of a link, first in, first out. dropped: packets that found no room; lost: by chance."""

    def __init__(self, timeline: Timeline, link: Link, *, seed: int, has_card: bool = False) -> None:
        self._timeline = timeline
        self._s_per_byte = 8e-6 / link.rate_mbit
        self._queue_s = link.queue_bytes * self._s_per_byte
        self._loss = link.loss
        self._random = random.Random(seed)
        self._propagation_s = link.rtt_ms / 2e3
        self._free_s = 0.0
        self._ring = link.ring_frames if has_card else 0
        self._service_s = link.service_us / 1e6
        self._serviced_s: deque[float] = deque()
        self.dropped = self.lost = self.delivered = 0

    def send(self, ip_bytes: int, arrived: Arrival) -> None:
        now_s = self._timeline.now_s
        takes_s = (ip_bytes + ETHERNET_BYTES) * self._s_per_byte
        begins_s = max(now_s, self._free_s)
        if begins_s - now_s + takes_s > self._queue_s:
            self.dropped += 1
            return
        self._free_s = begins_s + takes_s
        if self._random.random() < self._loss:
            self.lost += 1
            return
        arrives_s = self._free_s + self._propagation_s
        if self._ring:
            while self._serviced_s and self._serviced_s[0] <= arrives_s:
                self._serviced_s.popleft()
            if len(self._serviced_s) >= self._ring:
                self.dropped += 1
                return
            arrives_s = max(arrives_s, self._serviced_s[-1] if self._serviced_s else 0.0) + self._service_s
            self._serviced_s.append(arrives_s)
        self.delivered += 1
        self._timeline.at(arrives_s, arrived)


class Host:
    """Runs what arrives at once or, if busy with other things, up to jitter_s later, with all that came by then."""

    def __init__(self, timeline: Timeline, *, jitter_s: float = 0.0, seed: int = 0) -> None:
        self._timeline = timeline
        self._jitter_s = jitter_s
        self._random = random.Random(seed)
        self._waiting: list[Arrival] = []

    def receives(self, what: Arrival) -> Arrival:
        """What to hand to Pipe.send for a packet that this host takes so."""
        if not self._jitter_s:
            return what

        def wait(now_s: float) -> None:
            self._waiting.append(what)
            if len(self._waiting) == 1:
                self._timeline.at(now_s + self._random.uniform(0, self._jitter_s), self._wake)

        return wait

    def _wake(self, now_s: float) -> None:
        waiting, self._waiting = self._waiting, []
        for what in waiting:
            what(now_s)
