# SPDX-License-Identifier: Apache-2.0
"""unbrickd.seal.authority: which generation's firmware a device may run, policy by policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unbrickd.errors import IntegrityError
from unbrickd.model.manifest import ComponentKind, Generation, Manifest
from unbrickd.seal.authority import check_authority
from unbrickd.seal.keys import DeviceKeys
from unbrickd.seal.maker import generate_maker_key, sign_firmware

MODEL = "acme-rx1"


def _of(keys: DeviceKeys, *components: Manifest) -> Generation:
    return Generation(device_id=keys.identity.device_id, model=MODEL, number=1, components=components)


def _refused(keys: DeviceKeys, generation: Generation, *, rollback_floor: int = 0) -> str:
    with pytest.raises(IntegrityError) as caught:
        check_authority(keys.identity, generation, rollback_floor=rollback_floor)
    return caught.value.code


def test_check_authority_maker_takes_signed_firmware(maker_device: DeviceKeys, generation: Generation) -> None:
    check_authority(maker_device.identity, generation, rollback_floor=0)


def test_check_authority_maker_refuses_firmware_without_a_signature(
    maker_device: DeviceKeys, unsigned_firmware: Manifest, config: Manifest
) -> None:
    assert _refused(maker_device, _of(maker_device, unsigned_firmware, config)) == "maker-signature"


def test_check_authority_maker_refuses_a_second_firmware_without_a_signature(
    maker_device: DeviceKeys, firmware: Manifest, unsigned_firmware: Manifest
) -> None:
    second = replace(unsigned_firmware, component_id=9, name="modem")
    assert _refused(maker_device, _of(maker_device, firmware, second)) == "maker-signature"


def test_check_authority_maker_refuses_firmware_of_another_maker(
    maker_device: DeviceKeys, unsigned_firmware: Manifest
) -> None:
    signature = sign_firmware(
        generate_maker_key(2048),
        None,
        model=MODEL,
        version=unsigned_firmware.version,
        rollback_index=unsigned_firmware.rollback_index,
        image_digest=unsigned_firmware.image_digest,
    )
    forged = replace(unsigned_firmware, signature=signature)
    assert _refused(maker_device, _of(maker_device, forged)) == "maker-signature"


def test_check_authority_maker_refuses_firmware_signed_for_another_model_whatever_the_generation_says(
    maker_device: DeviceKeys, maker_pem: bytes, unsigned_firmware: Manifest
) -> None:
    signature = sign_firmware(
        maker_pem,
        None,
        model="acme-rx2",
        version=unsigned_firmware.version,
        rollback_index=unsigned_firmware.rollback_index,
        image_digest=unsigned_firmware.image_digest,
    )
    foreign = replace(_of(maker_device, replace(unsigned_firmware, signature=signature)), model="acme-rx2")
    assert _refused(maker_device, foreign) == "maker-signature"


def test_check_authority_maker_refuses_a_generation_that_hides_its_firmware(
    maker_device: DeviceKeys, unsigned_firmware: Manifest, config: Manifest
) -> None:
    assert _refused(maker_device, _of(maker_device, config)) == "maker-signature"
    renamed = replace(unsigned_firmware, kind=ComponentKind.OTHER)
    assert _refused(maker_device, _of(maker_device, renamed, config)) == "maker-signature"


def test_check_authority_owner_takes_firmware_without_a_signature(
    owner_device: DeviceKeys, unsigned_firmware: Manifest
) -> None:
    check_authority(owner_device.identity, _of(owner_device, unsigned_firmware), rollback_floor=0)


@pytest.mark.parametrize(("floor", "accepted"), [(0, True), (6, True), (7, True), (8, False), (1 << 31, False)])
def test_check_authority_holds_the_floor_of_the_boot_record_under_both_policies(
    maker_device: DeviceKeys, owner_device: DeviceKeys, firmware: Manifest, floor: int, accepted: bool
) -> None:
    for keys in (maker_device, owner_device):
        generation = _of(keys, firmware)
        if accepted:
            check_authority(keys.identity, generation, rollback_floor=floor)
        else:
            assert _refused(keys, generation, rollback_floor=floor) == "rollback"


@pytest.mark.parametrize(("index", "accepted"), [(2, False), (3, True)])
def test_check_authority_holds_the_floor_of_the_identity_though_the_boot_record_s_is_lower(
    owner_device: DeviceKeys, unsigned_firmware: Manifest, index: int, accepted: bool
) -> None:
    generation = _of(owner_device, replace(unsigned_firmware, rollback_index=index))
    if accepted:
        check_authority(owner_device.identity, generation, rollback_floor=0)
    else:
        assert _refused(owner_device, generation) == "rollback"


def test_check_authority_sets_no_floor_for_configuration(
    maker_device: DeviceKeys, firmware: Manifest, config: Manifest
) -> None:
    assert config.rollback_index == 0
    check_authority(maker_device.identity, _of(maker_device, firmware, config), rollback_floor=7)
