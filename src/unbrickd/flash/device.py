# SPDX-License-Identifier: Apache-2.0
"""The flash of one device as agent and recovery see it: which component lies where, and the boot record.

Knows nothing of chips or files: adapters hand in the Flash of each slot.
"""

from __future__ import annotations

from dataclasses import dataclass

from unbrickd.errors import FlashError
from unbrickd.flash.interface import Flash
from unbrickd.flash.record import RecordStore
from unbrickd.model.geometry import EraseBlock, Geometry
from unbrickd.model.manifest import ComponentKind, Manifest
from unbrickd.seal.keys import ContentKeys, DeviceKeys
from unbrickd.seal.manifest import verify_erase_block


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSlot:
    """Where one component lies, and whether its backups are sealed."""

    component_id: int
    name: str
    kind: ComponentKind
    sealed: bool
    flash: Flash

    def takes(self, manifest: Manifest) -> bool:
        """Whether an image of this manifest fits: erase block by erase block as this flash is divided."""
        return (
            manifest.kind is self.kind
            and manifest.sealed is self.sealed
            and manifest.length_bytes <= self.flash.geometry.total_bytes
            and manifest.geometry == self._covering(manifest.length_bytes)
        )

    def damaged(self, manifest: Manifest, keys: ContentKeys) -> tuple[int, ...]:
        """Indexes of the erase blocks that do not hold what the manifest says, or cannot be read.

        Needs one erase block of memory.
        """
        return tuple(b.index for b, length in manifest.erase_blocks() if not self._holds(manifest, b, length, keys))

    def _holds(self, manifest: Manifest, block: EraseBlock, length_bytes: int, keys: ContentKeys) -> bool:
        try:
            octets = self.flash.read(block.offset_bytes, length_bytes)
        except FlashError:
            return False
        return verify_erase_block(manifest, block.index, octets, keys)

    def _covering(self, length_bytes: int) -> Geometry:
        return self.flash.geometry.cut(offset_bytes=0, length_bytes=length_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFlash:
    """One device: its keys, its boot record, its components (ids ascending)."""

    keys: DeviceKeys
    record: RecordStore
    slots: tuple[ComponentSlot, ...]

    def slot(self, component_id: int) -> ComponentSlot | None:
        return next((s for s in self.slots if s.component_id == component_id), None)
