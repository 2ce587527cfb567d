# SPDX-License-Identifier: Apache-2.0
"""The devices of a street, provisioned and backed up by the product's own code: their files for street_client.c, and
the server's store. Knows no network.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from bench.memory_flash import MemoryFlash
from unbrickd.adapters.store.open import open_vault
from unbrickd.agent.software import DeviceSoftware, Installed
from unbrickd.flash.device import ComponentSlot, DeviceFlash
from unbrickd.flash.interface import ERASED
from unbrickd.flash.record import RecordStore
from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import ComponentKind, SealedGeneration
from unbrickd.seal.identity import FirmwarePolicy, Identity, encode_identity
from unbrickd.seal.keys import DeviceKeys
from unbrickd.store.vault import Vault

MODEL = "street-1"
FIRMWARE, CONFIG = 1, 2
"""Component ids."""
SMALL_ERASE_BLOCK_BYTES, ERASE_BLOCK_BYTES = 4096, 65536
IDENTITY_BYTES = 2048
CONFIG_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """What street_client.c is told; folder: with `devices`, `firmware` and the store."""

    folder: Path
    devices: int
    size_bytes: int
    record_bytes: int
    config_bytes: int

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def firmware(self) -> Path:
        """All devices ran the same."""
        return self.folder / "firmware"

    def client_arguments(
        self, devices: range, limit_s: float, *, ahead_bytes: int = 0, ring_frames: int = 0
    ) -> list[str]:
        """What follows address and port. devices: which of them; the rest is what each says of itself, 0 as in
        unbrickd.h."""
        sizes = (self.record_bytes, self.config_bytes, self.size_bytes)
        here = (self.folder, devices.start, len(devices), limit_s, *sizes, ahead_bytes, ring_frames)
        return list(map(str, here))


def build(folder: Path, *, devices: int, octets: bytes) -> Street:
    """Make them all; octets: their firmware, whole erase blocks."""
    folder.mkdir(parents=True)
    rng = random.Random(20100520)
    firmware = erased_flash(len(octets), ERASE_BLOCK_BYTES)
    firmware.program(0, octets)
    half_bytes = 4096 + 32 * (firmware.geometry.count + 2)  # as sim/default_layout.py reckons it
    half_bytes = -(-half_bytes // SMALL_ERASE_BLOCK_BYTES) * SMALL_ERASE_BLOCK_BYTES
    record = erased_flash(2 * half_bytes, SMALL_ERASE_BLOCK_BYTES)
    config = erased_flash(CONFIG_BYTES, SMALL_ERASE_BLOCK_BYTES)
    with (
        (folder / "devices").open("wb") as file,
        open_vault(folder / "store", exclusive=True, reserve_bytes=0) as vault,
    ):
        for _ in range(devices):
            software, identity = _provision(firmware, record, config, rng=rng)
            _back_up(vault, software)
            file.write(encode_identity(identity).ljust(IDENTITY_BYTES, bytes([ERASED])))
            file.write(record.octets + config.octets)
    street = Street(
        folder=folder,
        devices=devices,
        size_bytes=len(octets),
        record_bytes=len(record.octets),
        config_bytes=len(config.octets),
    )
    street.firmware.write_bytes(firmware.octets)
    return street


def erased_flash(length_bytes: int, erase_block_bytes: int) -> MemoryFlash:
    return MemoryFlash(Geometry.uniform(total_bytes=length_bytes, erase_block_bytes=erase_block_bytes))


def _provision(
    firmware: MemoryFlash, record: MemoryFlash, config: MemoryFlash, *, rng: random.Random
) -> tuple[DeviceSoftware, Identity]:
    """One device in these flashes, which the device before it has left; it runs its first generation, a good one."""
    for flash in (record, config):
        flash.octets[:] = bytes([ERASED]) * len(flash.octets)
    config.program(0, rng.randbytes(CONFIG_BYTES))
    identity = Identity.generate(model=MODEL, policy=FirmwarePolicy.OWNER, maker_key_der=b"", entropy=os.urandom)
    keys = DeviceKeys.of(identity)
    slots = (
        ComponentSlot(
            component_id=FIRMWARE, name="firmware", kind=ComponentKind.FIRMWARE, sealed=False, flash=firmware
        ),
        ComponentSlot(component_id=CONFIG, name="config", kind=ComponentKind.CONFIG, sealed=True, flash=config),
    )
    software = DeviceSoftware(DeviceFlash(keys=keys, record=RecordStore(record, keys), slots=slots))
    software.record_change(
        {
            FIRMWARE: Installed(length_bytes=firmware.geometry.total_bytes, version="1"),
            CONFIG: Installed(length_bytes=CONFIG_BYTES),
        }
    )
    return software, identity


def _back_up(vault: Vault, software: DeviceSoftware) -> None:
    """What a server does: store each image that it lacks, then commit the generation."""
    sealed: SealedGeneration = software.loaded().record.sealed
    for manifest in sealed.generation.components:
        if vault.has_image(manifest):
            continue
        staging = vault.stage(sealed.generation.device_id, manifest)
        for index in staging.missing:
            assert staging.put(index, software.read_for_transfer(manifest, index))
        vault.commit_image(staging)
    vault.commit_generation(sealed, software.good_seal())
