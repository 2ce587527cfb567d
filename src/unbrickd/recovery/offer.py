# SPDX-License-Identifier: Apache-2.0
"""Whether what a server offers may be restored, and the boot record that follows (R21, R23; SECURITY.md).

The one gate between an untrusted server and the flash. Pure; every refusal is an IntegrityError that says why.
"""

from __future__ import annotations

import hashlib

from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.flash.device import DeviceFlash
from unbrickd.flash.record import BootRecord
from unbrickd.model.codec import MAX_DOCUMENT_BYTES
from unbrickd.model.manifest import ComponentKind, SealedGeneration
from unbrickd.recovery.check import Decision
from unbrickd.seal.authority import check_authority
from unbrickd.seal.generation import check_good_seal, open_generation
from unbrickd.seal.keys import DeviceKeys
from unbrickd.wire.messages import RestoreAck


def check_offer(keys: DeviceKeys, offer: RestoreAck, *, held: SealedGeneration | None, decision: Decision) -> None:
    """Take only the very document that the boot record names and asks for, or one this device sealed as good."""
    lowest, highest = decision.rejected
    if lowest <= offer.generation <= highest:
        raise IntegrityError(f"it offers generation {offer.generation}, which failed here before", code="rejected")
    if held is not None and decision.named == offer.generation and held.digest == offer.document_digest:
        return
    if offer.good_seal is None or not check_good_seal(
        keys, number=offer.generation, digest=offer.document_digest, seal=offer.good_seal
    ):
        raise IntegrityError(
            f"it offers generation {offer.generation} without this device's good seal", code="good-seal"
        )
    if not 0 < offer.document_length_bytes <= MAX_DOCUMENT_BYTES:
        raise IntegrityError("it offers a generation document of an impossible length", code="generation")


def check_document(device: DeviceFlash, offer: RestoreAck, document: bytes, floor: int) -> SealedGeneration:
    """The generation in a fetched document: the one that was offered, sealed by this device, allowed to run here."""
    if hashlib.sha256(document).digest() != offer.document_digest:
        raise IntegrityError("its generation document has another digest than it offered", code="digest")
    sealed = open_generation(device.keys, document)
    if sealed.generation.number != offer.generation:
        raise IntegrityError("its generation document has another number than it offered", code="generation")
    check_authority(device.keys.identity, sealed.generation, rollback_floor=floor)
    for manifest in sealed.generation.components:
        slot = device.slot(manifest.component_id)
        if slot is None or not slot.takes(manifest):
            raise IntegrityError(
                f"component {manifest.name!r} of generation {offer.generation} does not fit this device's flash layout",
                code="layout",
            )
    try:
        device.record.check_capacity(len(document))
    except ConfigError as error:
        raise IntegrityError(str(error), code="layout") from error
    return sealed


def next_record(before: BootRecord | None, target: SealedGeneration, *, rejected: tuple[int, int]) -> BootRecord:
    """The boot record once a good generation other than the recorded one has been restored."""
    number = target.generation.number
    firmware = [c.rollback_index for c in target.generation.components if c.kind is ComponentKind.FIRMWARE]
    return BootRecord(
        sequence=0,
        counter=max(number, before.counter if before else 0),
        rollback_floor=max(before.rollback_floor if before else 0, *firmware, 0),
        rejected_from=rejected[0],
        rejected_to=rejected[1],
        good=True,
        sealed=target,
    )
