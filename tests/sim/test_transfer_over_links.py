# SPDX-License-Identifier: Apache-2.0
"""What receiver, window and sender get out of the links of the goals, in virtual time: goodput and waste.

Goodput is a share of the payload that fits: rate × 1400 / (1400 + 52 of headers + 38 of framing) × (1 − loss).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import pytest

from unbrickd.sim.flow import BLOCK_BYTES, BLOCK_HEADERS_BYTES, TcpFlow, Transfer
from unbrickd.sim.link import ETHERNET_BYTES, Host, Link, Pipe, Timeline

MIB = 1 << 20
SEEDS = (1, 2, 3)
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """Shares of the link's payload limit; waste: blocks sent per block delivered."""

    goodput: float
    waste: float
    tcp: float


def payload_limit(link: Link) -> float:
    """Bytes in a second."""
    limit = link.rate_mbit * 1e6 / 8 * BLOCK_BYTES / (BLOCK_BYTES + BLOCK_HEADERS_BYTES + ETHERNET_BYTES)
    limit *= 1 - link.loss
    return min(limit, BLOCK_BYTES * 1e6 / link.service_us) if link.ring_frames else limit


def transferred(
    link: Link, *, seed: int, size_mib: int = 16, ring: int = 0, jitter_ms: float = 0.0, beside_tcp: bool = False
) -> Got:
    timeline = Timeline()
    forth = Pipe(timeline, link, seed=2 * seed, has_card=True)
    back = Pipe(timeline, link, seed=2 * seed + 1)
    host = Host(timeline, jitter_s=jitter_ms / 1e3, seed=seed)
    length_bytes = size_mib * MIB
    transfer = Transfer(timeline, forth=forth, back=back, length_bytes=length_bytes, ring_frames=ring, receiving=host)
    tcp = TcpFlow(timeline, forth=forth, back=back) if beside_tcp else None
    timeline.run(lambda: transfer.complete, limit_s=LIMIT_S)
    could = transfer.took_s * payload_limit(link)
    beside = tcp.delivered_bytes * BLOCK_BYTES / tcp.SEGMENT_BYTES / could if tcp is not None else 0.0
    got = Got(goodput=length_bytes / could, waste=transfer.waste, tcp=beside)
    print(f"seed {seed}: goodput {got.goodput:.3f}, waste {got.waste:.3f}, TCP beside it {got.tcp:.2f}")
    return got


@pytest.mark.parametrize(
    ("link", "least"),
    [
        pytest.param(Link(rate_mbit=100, rtt_ms=5, loss=0.01), 0.97, id="1%"),
        pytest.param(Link(rate_mbit=100, rtt_ms=5, loss=0.05), 0.95, id="5%"),
        pytest.param(Link(rate_mbit=100, rtt_ms=5, loss=0.10), 0.92, id="10%"),
        pytest.param(Link(rate_mbit=20, rtt_ms=30, loss=0.02), 0.95, id="20 Mbit/s 2%"),
    ],
)
def test_transfer_with_random_loss_keeps_the_link_busy(link: Link, least: float) -> None:
    runs = [transferred(link, seed=seed) for seed in SEEDS]
    assert median(got.goodput for got in runs) >= least
    assert min(got.goodput for got in runs) >= least - 0.05
    assert max(got.waste for got in runs) <= 1.05 / (1 - link.loss) ** 2


@pytest.mark.parametrize("seed", [61, 100])
def test_transfer_that_loses_much_of_its_first_blocks_takes_no_longer(seed: int) -> None:
    got = transferred(Link(rate_mbit=100, rtt_ms=5, loss=0.10), seed=seed, size_mib=6)
    assert got.goodput >= 0.85


@pytest.mark.parametrize(
    ("link", "least", "most_waste"),
    [
        pytest.param(Link(rate_mbit=100, rtt_ms=1), 0.98, 1.01, id="128 KiB"),
        pytest.param(Link(rate_mbit=100, rtt_ms=1, queue_bytes=12 << 10), 0.90, 1.10, id="12 KiB"),
        pytest.param(Link(rate_mbit=100, rtt_ms=1, queue_bytes=30 << 10), 0.90, 1.10, id="30 KiB"),
        pytest.param(Link(rate_mbit=1000, rtt_ms=0.5), 0.95, 1.05, id="1 Gbit/s"),
    ],
)
def test_transfer_without_loss_fills_link_and_not_queue(link: Link, least: float, most_waste: float) -> None:
    got = transferred(link, seed=1)
    assert got.goodput >= least
    assert got.waste <= most_waste


@pytest.mark.parametrize(("ring", "least", "most_waste"), [(8, 0.85, 1.02), (0, 0.85, 1.05)], ids=["told", "not told"])
def test_transfer_to_small_ring_reaches_what_the_card_takes(ring: int, least: float, most_waste: float) -> None:
    link = Link(rate_mbit=1000, rtt_ms=0.5, ring_frames=8, service_us=30)
    got = transferred(link, seed=1, ring=ring)
    assert got.goodput >= least
    assert got.waste <= most_waste


@pytest.mark.parametrize("jitter_ms", [0, 0.2])
@pytest.mark.parametrize("queue_kib", [12, 30])
def test_transfer_beside_tcp_shares_a_short_queue(queue_kib: int, jitter_ms: float) -> None:
    link = Link(rate_mbit=100, rtt_ms=1, queue_bytes=queue_kib << 10)
    got = transferred(link, seed=1, jitter_ms=jitter_ms, beside_tcp=True)
    assert 0.3 <= got.goodput <= 0.7
    assert 0.3 <= got.tcp <= 0.7
    assert got.waste <= 1.05


@pytest.mark.parametrize("jitter_ms", [2, 6])
def test_transfer_with_a_late_scheduler_keeps_the_link_busy(jitter_ms: float) -> None:
    runs = [transferred(Link(rate_mbit=100, rtt_ms=1), seed=seed, jitter_ms=jitter_ms) for seed in SEEDS]
    assert median(got.goodput for got in runs) >= 0.95
    assert max(got.waste for got in runs) <= 1.05
