# SPDX-License-Identifier: Apache-2.0
"""unbrickd.seal.keys: derivation, and the device's proof of its id."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unbrickd.errors import IntegrityError
from unbrickd.seal.keys import ContentKeys, DeviceKeys, verify_identity_signature


def test_device_keys_are_all_different(owner_device: DeviceKeys) -> None:
    keys = owner_device
    assert len({keys.manifest, keys.record, keys.good, keys.content.siv, keys.content.enc, keys.public_key}) == 6


def test_device_keys_of_an_id_that_is_not_its_own_are_refused(owner_device: DeviceKeys) -> None:
    with pytest.raises(IntegrityError, match="does not belong"):
        DeviceKeys.of(replace(owner_device.identity, device_id=bytes(16)))


def test_content_keys_from_the_recovery_secret_are_the_device_s(owner_device: DeviceKeys) -> None:
    identity = owner_device.identity
    assert ContentKeys.from_recovery_secret(identity.recovery_secret, identity.device_id) == owner_device.content


def test_content_keys_of_one_secret_differ_by_device() -> None:
    assert ContentKeys.from_recovery_secret(bytes(16), b"a" * 16) != ContentKeys.from_recovery_secret(
        bytes(16), b"b" * 16
    )


def test_verify_identity_signature_takes_the_right_one_only(owner_device: DeviceKeys, maker_device: DeviceKeys) -> None:
    signature = owner_device.sign(b"message")
    verify_identity_signature(owner_device.public_key, b"message", signature)
    wrong = [
        (maker_device.public_key, b"message", signature),
        (owner_device.public_key, b"massage", signature),
        (owner_device.public_key, b"message", b""),
        (owner_device.public_key, b"message", signature[:-1]),
        (owner_device.public_key[:-1], b"message", signature),
        (b"", b"message", signature),
    ]
    wrong += [
        (owner_device.public_key, b"message", signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :])
        for at in range(len(signature))
    ]
    for public_key, message, altered in wrong:
        with pytest.raises(IntegrityError):
            verify_identity_signature(public_key, message, altered)
