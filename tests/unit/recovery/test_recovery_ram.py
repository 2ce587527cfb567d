# SPDX-License-Identifier: Apache-2.0
"""Recovery keeps at most one erase block and 32 KiB beyond the manifest: declared as a sum, and held to."""

from __future__ import annotations

import pytest

from unbrickd.recovery.fetch import (
    AHEAD_BYTES,
    BLOCK_STATE_BYTES,
    FLIGHT_BYTES,
    MAX_WINDOW_BLOCKS,
    MISC_RAM_BYTES,
    SHORTEST_BLOCK_BYTES,
    worst_ram_bytes,
)
from unbrickd.sim.device import Layout, Power, SimDevice, image
from unbrickd.sim.network import Network
from unbrickd.sim.world import SimServer, World
from unbrickd.wire.framing import ETHERNET_MESSAGE_BYTES, MIN_MAX_MESSAGE_BYTES

KIB = 1024


@pytest.mark.parametrize("erase_block_bytes", [4 * KIB, 64 * KIB, 128 * KIB, 256 * KIB])
@pytest.mark.parametrize("max_message_bytes", [MIN_MAX_MESSAGE_BYTES, ETHERNET_MESSAGE_BYTES])
def test_recovery_ram_in_the_worst_case_is_one_erase_block_and_32_kib(
    erase_block_bytes: int, max_message_bytes: int
) -> None:
    worst = worst_ram_bytes(erase_block_bytes=erase_block_bytes, max_message_bytes=max_message_bytes)
    parts = (
        erase_block_bytes + AHEAD_BYTES,
        (erase_block_bytes + AHEAD_BYTES) // SHORTEST_BLOCK_BYTES * BLOCK_STATE_BYTES,
        MAX_WINDOW_BLOCKS * FLIGHT_BYTES,
        2 * max_message_bytes,
        MISC_RAM_BYTES,
    )
    assert worst == sum(parts)
    assert worst <= erase_block_bytes + 32 * KIB


@pytest.mark.parametrize("max_message_bytes", [MIN_MAX_MESSAGE_BYTES, ETHERNET_MESSAGE_BYTES])
def test_recovery_ram_of_a_whole_restore_stays_within_what_is_declared(max_message_bytes: int) -> None:
    layout = Layout(erase_block_bytes=64 * KIB, firmware_blocks=4)
    router = SimDevice("router", layout=layout, max_message_bytes=max_message_bytes)
    firmware = image(1, 4 * 64 * KIB - 5)
    router.provision(firmware, image(2, 100_000))
    pc = SimServer("pc")
    world = World(Network(seed=1, loss=0.1), router, pc)
    router.switch_on(0.0)
    world.run_until(lambda: pc.generations(router.device_id) == [1] and router.memory.acknowledged_good)
    router.switch_off()
    for part, blocks in (("record", 2), ("config", 2), ("firmware", 4)):
        router.damage(part, *range(blocks))
    router.switch_on(world.now_s)
    bootloader = router.bootloader
    assert bootloader is not None
    world.run_until(lambda: router.power is Power.RUNNING)
    assert router.contents("firmware")[: len(firmware)] == firmware
    worst = worst_ram_bytes(erase_block_bytes=64 * KIB, max_message_bytes=max_message_bytes)
    assert 64 * KIB < bootloader.peak_ram_bytes <= worst <= (64 + 32) * KIB
