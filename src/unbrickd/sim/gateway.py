# SPDX-License-Identifier: Apache-2.0
"""The virtual gateway: a directory with a simulated NOR chip and a layout that behaves like a device (docs/gateway.md).

What a person or the system of a real gateway does to its flash is a method here: upgrade, change the configuration,
damage. The bootloader and the agent that run on it are the product's own. One process at a time has it open.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from unbrickd.adapters.memory import write_whole
from unbrickd.agent.software import DeviceSoftware, Installed
from unbrickd.errors import ConfigError
from unbrickd.flash.device import ComponentSlot, DeviceFlash
from unbrickd.flash.partition import Partition
from unbrickd.flash.record import RecordStore
from unbrickd.flash.write import write_erase_block, write_image
from unbrickd.model.layout import Layout, PartitionLayout, PlaceKind, parse_layout
from unbrickd.model.manifest import ComponentKind, Generation, SealedGeneration
from unbrickd.seal.authority import check_authority
from unbrickd.seal.identity import FirmwarePolicy, Identity, decode_identity, encode_identity
from unbrickd.seal.keys import DeviceKeys
from unbrickd.seal.maker import SignatureFile
from unbrickd.seal.manifest import build_manifest
from unbrickd.sim.nor import ChipState, NorChip, Phase, PowerCut

LAYOUT_FILE = "layout.toml"
FLASH_FILE = "flash.img"
CHIP_FILE = "chip.json"
MEMORY_FILE = "memory.json"
BUTTON_FILE = "button"
LOCK_FILE = "power.lock"
HANGS_FILE = "hangs"
"""Image digests (hex, one a line) of firmware that is whole but does not come up, for trying the way back."""

BOOTLOADER_TEXT = b"unbrickd virtual bootloader: write-protected, survives everything (R25)\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFirmware:
    """Firmware to install. signature: needed where the device runs only what its maker signed."""

    octets: bytes
    version: str
    signature: SignatureFile | None = None

    def installed(self) -> Installed:
        return Installed(
            length_bytes=len(self.octets),
            version=self.version,
            rollback_index=self.signature.rollback_index if self.signature is not None else 0,
            signature=self.signature.signature if self.signature is not None else b"",
        )


class VirtualGateway:
    """An existing gateway directory, opened. Use as a context manager, so that the chip's state is kept.

    Raises ConfigError if it is none, or another process has it open.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        layout_path = directory / LAYOUT_FILE
        try:
            text = layout_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{directory} is no virtual gateway: {error}",
                code="gateway",
                hint="make one with `unbrickd gateway create DIRECTORY`",
            ) from error
        self.layout = parse_layout(text, source=str(layout_path))
        self._lock = FileLock(directory / LOCK_FILE)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"the gateway in {directory} is switched on in another process",
                code="gateway-on",
                hint="switch it off there (Ctrl-C) or with `unbrickd gateway cut-power`",
            ) from error
        self.chip = _open_chip(directory, self.layout)
        self.identity = decode_identity(self._partition(self.layout.identity.target).read(0, 2048))
        self.device = DeviceFlash(
            keys=DeviceKeys.of(self.identity),
            record=RecordStore(self._partition(self.layout.record.target), DeviceKeys.of(self.identity)),
            slots=tuple(
                ComponentSlot(
                    component_id=c.component_id,
                    name=c.name,
                    kind=c.kind,
                    sealed=c.sealed,
                    flash=self._partition(c.place.target),
                )
                for c in self.layout.components
            ),
        )
        self.software = DeviceSoftware(self.device)

    def __enter__(self) -> VirtualGateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save_chip()
        self._lock.release()

    def save_chip(self) -> None:
        """Keep wear and counters beside the flash image."""
        write_whole(self.directory / CHIP_FILE, self.chip.state.to_json().encode())

    # What its owner and its system do

    def upgrade(self, firmware: NewFirmware, on_progress: Callable[[int, int], None] = lambda done, all_: None) -> None:
        """Install firmware; the boot record names it last. Raises ConfigError, IntegrityError before flash is touched.

        A power cut before the boot record is written leaves a torn upgrade: recovery goes back to what ran before.
        """
        slot = self._slot_of(ComponentKind.FIRMWARE)
        self._check_installable(slot, firmware)
        count = len([b for b in slot.flash.geometry if b.offset_bytes < len(firmware.octets)])
        for done, block in enumerate(list(slot.flash.geometry)[:count], 1):
            write_erase_block(slot.flash, block, firmware.octets[block.offset_bytes : block.end_bytes])
            on_progress(done, count)
        self.software.record_change({slot.component_id: firmware.installed()})

    def set_config(self, octets: bytes) -> SealedGeneration:
        """Replace the configuration and make the boot record name it. Raises ConfigError if it does not fit."""
        slot = self._slot_of(ComponentKind.CONFIG)
        _check_fits(slot, octets)
        write_image(slot.flash, octets)
        return self.software.record_change({slot.component_id: Installed(length_bytes=len(octets))})

    def tear_upgrade(self, firmware: NewFirmware, *, erase_blocks: int) -> None:
        """Begin an upgrade and cut the power in the middle of the erase block after so many whole ones."""
        slot = self._slot_of(ComponentKind.FIRMWARE)
        self._check_installable(slot, firmware)
        for block in list(slot.flash.geometry)[: erase_blocks + 1]:
            if block.index == erase_blocks:
                self.chip.cut_power(at=self.chip.operations + 2, phase=Phase.TORN)
            try:
                write_erase_block(slot.flash, block, firmware.octets[block.offset_bytes : block.end_bytes])
            except PowerCut:
                break
        self.chip.power_on()

    def damage(self, partition: str, erase_blocks: list[int], *, rng: random.Random) -> None:
        """Fill these erase blocks with noise, as a write gone wrong would; protected ones refuse."""
        flash = self._partition(partition)
        for index in erase_blocks:
            block = flash.geometry.erase_block(index)
            flash.erase(block.offset_bytes)
            flash.program(block.offset_bytes, rng.randbytes(block.size_bytes))

    def flip_bits(self, partition: str, count: int) -> None:
        """Let bits of a partition rot."""
        found = self._find_partition(partition)
        self.chip.flip_bits(count, offset_bytes=found.offset_bytes, length_bytes=found.size_bytes)

    def hangs(self) -> bool:
        """Whether the firmware that the boot record names is one that does not come up."""
        path = self.directory / HANGS_FILE
        if not path.exists():
            return False
        generation = self.software.loaded().record.sealed.generation
        known = path.read_text(encoding="ascii").split()
        return any(c.image_digest.hex() in known for c in generation.components)

    def mark_hanging(self) -> None:
        """From now on the firmware that is installed does not come up."""
        generation = self.software.loaded().record.sealed.generation
        digests = [c.image_digest.hex() for c in generation.components if c.kind is ComponentKind.FIRMWARE]
        with (self.directory / HANGS_FILE).open("a", encoding="ascii") as file:
            file.writelines(f"{digest}\n" for digest in digests)

    def take_button(self) -> bool:
        """Whether the button was held at this power-on; it is let go by it."""
        try:
            (self.directory / BUTTON_FILE).unlink()
        except FileNotFoundError:
            return False
        return True

    def component_bytes(self, name: str) -> bytes:
        """What flash holds of a component now: as many bytes as its manifest says."""
        manifest = next(c for c in self.software.loaded().record.sealed.generation.components if c.name == name)
        slot = self.device.slot(manifest.component_id)
        assert slot is not None
        return slot.flash.read(0, manifest.length_bytes)

    # Inside

    def _find_partition(self, name: str) -> PartitionLayout:
        found = self.layout.partition(name)
        if found is None:
            names = ", ".join(p.name for p in self.layout.partitions)
            raise ConfigError(f"there is no partition {name!r}", code="partition", hint=f"there are: {names}")
        return found

    def _partition(self, name: str) -> Partition:
        found = self._find_partition(name)
        return Partition(self.chip, offset_bytes=found.offset_bytes, length_bytes=found.size_bytes)

    def _slot_of(self, kind: ComponentKind) -> ComponentSlot:
        slot = next((s for s in self.device.slots if s.kind is kind), None)
        if slot is None:
            raise ConfigError(f"this gateway has no {kind.name.lower()}", code="component")
        return slot

    def _check_installable(self, slot: ComponentSlot, firmware: NewFirmware) -> None:
        """What a careful system does before it touches flash: does it fit, may it run here?"""
        _check_fits(slot, firmware.octets)
        installed = firmware.installed()
        manifest = build_manifest(
            component_id=slot.component_id,
            kind=slot.kind,
            name=slot.name,
            version=installed.version,
            geometry=slot.flash.geometry,
            image=lambda offset, length: firmware.octets[offset : offset + length],
            length_bytes=installed.length_bytes,
            content_keys=None,
            rollback_index=installed.rollback_index,
            signature=installed.signature,
        )
        generation = Generation(
            device_id=self.identity.device_id, model=self.identity.model, number=1, components=(manifest,)
        )
        check_authority(self.identity, generation, rollback_floor=self.software.loaded().record.rollback_floor)


def create(directory: Path, layout_text: str, *, identity: Identity, firmware: NewFirmware, config: bytes) -> None:
    """Make and provision a gateway: bootloader, identity and software in flash, generation 1 in the boot record.

    Raises ConfigError if the directory is not empty, something does not fit, or the maker's signature is missing.
    """
    layout = parse_layout(layout_text, source=LAYOUT_FILE)
    _check_is_virtual(layout)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigError(
                f"{directory} is not empty", code="exists", hint="name a new directory, or remove this one first"
            )
        _make_chip(directory, layout)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be made: {error.strerror}", code="not-writable") from error
    write_whole(directory / LAYOUT_FILE, layout_text.encode())
    chip = _open_chip(directory, layout)
    chip.write_protect = False
    for name, octets in (("bootloader", BOOTLOADER_TEXT), (layout.identity.target, encode_identity(identity))):
        found = layout.partition(name)
        if found is not None:
            write_image(Partition(chip, offset_bytes=found.offset_bytes, length_bytes=found.size_bytes), octets)
    chip.write_protect = True
    write_whole(directory / CHIP_FILE, chip.state.to_json().encode())
    with VirtualGateway(directory) as gateway:
        installed = {}
        for slot in gateway.device.slots:
            octets = firmware.octets if slot.kind is ComponentKind.FIRMWARE else config
            _check_fits(slot, octets)
            write_image(slot.flash, octets)
            fresh = Installed(length_bytes=len(octets))
            installed[slot.component_id] = firmware.installed() if slot.kind is ComponentKind.FIRMWARE else fresh
        gateway.software.record_change(installed)


def _check_is_virtual(layout: Layout) -> None:
    places = [layout.identity, layout.record, *(c.place for c in layout.components)]
    if layout.flash is None or any(p.kind is not PlaceKind.PARTITION for p in places):
        raise ConfigError(
            "a virtual gateway needs a [flash] table and everything in partitions of it",
            code="layout",
            hint="leave --layout out to get one, and change that",
        )


def _check_fits(slot: ComponentSlot, octets: bytes) -> None:
    room = slot.flash.geometry.total_bytes
    if not 0 < len(octets) <= room:
        raise ConfigError(
            f"{len(octets)} bytes do not fit the partition of {slot.name}, which has {room}",
            code="too-big",
            hint="give a file that is not empty and fits, or a layout with a larger partition",
        )


def _make_chip(directory: Path, layout: Layout) -> None:
    assert layout.flash is not None
    with (directory / FLASH_FILE).open("wb") as file:
        for block in layout.flash:
            file.write(b"\xff" * block.size_bytes)
    protected = tuple((p.offset_bytes, p.size_bytes) for p in layout.partitions if p.protected)
    write_whole(directory / CHIP_FILE, ChipState(protected=protected).to_json().encode())


def _open_chip(directory: Path, layout: Layout) -> NorChip:
    """The chip over the flash image, mapped: what is written is there even if the process is killed."""
    assert layout.flash is not None
    path = directory / FLASH_FILE
    try:
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size != layout.flash.total_bytes:
                raise ConfigError(
                    f"{path} has {size} bytes, the layout says {layout.flash.total_bytes}", code="gateway"
                )
            mapped = mmap.mmap(file.fileno(), size)
        state = ChipState.from_json((directory / CHIP_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}", code="gateway") from error
    seed = int.from_bytes(hashlib.sha256(str(state.operations).encode()).digest()[:4], "big")
    return NorChip(layout.flash, buffer=mapped, state=state, seed=seed)


def new_identity(model: str, policy: FirmwarePolicy, maker_key_der: bytes = b"") -> Identity:
    """An identity from the machine's randomness."""
    return Identity.generate(model=model, policy=policy, maker_key_der=maker_key_der, entropy=os.urandom)
