# SPDX-License-Identifier: Apache-2.0
"""What the bootloader finds in flash, and what it decides (R16, R17, R21): no network, no waiting.

Spec: spec/flash-format.md §7. Every erase block of every component is compared with the manifest in the boot record.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from unbrickd.errors import IntegrityError
from unbrickd.flash.device import DeviceFlash
from unbrickd.flash.record import BootRecord, LoadedRecord
from unbrickd.model.manifest import ComponentKind, SealedGeneration
from unbrickd.seal.authority import check_authority


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentFinding:
    """One component against its manifest: the indexes of its damaged erase blocks."""

    component_id: int
    name: str
    kind: ComponentKind
    version: str
    erase_blocks: int
    damaged: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The state of the flash. `loaded` is None where neither copy of the boot record is valid.

    refused: why the firmware that the record names may not run ("" if it may).
    """

    loaded: LoadedRecord | None
    components: tuple[ComponentFinding, ...] = ()
    refused: str = ""

    @property
    def damaged(self) -> bool:
        return any(c.damaged for c in self.components)

    @property
    def bootable(self) -> bool:
        """Whether it may boot as it is: its firmware is verified. A damaged configuration does not bar it."""
        firmware = [c for c in self.components if c.kind is ComponentKind.FIRMWARE]
        return self.loaded is not None and not self.refused and not any(c.damaged for c in firmware) and bool(firmware)

    @property
    def config_damaged(self) -> bool:
        return any(c.damaged for c in self.components if c.kind is ComponentKind.CONFIG)


class Reason(Enum):
    """Why the bootloader boots or restores."""

    SOUND = "everything matches its manifest"
    DAMAGED = "flash does not match its manifest"
    RECORD_LOST = "the boot record is lost"
    REFUSED = "this firmware may not run here"
    BUTTON = "the button was held"
    BOOT_FAILED = "it failed to boot too often"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do. `named`: the generation to ask for, 0: the newest good one; `rejected`: generations not to take."""

    reason: Reason
    named: int = 0
    rejected: tuple[int, int] = (0, 0)

    @property
    def restore(self) -> bool:
        return self.reason is not Reason.SOUND


def check_generation(device: DeviceFlash, sealed: SealedGeneration, *, rollback_floor: int) -> None:
    """Raises IntegrityError unless a generation that this device sealed may run on it.

    Its firmware must be there and have authority (`seal.authority`), and every component must fit the flash layout.
    """
    generation = sealed.generation
    check_authority(device.keys.identity, generation, rollback_floor=rollback_floor)
    if not any(c.kind is ComponentKind.FIRMWARE for c in generation.components):
        raise IntegrityError(f"generation {generation.number} names no firmware", code="layout")
    for manifest in generation.components:
        slot = device.slot(manifest.component_id)
        if slot is None or not slot.takes(manifest):
            raise IntegrityError(
                f"component {manifest.name} of generation {generation.number} does not fit this device's flash layout",
                code="layout",
            )


def check_flash(device: DeviceFlash) -> Findings:
    """Read and verify all of it. Flash that cannot be read counts as damaged. Writes nothing."""
    loaded = device.record.load()
    if loaded is None:
        return Findings(loaded=None)
    generation = loaded.record.sealed.generation
    refused = ""
    try:
        check_generation(device, loaded.record.sealed, rollback_floor=loaded.record.rollback_floor)
    except IntegrityError as error:
        refused = str(error)
    components = []
    for manifest in generation.components:
        slot = device.slot(manifest.component_id)
        if slot is None or not slot.takes(manifest):
            continue
        components.append(
            ComponentFinding(
                component_id=manifest.component_id,
                name=manifest.name,
                kind=manifest.kind,
                version=manifest.version,
                erase_blocks=manifest.geometry.count,
                damaged=slot.damaged(manifest, device.keys.content),
            )
        )
    return Findings(loaded=loaded, components=tuple(components), refused=refused)


def reject(rejected: tuple[int, int], number: int) -> tuple[int, int]:
    """The rejected generations with one more. There is one range, and what lies in it is never chosen.

    Below it, the range grows down to there: what lies between was passed over as not held or not good. Right above, it
    grows by one. Further above there may be good ones in between, so a new range begins.
    """
    lowest, highest = rejected
    if lowest <= number <= highest:
        return rejected
    if number < lowest:
        return number, highest
    return (lowest if highest and number == highest + 1 else number), number


def named_again(record: BootRecord) -> Decision:
    """Mend what the boot record names, whatever called for another generation."""
    rejected = record.rejected_from, record.rejected_to
    return Decision(reason=Reason.DAMAGED, named=record.sealed.generation.number, rejected=rejected)


def decide(findings: Findings, *, button: bool, boot_limit: int) -> Decision:
    """From findings to a decision; the first of these that holds gives the reason."""
    if findings.loaded is None:
        return Decision(reason=Reason.RECORD_LOST)
    record = findings.loaded.record
    number, rejected = record.sealed.generation.number, (record.rejected_from, record.rejected_to)
    if button:
        return Decision(reason=Reason.BUTTON, rejected=rejected)
    if findings.refused:
        return Decision(reason=Reason.REFUSED, rejected=reject(rejected, number))
    if findings.loaded.failed_boots >= boot_limit:
        return Decision(reason=Reason.BOOT_FAILED, rejected=reject(rejected, number))
    if findings.damaged:
        return named_again(record)
    return Decision(reason=Reason.SOUND)
