# SPDX-License-Identifier: Apache-2.0
"""Whether a device may run the firmware of a generation it has opened (spec/flash-format.md §2, §3.3; R23).

The one place that turns the firmware policy into a verdict. Knows no flash and no boot record: the floor is given.
"""

from __future__ import annotations

from unbrickd.errors import IntegrityError
from unbrickd.model.manifest import ComponentKind, Generation
from unbrickd.seal.identity import FirmwarePolicy, Identity
from unbrickd.seal.maker import verify_firmware


def check_authority(identity: Identity, generation: Generation, *, rollback_floor: int) -> None:
    """Raises IntegrityError unless every firmware in `generation` may run on this device.

    The generation's MAC must have been checked already (`open_generation`); under the policy OWNER it then suffices.
    Under any other, each firmware needs the maker's signature for this device's model, and there must be one.
    Under both, no firmware may lie below the higher of `rollback_floor` (the boot record's) and the identity's.
    """
    firmware = [c for c in generation.components if c.kind is ComponentKind.FIRMWARE]
    floor = max(rollback_floor, identity.rollback_floor)
    for component in firmware:
        if component.rollback_index < floor:
            raise IntegrityError(
                f"{component.name!r} {component.version!r} has rollback index {component.rollback_index}; "
                f"this device accepts {floor} and up",
                code="rollback",
            )
    # "is not OWNER", so that the strict way is the one taken for any value that is not the lenient one.
    if identity.policy is not FirmwarePolicy.OWNER:
        if not firmware:
            raise IntegrityError("the generation names no firmware for the maker to vouch for", code="maker-signature")
        for component in firmware:
            verify_firmware(identity.maker_key_der, component, identity.model)
