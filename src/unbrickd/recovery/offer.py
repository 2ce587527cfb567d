# SPDX-License-Identifier: Apache-2.0
"""Whether what a server offers may be restored, what of it differs, and the boot record that follows (R21, R23).

The one gate between an untrusted server and the flash. Writes nothing; every refusal is an IntegrityError that says
why.
"""

from __future__ import annotations

import hashlib
from enum import Enum

from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.flash.device import DeviceFlash
from unbrickd.flash.record import BootRecord
from unbrickd.model.manifest import ComponentKind, Manifest, SealedGeneration
from unbrickd.recovery.check import Decision
from unbrickd.seal.generation import check_good_seal, open_generation
from unbrickd.seal.keys import DeviceKeys
from unbrickd.wire.messages import RestoreAck


class Choice(Enum):
    """Why a component is fetched, or not (R21)."""

    KEEP = "it is what it must be"
    DAMAGED = "it is damaged"
    VERSION = "its version differs"
    CONTENT = "its content differs"


def choose(recorded: Manifest | None, wanted: Manifest, *, differs: bool) -> Choice:
    """recorded: what the boot record says of the component, if anything; differs: whether flash is not as wanted."""
    if not differs:
        return Choice.KEEP
    if recorded is None or recorded.image_digest == wanted.image_digest:
        return Choice.DAMAGED
    if wanted.kind is ComponentKind.FIRMWARE and recorded.version != wanted.version:
        return Choice.VERSION
    return Choice.CONTENT


def check_offer(device: DeviceFlash, offer: RestoreAck, *, held: SealedGeneration | None, decision: Decision) -> None:
    """Take only the very document that the boot record names and asks for, or one this device sealed as good.

    Its length is bounded by what the boot record can take, so that no server makes the device reserve more.
    """
    lowest, highest = decision.rejected
    if lowest <= offer.generation <= highest:
        raise IntegrityError(f"it offers generation {offer.generation}, which failed here before", code="rejected")
    if held is not None and decision.named == offer.generation and held.digest == offer.document_digest:
        return
    if offer.good_seal is None or not check_good_seal(
        device.keys, number=offer.generation, digest=offer.document_digest, seal=offer.good_seal
    ):
        raise IntegrityError(
            f"it offers generation {offer.generation} without this device's good seal", code="good-seal"
        )
    if offer.document_length_bytes == 0:
        raise IntegrityError("it offers an empty generation document", code="generation")
    try:
        device.record.check_capacity(offer.document_length_bytes)
    except ConfigError as error:
        raise IntegrityError(f"it offers a generation document that is too long: {error}", code="layout") from error


def open_document(keys: DeviceKeys, offer: RestoreAck, document: bytes) -> SealedGeneration:
    """The generation in a fetched document: the one that was offered, sealed by this device."""
    if hashlib.sha256(document).digest() != offer.document_digest:
        raise IntegrityError("its generation document is not the one it offered", code="digest")
    sealed = open_generation(keys, document)
    if sealed.generation.number != offer.generation:
        raise IntegrityError("its generation document has another number than it offered", code="generation")
    return sealed


def next_record(before: BootRecord | None, target: SealedGeneration, *, rejected: tuple[int, int]) -> BootRecord:
    """The boot record once a good generation has been restored that it did not name, or not as good."""
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
