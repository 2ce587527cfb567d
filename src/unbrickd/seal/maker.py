# SPDX-License-Identifier: Apache-2.0
"""The maker's signature on firmware: RSASSA-PKCS1-v1_5 with SHA-256, as U-Boot verifies it (spec/flash-format.md §3.3).

And the detached file that carries one (§6). Knows keys, statements and signatures; not which device requires them:
that is for `seal.authority`.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.model.geometry import MAX_RUNS, EraseRun, Geometry
from unbrickd.model.manifest import (
    DIGEST_BYTES,
    MAX_MODEL_BYTES,
    MAX_SIGNATURE_BYTES,
    MAX_VERSION_BYTES,
    Manifest,
)

MIN_KEY_BITS = 2048
MAX_KEY_BITS = 4096
"""What U-Boot verifies."""
DEFAULT_KEY_BITS = 3072

SIGNATURE_FORMAT = "unbrickd-signature-1"
MAX_SIGNATURE_FILE_CHARACTERS = 16 << 10
"""The largest signature, all runs and the longest texts take under 2 KiB."""

_LABEL = b"unbrickd firmware v1"
_STATEMENT = struct.Struct(f">{len(_LABEL)}s{MAX_MODEL_BYTES}s{MAX_VERSION_BYTES}sI{DIGEST_BYTES}s")
_PUBLIC_EXPONENT = 65537
_PEM_START = b"-----BEGIN"


def generate_maker_key(bits: int = DEFAULT_KEY_BITS, *, passphrase: bytes | None = None) -> bytes:
    """A new private key, PEM of PKCS#8, encrypted if there is a passphrase. Raises ConfigError."""
    _check_bits(bits)
    key = rsa.generate_private_key(public_exponent=_PUBLIC_EXPONENT, key_size=bits)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def load_private_key(octets: bytes, passphrase: bytes | None = None) -> rsa.RSAPrivateKey:
    """A maker's private key, PEM or DER. Raises ConfigError."""
    pem = octets.lstrip().startswith(_PEM_START)
    load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
    try:
        key = load(octets, passphrase or None)
    except TypeError as error:
        raise ConfigError(
            "the maker's private key has a passphrase, and none was given"
            if not passphrase
            else "the maker's private key has no passphrase, but one was given",
            code="maker-key",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            "the maker's private key cannot be read",
            code="maker-key",
            hint="it must be RSA in PEM or DER, and the passphrase must be right",
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigError("the maker's private key is not an RSA key", code="maker-key")
    _check_bits(key.key_size)
    return key


def load_public_key(octets: bytes) -> rsa.RSAPublicKey:
    """A maker's public key, PEM or DER SubjectPublicKeyInfo. Raises ConfigError."""
    pem = octets.lstrip().startswith(_PEM_START)
    load = serialization.load_pem_public_key if pem else serialization.load_der_public_key
    try:
        key = load(octets)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            "the maker's public key cannot be read",
            code="maker-key",
            hint="it must be RSA, a SubjectPublicKeyInfo in PEM or DER",
        ) from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise ConfigError("the maker's public key is not an RSA key", code="maker-key")
    _check_bits(key.key_size)
    return key


def public_key_der(private_key: bytes, passphrase: bytes | None = None) -> bytes:
    """The public half of a private key, DER SubjectPublicKeyInfo, as an identity holds it. Raises ConfigError."""
    return encode_public_key(load_private_key(private_key, passphrase).public_key())


def encode_public_key(key: rsa.RSAPublicKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def firmware_statement(*, model: str, version: str, rollback_index: int, image_digest: bytes) -> bytes:
    """What the maker signs: this image is this version of the firmware of this model. 152 bytes. Raises ConfigError."""
    try:
        model_octets, version_octets = model.encode(), version.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("the model or the version is not Unicode text", code="firmware") from error
    # A zero byte or a text too long would vanish in its padded field and let one signature speak for two statements.
    for what, octets, limit in (
        ("model", model_octets, MAX_MODEL_BYTES),
        ("version", version_octets, MAX_VERSION_BYTES),
    ):
        if b"\0" in octets or len(octets) > limit:
            raise ConfigError(f"the {what} is longer than {limit} bytes or holds a zero byte", code="firmware")
    if not model:
        raise ConfigError("firmware is signed for one model; it has no name here", code="firmware")
    if not 0 <= rollback_index < 1 << 32:
        raise ConfigError("the rollback index does not fit 32 bits", code="firmware")
    if len(image_digest) != DIGEST_BYTES:
        raise ConfigError(f"an image digest has {DIGEST_BYTES} bytes", code="firmware")
    return _STATEMENT.pack(_LABEL, model_octets, version_octets, rollback_index, image_digest)


def sign_firmware(
    private_key: bytes,
    passphrase: bytes | None,
    *,
    model: str,
    version: str,
    rollback_index: int,
    image_digest: bytes,
) -> bytes:
    """The maker's signature, as long as the key's modulus. Raises ConfigError."""
    statement = firmware_statement(
        model=model, version=version, rollback_index=rollback_index, image_digest=image_digest
    )
    return load_private_key(private_key, passphrase).sign(statement, padding.PKCS1v15(), hashes.SHA256())


def verify_firmware(public_der: bytes, manifest: Manifest, model: str) -> None:
    """Raises IntegrityError unless `manifest` carries the maker's signature on just this firmware for this model."""
    if manifest.sealed:
        # The image digest names ciphertext there, so a signature would not speak of what the flash holds.
        raise IntegrityError(
            f"{manifest.name!r} is sealed; firmware that a maker signs is open", code="maker-signature"
        )
    if not manifest.signature:
        raise IntegrityError(f"{manifest.name!r} carries no maker's signature", code="maker-signature")
    try:
        key = load_public_key(public_der)
        statement = firmware_statement(
            model=model,
            version=manifest.version,
            rollback_index=manifest.rollback_index,
            image_digest=manifest.image_digest,
        )
        key.verify(manifest.signature, statement, padding.PKCS1v15(), hashes.SHA256())
    except ConfigError as error:
        raise IntegrityError(f"{manifest.name!r} cannot be verified: {error}", code="maker-signature") from error
    except InvalidSignature as error:
        raise IntegrityError(
            f"{manifest.name!r} {manifest.version!r}: the maker did not sign this firmware for model {model!r}",
            code="maker-signature",
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureFile:
    """The maker's statement on one firmware image, and the signature on it. Raises ConfigError for what cannot be."""

    model: str
    version: str
    rollback_index: int
    length_bytes: int
    geometry: Geometry
    image_digest: bytes
    signature: bytes

    def __post_init__(self) -> None:
        self.statement()
        if self.geometry.cut(offset_bytes=0, length_bytes=self.length_bytes) != self.geometry:
            raise _wrong("its runs hold more erase blocks than its length fills")
        if not 1 <= len(self.signature) <= MAX_SIGNATURE_BYTES:
            raise _wrong(f"its signature is not 1 to {MAX_SIGNATURE_BYTES} bytes")

    def statement(self) -> bytes:
        """What `signature` is over."""
        return firmware_statement(
            model=self.model,
            version=self.version,
            rollback_index=self.rollback_index,
            image_digest=self.image_digest,
        )


def encode_signature_file(file: SignatureFile) -> str:
    """JSON text, ending in a newline (§6)."""
    members = {
        "format": SIGNATURE_FORMAT,
        "model": file.model,
        "version": file.version,
        "rollback_index": file.rollback_index,
        "length": file.length_bytes,
        "runs": [[run.count, run.size_bytes] for run in file.geometry.runs],
        "image_digest": file.image_digest.hex(),
        "signature": base64.b64encode(file.signature).decode(),
    }
    return json.dumps(members, indent=2) + "\n"


def decode_signature_file(text: str) -> SignatureFile:
    """Raises ConfigError for anything but a signature file of this format. Members it does not know are ignored."""
    if len(text) > MAX_SIGNATURE_FILE_CHARACTERS:
        raise _wrong("it is too long")
    try:
        members: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong("it is not JSON") from error
    if not isinstance(members, dict):
        raise _wrong("it is not a JSON object")
    if members.get("format") != SIGNATURE_FORMAT:
        raise _wrong(f'its format is not "{SIGNATURE_FORMAT}"')
    try:
        digest = bytes.fromhex(_text(members, "image_digest"))
        signature = base64.b64decode(_text(members, "signature"), validate=True)
    except ValueError as error:
        raise _wrong("image_digest must be hexadecimal, signature base64") from error
    if len(digest) != DIGEST_BYTES:
        raise _wrong(f"image_digest does not have {DIGEST_BYTES} bytes")
    return SignatureFile(
        model=_text(members, "model"),
        version=_text(members, "version"),
        rollback_index=_number(members.get("rollback_index"), "rollback_index"),
        length_bytes=_number(members.get("length"), "length"),
        geometry=_geometry(members.get("runs")),
        image_digest=digest,
        signature=signature,
    )


def _geometry(runs: object) -> Geometry:
    if not isinstance(runs, list) or len(runs) > MAX_RUNS:
        raise _wrong(f"runs must be a list of at most {MAX_RUNS} pairs")
    parsed: list[EraseRun] = []
    for run in runs:
        if not isinstance(run, list) or len(run) != 2:
            raise _wrong("a run must be [count, size]")
        parsed.append(EraseRun(count=_number(run[0], "count"), size_bytes=_number(run[1], "size")))
    return Geometry(tuple(parsed))


def _text(members: dict[object, object], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise _wrong(f"{name} must be text")
    return value


def _number(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(f"{name} must be a whole number")
    return value


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"signature file: {what}", code="signature-file", hint="`unbrickd keys sign` writes such a file")


def _check_bits(bits: int) -> None:
    if not MIN_KEY_BITS <= bits <= MAX_KEY_BITS:
        raise ConfigError(f"a maker's key has {MIN_KEY_BITS} to {MAX_KEY_BITS} bits, not {bits}", code="maker-key")
