# SPDX-License-Identifier: Apache-2.0
"""A device in virtual time: a simulated NOR chip, and on it the product's own bootloader and agent.

It loses power where the chip does, and stays off until somebody switches it on. Deterministic: the same calls on the
same seed make the same story.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from unbrickd.agent import agent as agents
from unbrickd.agent.agent import Agent, AgentOptions, Memory
from unbrickd.agent.software import DeviceSoftware, Installed
from unbrickd.flash.device import ComponentSlot, DeviceFlash
from unbrickd.flash.partition import Partition
from unbrickd.flash.record import RecordStore
from unbrickd.flash.write import write_image
from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import ComponentKind
from unbrickd.model.peer import Datagram, Peer
from unbrickd.model.policy import BackupPolicy, BootPolicy
from unbrickd.recovery import events as recovery
from unbrickd.recovery.bootloader import Bootloader
from unbrickd.seal.identity import FirmwarePolicy, Identity, encode_identity
from unbrickd.seal.keys import DeviceKeys
from unbrickd.sim.nor import NorChip, PowerCut
from unbrickd.sim.world import EVERYBODY, WALL_S, address
from unbrickd.wire.framing import ETHERNET_MESSAGE_BYTES

FIRMWARE, CONFIG = 1, 2
WATCHDOG_S = 2.0
"""After which a system that does not come up is reset."""
DEFAULT_OPTIONS = AgentOptions(policy=BackupPolicy(after_start_s=5.0, period_s=None, debounce_s=2.0), good_after_s=30.0)

_Event = TypeVar("_Event")


class Power(Enum):
    OFF = auto()
    BOOTLOADER = auto()
    HANGING = auto()
    """Booted, but the system does not come up."""
    RUNNING = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Erase blocks of one size: one each for bootloader and identity (protected), then record, config, firmware."""

    erase_block_bytes: int = 4096
    record_blocks: int = 2
    config_blocks: int = 2
    firmware_blocks: int = 8

    @property
    def geometry(self) -> Geometry:
        count = 2 + self.record_blocks + self.config_blocks + self.firmware_blocks
        return Geometry.uniform(total_bytes=count * self.erase_block_bytes, erase_block_bytes=self.erase_block_bytes)

    def range_of(self, part: str) -> tuple[int, int]:
        """(offset, length) in bytes of "identity", "record", "config" or "firmware"."""
        sizes = {
            "bootloader": 1,
            "identity": 1,
            "record": self.record_blocks,
            "config": self.config_blocks,
            "firmware": self.firmware_blocks,
        }
        names = list(sizes)
        before = sum(sizes[name] for name in names[: names.index(part)])
        return before * self.erase_block_bytes, sizes[part] * self.erase_block_bytes


class SimDevice:
    """A gateway: a chip, and whatever runs on it. Made switched off; `provision` gives it software.

    hangs: versions of firmware that do not come up. log: every event of bootloader and agent, with its time.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int = 0,
        layout: Layout | None = None,
        chip: NorChip | None = None,
        identity: Identity | None = None,
        options: AgentOptions = DEFAULT_OPTIONS,
        boot: BootPolicy | None = None,
        max_message_bytes: int = ETHERNET_MESSAGE_BYTES,
        ring_frames: int = 0,
    ) -> None:
        self.name = name
        self.layout = layout or Layout()
        self.identity = identity or make_identity(name)
        protected = (0, 2 * self.layout.erase_block_bytes)
        self.chip = chip or NorChip(self.layout.geometry, protected=[protected], seed=seed)
        keys = DeviceKeys.of(self.identity)
        self.flash = DeviceFlash(
            keys=keys,
            record=RecordStore(self.partition("record"), keys),
            slots=(
                self._slot(FIRMWARE, "firmware", ComponentKind.FIRMWARE, sealed=False),
                self._slot(CONFIG, "config", ComponentKind.CONFIG, sealed=True),
            ),
        )
        self.software = DeviceSoftware(self.flash)
        self.options = options
        self.boot = boot or BootPolicy()
        self.max_message_bytes = max_message_bytes
        self.ring_frames = ring_frames
        self.memory = Memory()
        self.hangs: set[str] = set()
        self.power = Power.OFF
        self.bootloader: Bootloader | None = None
        self.agent: Agent | None = None
        self.log: list[tuple[float, recovery.Event | agents.Event]] = []
        self._entropy = random.Random(f"{seed} {name}").randbytes
        self._reset_at_s: float | None = None

    @property
    def device_id(self) -> bytes:
        return self.identity.device_id

    def partition(self, part: str) -> Partition:
        offset, length = self.layout.range_of(part)
        return Partition(self.chip, offset_bytes=offset, length_bytes=length)

    def contents(self, part: str) -> bytes:
        offset, length = self.layout.range_of(part)
        return self.chip.read(offset, length)

    def _slot(self, component_id: int, name: str, kind: ComponentKind, *, sealed: bool) -> ComponentSlot:
        return ComponentSlot(component_id=component_id, name=name, kind=kind, sealed=sealed, flash=self.partition(name))

    # What people and the running system do

    def provision(self, firmware: bytes, config: bytes, *, installed: Installed | None = None) -> None:
        """In the factory: identity, software and the first boot record."""
        self.chip.write_protect = False
        write_image(self.partition("identity"), encode_identity(self.identity))
        self.chip.write_protect = True
        write_image(self.partition("firmware"), firmware)
        write_image(self.partition("config"), config)
        first = installed or Installed(length_bytes=len(firmware), version="1.0")
        self.software.record_change({FIRMWARE: first, CONFIG: Installed(length_bytes=len(config))})

    def switch_on(self, now_s: float, *, button: bool = False) -> None:
        assert self.power is Power.OFF
        self._start_bootloader(now_s, button=button)

    def lose_power(self) -> None:
        """What follows a PowerCut; one that came out of a method of this class is for the caller to follow up."""
        self.switch_off()
        self.chip.power_on()

    def switch_off(self) -> None:
        self.power = Power.OFF
        if self.agent is not None:
            self.memory = self.agent.memory
        self.bootloader = self.agent = self._reset_at_s = None

    def install_firmware(self, octets: bytes, version: str) -> None:
        """Raises PowerCut. Tell the agent with `agent.upgraded`, or restart."""
        write_image(self.partition("firmware"), octets)
        self.software.record_change({FIRMWARE: Installed(length_bytes=len(octets), version=version)})

    def set_config(self, octets: bytes, now_s: float) -> None:
        """Raises PowerCut."""
        write_image(self.partition("config"), octets)
        self.software.record_change({CONFIG: Installed(length_bytes=len(octets))})
        if self.agent is not None:
            self.agent.config_changed(now_s)

    def damage(self, part: str, *indexes: int) -> None:
        """Fill these erase blocks of a part with zeros."""
        size = self.layout.erase_block_bytes
        for index in indexes:
            flash = self.partition(part)
            flash.erase(index * size)
            flash.program(index * size, bytes(size))

    def events(self, kind: type[_Event]) -> list[_Event]:
        """Those of one kind, oldest first."""
        return [event for _, event in self.log if isinstance(event, kind)]

    @property
    def booted(self) -> recovery.Booting | None:
        """How the last power-on that booted did."""
        booted = self.events(recovery.Booting)
        return booted[-1] if booted else None

    # On the network

    def receive(self, peer: Peer, octets: bytes, now_s: float) -> None:
        def take() -> None:
            if self.bootloader is not None:
                self.bootloader.receive(peer, octets, now_s)
            elif self.agent is not None:
                self.agent.receive(peer, octets, now_s, WALL_S + now_s)

        self._powered(take, now_s)

    def outgoing(self, now_s: float) -> list[Datagram]:
        due: list[Datagram] = []

        def give() -> None:
            if self._reset_at_s is not None and now_s >= self._reset_at_s:
                self._reset_at_s = None
                self._start_bootloader(now_s, button=False)
            if self.bootloader is not None:
                due.extend(self.bootloader.outgoing(now_s))
                self._follow_bootloader(now_s)
            elif self.agent is not None:
                due.extend(self.agent.outgoing(now_s, WALL_S + now_s))
                self.memory = self.agent.memory
                self.log += [(now_s, event) for event in self.agent.events()]

        self._powered(give, now_s)
        return due

    def timer(self) -> float | None:
        if self._reset_at_s is not None:
            return self._reset_at_s
        machine = self.bootloader or self.agent
        return machine.timer() if machine is not None else None

    # Inside

    def _powered(self, act: Callable[[], None], now_s: float) -> None:
        try:
            act()
        except PowerCut:
            if self.bootloader is not None:
                self.log += [(now_s, event) for event in self.bootloader.events()]
            self.lose_power()

    def _start_bootloader(self, now_s: float, *, button: bool) -> None:
        def start() -> None:
            self.power = Power.BOOTLOADER
            self.bootloader = Bootloader(
                self.flash,
                button=button,
                policy=self.boot,
                targets=(address(EVERYBODY),),
                entropy=self._entropy,
                now_s=now_s,
                max_message_bytes=self.max_message_bytes,
                ring_frames=self.ring_frames,
            )
            self._follow_bootloader(now_s)

        self._powered(start, now_s)

    def _follow_bootloader(self, now_s: float) -> None:
        assert self.bootloader is not None
        self.log += [(now_s, event) for event in self.bootloader.events()]
        booting = self.bootloader.booting
        if booting is None:
            return
        self.bootloader = None
        if booting.firmware_version in self.hangs:
            self.power = Power.HANGING
            self._reset_at_s = now_s + WATCHDOG_S
            return
        self.power = Power.RUNNING
        self.agent = Agent(
            self.software,
            self.options,
            memory=self.memory,
            targets=(address(EVERYBODY),),
            entropy=self._entropy,
            max_message_bytes=self.max_message_bytes,
            now_s=now_s,
            wall_s=WALL_S + now_s,
        )


def make_identity(name: str, *, policy: FirmwarePolicy = FirmwarePolicy.OWNER, maker_key_der: bytes = b"") -> Identity:
    """The same secrets for the same name."""
    return Identity.generate(
        model="sim-1",
        policy=policy,
        maker_key_der=maker_key_der,
        entropy=lambda count: hashlib.shake_256(f"identity of {name} {count}".encode()).digest(count),
    )


def image(seed: int, length_bytes: int) -> bytes:
    """The same bytes for the same seed."""
    return random.Random(f"image {seed}").randbytes(length_bytes)
