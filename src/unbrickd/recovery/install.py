# SPDX-License-Identifier: Apache-2.0
"""Bringing flash to a generation: what differs, erase block by erase block, and the boot record last (R21 to R23).

Knows no network: erase blocks come in as they were moved. Nothing is programmed that is not, to the byte, what the
manifest says, and nothing counts before it was read back.
"""

from __future__ import annotations

import hashlib

from unbrickd.errors import FlashError, IntegrityError
from unbrickd.flash.device import DeviceFlash
from unbrickd.flash.interface import ERASED
from unbrickd.flash.record import BootRecord
from unbrickd.flash.write import MAX_TRIES, PAGE_BYTES, program_erased, write_erase_block
from unbrickd.model.manifest import Manifest, SealedGeneration
from unbrickd.recovery import events
from unbrickd.recovery.check import Decision, Findings, Reason, check_generation
from unbrickd.recovery.fetch import AHEAD_BYTES
from unbrickd.recovery.offer import choose, next_record
from unbrickd.seal.content import Octets, open_erase_block

STEPS_AHEAD = 4
"""Steps of writing in what is taken ahead meanwhile: so much may come while the network waits for one. With 16 KiB
ahead a step is 4 KiB, a few milliseconds of NOR flash."""


class Installation:
    """The way from what is in flash to `target`. Raises IntegrityError if that may not run on this device.

    before: the boot record as it stands. found: how flash compares with that, if it did not change since. ahead_bytes:
    what is taken ahead. A power cut anywhere leaves the boot record as it was, and erase blocks that need not be
    fetched again, until `finish` has returned.
    """

    def __init__(
        self,
        device: DeviceFlash,
        target: SealedGeneration,
        *,
        before: BootRecord | None,
        decision: Decision,
        ahead_bytes: int = AHEAD_BYTES,
        found: Findings | None = None,
    ) -> None:
        check_generation(device, target, rollback_floor=before.rollback_floor if before is not None else 0)
        self.target = target
        self._device = device
        self._before = before
        self._decision = decision
        self._step_bytes = max(1, ahead_bytes // STEPS_AHEAD // PAGE_BYTES) * PAGE_BYTES
        checked: dict[int, tuple[int, ...]] = {}
        if found is not None and before is not None and before.sealed == target:
            checked = {c.component_id: c.damaged for c in found.components}
        parts: list[tuple[Manifest, tuple[int, ...]]] = []
        for manifest in target.generation.components:
            slot = device.slot(manifest.component_id)
            assert slot is not None, "check_generation made sure of it"
            known = checked.get(manifest.component_id)
            parts.append((manifest, slot.damaged(manifest, device.keys.content) if known is None else known))
        self._pending = [part for part in parts if part[1]]
        self._contents: bytes | None = None
        self._written = 0
        self._is_second_try = False
        recorded = before.sealed.generation if before is not None else None
        self.summary = events.OfferTaken(
            generation=target.generation.number,
            is_named=target.generation.number == decision.named,
            components=tuple(
                (c.name, len(differing), c.geometry.count, sum(c.content_bytes(i) for i in differing))
                for c, differing in parts
            ),
            choices=tuple(
                choose(recorded.component(c.component_id) if recorded is not None else None, c, differs=bool(differing))
                for c, differing in parts
            ),
        )
        """What is going to be done, and why."""

    @property
    def next(self) -> tuple[Manifest, tuple[int, ...]] | None:
        """The component to fetch now and the indexes of its erase blocks that differ; None when all is there."""
        return self._pending[0] if self._pending else None

    def step(self, index: int, octets: Octets) -> int:
        """One step of writing that erase block of this component, `octets` as moved; how many more bytes are in flash.

        First verify it and erase: 0. Raises IntegrityError, and nothing is touched, if it is not what the manifest
        says. Then, in the order of the image, program a piece and read it back. If that is wrong for the first time, it
        must be fetched again: -1; for the second time FlashError `verify`. And whatever the flash raises.
        """
        manifest, _ = self._pending[0]
        slot = self._device.slot(manifest.component_id)
        assert slot is not None
        block = slot.flash.geometry.erase_block(index)
        if self._contents is None:
            contents = bytes(self._verified(manifest, index, octets))
            filled = min(-(-len(contents) // PAGE_BYTES) * PAGE_BYTES, block.size_bytes)
            self._contents = contents.ljust(filled, bytes([ERASED]))
            self._written = 0
            write_erase_block(slot.flash, block, b"")
            return 0
        piece = self._contents[self._written : self._written + self._step_bytes]
        if program_erased(slot.flash, block.offset_bytes + self._written, piece):
            self._written += len(piece)
            return len(piece)
        if self._is_second_try:
            raise FlashError(
                f"erase block {index} at {block.offset_bytes:#x} reads back wrong after {MAX_TRIES} tries",
                code="verify",
                hint="the flash is worn out there",
            )
        self._contents = None
        self._is_second_try = True
        return -1

    def erase_block_done(self, index: int) -> events.EraseBlockRestored | None:
        """All of it was written; None if there is more to do."""
        manifest, differing = self._pending[0]
        if self._contents is None or self._written < len(self._contents):
            return None
        self._contents = None
        self._is_second_try = False
        return events.EraseBlockRestored(
            component=manifest.name, index=index, done=differing.index(index) + 1, wanted=len(differing)
        )

    def component_done(self) -> None:
        """All of that component was taken; it is the next one's turn."""
        del self._pending[0]

    def finish(self) -> None:
        """Everything is in flash and was read back; now the record that makes it count. Raises FlashError."""
        assert not self._pending
        # Where only damage was mended, the record is right as it stands, its journal of boots included.
        mended = self._decision.reason is Reason.DAMAGED and self._before and self._before.sealed == self.target
        if not mended:
            self._device.record.commit(next_record(self._before, self.target, rejected=self._decision.rejected))

    def _verified(self, manifest: Manifest, index: int, octets: Octets) -> Octets:
        """The erase block's contents, decrypted if sealed."""
        if manifest.sealed:
            return open_erase_block(
                self._device.keys.content,
                component_id=manifest.component_id,
                index=index,
                digest=manifest.digests[index],
                ciphertext=octets,
            )
        if hashlib.sha256(octets).digest() != manifest.digests[index]:
            raise IntegrityError(f"erase block {index} of {manifest.name} is not what was backed up", code="digest")
        return octets
