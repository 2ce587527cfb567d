# SPDX-License-Identifier: Apache-2.0
"""The links of the benchmark: what counts as their limit, and that the emulator does what it is told.

What is counted here does not depend on how fast the machine is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bench.links import Hosts, Link, netem_commands, opened, why_not

emulated = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
PACKETS = 400
FLOOD = f"""
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    for _ in range({PACKETS}):
        out.sendto(bytes(1000), (sys.argv[1], 9))
"""


def flooded(link: Link, folder: Path, *, seed: int = 1) -> dict[str, int]:
    """What the emulator counted towards the device, of packets sent as fast as can be and what IPv6 says by itself."""
    with opened(link, seed=seed, folder=folder) as hosts:
        subprocess.run(hosts.pc.command(sys.executable, "-c", FLOOD, hosts.device.address), check=True)
        _wait_for(hosts)
    return hosts.counters["to_device"]


def _wait_for(hosts: Hosts) -> None:
    """Until the emulator has read them all."""
    while hosts.pc.sent()[0] < PACKETS:
        pass


def test_link_limit_of_100_mbit_counts_headers_and_framing() -> None:
    assert Link(rate_mbit=100).limit_bytes_per_s == pytest.approx(12.5e6 * 1400 / (1400 + 52 + 38))


def test_link_limit_with_loss_is_what_arrives() -> None:
    assert Link(rate_mbit=100, loss=0.1).limit_bytes_per_s == pytest.approx(0.9 * Link(rate_mbit=100).limit_bytes_per_s)


def test_link_limit_of_a_slow_card_is_its_drain_rate() -> None:
    link = Link(rate_mbit=1000, ring_frames=8, service_us=30)
    assert link.limit_bytes_per_s == pytest.approx(1400 / 30e-6)


def test_netem_commands_split_rate_and_queue_from_delay_and_loss() -> None:
    link = Link(rate_mbit=100, rtt_ms=5, loss=0.01, queue_bytes=12288)
    shape, delay = netem_commands(link, sender="a", middle="m", to_sender="x", to_receiver="y")
    assert shape[:8] == ["tc", "-netns", "a", "qdisc", "replace", "dev", "x", "stab"]
    assert shape[-6:] == ["rate", "100mbit", "burst", "12500b", "limit", "12288b"]
    assert delay[:7] == ["tc", "-netns", "m", "qdisc", "replace", "dev", "y"]
    assert delay[-5:] == ["delay", "2500us", "0us", "loss", "1%"]


@pytest.mark.slow
@emulated
def test_emulator_without_limits_delivers_everything(tmp_path: Path) -> None:
    counted = flooded(Link(rate_mbit=1000, rtt_ms=0.5, queue_bytes=1 << 20), tmp_path)
    assert counted["delivered"] >= PACKETS
    assert counted["lost"] == counted["queue_drops"] == counted["ring_drops"] == counted["overflows"] == 0


@pytest.mark.slow
@emulated
def test_emulator_with_loss_loses_about_that_part(tmp_path: Path) -> None:
    counted = flooded(Link(rate_mbit=1000, queue_bytes=1 << 20, loss=0.25), tmp_path)
    assert counted["lost"] == pytest.approx(0.25 * PACKETS, rel=0.3)
    assert counted["queue_drops"] == counted["ring_drops"] == 0


@pytest.mark.slow
@emulated
def test_emulator_with_a_short_queue_drops_its_tail(tmp_path: Path) -> None:
    """At 0.1 Mbit/s each packet takes 85 ms, so next to nothing leaves the queue of 12 while they come."""
    counted = flooded(Link(rate_mbit=0.1, rtt_ms=0.5, queue_bytes=12 * 1066), tmp_path)
    assert PACKETS - 40 <= counted["queue_drops"] <= PACKETS - 10
    assert counted["lost"] == 0


@pytest.mark.slow
@emulated
def test_emulator_with_a_slow_card_drops_what_its_ring_does_not_hold(tmp_path: Path) -> None:
    link = Link(rate_mbit=1000, queue_bytes=1 << 20, ring_frames=8, service_us=100_000)
    counted = flooded(link, tmp_path)
    assert PACKETS - 40 <= counted["ring_drops"] <= PACKETS - 7
    assert counted["queue_drops"] == counted["lost"] == 0
