# SPDX-License-Identifier: Apache-2.0
"""unbrickd.seal.maker: the maker's key, signature and signature file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.model.manifest import Manifest
from unbrickd.seal.keys import ContentKeys
from unbrickd.seal.maker import (
    SignatureFile,
    decode_signature_file,
    encode_public_key,
    encode_signature_file,
    firmware_statement,
    generate_maker_key,
    load_private_key,
    load_public_key,
    public_key_der,
    sign_firmware,
    verify_firmware,
)
from unbrickd.seal.manifest import build_manifest

MODEL = "acme-rx1"


@pytest.fixture
def file(firmware: Manifest) -> SignatureFile:
    return SignatureFile(
        model=MODEL,
        version=firmware.version,
        rollback_index=firmware.rollback_index,
        length_bytes=firmware.length_bytes,
        geometry=firmware.geometry,
        image_digest=firmware.image_digest,
        signature=firmware.signature,
    )


def _refused(public_der: bytes, manifest: Manifest, model: str = MODEL) -> str:
    with pytest.raises(IntegrityError) as caught:
        verify_firmware(public_der, manifest, model)
    assert caught.value.code == "maker-signature"
    return str(caught.value)


def test_verify_firmware_signed_by_the_maker_passes(maker_der: bytes, firmware: Manifest) -> None:
    verify_firmware(maker_der, firmware, MODEL)


def test_verify_firmware_without_a_signature_is_refused(maker_der: bytes, unsigned_firmware: Manifest) -> None:
    assert "carries no maker's signature" in _refused(maker_der, unsigned_firmware)


def test_verify_firmware_with_any_byte_of_the_signature_altered_is_refused(
    maker_der: bytes, firmware: Manifest
) -> None:
    signature = firmware.signature
    for at in range(len(signature)):
        altered = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        _refused(maker_der, replace(firmware, signature=altered))
    for altered in (signature[:-1], signature + b"\0", bytes(256), b"\x01"):
        _refused(maker_der, replace(firmware, signature=altered))


def test_verify_firmware_with_any_signed_value_altered_is_refused(maker_der: bytes, firmware: Manifest) -> None:
    digests = (firmware.digests[0], firmware.digests[1], bytes(32))
    for altered in (
        replace(firmware, version="2.4.2"),
        replace(firmware, rollback_index=8),
        replace(firmware, length_bytes=firmware.length_bytes - 1),
        replace(firmware, digests=digests, transfer_digests=digests),
    ):
        assert "did not sign" in _refused(maker_der, altered)
    assert "did not sign" in _refused(maker_der, firmware, "acme-rx2")


def test_verify_firmware_signed_by_another_maker_is_refused(firmware: Manifest) -> None:
    _refused(public_key_der(generate_maker_key(2048)), firmware)


@pytest.mark.parametrize("key", [b"", b"not a key"])
def test_verify_firmware_without_a_usable_key_is_refused(firmware: Manifest, key: bytes) -> None:
    assert "cannot be verified" in _refused(key, firmware)


def test_verify_firmware_signed_with_pss_is_refused(maker_pem: bytes, maker_der: bytes, firmware: Manifest) -> None:
    statement = firmware_statement(
        model=MODEL,
        version=firmware.version,
        rollback_index=firmware.rollback_index,
        image_digest=firmware.image_digest,
    )
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    signature = load_private_key(maker_pem).sign(statement, pss, hashes.SHA256())
    _refused(maker_der, replace(firmware, signature=signature))


def test_verify_firmware_that_is_sealed_is_refused_though_signed(
    maker_pem: bytes, maker_der: bytes, firmware: Manifest
) -> None:
    sealed = build_manifest(
        component_id=1,
        kind=firmware.kind,
        name="firmware",
        version="1",
        geometry=firmware.geometry,
        image=lambda _offset, length: bytes(length),
        length_bytes=firmware.length_bytes,
        content_keys=ContentKeys(siv=b"s" * 32, enc=b"e" * 32),
    )
    signature = sign_firmware(
        maker_pem, None, model=MODEL, version="1", rollback_index=0, image_digest=sealed.image_digest
    )
    assert "sealed" in _refused(maker_der, replace(sealed, signature=signature))


@pytest.mark.parametrize(
    "change",
    [
        lambda value: replace(value, model=""),
        lambda value: replace(value, model="m" * 33),
        lambda value: replace(value, model="a\0"),
        lambda value: replace(value, model="\ud800"),
        lambda value: replace(value, version="v" * 65),
        lambda value: replace(value, version="1\0"),
        lambda value: replace(value, rollback_index=-1),
        lambda value: replace(value, rollback_index=1 << 32),
        lambda value: replace(value, image_digest=bytes(31)),
    ],
)
def test_signature_file_with_a_value_no_statement_can_hold_cannot_be_made(
    file: SignatureFile, change: Callable[[SignatureFile], SignatureFile]
) -> None:
    with pytest.raises(ConfigError):
        change(file)


def test_maker_key_with_a_passphrase_needs_just_that_passphrase() -> None:
    pem = generate_maker_key(2048, passphrase=b"open sesame")
    assert b"ENCRYPTED PRIVATE KEY" in pem
    assert load_private_key(pem, b"open sesame").key_size == 2048
    for passphrase in (None, b"", b"wrong"):
        with pytest.raises(ConfigError):
            load_private_key(pem, passphrase)


def test_maker_key_without_a_passphrase_given_one_is_refused(maker_pem: bytes) -> None:
    with pytest.raises(ConfigError, match="has no passphrase"):
        load_private_key(maker_pem, b"open sesame")


def test_maker_keys_load_from_pem_and_der_alike(maker_pem: bytes, maker_der: bytes) -> None:
    private = load_private_key(maker_pem)
    private_der = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert public_key_der(private_der) == maker_der
    assert encode_public_key(load_public_key(public_pem)) == encode_public_key(load_public_key(maker_der)) == maker_der


def test_maker_keys_that_are_not_rsa_of_2048_to_4096_bits_are_refused() -> None:
    for key in (
        rsa.generate_private_key(public_exponent=65537, key_size=1024),
        ec.generate_private_key(ec.SECP256R1()),
    ):
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with pytest.raises(ConfigError):
            load_private_key(pem)
    for bits in (1024, 8192):
        with pytest.raises(ConfigError):
            generate_maker_key(bits)
    for octets in (b"", b"-----BEGIN PRIVATE KEY-----", b"\xff" * 300):
        with pytest.raises(ConfigError):
            load_private_key(octets)
        with pytest.raises(ConfigError):
            load_public_key(octets)


def test_signature_file_encoded_decodes_to_itself(file: SignatureFile) -> None:
    assert decode_signature_file(encode_signature_file(file)) == file


def test_signature_file_with_a_member_it_does_not_know_is_read(file: SignatureFile) -> None:
    members = json.loads(encode_signature_file(file)) | {"comment": "nightly"}
    assert decode_signature_file(json.dumps(members)) == file


@pytest.mark.parametrize(
    "change",
    [
        {"format": "unbrickd-signature-2"},
        {"model": 1},
        {"model": "\ud800"},
        {"version": None},
        {"rollback_index": "7"},
        {"rollback_index": True},
        {"rollback_index": 7.0},
        {"length": 0},
        {"length": 10**9},
        {"length": 512},
        {"runs": []},
        {"runs": {}},
        {"runs": [[1]]},
        {"runs": [[1, 256]] * 9},
        {"runs": [[1, 100]]},
        {"runs": [[1, "256"]]},
        {"image_digest": "00"},
        {"image_digest": "zz" * 32},
        {"signature": ""},
        {"signature": "%%%%"},
        {"signature": "é"},
        {"signature": "AAAA" * 200},
    ],
    ids=repr,
)
def test_signature_file_with_a_member_out_of_range_is_refused(file: SignatureFile, change: dict[str, object]) -> None:
    members = json.loads(encode_signature_file(file))
    with pytest.raises(ConfigError):
        decode_signature_file(json.dumps(members | change))


def test_signature_file_lacking_any_member_is_refused(file: SignatureFile) -> None:
    members = json.loads(encode_signature_file(file))
    for name in members:
        with pytest.raises(ConfigError):
            decode_signature_file(json.dumps({k: v for k, v in members.items() if k != name}))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 10_000, '{"rollback_index": ' + "9" * 9000 + "}", " " * 20_000]
)
def test_signature_file_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        decode_signature_file(text)
