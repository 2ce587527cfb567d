# SPDX-License-Identifier: Apache-2.0
"""The identity of a device, as it lies in the protected sector, and the recovery code (spec/flash-format.md §2).

Knows nothing of flash: it turns values into bytes and back.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.model.manifest import DEVICE_ID_BYTES, MAX_MODEL_BYTES
from unbrickd.seal.derive import device_id_of, signing_key
from unbrickd.seal.maker import encode_public_key, load_public_key

MAGIC = b"UBID"
FORMAT = 1
DEVICE_KEY_BYTES = 32
RECOVERY_SECRET_BYTES = 16
MAX_MAKER_KEY_BYTES = 1024
"""An RSA-4096 SubjectPublicKeyInfo has 550 bytes."""

_HEAD = struct.Struct(">4sBBH16s32s32s16sI")
"""magic, format, policy, maker key length, device id, model, device key, recovery secret, rollback floor: 108 bytes."""
_DIGEST_BYTES = 32
MAX_IDENTITY_BYTES = _HEAD.size + MAX_MAKER_KEY_BYTES + _DIGEST_BYTES
"""What a reader of the protected sector needs to read at most."""

_CODE_LABEL = b"unbrickd recovery code v1"
_CODE_CHECK_BYTES = 3
_CODE_CHARACTERS = 31
_CODE_SPARE_BITS = 3
_CODE_GROUP = 5
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CODE_VALUES = {c: i for i, c in enumerate(_CROCKFORD)} | {"O": 0, "I": 1, "L": 1}


class FirmwarePolicy(IntEnum):
    """Which firmware the device may run."""

    MAKER = 1
    """Only what the maker signed."""
    OWNER = 2
    """What this device itself sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a device is, its secrets, and whose firmware it runs. Raises ConfigError for values out of range.

    A device under the policy MAKER cannot be described without a maker's key it could check signatures with.
    """

    device_id: bytes
    model: str
    policy: FirmwarePolicy
    device_key: bytes = field(repr=False)
    recovery_secret: bytes = field(repr=False)
    rollback_floor: int
    maker_key_der: bytes = field(repr=False)

    def __post_init__(self) -> None:
        def require(ok: bool, what: str) -> None:
            if not ok:
                raise ConfigError(f"identity: {what}", code="identity")

        require(len(self.device_id) == DEVICE_ID_BYTES, f"the device id is not {DEVICE_ID_BYTES} bytes")
        try:
            model = self.model.encode()
        except UnicodeEncodeError as error:
            raise ConfigError("identity: the model is not Unicode text", code="identity") from error
        require(0 < len(model) <= MAX_MODEL_BYTES, f"the model is not 1 to {MAX_MODEL_BYTES} bytes")
        require(b"\0" not in model, "the model holds a zero byte")
        require(len(self.device_key) == DEVICE_KEY_BYTES, f"the device key is not {DEVICE_KEY_BYTES} bytes")
        require(
            len(self.recovery_secret) == RECOVERY_SECRET_BYTES,
            f"the recovery secret is not {RECOVERY_SECRET_BYTES} bytes",
        )
        require(0 <= self.rollback_floor < 1 << 32, "the rollback floor does not fit 32 bits")
        require(len(self.maker_key_der) <= MAX_MAKER_KEY_BYTES, "the maker's key is too long")
        if self.maker_key_der or self.policy is not FirmwarePolicy.OWNER:
            canonical = encode_public_key(load_public_key(self.maker_key_der))
            require(self.maker_key_der == canonical, "the maker's key is not a DER SubjectPublicKeyInfo")

    @classmethod
    def generate(
        cls,
        *,
        model: str,
        policy: FirmwarePolicy,
        maker_key_der: bytes = b"",
        rollback_floor: int = 0,
        entropy: Callable[[int], bytes],
    ) -> Identity:
        """A new device. `entropy` gives that many bytes of cryptographic randomness. Raises ConfigError."""
        device_key = entropy(DEVICE_KEY_BYTES)
        return cls(
            device_id=device_id_of(signing_key(device_key).public_key().public_bytes_raw()),
            model=model,
            policy=policy,
            device_key=device_key,
            recovery_secret=entropy(RECOVERY_SECRET_BYTES),
            rollback_floor=rollback_floor,
            maker_key_der=maker_key_der,
        )


def encode_identity(identity: Identity) -> bytes:
    """The bytes for the protected sector, digest included."""
    body = (
        _HEAD.pack(
            MAGIC,
            FORMAT,
            identity.policy,
            len(identity.maker_key_der),
            identity.device_id,
            identity.model.encode(),
            identity.device_key,
            identity.recovery_secret,
            identity.rollback_floor,
        )
        + identity.maker_key_der
    )
    return body + hashlib.sha256(body).digest()


def decode_identity(octets: bytes) -> Identity:
    """The identity at the start of `octets`; what follows it (a sector's 0xFF) is not looked at.

    Raises IntegrityError: not an identity, cut short, damaged, or out of range.
    """
    if len(octets) < _HEAD.size + _DIGEST_BYTES or not octets.startswith(MAGIC):
        raise IntegrityError(
            "no device identity in the protected sector", code="identity", hint="provision the device first"
        )
    _, fmt, policy, key_length, device_id, model, device_key, secret, floor = _HEAD.unpack_from(octets)
    if fmt != FORMAT:
        raise IntegrityError(f"device identity of format {fmt}; this program knows {FORMAT}", code="identity")
    end = _HEAD.size + key_length
    if key_length > MAX_MAKER_KEY_BYTES or end + _DIGEST_BYTES > len(octets):
        raise IntegrityError("the device identity is cut short", code="identity")
    if not hmac.compare_digest(hashlib.sha256(octets[:end]).digest(), octets[end : end + _DIGEST_BYTES]):
        raise IntegrityError("the device identity is damaged: its digest does not match", code="identity")
    name, _, rest = model.partition(b"\0")
    if rest.strip(b"\0"):
        raise IntegrityError("the device identity's model has bytes after its end", code="identity")
    try:
        return Identity(
            device_id=device_id,
            model=name.decode(),
            policy=FirmwarePolicy(policy),
            device_key=device_key,
            recovery_secret=secret,
            rollback_floor=floor,
            maker_key_der=bytes(octets[_HEAD.size : end]),
        )
    except (ConfigError, ValueError) as error:
        raise IntegrityError(f"the device identity is out of range: {error}", code="identity") from error


def encode_recovery_code(secret: bytes) -> str:
    """The recovery secret (16 bytes) as its owner keeps it: XXXXX-XXXXX-XXXXX-XXXXX-XXXXX-XXXXX-X (§2.2)."""
    if len(secret) != RECOVERY_SECRET_BYTES:
        raise ConfigError(f"a recovery secret has {RECOVERY_SECRET_BYTES} bytes", code="recovery-code")
    bits = int.from_bytes(secret + _code_check(secret), "big") << _CODE_SPARE_BITS
    shifts = range(5 * (_CODE_CHARACTERS - 1), -1, -5)
    text = "".join(_CROCKFORD[bits >> shift & 31] for shift in shifts)
    return "-".join(text[i : i + _CODE_GROUP] for i in range(0, len(text), _CODE_GROUP))


def decode_recovery_code(text: str) -> bytes:
    """The recovery secret that the code stands for.

    Ignores case, `-` and white space; takes O for 0, I and L for 1. Raises ConfigError, whose hint says what to
    look at.
    """
    characters = "".join(text.replace("-", "").split()).upper()
    stray = next((c for c in characters if c not in _CODE_VALUES), None)
    if stray is not None:
        raise ConfigError(
            f"a recovery code has no character {stray!r}",
            code="recovery-code",
            hint="it is made of digits and letters, never U; 0 may look like O or D, V like U, 5 like S",
        )
    if len(characters) != _CODE_CHARACTERS:
        raise ConfigError(
            f"a recovery code has {_CODE_CHARACTERS} characters; this one has {len(characters)}",
            code="recovery-code",
            hint="it is six groups of five and one last character",
        )
    bits = 0
    for character in characters:
        bits = bits << 5 | _CODE_VALUES[character]
    octets = (bits >> _CODE_SPARE_BITS).to_bytes(RECOVERY_SECRET_BYTES + _CODE_CHECK_BYTES, "big")
    secret, check = octets[:RECOVERY_SECRET_BYTES], octets[RECOVERY_SECRET_BYTES:]
    if bits & (1 << _CODE_SPARE_BITS) - 1 or not hmac.compare_digest(check, _code_check(secret)):
        raise ConfigError(
            "the recovery code does not check: a character is wrong, or two are swapped",
            code="recovery-code",
            hint="compare it with what you wrote down; B and 8, S and 5, Z and 2 look alike",
        )
    return secret


def _code_check(secret: bytes) -> bytes:
    return hashlib.sha256(_CODE_LABEL + secret).digest()[:_CODE_CHECK_BYTES]
