# SPDX-License-Identifier: Apache-2.0
"""How much moves: to heal a few erase blocks those, to back up a change what changed and the manifest (issue 4 A)."""

from __future__ import annotations

from unbrickd.agent.agent import BackupEnded
from unbrickd.sim.device import Layout, Power, SimDevice, image
from unbrickd.sim.network import Network
from unbrickd.sim.world import SimServer, World

ERASE_BLOCK_BYTES = 64 << 10
FIRMWARE_BLOCKS = 256
CONFIG_BLOCKS = 8


class Home:
    """A router of 16 MiB that is backed up and switched off, and the PC that holds it."""

    def __init__(self) -> None:
        layout = Layout(
            erase_block_bytes=ERASE_BLOCK_BYTES, firmware_blocks=FIRMWARE_BLOCKS, config_blocks=CONFIG_BLOCKS
        )
        self.router = SimDevice("router", layout=layout)
        self.firmware = image(1, FIRMWARE_BLOCKS * ERASE_BLOCK_BYTES)
        self.config = image(2, CONFIG_BLOCKS * ERASE_BLOCK_BYTES)
        self.router.provision(self.firmware, self.config)
        self.pc = SimServer("pc")
        self.world = World(Network(seed=1), self.router, self.pc)
        self.boot()
        self.world.run_until(lambda: self.held == [1] and bool(self.router.events(BackupEnded)))

    @property
    def held(self) -> list[int]:
        return self.pc.generations(self.router.device_id)

    @property
    def document_bytes(self) -> int:
        return len(self.router.software.loaded().record.sealed.document)

    def boot(self) -> None:
        self.router.switch_on(self.world.now_s)
        self.world.run_until(lambda: self.router.power is Power.RUNNING)

    def moved_bytes(self) -> int:
        """All messages so far, both ways."""
        return sum(len(octets) for _, octets in self.world.sent)


def test_restore_of_three_erase_blocks_of_256_moves_little_more_than_those() -> None:
    home = Home()
    home.router.switch_off()
    home.router.damage("firmware", 3, 100, 255)
    before = home.moved_bytes()
    home.boot()
    moved = home.moved_bytes() - before
    assert home.router.contents("firmware") == home.firmware
    print(f"{moved} bytes, {moved / (3 * ERASE_BLOCK_BYTES):.3f} of those")
    assert 3 * ERASE_BLOCK_BYTES < moved <= 1.1 * 3 * ERASE_BLOCK_BYTES, "the manifest is in the boot record"
    assert moved <= len(home.firmware) / 50, "a full restore moves more than the image"


def test_backup_after_a_configuration_change_moves_only_the_erase_blocks_that_changed() -> None:
    home = Home()
    changed = bytearray(home.config)
    for index in (2, 5):
        changed[index * ERASE_BLOCK_BYTES + 7] ^= 1
    before, backups = home.moved_bytes(), len(home.router.events(BackupEnded))
    home.router.set_config(bytes(changed), home.world.now_s)
    home.world.run_until(lambda: home.held == [2, 1])
    outcomes = [event.outcome for event in home.router.events(BackupEnded)[backups:]]
    assert {name for outcome in outcomes for name in outcome.uploaded} == {"config"}
    payload_bytes = sum(outcome.payload_bytes for outcome in outcomes)
    assert payload_bytes == 2 * ERASE_BLOCK_BYTES + home.document_bytes
    assert home.moved_bytes() - before <= 1.1 * payload_bytes
