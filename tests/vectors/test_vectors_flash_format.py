# SPDX-License-Identifier: Apache-2.0
"""spec/vectors against spec/flash-format.md twice over: recomputed here from the primitives, then by the code.

What is computed here goes by the text of the specification and calls nothing of unbrickd, so that a mistake shared by
the code that wrote the vectors and the code that reads them is found.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.model.manifest import ComponentKind
from unbrickd.seal.authority import check_authority
from unbrickd.seal.content import open_erase_block, seal_erase_block
from unbrickd.seal.generation import check_good_seal, good_seal, open_generation, seal_generation
from unbrickd.seal.identity import (
    FirmwarePolicy,
    Identity,
    decode_identity,
    decode_recovery_code,
    encode_identity,
    encode_recovery_code,
)
from unbrickd.seal.keys import ContentKeys, DeviceKeys, verify_identity_signature
from unbrickd.seal.maker import decode_signature_file, encode_signature_file
from unbrickd.seal.manifest import build_manifest, verify_erase_block

DIRECTORY = Path(__file__).resolve().parents[2] / "spec" / "vectors"


class Vector:
    """One JSON object of a vector file, read by type."""

    def __init__(self, members: dict[str, object]) -> None:
        self._members = members

    @classmethod
    def load(cls, name: str) -> Vector:
        vector = cls(json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8")))
        assert vector.text("what")
        return vector

    def text(self, name: str) -> str:
        return cast(str, self._members[name])

    def octets(self, name: str) -> bytes:
        return bytes.fromhex(self.text(name))

    def number(self, name: str) -> int:
        return cast(int, self._members[name])

    def runs(self, name: str) -> list[tuple[int, int]]:
        return [(count, size) for count, size in cast(list[list[int]], self._members[name])]

    def many(self, name: str) -> list[bytes]:
        return [bytes.fromhex(text) for text in cast(list[str], self._members[name])]

    @property
    def cases(self) -> list[Vector]:
        cases = [Vector(members) for members in cast(list[dict[str, object]], self._members["cases"])]
        assert cases
        return cases


def _hmac(key: bytes, message: bytes) -> bytes:
    """RFC 2104 §2 by hand."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).digest()


def _aes_ctr(key: bytes, counter_block: bytes, octets: bytes) -> bytes:
    """CTR from single AES blocks, the counter one 128-bit big-endian integer."""
    aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    counter = int.from_bytes(counter_block, "big")
    out = bytearray()
    for at in range(0, len(octets), 16):
        stream = aes.update(((counter + at // 16) % (1 << 128)).to_bytes(16, "big"))
        out += bytes(a ^ b for a, b in zip(octets[at : at + 16], stream, strict=False))
    return bytes(out)


def _geometry(runs: list[tuple[int, int]]) -> Geometry:
    return Geometry(tuple(EraseRun(count=count, size_bytes=size) for count, size in runs))


def _maker_identity() -> Identity:
    return decode_identity(Vector.load("identity").cases[0].octets("octets"))


# --- §2 identity -----------------------------------------------------------------------------------------------------


def test_identity_vector_follows_the_table_of_section_2() -> None:
    for case in Vector.load("identity").cases:
        key = case.octets("maker_key_der")
        body = b"UBID" + bytes((1, case.number("policy"))) + struct.pack(">H", len(key))
        body += case.octets("device_id") + case.text("model").encode().ljust(32, b"\0") + case.octets("device_key")
        body += case.octets("recovery_secret") + struct.pack(">I", case.number("rollback_floor")) + key
        assert case.octets("octets") == body + hashlib.sha256(body).digest()


def test_identity_vector_decodes_and_encodes_to_itself() -> None:
    for case in Vector.load("identity").cases:
        identity = decode_identity(case.octets("octets"))
        assert identity == Identity(
            device_id=case.octets("device_id"),
            model=case.text("model"),
            policy=FirmwarePolicy(case.number("policy")),
            device_key=case.octets("device_key"),
            recovery_secret=case.octets("recovery_secret"),
            rollback_floor=case.number("rollback_floor"),
            maker_key_der=case.octets("maker_key_der"),
        )
        assert encode_identity(identity) == case.octets("octets")


def test_derived_keys_vector_is_hmac_of_the_labels_of_section_2_1() -> None:
    v = Vector.load("derived_keys")
    device_key, secret, device_id = v.octets("device_key"), v.octets("recovery_secret"), v.octets("device_id")
    assert v.octets("manifest") == _hmac(device_key, b"unbrickd manifest v1")
    assert v.octets("record") == _hmac(device_key, b"unbrickd record v1")
    assert v.octets("good") == _hmac(device_key, b"unbrickd good v1")
    assert v.octets("siv") == _hmac(secret, b"unbrickd siv v1" + device_id)
    assert v.octets("enc") == _hmac(secret, b"unbrickd enc v1" + device_id)
    pair = Ed25519PrivateKey.from_private_bytes(_hmac(device_key, b"unbrickd identity v1"))
    assert v.octets("public_key") == pair.public_key().public_bytes_raw()
    assert device_id == hashlib.sha256(v.octets("public_key")).digest()[:16]
    Ed25519PublicKey.from_public_bytes(v.octets("public_key")).verify(
        v.octets("message_signature"), v.octets("message")
    )


def test_derived_keys_vector_is_what_device_keys_derive() -> None:
    v = Vector.load("derived_keys")
    keys = DeviceKeys.of(_maker_identity())
    assert keys.identity.device_key == v.octets("device_key")
    assert (keys.manifest, keys.record, keys.good) == (v.octets("manifest"), v.octets("record"), v.octets("good"))
    assert keys.content == ContentKeys(siv=v.octets("siv"), enc=v.octets("enc"))
    assert keys.public_key == v.octets("public_key")
    assert keys.sign(v.octets("message")) == v.octets("message_signature")
    verify_identity_signature(keys.public_key, v.octets("message"), v.octets("message_signature"))


def test_recovery_code_vector_is_the_crockford_bits_of_section_2_2() -> None:
    for case in Vector.load("recovery_code").cases:
        secret, code = case.octets("recovery_secret"), case.text("code")
        check = hashlib.sha256(b"unbrickd recovery code v1" + secret).digest()[:3]
        bits = "".join(f"{octet:08b}" for octet in secret + check) + "000"
        digits = [int(bits[i : i + 5], 2) for i in range(0, len(bits), 5)]
        text = "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[digit] for digit in digits)
        assert len(text) == 31
        assert code == "-".join([*(text[i : i + 5] for i in range(0, 30, 5)), text[30]])
        assert encode_recovery_code(secret) == code
        assert decode_recovery_code(code) == secret


# --- §3 manifest -----------------------------------------------------------------------------------------------------


def test_open_manifest_vector_has_the_digests_of_section_3() -> None:
    v = Vector.load("open_manifest")
    image, runs = v.octets("image"), v.runs("runs")
    starts = [0]
    for count, size in runs:
        starts += [starts[-1] + size * (i + 1) for i in range(count)]
    assert v.number("length") == len(image)
    assert starts[-2] < len(image) < starts[-1], "the vector's last erase block is partly filled"
    assert v.many("digests") == [hashlib.sha256(image[lo:hi]).digest() for lo, hi in pairwise(starts)]
    named = b"unbrickd image v1" + struct.pack(">II", len(image), len(runs))
    named += b"".join(struct.pack(">II", count, size) for count, size in runs)
    assert v.octets("image_digest") == hashlib.sha256(named + b"".join(v.many("digests"))).digest()


def test_open_manifest_vector_is_what_build_manifest_makes() -> None:
    v = Vector.load("open_manifest")
    image = v.octets("image")
    manifest = build_manifest(
        component_id=1,
        kind=ComponentKind.FIRMWARE,
        name="firmware",
        version="any",
        geometry=_geometry(v.runs("partition_runs")),
        image=lambda offset, length: image[offset : offset + length],
        length_bytes=v.number("length"),
        content_keys=None,
    )
    assert manifest.geometry == _geometry(v.runs("runs"))
    assert list(manifest.digests) == v.many("digests")
    assert manifest.image_digest == v.octets("image_digest")


def test_maker_signature_vector_verifies_by_rsa_arithmetic() -> None:
    v = Vector.load("maker_signature")
    statement = b"unbrickd firmware v1" + v.text("model").encode().ljust(32, b"\0")
    statement += v.text("version").encode().ljust(64, b"\0")
    statement += struct.pack(">I", v.number("rollback_index")) + v.octets("image_digest")
    assert v.octets("statement") == statement
    assert v.octets("image_digest") == Vector.load("open_manifest").octets("image_digest")
    key = load_der_public_key(v.octets("public_key_der"))
    assert isinstance(key, RSAPublicKey)
    numbers = key.public_numbers()
    # EMSA-PKCS1-v1_5 (RFC 8017 §9.2) with the DigestInfo prefix of SHA-256 (note 1 there).
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(statement).digest()
    expected = b"\x00\x01" + b"\xff" * (256 - 3 - len(info)) + b"\x00" + info
    opened = pow(int.from_bytes(v.octets("signature"), "big"), numbers.e, numbers.n)
    assert opened.to_bytes(256, "big") == expected


def test_maker_signature_vector_file_has_the_members_of_section_6() -> None:
    v = Vector.load("maker_signature")
    manifest = Vector.load("open_manifest")
    assert json.loads(v.text("file")) == {
        "format": "unbrickd-signature-1",
        "model": v.text("model"),
        "version": v.text("version"),
        "rollback_index": v.number("rollback_index"),
        "length": manifest.number("length"),
        "runs": [list(run) for run in manifest.runs("runs")],
        "image_digest": v.text("image_digest"),
        "signature": base64.b64encode(v.octets("signature")).decode(),
    }
    assert encode_signature_file(decode_signature_file(v.text("file"))) == v.text("file")


# --- §5 sealing ------------------------------------------------------------------------------------------------------


def test_sealed_erase_block_vector_is_siv_of_hmac_and_aes_ctr() -> None:
    v = Vector.load("sealed_erase_block")
    for case in v.cases:
        place = struct.pack(">BI", case.number("component_id"), case.number("index"))
        digest = _hmac(v.octets("siv"), place + case.octets("plaintext"))
        assert case.octets("digest") == digest
        assert case.octets("ciphertext") == _aes_ctr(v.octets("enc"), digest[:16], case.octets("plaintext"))
        assert case.octets("transfer_digest") == hashlib.sha256(case.octets("ciphertext")).digest()


def test_sealed_erase_block_vector_holds_a_counter_that_carries_out_of_32_bits() -> None:
    """So that an implementation of CTR with a 32-bit counter (as in GCM) does not pass."""

    def carries(case: Vector) -> bool:
        low = int.from_bytes(case.octets("digest")[12:16], "big")
        return low + (len(case.octets("plaintext")) - 1) // 16 >= 1 << 32

    assert any(carries(case) for case in Vector.load("sealed_erase_block").cases)


def test_sealed_erase_block_vector_seals_and_opens() -> None:
    v = Vector.load("sealed_erase_block")
    keys = ContentKeys(siv=v.octets("siv"), enc=v.octets("enc"))
    for case in v.cases:
        component_id, index = case.number("component_id"), case.number("index")
        digest, ciphertext = case.octets("digest"), case.octets("ciphertext")
        assert seal_erase_block(keys, component_id=component_id, index=index, plaintext=case.octets("plaintext")) == (
            digest,
            ciphertext,
        )
        assert open_erase_block(
            keys, component_id=component_id, index=index, digest=digest, ciphertext=ciphertext
        ) == case.octets("plaintext")


# --- §4 generation ---------------------------------------------------------------------------------------------------


def test_generation_vector_follows_the_tables_of_section_4() -> None:
    v, manifest, signed = Vector.load("generation"), Vector.load("open_manifest"), Vector.load("maker_signature")
    blocks = Vector.load("sealed_erase_block").cases[:2]
    firmware = bytes((1, 1, 0, 2)) + b"firmware".ljust(16, b"\0") + signed.text("version").encode().ljust(64, b"\0")
    firmware += struct.pack(">IIIHH", 700, signed.number("rollback_index"), 3, 256, 0)
    firmware += struct.pack(">IIII", 2, 256, 1, 512) + signed.octets("signature") + b"".join(manifest.many("digests"))
    config = bytes((2, 2, 1, 1)) + b"config".ljust(16, b"\0") + bytes(64)
    config += struct.pack(">IIIHH", 300, 0, 2, 0, 0) + struct.pack(">II", 2, 256)
    config += b"".join(block.octets("digest") for block in blocks)
    config += b"".join(block.octets("transfer_digest") for block in blocks)
    total = 64 + len(firmware) + len(config) + 32
    head = b"UBGN" + bytes((1, 2, 0, 0)) + struct.pack(">I", total) + v.octets("device_id")
    head += struct.pack(">I", v.number("number")) + v.text("model").encode().ljust(32, b"\0")
    body = head + firmware + config
    assert v.octets("document") == body + _hmac(v.octets("manifest_key"), body)
    assert v.octets("digest") == hashlib.sha256(v.octets("document")).digest()


def test_generation_vector_opens_has_authority_and_seals_to_itself() -> None:
    v = Vector.load("generation")
    keys = DeviceKeys.of(_maker_identity())
    sealed = open_generation(keys, v.octets("document"))
    check_authority(keys.identity, sealed.generation, rollback_floor=0)
    assert seal_generation(keys, sealed.generation) == sealed
    config = sealed.generation.component(2)
    assert config is not None
    for index, case in enumerate(Vector.load("sealed_erase_block").cases[:2]):
        assert verify_erase_block(config, index, case.octets("plaintext"), keys.content)


def test_good_seal_vector_is_the_hmac_of_section_4_1() -> None:
    v, generation = Vector.load("good_seal"), Vector.load("generation")
    assert v.octets("digest") == hashlib.sha256(generation.octets("document")).digest()
    message = v.octets("device_id") + struct.pack(">I", v.number("number")) + v.octets("digest")
    assert v.octets("seal") == _hmac(v.octets("good_key"), message)
    keys = DeviceKeys.of(_maker_identity())
    assert good_seal(keys, open_generation(keys, generation.octets("document"))) == v.octets("seal")
    assert check_good_seal(keys, number=v.number("number"), digest=v.octets("digest"), seal=v.octets("seal"))


@pytest.mark.parametrize("key", [b"", b"k" * 32, b"k" * 64])
def test_hmac_by_hand_agrees_with_the_standard_library(key: bytes) -> None:
    """The yardstick of this file is itself measured."""
    assert _hmac(key, b"message") == hmac.digest(key, b"message", "sha256")
