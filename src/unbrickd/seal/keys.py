# SPDX-License-Identifier: Apache-2.0
"""The keys of a device, derived once from its identity (spec/flash-format.md §2.1).

Keys never print: their repr shows whose they are, not what they are. Knows nothing of what is sealed with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from unbrickd.errors import IntegrityError
from unbrickd.seal import derive
from unbrickd.seal.derive import device_id_of
from unbrickd.seal.identity import Identity

__all__ = ["ContentKeys", "DeviceKeys", "device_id_of", "verify_identity_signature"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentKeys:
    """The two keys that seal components. The device has them, and its owner by the recovery code; the server not."""

    siv: bytes = field(repr=False)
    enc: bytes = field(repr=False)

    @classmethod
    def from_recovery_secret(cls, secret: bytes, device_id: bytes) -> ContentKeys:
        return cls(
            siv=derive.content_subkey(secret, derive.SIV_LABEL, device_id),
            enc=derive.content_subkey(secret, derive.ENC_LABEL, device_id),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeys:
    """What the device authenticates with: manifest (generation documents), record (boot record), good (good seals)."""

    identity: Identity
    manifest: bytes = field(repr=False)
    record: bytes = field(repr=False)
    good: bytes = field(repr=False)
    content: ContentKeys = field(repr=False)

    @classmethod
    def of(cls, identity: Identity) -> DeviceKeys:
        """Raises IntegrityError if the device id is not the one that the device key proves."""
        keys = cls(
            identity=identity,
            manifest=derive.device_subkey(identity.device_key, derive.MANIFEST_LABEL),
            record=derive.device_subkey(identity.device_key, derive.RECORD_LABEL),
            good=derive.device_subkey(identity.device_key, derive.GOOD_LABEL),
            content=ContentKeys.from_recovery_secret(identity.recovery_secret, identity.device_id),
        )
        if device_id_of(keys.public_key) != identity.device_id:
            raise IntegrityError("the device id does not belong to the device key", code="identity")
        return keys

    @property
    def public_key(self) -> bytes:
        """The Ed25519 public key, 32 bytes, whose digest is the device id."""
        return derive.signing_key(self.identity.device_key).public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return derive.signing_key(self.identity.device_key).sign(message)


def verify_identity_signature(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Raises IntegrityError unless this is the signature of `public_key` over `message`.

    That the key belongs to a device id is for the caller to check, by `device_id_of`.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise IntegrityError("the device's signature does not verify", code="device-signature") from error
