# SPDX-License-Identifier: Apache-2.0
"""unbrickd.seal.generation: the MAC of the document and the good seal."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace

import pytest

from unbrickd.errors import IntegrityError
from unbrickd.model.codec import encode_generation
from unbrickd.model.manifest import Generation
from unbrickd.seal.generation import check_good_seal, good_seal, open_generation, seal_generation
from unbrickd.seal.keys import DeviceKeys


def _sealed_by_hand(keys: DeviceKeys, body: bytes) -> bytes:
    return body + hmac.digest(keys.manifest, body, "sha256")


def test_generation_sealed_opens_to_itself(maker_device: DeviceKeys, generation: Generation) -> None:
    sealed = seal_generation(maker_device, generation)
    assert sealed.generation == generation
    assert open_generation(maker_device, sealed.document) == sealed


def test_generation_with_any_byte_altered_does_not_open(maker_device: DeviceKeys, generation: Generation) -> None:
    document = seal_generation(maker_device, generation).document
    for at in range(len(document)):
        with pytest.raises(IntegrityError) as caught:
            open_generation(maker_device, document[:at] + bytes([document[at] ^ 0x80]) + document[at + 1 :])
        assert caught.value.code == "generation-mac", "the MAC is checked before anything is decoded"


def test_generation_cut_or_lengthened_does_not_open(maker_device: DeviceKeys, generation: Generation) -> None:
    document = seal_generation(maker_device, generation).document
    for altered in (b"", document[:31], document[:32], document[:-1], document[1:], document + b"\0"):
        with pytest.raises(IntegrityError):
            open_generation(maker_device, altered)


def test_generation_that_is_no_document_under_a_right_mac_does_not_open(maker_device: DeviceKeys) -> None:
    for body in (b"", b"UBGN", bytes(200)):
        with pytest.raises(IntegrityError) as caught:
            open_generation(maker_device, _sealed_by_hand(maker_device, body))
        assert caught.value.code == "generation"


def test_generation_of_another_device_does_not_open(
    maker_device: DeviceKeys, owner_device: DeviceKeys, generation: Generation
) -> None:
    with pytest.raises(IntegrityError):
        open_generation(owner_device, seal_generation(maker_device, generation).document)


@pytest.mark.parametrize(
    "change", [lambda value: replace(value, device_id=b"x" * 16), lambda value: replace(value, model="other")]
)
def test_generation_naming_another_device_or_model_is_neither_sealed_nor_opened(
    maker_device: DeviceKeys, generation: Generation, change: Callable[[Generation], Generation]
) -> None:
    foreign = change(generation)
    with pytest.raises(IntegrityError):
        seal_generation(maker_device, foreign)
    with pytest.raises(IntegrityError) as caught:
        open_generation(maker_device, _sealed_by_hand(maker_device, encode_generation(foreign)))
    assert caught.value.code == "generation-device"


def test_good_seal_holds_for_this_document_number_and_device_only(
    maker_device: DeviceKeys, owner_device: DeviceKeys, generation: Generation
) -> None:
    sealed = seal_generation(maker_device, generation)
    seal = good_seal(maker_device, sealed)
    assert check_good_seal(maker_device, number=5, digest=sealed.digest, seal=seal)
    assert not check_good_seal(owner_device, number=5, digest=sealed.digest, seal=seal)
    assert not check_good_seal(maker_device, number=6, digest=sealed.digest, seal=seal)
    assert not check_good_seal(maker_device, number=5, digest=bytes(32), seal=seal)
    assert not check_good_seal(maker_device, number=5, digest=sealed.digest, seal=b"")
    for at in range(32):
        altered = seal[:at] + bytes([seal[at] ^ 1]) + seal[at + 1 :]
        assert not check_good_seal(maker_device, number=5, digest=sealed.digest, seal=altered)


def test_good_seal_is_not_the_mac_of_the_document(maker_device: DeviceKeys, generation: Generation) -> None:
    sealed = seal_generation(maker_device, generation)
    assert not check_good_seal(maker_device, number=5, digest=sealed.digest, seal=sealed.document[-32:])
