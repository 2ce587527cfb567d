# SPDX-License-Identifier: Apache-2.0
"""The golden vectors of spec/vectors, read by the C core: the same files as Python's tests (tests/vectors)."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import zlib
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from unbrickd_c import FFI, c_octets, core, crypto_functions, ffi

from unbrickd.seal.maker import encode_public_key, generate_maker_key, load_private_key

VECTORS = Path(__file__).resolve().parents[2] / "spec" / "vectors"
DEVICE_GETS = {
    2: "PROBE_ACK",
    6: "RESTORE_ACK",
    8: "DATA_START",
    10: "DATA_BLOCK",
    11: "DATA_END",
    14: "ERROR",
    15: "ANNOUNCE",
}


def load(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def cases(name: str, key: str = "cases") -> list[dict[str, object]]:
    return cast(list[dict[str, object]], load(name)[key])


def value(name: str, key: str) -> bytes:
    return bytes.fromhex(str(load(name)[key]))


def taken(pointer: FFI.CData, length: int) -> bytes:
    return bytes(ffi().buffer(pointer, length))


@pytest.fixture(scope="module")
def io() -> FFI.CData:
    table = ffi().new("struct unbrickd_io *")
    crypto_functions(table)
    return table


@pytest.fixture
def ub(io: FFI.CData) -> FFI.CData:
    """A core with the identity of the first vector and its keys; `identity` there points into `ub_identity`."""
    config = ffi().new("struct unbrickd_config *")
    made = ffi().new("struct unbrickd *", {"io": io, "config": config})
    octets = c_octets(bytes.fromhex(str(cases("identity")[0]["octets"])))
    KEPT[made] = (config, octets)
    assert core().ub_decode_identity(made, octets, len(octets)) == 0
    core().ub_derive_keys(made)
    return made


KEPT: WeakKeyDictionary[FFI.CData, object] = WeakKeyDictionary()
"""What must live as long as the C struct that points to it."""


FIELDS = {
    "nonce": ("NONCE", 8),
    "server_id": ("SERVER_ID", 16),
    "cookie": ("COOKIE", 16),
    "version": ("VERSION", 1),
    "retry_after_s": ("RETRY_S", 2),
    "max_message_bytes": ("MAX_MESSAGE", 2),
    "generation": ("GENERATION", 4),
    "document_length_bytes": ("DOCUMENT_BYTES", 4),
    "document_digest": ("DIGEST", 32),
    "digest": ("DIGEST", 32),
    "component_id": ("COMPONENT", 1),
    "max_block_bytes": ("MAX_BLOCK", 2),
    "length_bytes": ("LENGTH", 4),
    "request": ("REQUEST", 4),
    "offset_bytes": ("OFFSET", 4),
    "code": ("CODE", 2),
    "version_lowest": ("LOWEST", 1),
    "version_highest": ("HIGHEST", 1),
}
"""Of each field, what enum ub_field calls it and how many octets it has. More than four: octets, else a number."""
FLAGS = {"holds_device": "UB_HOLDS_DEVICE", "busy": "UB_IS_BUSY"}
NOT_KEPT = {
    ("ANNOUNCE", "server_id"),
    ("ANNOUNCE", "prefix_bits"),
    ("DATA_END", "blocks_sent"),
    ("DATA_START", "version"),
    ("ERROR", "about"),
}
"""What a recovering device has no use for. Records of components: it believes its own document instead."""


def field(message: FFI.CData, kind: str, name: str) -> object:
    """A field of a decoded message as the vectors write it."""

    def octets(at: str, length: int) -> bytes:
        return taken(message.body + getattr(core(), f"UB_{kind}_{at}"), length)

    if name in FLAGS:
        return bool(octets("FLAGS", 1)[0] & getattr(core(), FLAGS[name]))
    if name == "good_seal":
        return octets("SEAL", 32).hex() if octets("FLAGS", 1)[0] & core().UB_HAS_SEAL else None
    if name == "payload":
        return octets("PAYLOAD", message.length - core().UB_DATA_BLOCK_PAYLOAD).hex()
    if name == "text":
        return octets("TEXT", 1 + octets("TEXT", 1)[0])[1:].decode()
    at, length = FIELDS[name]
    found = octets(at, length)
    return found.hex() if length > 4 else int.from_bytes(found, "big")


@pytest.mark.parametrize("case", cases("messages"), ids=lambda case: str(case["name"]))
def test_message_vector_decodes_to_its_fields_where_a_device_gets_it(ub: FFI.CData, case: dict[str, object]) -> None:
    octets = bytes.fromhex(str(case["octets"]))
    message = ffi().new("struct ub_message *")
    kept = c_octets(octets)
    error = core().ub_decode(ub, kept, len(octets), message)
    kind = DEVICE_GETS.get(int(str(case["type"])))
    if kind is None:
        assert error == core().UNBRICKD_E_MESSAGE
        return
    assert error == 0
    assert (message.type, message.session, message.transfer) == (case["type"], case["session"], case["transfer"])
    fields = case["fields"]
    assert isinstance(fields, dict)
    checked = 0
    for name, expected in fields.items():
        if (kind, name) in NOT_KEPT or name == "components":
            continue
        assert field(message, kind, name) == expected, name
        checked += 1
    assert checked


@pytest.mark.parametrize("case", cases("messages"), ids=lambda case: str(case["name"]))
def test_message_vector_cut_short_or_spoilt_is_dropped(ub: FFI.CData, case: dict[str, object]) -> None:
    octets = bytes.fromhex(str(case["octets"]))
    message = ffi().new("struct ub_message *")
    for length in range(len(octets)):
        assert core().ub_decode(ub, c_octets(octets[:length]), length, message) != 0
    for bit in range(0, len(octets) * 8, 3):
        spoilt = bytearray(octets)
        spoilt[bit // 8] ^= 1 << bit % 8
        assert core().ub_decode(ub, c_octets(bytes(spoilt)), len(spoilt), message) != 0


def test_derived_keys_vector_comes_out_of_the_identity(ub: FFI.CData) -> None:
    vector = load("derived_keys")
    for name in ("manifest", "record", "good", "siv", "enc"):
        assert taken(ub.keys[getattr(core(), f"UB_KEY_{name.upper()}")], 32).hex() == vector[name]


@pytest.mark.parametrize("case", cases("identity"))
def test_identity_vector_decodes_to_its_fields(ub: FFI.CData, case: dict[str, object]) -> None:
    octets = bytes.fromhex(str(case["octets"])) + b"\xff" * 100
    kept = c_octets(octets)
    assert core().ub_decode_identity(ub, kept, len(octets)) == 0
    identity = ub.identity
    assert taken(identity.device_id, 16).hex() == case["device_id"]
    assert taken(identity.model, 32).rstrip(b"\0").decode() == case["model"]
    assert taken(identity.maker_key, identity.maker_key_bytes).hex() == case["maker_key_der"]
    assert identity.rollback_floor == case["rollback_floor"]
    assert identity.maker_signs == (case["policy"] == 1)
    for bit in range(0, (len(octets) - 100) * 8, 5):
        kept[bit // 8] ^= 1 << bit % 8
        assert core().ub_decode_identity(ub, kept, len(octets)) == core().UNBRICKD_E_IDENTITY
        kept[bit // 8] ^= 1 << bit % 8
    for length in range(len(octets) - 100):
        assert core().ub_decode_identity(ub, kept, length) == core().UNBRICKD_E_IDENTITY


def opened(ub: FFI.CData) -> tuple[FFI.CData, FFI.CData]:
    document = value("generation", "document")
    kept = c_octets(document)
    ub.document, ub.document_bytes = kept, len(document)
    assert core().ub_open_document(ub) == 0
    return ub.generation, kept


def test_generation_vector_opens_and_its_firmware_has_the_image_digest_of_the_manifest_vector(ub: FFI.CData) -> None:
    generation, kept = opened(ub)
    assert (generation.number, generation.part_count) == (load("generation")["number"], 2)
    digest = ffi().new("uint8_t[32]")
    core().ub_image_digest(ub, ffi().addressof(generation.part[0]), digest)
    assert taken(digest, 32) == value("open_manifest", "image_digest") == value("maker_signature", "image_digest")
    assert taken(generation.part[0].signature, generation.part[0].signature_bytes) == value(
        "maker_signature", "signature"
    )
    for at in range(len(kept)):
        kept[at] ^= 0x40
        assert core().ub_open_document(ub) == core().UNBRICKD_E_MAC
        kept[at] ^= 0x40
    for length in range(len(kept)):
        found = ffi().addressof(generation)
        assert core().ub_decode_document(kept, length, found) == core().UNBRICKD_E_DOCUMENT


def test_maker_signature_vector_is_asked_for_over_the_statement(io: FFI.CData, ub: FFI.CData) -> None:
    generation, _kept = opened(ub)
    asked: list[tuple[bytes, bytes, bytes]] = []

    @ffi().callback("int(void *, const uint8_t *, uint32_t, const uint8_t *, const uint8_t *, uint32_t)")  # type: ignore[untyped-decorator]
    def verify(  # noqa: PLR0917
        app: FFI.CData, key: FFI.CData, size: int, digest: FFI.CData, signature: FFI.CData, length: int
    ) -> int:
        asked.append((taken(key, size), taken(digest, 32), taken(signature, length)))
        return len(asked) - 1

    io.verify_signature = verify
    assert core().ub_check_authority(ub, 0) == 0
    statement = hashlib.sha256(value("maker_signature", "statement")).digest()
    assert asked == [(value("maker_signature", "public_key_der"), statement, value("maker_signature", "signature"))]
    assert core().ub_check_authority(ub, 0) == core().UNBRICKD_E_SIGNATURE
    rollback = generation.part[0].rollback_index
    assert core().ub_check_authority(ub, rollback + 1) == core().UNBRICKD_E_ROLLBACK


def test_good_seal_vector_is_computed(ub: FFI.CData) -> None:
    seal = ffi().new("uint8_t[32]")
    vector = load("good_seal")
    device_id = c_octets(value("good_seal", "device_id"))
    ub.identity.device_id = device_id
    core().ub_good_seal(ub, int(str(vector["number"])), value("good_seal", "digest"), seal)
    assert taken(seal, 32).hex() == vector["seal"]


@pytest.mark.parametrize("case", cases("sealed_erase_block"))
def test_sealed_erase_block_vector_opens(io: FFI.CData, ub: FFI.CData, case: dict[str, object]) -> None:
    ciphertext, digest = bytes.fromhex(str(case["ciphertext"])), bytes.fromhex(str(case["digest"]))
    octets = c_octets(ciphertext)
    core().unbrickd_aes256_ctr(ub.keys[core().UB_KEY_ENC], c_octets(digest[:16]), octets, len(octets))
    assert taken(octets, len(octets)).hex() == case["plaintext"]
    found = ffi().new("uint8_t[32]")
    manifest = ffi().new("struct unbrickd_part *", {"id": case["component_id"], "sealed": True})
    mac = ffi().new("struct ub_hash *")
    core().ub_digest_begin(ub, manifest, case["index"], mac)
    core().ub_hash_add(mac, octets, len(octets))
    core().ub_hash_end(mac, found)
    assert taken(found, 32) == digest


@pytest.mark.parametrize("case", cases("journal_slot"))
def test_journal_slot_vector_is_written(ub: FFI.CData, case: dict[str, object]) -> None:
    slot = ffi().new("uint8_t[32]")
    core().ub_encode_slot(ub, case["entry"], case["sequence"], case["index"], slot)
    assert taken(slot, 32).hex() == case["octets"]


@pytest.mark.parametrize("case", cases("journal_slot", "journals"))
def test_journal_vector_adds_up(ub: FFI.CData, case: dict[str, object]) -> None:
    octets = bytes.fromhex(str(case["octets"]))
    journal = ffi().new("struct ub_journal *")
    sequence = int(str(load("boot_record")["sequence"]))
    for at in range(0, len(octets), 32):
        core().ub_count_slot(ub, journal, octets[at : at + 32], sequence)
    failed = journal.failed[bool(case["is_good"])]
    assert (journal.next, journal.says_good, failed) == (case["next_index"], case["is_good"], case["failed_boots"])
    assert journal.slots == len(octets) // 32


# The portable crypto, beside others' implementations


def test_crypto_of_random_octets_is_that_of_the_libraries(io: FFI.CData, ub: FFI.CData) -> None:
    seed = 20261123
    print(f"seed {seed}")
    rng = random.Random(seed)
    for length in [*range(200), 4095, 4096, 70000]:
        octets, key, counter = rng.randbytes(length), rng.randbytes(rng.randrange(65)), rng.randbytes(16)
        digest = ffi().new("uint8_t[32]")
        mac = ffi().new("struct ub_hash *")
        core().ub_hash_begin(ub, mac, key, len(key))
        at = 0
        while at < length:
            size = rng.randrange(1, 200)
            core().ub_hash_add(mac, octets[at : at + size], len(octets[at : at + size]))
            at += size
        core().ub_hash_end(mac, digest)
        assert taken(digest, 32) == hmac.digest(key, octets, "sha256")
        core().ub_sha256(ub, octets, length, digest)
        assert taken(digest, 32) == hashlib.sha256(octets).digest()
        assert core().unbrickd_crc32(
            core().unbrickd_crc32(0, octets, length // 3), octets[length // 3 :], length - length // 3
        ) == zlib.crc32(octets)
        aes_key = rng.randbytes(32)
        for first in (counter, b"\xff" * 16):
            found = c_octets(octets)
            core().unbrickd_aes256_ctr(aes_key, c_octets(first), found, length)
            assert taken(found, length) == Cipher(algorithms.AES(aes_key), modes.CTR(first)).encryptor().update(octets)


def test_text_is_utf8_where_python_says_so() -> None:
    seed = 20261124
    print(f"seed {seed}")
    rng = random.Random(seed)
    edges = [
        b"",
        "aäß€😀".encode(),
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf0\x8f\xbf\xbf",
    ]
    octets = b"\x00\x41\x7f\x80\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xed\xef\xf0\xf1\xf4\xf5\xff\x9f\xa0\x8f\x90"
    for text in edges + [bytes(rng.choices(octets, k=rng.randrange(1, 6))) for _ in range(20000)]:
        try:
            text.decode()
            right = True
        except UnicodeDecodeError:
            right = False
        assert core().ub_is_utf8(text, len(text)) == right, text.hex()


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_crypto_rsa_takes_the_makers_signature_and_nothing_else(bits: int) -> None:
    key = load_private_key(generate_maker_key(bits))
    der, digest = encode_public_key(key.public_key()), hashlib.sha256(b"statement").digest()
    right = key.sign(b"statement", padding.PKCS1v15(), hashes.SHA256())

    def verify(der: bytes, digest: bytes, signature: bytes) -> bool:
        args = c_octets(der), len(der), c_octets(digest), c_octets(signature), len(signature)
        return bool(core().unbrickd_rsa_verify(ffi().NULL, *args) == 0)

    assert verify(der, digest, right)
    rng = random.Random(bits)
    print(f"seed {bits}")
    places = [(0, at) for at in (*range(40), *range(len(der) - 8, len(der)))]
    places += [(what, rng.randrange(32)) for what in (1, 2) for _ in range(20)]
    for what, at in places:
        given = [bytearray(der), bytearray(digest), bytearray(right)]
        given[what][at] ^= 1 << rng.randrange(8)
        assert not verify(*map(bytes, given)), (what, at)
    for length in range(0, len(der), 7):
        assert not verify(der[:length], digest, right)
    assert not verify(der, digest, right[:-1]) and not verify(der, digest, right + b"\0")
    assert not verify(der, digest, key.sign(b"statement", padding.PKCS1v15(), hashes.SHA512()))
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    assert not verify(der, digest, key.sign(b"statement", pss, hashes.SHA256()))
    modulus = key.public_key().public_numbers().n.to_bytes(bits // 8, "big")
    assert not verify(der, digest, modulus), "a number that is not below the modulus"
