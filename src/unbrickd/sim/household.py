# SPDX-License-Identifier: Apache-2.0
"""One router and one PC on one network, in virtual time: the setting of most stories, and what must be true of it."""

from __future__ import annotations

import copy

from unbrickd.agent.agent import AgentOptions
from unbrickd.recovery import events as recovery
from unbrickd.sim.device import DEFAULT_OPTIONS, Power, SimDevice, image
from unbrickd.sim.network import Network
from unbrickd.sim.nor import NorChip
from unbrickd.sim.world import SimServer, Stores, World

FIRMWARE_BYTES, CONFIG_BYTES = 8 * 4096 - 100, 5000
DELAY_S = 0.002


class Household:
    """`made` remembers what each generation consisted of: (firmware, config) by its number.

    loss: of the network, which repeats, reorders and corrupts in proportion.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        loss: float = 0.0,
        options: AgentOptions = DEFAULT_OPTIONS,
        chip: NorChip | None = None,
        stores: Stores | None = None,
    ) -> None:
        self.seed = seed
        self.options = options
        self.router = SimDevice("router", seed=seed, options=options, chip=chip)
        self.pc = SimServer("pc", stores=stores)
        self.network = Network(
            seed=seed,
            loss=loss,
            duplicate=loss / 3,
            reorder=loss / 3,
            corrupt=loss / 10,
            delay_s=DELAY_S,
            jitter_s=DELAY_S / 2,
        )
        self.world = World(self.network, self.router, self.pc)
        self.firmware, self.config = image(seed, FIRMWARE_BYTES), image(seed + 1, CONFIG_BYTES)
        self.made = {1: (self.firmware, self.config)}
        if chip is None:
            self.router.provision(self.firmware, self.config)

    def copy(self, *, chip_seed: int) -> Household:
        """Another household, switched off, with the same contents of flash and disk; time begins anew."""
        router = self.router
        assert router.power is Power.OFF
        flash = bytearray(router.chip.read(0, router.layout.geometry.total_bytes))
        chip = NorChip(router.layout.geometry, buffer=flash, state=router.chip.state, seed=chip_seed)
        other = Household(self.seed, options=self.options, chip=chip, stores=self.pc.stores)
        other.firmware, other.config, other.made = self.firmware, self.config, dict(self.made)
        other.router.memory = router.memory
        other.router.hangs = copy.copy(router.hangs)
        return other

    @property
    def now_s(self) -> float:
        return self.world.now_s

    @property
    def recorded(self) -> int:
        """Number of the generation that the boot record names."""
        return self.router.software.loaded().record.sealed.generation.number

    @property
    def held(self) -> list[int]:
        return self.pc.generations(self.router.device_id, good=False)

    @property
    def held_good(self) -> list[int]:
        return self.pc.generations(self.router.device_id)

    @property
    def restored(self) -> list[int]:
        return [event.generation for event in self.router.events(recovery.Restored)]

    @property
    def is_busy(self) -> bool:
        return self.router.agent is not None and self.router.agent.busy

    def switch_on(self, *, button: bool = False) -> None:
        self.router.switch_on(self.now_s, button=button)

    def boot(self, *, button: bool = False, limit_s: float = 600.0) -> recovery.Booting:
        """Switch on and wait until the system runs."""
        self.switch_on(button=button)
        self.world.run_until(lambda: self.router.power is Power.RUNNING, limit_s=limit_s)
        assert self.router.booted is not None
        return self.router.booted

    def back_up(self) -> None:
        """Let it run until the PC holds what it runs as good."""
        self.world.run_until(lambda: self.recorded in self.held_good and not self.is_busy)

    def set_config(self, octets: bytes) -> None:
        """Raises PowerCut."""
        self.made[self.router.software.loaded().record.counter + 1] = (self.firmware, octets)
        self.router.set_config(octets, self.now_s)
        self.config = octets

    def upgrade(self, octets: bytes, version: str) -> None:
        """Install firmware and switch off. Raises PowerCut."""
        self.made[self.router.software.loaded().record.counter + 1] = (octets, self.config)
        self.router.install_firmware(octets, version)
        self.firmware = octets
        self.router.switch_off()

    def assert_whole(self) -> None:
        """Flash is, to the byte, the generation that the record names; both copies of the record say so."""
        loaded = self.router.software.loaded()
        assert loaded.copies == (True, True), "one copy of the boot record is not whole"
        for part, octets in zip(("firmware", "config"), self.made[self.recorded], strict=True):
            assert self.router.contents(part)[: len(octets)] == octets, f"{part} is not generation {self.recorded}"
        assert self.router.software.changed() == ()


def backed_up(seed: int = 0, *, loss: float = 0.0, options: AgentOptions = DEFAULT_OPTIONS) -> Household:
    """A router that has run for long enough, and was backed up as good; switched off."""
    home = Household(seed, loss=loss, options=options)
    home.boot()
    home.back_up()
    home.router.switch_off()
    return home
