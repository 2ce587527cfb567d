# SPDX-License-Identifier: Apache-2.0
"""The C core's ring where a block of a transfer lies across its end: erase blocks that do not divide the ring."""

from __future__ import annotations

import pytest
from unbrickd_c import CBootloader

from unbrickd.recovery import events
from unbrickd.sim.device import Layout, Power, SimDevice, image
from unbrickd.sim.network import Network
from unbrickd.sim.world import SimServer, World

ERASE_BLOCK_BYTES = 64 << 10


def test_c_ring_block_across_its_end_leaves_the_memory_behind_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 KiB in a ring of 80: behind the ring lie the map of damage and the document with its digests."""
    monkeypatch.setattr("unbrickd.sim.device.Bootloader", CBootloader)
    router = SimDevice("router", layout=Layout(erase_block_bytes=ERASE_BLOCK_BYTES, firmware_blocks=4))
    firmware = image(1, 4 * ERASE_BLOCK_BYTES - 5)
    router.provision(firmware, image(2, 100_000))
    pc = SimServer("pc")
    world = World(Network(seed=1), router, pc)
    router.switch_on(0.0)
    world.run_until(lambda: pc.generations(router.device_id) == [1] and router.memory.acknowledged_good)
    router.switch_off()
    router.damage("firmware", *range(4))
    router.switch_on(world.now_s)
    world.run_until(lambda: router.power is Power.RUNNING, limit_s=30.0)
    assert router.events(events.ServerGivenUp) == []
    assert router.contents("firmware")[: len(firmware)] == firmware
