# SPDX-License-Identifier: Apache-2.0
"""A datagram network in virtual time: it loses, repeats, reorders, corrupts, delays and queues, the same for a seed.

Knows no messages and no clock: the time comes in, deliveries come out. Each direction between two endpoints is a link
of its own, with a first-in first-out queue in front of it. Faults it stands for: ARCHITECTURE.md, network.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass

MAX_FLIPPED_BITS = 3
"""CRC-32 catches any three flipped bits in messages of up to 11 450 bytes (Hamming distance 4 to 91 607 bits)."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Delivery:
    """A datagram that arrives at `at_s`. `number` orders those of one instant."""

    at_s: float
    number: int
    source: str
    destination: str
    octets: bytes


class Network:
    """Links of one character between endpoints known by name.

    loss, duplicate, reorder, corrupt: probability per datagram, 0 to 1. A datagram takes delay_s and up to jitter_s
    more, in order; a reordered one takes up to twice as long and is overtaken. rate_bytes_per_s: of each link, None:
    without limit; queue_bytes: what may wait in front of it, None: any amount; what does not fit is dropped.
    """

    def __init__(
        self,
        *,
        seed: int,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        corrupt: float = 0.0,
        delay_s: float = 0.001,
        jitter_s: float = 0.0,
        rate_bytes_per_s: float | None = None,
        queue_bytes: int | None = None,
    ) -> None:
        self._random = random.Random(seed)
        self._loss = loss
        self._duplicate = duplicate
        self._reorder = reorder
        self._corrupt = corrupt
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._rate = rate_bytes_per_s
        self._queue_bytes = queue_bytes
        self._deliveries: list[Delivery] = []
        self._number = 0
        self._busy_until_s: dict[tuple[str, str], float] = {}
        self._last_at_s: dict[tuple[str, str], float] = {}
        self._black_outs: list[tuple[float, float]] = []
        self.counts: Counter[str] = Counter()
        """Datagrams by fate: sent, delivered, lost, overflowed, duplicated, reordered, corrupted."""

    def black_out(self, *, from_s: float, until_s: float) -> None:
        """What is sent in this time is lost, on every link."""
        self._black_outs.append((from_s, until_s))

    def send(self, source: str, destination: str, octets: bytes, now_s: float) -> None:
        """Put a datagram on the link from source to destination."""
        self.counts["sent"] += 1
        link = (source, destination)
        start_s = now_s
        if self._rate is not None:
            start_s = max(now_s, self._busy_until_s.get(link, 0.0))
            if self._queue_bytes is not None and (start_s - now_s) * self._rate + len(octets) > self._queue_bytes:
                self.counts["overflowed"] += 1
                return
            start_s += len(octets) / self._rate
            self._busy_until_s[link] = start_s
        dark = any(begin <= now_s < end for begin, end in self._black_outs)
        if self._random.random() < self._loss or dark:
            self.counts["lost"] += 1
            return
        self._carry(link, octets, start_s)
        if self._random.random() < self._duplicate:
            self.counts["duplicated"] += 1
            self._carry(link, octets, start_s)

    def next_delivery(self) -> float | None:
        """When the next datagram arrives; None if none is under way."""
        return self._deliveries[0].at_s if self._deliveries else None

    def deliver(self, now_s: float) -> list[Delivery]:
        """What has arrived by now, in order of arrival."""
        arrived: list[Delivery] = []
        while self._deliveries and self._deliveries[0].at_s <= now_s:
            arrived.append(heapq.heappop(self._deliveries))
        self.counts["delivered"] += len(arrived)
        return arrived

    def _carry(self, link: tuple[str, str], octets: bytes, start_s: float) -> None:
        journey_s = self._delay_s + self._random.uniform(0, self._jitter_s)
        if self._random.random() < self._reorder:
            self.counts["reordered"] += 1
            at_s = start_s + journey_s * self._random.uniform(1, 2)
        else:
            at_s = max(start_s + journey_s, self._last_at_s.get(link, 0.0))
            self._last_at_s[link] = at_s
        if self._random.random() < self._corrupt:
            self.counts["corrupted"] += 1
            octets = self._flip(octets)
        self._number += 1
        source, destination = link
        delivery = Delivery(at_s=at_s, number=self._number, source=source, destination=destination, octets=octets)
        heapq.heappush(self._deliveries, delivery)

    def _flip(self, octets: bytes) -> bytes:
        spoilt = bytearray(octets)
        for bit in self._random.sample(range(len(octets) * 8), min(MAX_FLIPPED_BITS, len(octets) * 8)):
            spoilt[bit // 8] ^= 1 << bit % 8
        return bytes(spoilt)
