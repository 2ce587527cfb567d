# SPDX-License-Identifier: Apache-2.0
"""How every key of a device comes from its two secrets, and its id from its key (spec/flash-format.md §2.1).

Knows the labels and nothing of what the keys are used for.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unbrickd.model.manifest import DEVICE_ID_BYTES

MANIFEST_LABEL = b"unbrickd manifest v1"
RECORD_LABEL = b"unbrickd record v1"
GOOD_LABEL = b"unbrickd good v1"
IDENTITY_LABEL = b"unbrickd identity v1"
SIV_LABEL = b"unbrickd siv v1"
ENC_LABEL = b"unbrickd enc v1"


def device_subkey(device_key: bytes, label: bytes) -> bytes:
    """K(label), 32 bytes."""
    return hmac.digest(device_key, label, "sha256")


def content_subkey(recovery_secret: bytes, label: bytes, device_id: bytes) -> bytes:
    """S(label), 32 bytes."""
    return hmac.digest(recovery_secret, label + device_id, "sha256")


def signing_key(device_key: bytes) -> Ed25519PrivateKey:
    """The Ed25519 key that signs Backup: K("unbrickd identity v1") is its seed (RFC 8032 §5.1.5)."""
    return Ed25519PrivateKey.from_private_bytes(device_subkey(device_key, IDENTITY_LABEL))


def device_id_of(public_key: bytes) -> bytes:
    """The device id, 16 bytes, that this Ed25519 public key (32 bytes) proves."""
    return hashlib.sha256(public_key).digest()[:DEVICE_ID_BYTES]
