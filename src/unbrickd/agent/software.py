# SPDX-License-Identifier: Apache-2.0
"""The software the device runs now, as generations: describing it, recording a change, sealing what is uploaded (R9).

Writes only the boot record. Knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unbrickd.errors import IntegrityError
from unbrickd.flash.device import ComponentSlot, DeviceFlash
from unbrickd.flash.journal import JournalEntry
from unbrickd.flash.record import BootRecord, LoadedRecord
from unbrickd.model.manifest import ComponentKind, Generation, Manifest, SealedGeneration
from unbrickd.seal.authority import check_authority
from unbrickd.seal.content import seal_erase_block
from unbrickd.seal.generation import good_seal, seal_generation
from unbrickd.seal.manifest import build_manifest, verify_erase_block


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What was put into one component: its length and, for firmware, its version and the maker's signature."""

    length_bytes: int
    version: str = ""
    rollback_index: int = 0
    signature: bytes = b""


def config_version(generation: int) -> str:
    """A configuration has no version of its own; it is known by its digest, and shown by when it came."""
    return f"generation {generation}"


class DeviceSoftware:
    """The components in flash and the boot record that names them."""

    def __init__(self, device: DeviceFlash) -> None:
        self.device = device

    def loaded(self) -> LoadedRecord:
        """The boot record. Raises IntegrityError if there is none: the bootloader's recovery makes one."""
        loaded = self.device.record.load()
        if loaded is None:
            raise IntegrityError("there is no valid boot record", code="no-record")
        return loaded

    def record_change(self, installed: dict[int, Installed]) -> SealedGeneration:
        """Seal what flash holds now as the next generation and make the boot record name it, not yet good.

        installed: by component id, for every component that changed; the others keep their manifest. On a device
        without a boot record it must name every component, and the generation is good: it is the maker's.
        Raises IntegrityError if such firmware may not run here: flash is as it is, the record stays. A power cut
        leaves the old record or the new one.
        """
        assert all(self.device.slot(component_id) for component_id in installed), "a component without a slot"
        loaded = self.device.record.load()
        before = loaded.record if loaded is not None else None
        number = before.counter + 1 if before is not None else 1
        kept = before.sealed.generation.components if before is not None else ()
        identity = self.device.keys.identity
        components = []
        for slot in self.device.slots:
            old = next((c for c in kept if c.component_id == slot.component_id), None)
            if slot.component_id in installed:
                components.append(self._describe(slot, installed[slot.component_id], number))
            elif old is not None:
                components.append(old)
        generation = Generation(
            device_id=identity.device_id, model=identity.model, number=number, components=tuple(components)
        )
        floor = before.rollback_floor if before is not None else identity.rollback_floor
        check_authority(identity, generation, rollback_floor=floor)
        sealed = seal_generation(self.device.keys, generation)
        self.device.record.commit(
            BootRecord(
                sequence=0,
                counter=number,
                rollback_floor=floor,
                rejected_from=before.rejected_from if before is not None else 0,
                rejected_to=before.rejected_to if before is not None else 0,
                good=before is None,
                sealed=sealed,
            )
        )
        return sealed

    def changed(self) -> tuple[str, ...]:
        """Names of the components whose flash is not what the boot record says."""
        return tuple(
            manifest.name
            for manifest in self.loaded().record.sealed.generation.components
            if (slot := self.device.slot(manifest.component_id)) is not None
            and slot.damaged(manifest, self.device.keys.content)
        )

    def up(self) -> None:
        """The system is up: the boot counts as one that reached its agent."""
        self.device.record.mark(JournalEntry.UP)

    def prove_good(self) -> bool:
        """The device has run its generation long enough; True if that is news. Raises the rollback floor if it must.

        Raises IntegrityError if flash does not hold what the boot record names: then something else has run.
        The mark comes first, because a raised floor with a generation that is not good could refuse its own fallback.
        """
        changed = self.changed()
        if changed:
            raise IntegrityError(f"{', '.join(changed)}: not what the boot record names", code="changed")
        loaded = self.loaded()
        if not loaded.is_good:
            self.device.record.mark(JournalEntry.GOOD)
        record = loaded.record
        firmware = [c.rollback_index for c in record.sealed.generation.components if c.kind is ComponentKind.FIRMWARE]
        floor = max(record.rollback_floor, *firmware, 0)
        if floor > record.rollback_floor:
            self.device.record.commit(replace(record, good=True, rollback_floor=floor))
        return not loaded.is_good

    def good_seal(self) -> bytes | None:
        """The seal that tells the server so, once the generation is good."""
        loaded = self.loaded()
        return good_seal(self.device.keys, loaded.record.sealed) if loaded.is_good else None

    def read_for_transfer(self, manifest: Manifest, index: int) -> bytes:
        """One erase block of a component as it is moved: sealed where it must be. Raises FlashError, IntegrityError.

        IntegrityError: flash no longer holds what the manifest says; nothing else may leave the device, because under
        the same IV no two contents are ever encrypted, and the server would refuse it.
        """
        slot = self.device.slot(manifest.component_id)
        assert slot is not None, "the record names components of this device"
        block = manifest.geometry.erase_block(index)
        octets = slot.flash.read(block.offset_bytes, manifest.content_bytes(index))
        if not verify_erase_block(manifest, index, octets, self.device.keys.content):
            raise IntegrityError(f"{manifest.name} is not what the boot record names", code="changed")
        if not manifest.sealed:
            return octets
        _, ciphertext = seal_erase_block(
            self.device.keys.content, component_id=manifest.component_id, index=index, plaintext=octets
        )
        return ciphertext

    def _describe(self, slot: ComponentSlot, installed: Installed, number: int) -> Manifest:
        version = installed.version or (config_version(number) if slot.kind is ComponentKind.CONFIG else "")
        return build_manifest(
            component_id=slot.component_id,
            kind=slot.kind,
            name=slot.name,
            version=version,
            geometry=slot.flash.geometry,
            image=slot.flash.read,
            length_bytes=installed.length_bytes,
            content_keys=self.device.keys.content if slot.sealed else None,
            rollback_index=installed.rollback_index,
            signature=installed.signature,
        )
