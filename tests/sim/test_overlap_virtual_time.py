# SPDX-License-Identifier: Apache-2.0
"""Network and flash at the same time: with datasheet times, a restore takes as long as the slower of the two.

The processor waits for its chip, as a bootloader's does: meanwhile frames wait in the network card's ring, and what
finds no room there is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest

from unbrickd.model.peer import Datagram, Peer
from unbrickd.recovery.light import Light
from unbrickd.sim.device import Layout, Power, SimDevice, image
from unbrickd.sim.household import CONFIG_BYTES
from unbrickd.sim.network import Network
from unbrickd.sim.nor import W25Q128JV, ChipTimes, NorChip
from unbrickd.sim.world import SimServer, World

LAYOUT = Layout(erase_block_bytes=64 << 10, firmware_blocks=32)
AT_ONCE = ChipTimes(source="", page_bytes=256, page_program_s=0.0, erase_s=((1, 0.0),), read_bytes_per_s=float("inf"))


class WaitingDevice:
    """A device as an endpoint that does nothing else while its chip is busy. dropped: frames that found no room."""

    def __init__(self, device: SimDevice) -> None:
        self.name = device.name
        self.ready_s = 0.0
        self.dropped = 0
        self._device = device
        self._ring: deque[tuple[Peer, bytes]] = deque()
        self._unsent: list[Datagram] = []

    def receive(self, peer: Peer, octets: bytes, now_s: float) -> None:
        if len(self._ring) < self._device.ring_frames:
            self._ring.append((peer, octets))
        else:
            self.dropped += 1

    def outgoing(self, now_s: float) -> list[Datagram]:
        if now_s < self.ready_s:
            return []
        was_busy_s = self._device.chip.busy_s
        due, self._unsent = self._unsent, []
        while self._ring:
            self._device.receive(*self._ring.popleft(), now_s)
        self._unsent = self._device.outgoing(now_s)
        self.ready_s = now_s + self._device.chip.busy_s - was_busy_s
        if self.ready_s == now_s:
            due, self._unsent = due + self._unsent, []
        return due

    def timer(self) -> float | None:
        due_s = self._device.timer()
        if self._ring or self._unsent:
            due_s = self.ready_s
        return None if due_s is None else max(due_s, self.ready_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """A restore from the offer to the boot: seconds in all, seconds of them that the chip was busy, frames dropped."""

    all_s: float
    flash_s: float
    dropped: int


def restored(times: ChipTimes, *, mbit: float, rtt_ms: float, loss: float, ring_frames: int) -> Took:
    """A router whose whole firmware was lost, healed by a PC that holds it."""
    chip = NorChip(LAYOUT.geometry, protected=[(0, 2 * LAYOUT.erase_block_bytes)], times=times)
    router = SimDevice("router", layout=LAYOUT, chip=chip, ring_frames=ring_frames)
    firmware = image(1, LAYOUT.range_of("firmware")[1])
    router.provision(firmware, image(2, CONFIG_BYTES))
    pc = SimServer("pc")
    router.switch_on(0.0)
    World(Network(seed=1), router, pc).run_until(lambda: bool(pc.generations(router.device_id)))
    router.switch_off()
    router.damage("firmware", *range(LAYOUT.firmware_blocks))

    rate = mbit * 1e6 / 8
    network = Network(seed=1, loss=loss, delay_s=rtt_ms / 2e3, rate_bytes_per_s=rate, queue_bytes=128 << 10)
    waiting = WaitingDevice(router)
    world = World(network, waiting, pc)
    router.switch_on(0.0)
    world.run_until(lambda: router.bootloader is not None and router.bootloader.light is Light.RESTORING)
    began_s, was_busy_s = world.now_s, chip.busy_s
    world.run_until(lambda: router.power is Power.RUNNING)
    assert router.contents("firmware") == firmware
    return Took(
        all_s=waiting.ready_s - began_s,
        flash_s=chip.busy_s - was_busy_s,
        dropped=waiting.dropped,
    )


@pytest.mark.parametrize(
    ("mbit", "rtt_ms", "loss", "ring_frames"),
    [
        (1000, 0.5, 0.0, 16),
        (100, 1, 0.0, 4),
        (100, 5, 0.05, 4),
        (100, 5, 0.05, 16),
        (20, 30, 0.02, 16),
        (4, 1, 0.0, 16),
    ],
)
def test_restore_takes_as_long_as_the_slower_of_network_and_flash(
    mbit: float, rtt_ms: float, loss: float, ring_frames: int
) -> None:
    link = {"mbit": mbit, "rtt_ms": rtt_ms, "loss": loss}
    network = restored(AT_ONCE, **link, ring_frames=ring_frames)
    both = restored(W25Q128JV, **link, ring_frames=ring_frames)
    print(f"{link}, ring of {ring_frames}: network {network.all_s:.2f} s, flash {both.flash_s:.2f} s, both {both}")
    assert both.all_s <= 1.05 * max(network.all_s, both.flash_s)
    assert both.dropped == 0
