# SPDX-License-Identifier: Apache-2.0
"""unbrickd.seal.identity: the structure in the protected sector and the recovery code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.seal.identity import (
    MAX_IDENTITY_BYTES,
    FirmwarePolicy,
    Identity,
    decode_identity,
    decode_recovery_code,
    encode_identity,
    encode_recovery_code,
)
from unbrickd.seal.keys import DeviceKeys, device_id_of


def test_identity_generated_takes_its_id_from_its_public_key_and_its_secrets_from_entropy() -> None:
    drawn: list[bytes] = []

    def entropy(count: int) -> bytes:
        drawn.append(bytes([len(drawn) + 1]) * count)
        return drawn[-1]

    identity = Identity.generate(model="m", policy=FirmwarePolicy.OWNER, entropy=entropy)
    assert [identity.device_key, identity.recovery_secret] == drawn == [b"\x01" * 32, b"\x02" * 16]
    assert identity.device_id == device_id_of(DeviceKeys.of(identity).public_key)


def test_identity_in_a_sector_of_ff_decodes_to_itself(maker_device: DeviceKeys, owner_device: DeviceKeys) -> None:
    for identity in (maker_device.identity, owner_device.identity):
        octets = encode_identity(identity)
        assert len(octets) <= MAX_IDENTITY_BYTES
        assert decode_identity(octets) == decode_identity(octets.ljust(4096, b"\xff")) == identity


def test_identity_with_any_byte_altered_is_refused(maker_device: DeviceKeys) -> None:
    octets = encode_identity(maker_device.identity).ljust(4096, b"\xff")
    for at in range(len(encode_identity(maker_device.identity))):
        altered = bytearray(octets)
        altered[at] ^= 0x40
        with pytest.raises(IntegrityError):
            decode_identity(bytes(altered))


def test_identity_cut_short_anywhere_is_refused(maker_device: DeviceKeys) -> None:
    octets = encode_identity(maker_device.identity)
    for length in range(len(octets)):
        with pytest.raises(IntegrityError):
            decode_identity(octets[:length])


@pytest.mark.parametrize("empty", [b"\xff" * 4096, b"\x00" * 4096])
def test_identity_in_an_empty_sector_is_refused_with_a_hint(empty: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        decode_identity(empty)
    assert "provision" in caught.value.hint


@pytest.mark.parametrize(
    ("at", "octets"),
    [
        pytest.param(5, b"\x00", id="no policy"),
        pytest.param(5, b"\x03", id="unknown policy"),
        pytest.param(5, b"\x01", id="policy maker without a maker's key"),
        pytest.param(24, bytes(32), id="no model"),
        pytest.param(24, b"m\0x", id="model with bytes after its end"),
        pytest.param(24, b"\xff", id="model not UTF-8"),
    ],
)
def test_identity_whose_digest_holds_but_whose_value_is_out_of_range_is_refused(
    owner_device: DeviceKeys, at: int, octets: bytes
) -> None:
    body = bytearray(encode_identity(owner_device.identity)[:-32])
    body[at : at + len(octets)] = octets
    with pytest.raises(IntegrityError):
        decode_identity(bytes(body) + hashlib.sha256(body).digest())


def test_identity_of_policy_maker_without_a_usable_key_cannot_be_made(maker_device: DeviceKeys) -> None:
    def spki(public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, encoding: Encoding = Encoding.DER) -> bytes:
        return public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)

    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    right = maker_device.identity.maker_key_der
    unusable = (
        b"",
        b"no key",
        spki(weak),
        spki(ec.generate_private_key(ec.SECP256R1()).public_key()),
        right[:-1],
        right + b"\0",
    )
    for key in unusable:
        with pytest.raises(ConfigError):
            replace(maker_device.identity, maker_key_der=key)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: replace(value, device_id=bytes(15)),
        lambda value: replace(value, device_key=bytes(31)),
        lambda value: replace(value, recovery_secret=bytes(17)),
        lambda value: replace(value, model="m" * 33),
        lambda value: replace(value, model="a\0b"),
        lambda value: replace(value, model="\ud800"),
        lambda value: replace(value, rollback_floor=1 << 32),
        lambda value: replace(value, rollback_floor=-1),
    ],
)
def test_identity_with_a_field_out_of_range_cannot_be_made(
    owner_device: DeviceKeys, change: Callable[[Identity], Identity]
) -> None:
    with pytest.raises(ConfigError):
        change(owner_device.identity)


def test_identity_and_keys_print_no_secret(owner_device: DeviceKeys) -> None:
    text = repr(owner_device) + str(owner_device) + repr(owner_device.content)
    identity = owner_device.identity
    secrets = (identity.device_key, identity.recovery_secret, owner_device.manifest, owner_device.record)
    for secret in (*secrets, owner_device.good, owner_device.content.siv, owner_device.content.enc):
        assert secret.hex() not in text
        assert repr(secret) not in text


def test_recovery_code_typed_by_a_human_reads_as_it_was_written() -> None:
    secret = bytes.fromhex("e4d7e32cdcef32988fb16e62a20c8961")
    code = encode_recovery_code(secret)
    assert code == "WKBY6-B6WXW-S9H3X-HDSHA-4349C-5H4Y9-0"
    for typed in (code.lower(), code.replace("-", ""), code.replace("-", " "), f" {code}\n", code.replace("0", "o")):
        assert decode_recovery_code(typed) == secret
    ones = encode_recovery_code(b"\x08\x42\x10\x84\x21\x08\x42\x10\x84\x21\x08\x42\x10\x84\x21\x08")
    assert ones.startswith("11111-11111")
    assert decode_recovery_code(ones.replace("1", "I")) == decode_recovery_code(ones.replace("1", "l"))


def test_recovery_code_with_any_one_character_wrong_is_refused_with_a_hint() -> None:
    code = encode_recovery_code(bytes(range(16)))
    for at, right in enumerate(code):
        if right == "-":
            continue
        for wrong in "0123456789ABCDEFGHJKMNPQRSTVWXYZ":
            if wrong != right:
                with pytest.raises(ConfigError) as caught:
                    decode_recovery_code(code[:at] + wrong + code[at + 1 :])
                assert caught.value.hint


@pytest.mark.parametrize("text", ["", "WKBY6", "WKBY6-B6WXW-S9H3X-HDSHA-4349C-5H4Y9-00", "U" * 31, "é" * 31])
def test_recovery_code_of_wrong_length_or_alphabet_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_recovery_code(text)
    assert caught.value.hint


def test_recovery_code_of_a_secret_of_wrong_length_cannot_be_made() -> None:
    with pytest.raises(ConfigError):
        encode_recovery_code(bytes(15))
