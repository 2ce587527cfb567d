# SPDX-License-Identifier: Apache-2.0
"""Sealing of a component, erase block by erase block: HMAC-SHA256 as synthetic IV, AES-256-CTR.

Equal contents give equal ciphertext, and no IV ever serves two contents. Knows no manifest.
Specified in spec/flash-format.md §5.
"""

from __future__ import annotations

import hmac
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from unbrickd.errors import IntegrityError
from unbrickd.seal.keys import ContentKeys

Octets = bytes | bytearray | memoryview

_PLACE = struct.Struct(">BI")
"""component id, index: what binds an erase block to its place."""
_IV_BYTES = 16


def keyed_digest(keys: ContentKeys, *, component_id: int, index: int, plaintext: Octets) -> bytes:
    """The 32 bytes that only the device and its owner can compute for this content at this place."""
    mac = hmac.new(keys.siv, _PLACE.pack(component_id, index), "sha256")
    mac.update(plaintext)
    return mac.digest()


def seal_erase_block(keys: ContentKeys, *, component_id: int, index: int, plaintext: Octets) -> tuple[bytes, bytes]:
    """(digest, ciphertext); the ciphertext is as long as the plaintext."""
    digest = keyed_digest(keys, component_id=component_id, index=index, plaintext=plaintext)
    return digest, _keystream(keys, digest, plaintext)


def open_erase_block(keys: ContentKeys, *, component_id: int, index: int, digest: bytes, ciphertext: Octets) -> bytes:
    """The plaintext that `digest`, from an authenticated manifest, stands for. Raises IntegrityError."""
    plaintext = _keystream(keys, digest, ciphertext)
    if not hmac.compare_digest(keyed_digest(keys, component_id=component_id, index=index, plaintext=plaintext), digest):
        raise IntegrityError(
            f"erase block {index} of component {component_id} does not open: wrong key, or it was altered",
            code="sealed-content",
        )
    return plaintext


def _keystream(keys: ContentKeys, digest: bytes, octets: Octets) -> bytes:
    """AES-256-CTR, its own inverse; the counter block is one 128-bit big-endian integer."""
    cipher = Cipher(algorithms.AES(keys.enc), modes.CTR(digest[:_IV_BYTES])).encryptor()
    return cipher.update(octets) + cipher.finalize()
