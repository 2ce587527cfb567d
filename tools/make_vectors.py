# SPDX-License-Identifier: Apache-2.0
"""Writes the golden vectors of spec/vectors: `python tools/make_vectors.py [name…]`, all of them without a name.

Every vector is a function of fixed inputs, so that a run on an unchanged tree changes no file (a test holds that).
To add a vector, write a function that returns what the JSON shall hold and name it in `VECTORS`: a "what" in words,
the inputs, the golden bytes. `bytes` become hexadecimal. Never change a golden byte without a new format number.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from unbrickd.flash.journal import SLOT_BYTES, JournalEntry, encode_slot
from unbrickd.flash.record import BootRecord, encode_record
from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.model.manifest import ComponentKind, Generation, Manifest
from unbrickd.seal.content import seal_erase_block
from unbrickd.seal.generation import good_seal, seal_generation
from unbrickd.seal.identity import FirmwarePolicy, Identity, encode_identity, encode_recovery_code
from unbrickd.seal.keys import DeviceKeys
from unbrickd.seal.maker import SignatureFile, encode_signature_file, firmware_statement, public_key_der, sign_firmware
from unbrickd.seal.manifest import build_manifest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # a test loads this file from elsewhere
from message_vectors import messages

DIRECTORY = Path(__file__).resolve().parent.parent / "spec" / "vectors"

MODEL = "acme-rx1"
VERSION = "2.4.1"
ROLLBACK_INDEX = 7
FIRMWARE_GEOMETRY = Geometry((EraseRun(count=2, size_bytes=256), EraseRun(count=4, size_bytes=512)))
"""Mixed, and larger than the image: the manifest's is cut to 2 × 256 + 1 × 512."""
FIRMWARE = bytes(i * 7 + (i >> 8) & 0xFF for i in range(700))
CONFIG_GEOMETRY = Geometry((EraseRun(count=2, size_bytes=256),))
CARRYING = bytes(2040) + (47_898_798).to_bytes(8, "big")
"""Found by search: sealed as erase block 7 of component 2, its counter block carries out of the low 32 bits."""
CONFIG = (b"ssid=golden\npassword=vector\n" * 12)[:300]


def vector_entropy(seed: bytes) -> Callable[[int], bytes]:
    """Bytes that stand for random ones: SHA-256(seed ‖ counter u32) for counter 0, 1, …; each call goes on."""
    counter = 0

    def draw(count: int) -> bytes:
        nonlocal counter
        octets = b""
        while len(octets) < count:
            octets += hashlib.sha256(seed + counter.to_bytes(4, "big")).digest()
            counter += 1
        return octets[:count]

    return draw


@cache
def maker_private_key() -> bytes:
    """A DER PKCS#8 RSA-2048 key that nobody can take for a secret: its primes come from a seed in this file."""
    draw = vector_entropy(b"unbrickd vector maker key")
    e = 65537
    p, q = _prime(draw, e), _prime(draw, e)
    d = pow(e, -1, math.lcm(p - 1, q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=d % (p - 1),
        dmq1=d % (q - 1),
        iqmp=pow(q, -1, p),
        public_numbers=rsa.RSAPublicNumbers(e=e, n=p * q),
    )
    return numbers.private_key().private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _prime(draw: Callable[[int], bytes], e: int) -> int:
    """A probable prime of 1024 bits (Fermat to the base 2; the chance of a false one at this size is negligible)."""
    small = math.prod(n for n in range(3, 2000, 2) if all(n % k for k in range(3, math.isqrt(n) + 1, 2)))
    while True:
        n = int.from_bytes(draw(128), "big") | 3 << 1022 | 1
        if math.gcd(n, small) == 1 and pow(2, n - 1, n) == 1 and math.gcd(n - 1, e) == 1:
            return n


@cache
def vector_identity(policy: FirmwarePolicy = FirmwarePolicy.MAKER) -> Identity:
    return Identity.generate(
        model=MODEL,
        policy=policy,
        maker_key_der=public_key_der(maker_private_key()) if policy is FirmwarePolicy.MAKER else b"",
        rollback_floor=3,
        entropy=vector_entropy(b"unbrickd vector device"),
    )


@cache
def vector_keys() -> DeviceKeys:
    return DeviceKeys.of(vector_identity())


@cache
def vector_generation() -> Generation:
    """Signed open firmware and a sealed configuration."""
    config = build_manifest(
        component_id=2,
        kind=ComponentKind.CONFIG,
        name="config",
        version="",
        geometry=CONFIG_GEOMETRY,
        image=lambda offset, length: CONFIG[offset : offset + length],
        length_bytes=len(CONFIG),
        content_keys=vector_keys().content,
    )
    return Generation(
        device_id=vector_identity().device_id, model=MODEL, number=5, components=(firmware_manifest(), config)
    )


@cache
def firmware_manifest() -> Manifest:
    def build(signature: bytes) -> Manifest:
        return build_manifest(
            component_id=1,
            kind=ComponentKind.FIRMWARE,
            name="firmware",
            version=VERSION,
            geometry=FIRMWARE_GEOMETRY,
            image=lambda offset, length: FIRMWARE[offset : offset + length],
            length_bytes=len(FIRMWARE),
            content_keys=None,
            rollback_index=ROLLBACK_INDEX,
            signature=signature,
        )

    return build(
        sign_firmware(
            maker_private_key(),
            None,
            model=MODEL,
            version=VERSION,
            rollback_index=ROLLBACK_INDEX,
            image_digest=build(b"").image_digest,
        )
    )


def _runs(geometry: Geometry) -> list[list[int]]:
    return [[run.count, run.size_bytes] for run in geometry.runs]


def identity() -> object:
    def case(of: Identity) -> object:
        return {
            "policy": int(of.policy),
            "device_id": of.device_id,
            "model": of.model,
            "device_key": of.device_key,
            "recovery_secret": of.recovery_secret,
            "rollback_floor": of.rollback_floor,
            "maker_key_der": of.maker_key_der,
            "octets": encode_identity(of),
        }

    return {
        "what": "identity structures of one device, under each firmware policy (flash-format.md §2)",
        "cases": [case(vector_identity(policy)) for policy in FirmwarePolicy],
    }


def derived_keys() -> object:
    keys = vector_keys()
    message = b"a Backup message"
    return {
        "what": "keys derived from the device key and the recovery secret; Ed25519 pair and device id (§2.1)",
        "device_key": keys.identity.device_key,
        "recovery_secret": keys.identity.recovery_secret,
        "manifest": keys.manifest,
        "record": keys.record,
        "good": keys.good,
        "siv": keys.content.siv,
        "enc": keys.content.enc,
        "public_key": keys.public_key,
        "device_id": keys.identity.device_id,
        "message": message,
        "message_signature": keys.sign(message),
    }


def recovery_code() -> object:
    secrets = (vector_identity().recovery_secret, bytes(16), b"\xff" * 16)
    return {
        "what": "recovery secrets and their text form (§2.2)",
        "cases": [{"recovery_secret": secret, "code": encode_recovery_code(secret)} for secret in secrets],
    }


def open_manifest() -> object:
    manifest = firmware_manifest()
    return {
        "what": "an image in mixed erase blocks, the last partly filled: its digests and its image digest (§3.1, §3.2)",
        "partition_runs": _runs(FIRMWARE_GEOMETRY),
        "image": FIRMWARE,
        "length": manifest.length_bytes,
        "runs": _runs(manifest.geometry),
        "digests": list(manifest.digests),
        "image_digest": manifest.image_digest,
    }


def maker_signature() -> object:
    manifest = firmware_manifest()
    file = SignatureFile(
        model=MODEL,
        version=VERSION,
        rollback_index=ROLLBACK_INDEX,
        length_bytes=manifest.length_bytes,
        geometry=manifest.geometry,
        image_digest=manifest.image_digest,
        signature=manifest.signature,
    )
    return {
        "what": "what the maker signs, the signature by a key made for this file, the signature file (§3.3, §6)",
        "public_key_der": public_key_der(maker_private_key()),
        "model": MODEL,
        "version": VERSION,
        "rollback_index": ROLLBACK_INDEX,
        "image_digest": manifest.image_digest,
        "statement": firmware_statement(
            model=MODEL, version=VERSION, rollback_index=ROLLBACK_INDEX, image_digest=manifest.image_digest
        ),
        "signature": manifest.signature,
        "file": encode_signature_file(file),
    }


def sealed_erase_block() -> object:
    keys = vector_keys().content

    def case(component_id: int, index: int, plaintext: bytes) -> object:
        digest, ciphertext = seal_erase_block(keys, component_id=component_id, index=index, plaintext=plaintext)
        return {
            "component_id": component_id,
            "index": index,
            "plaintext": plaintext,
            "digest": digest,
            "ciphertext": ciphertext,
            "transfer_digest": hashlib.sha256(ciphertext).digest(),
        }

    return {
        "what": "sealed erase blocks: whole, partial, 1 byte, same contents elsewhere, counter carry at bit 32 (§5)",
        "siv": keys.siv,
        "enc": keys.enc,
        "cases": [
            case(2, 0, CONFIG[:256]),
            case(2, 1, CONFIG[256:]),
            case(255, 65535, b"\x00"),
            case(3, 0, CONFIG[:256]),
            case(2, 7, CARRYING),
        ],
    }


def generation() -> object:
    sealed = seal_generation(vector_keys(), vector_generation())
    return {
        "what": "a generation document: signed open firmware, sealed configuration; its MAC is its last 32 bytes (§4)",
        "manifest_key": vector_keys().manifest,
        "device_id": sealed.generation.device_id,
        "model": MODEL,
        "number": sealed.generation.number,
        "document": sealed.document,
        "digest": sealed.digest,
    }


def good() -> object:
    sealed = seal_generation(vector_keys(), vector_generation())
    return {
        "what": "the good seal of the document in generation.json (§4.1)",
        "good_key": vector_keys().good,
        "device_id": sealed.generation.device_id,
        "number": sealed.generation.number,
        "digest": sealed.digest,
        "seal": good_seal(vector_keys(), sealed),
    }


def boot_record() -> object:
    record = BootRecord(
        sequence=41,
        counter=9,
        rollback_floor=3,
        rejected_from=6,
        rejected_to=8,
        sealed=seal_generation(vector_keys(), vector_generation()),
    )
    return {
        "what": "a boot record, its generation (generation.json) not good by flag; its MAC is its last 32 bytes (§7)",
        "record_key": vector_keys().record,
        "sequence": record.sequence,
        "counter": record.counter,
        "rollback_floor": record.rollback_floor,
        "rejected_from": record.rejected_from,
        "rejected_to": record.rejected_to,
        "good": record.good,
        "document": record.sealed.document,
        "octets": encode_record(vector_keys(), record),
    }


def journal_slot() -> object:
    def case(entry: JournalEntry, sequence: int, index: int) -> object:
        octets = encode_slot(entry, sequence=sequence, index=index)
        return {"entry": int(entry), "sequence": sequence, "index": index, "octets": octets}

    def journal(entries: Sequence[JournalEntry | bytes], *, failed_boots: int, is_good: bool) -> object:
        slots = [
            entry if isinstance(entry, bytes) else encode_slot(entry, sequence=41, index=index)
            for index, entry in enumerate(entries)
        ]
        octets = b"".join(slots) + free * (16 - len(slots))
        return {"octets": octets, "next_index": len(slots), "failed_boots": failed_boots, "is_good": is_good}

    attempt, up, good = JournalEntry.ATTEMPT, JournalEntry.UP, JournalEntry.GOOD
    free = b"\xff" * SLOT_BYTES
    torn = encode_slot(up, sequence=41, index=1)[:-2] + b"\xff\xff"
    older = encode_slot(good, sequence=40, index=1)
    return {
        "what": "journal slots; journals of 16 slots behind the record of sequence 41 in boot_record.json (§7.1)",
        "cases": [case(attempt, 41, 0), case(up, 41, 1), case(good, 0xFFFFFFFF, 65535)],
        "journals": [
            journal([], failed_boots=0, is_good=False),
            journal([attempt, up, attempt], failed_boots=2, is_good=False),
            journal([attempt, torn, good, attempt, up], failed_boots=0, is_good=True),
            journal([attempt, older, attempt, attempt], failed_boots=3, is_good=False),
            journal([attempt, up, good, attempt, attempt], failed_boots=2, is_good=True),
            journal([good, attempt, up, *[attempt] * 13], failed_boots=13, is_good=True),
        ],
    }


VECTORS: dict[str, Callable[[], object]] = {
    "messages": messages,
    "identity": identity,
    "derived_keys": derived_keys,
    "recovery_code": recovery_code,
    "open_manifest": open_manifest,
    "maker_signature": maker_signature,
    "sealed_erase_block": sealed_erase_block,
    "generation": generation,
    "good_seal": good,
    "boot_record": boot_record,
    "journal_slot": journal_slot,
}
"""File name without `.json` → what the file holds."""


def render(name: str) -> str:
    """The text of that vector file."""
    return json.dumps(VECTORS[name](), indent=2, ensure_ascii=False, default=bytes.hex) + "\n"


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(VECTORS))
    if unknown:
        print(f"no such vector: {', '.join(unknown)}; there are: {', '.join(VECTORS)}", file=sys.stderr)
        return 2
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name in names or VECTORS:
        (DIRECTORY / f"{name}.json").write_text(render(name), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
