# SPDX-License-Identifier: Apache-2.0
"""The seals over a generation: the MAC of its document and the good seal (spec/flash-format.md §4, §4.1).

Knows the keys and the document; whether its firmware may run is for `seal.authority` to say.
"""

from __future__ import annotations

import hmac
import struct

from unbrickd.errors import IntegrityError
from unbrickd.model.codec import MAC_BYTES, MAX_DOCUMENT_BYTES, decode_generation, encode_generation
from unbrickd.model.manifest import Generation, SealedGeneration
from unbrickd.seal.keys import DeviceKeys


def seal_generation(keys: DeviceKeys, generation: Generation) -> SealedGeneration:
    """The document with its MAC. Raises IntegrityError for another device's generation, or one too long."""
    _check_device(keys, generation)
    body = encode_generation(generation)
    if len(body) + MAC_BYTES > MAX_DOCUMENT_BYTES:
        raise IntegrityError("too many erase blocks for one generation document", code="generation")
    return SealedGeneration(generation=generation, document=body + _mac(keys, body))


def open_generation(keys: DeviceKeys, document: bytes) -> SealedGeneration:
    """The generation that this device sealed. The MAC is checked before a byte is decoded. Raises IntegrityError."""
    if not hmac.compare_digest(_mac(keys, document[:-MAC_BYTES]), document[-MAC_BYTES:]):
        raise IntegrityError(
            "the generation document was not sealed by this device, or was altered", code="generation-mac"
        )
    sealed = decode_generation(document)
    _check_device(keys, sealed.generation)
    return sealed


def good_seal(keys: DeviceKeys, sealed: SealedGeneration) -> bytes:
    """The 32 bytes by which this device says that it has run this generation and it worked."""
    return _good_seal(keys, sealed.generation.number, sealed.digest)


def check_good_seal(keys: DeviceKeys, *, number: int, digest: bytes, seal: bytes) -> bool:
    """Whether `seal` is this device's good seal of generation `number` whose document has this SHA-256."""
    return hmac.compare_digest(_good_seal(keys, number, digest), seal)


def _good_seal(keys: DeviceKeys, number: int, digest: bytes) -> bytes:
    return hmac.digest(keys.good, keys.identity.device_id + struct.pack(">I", number) + digest, "sha256")


def _mac(keys: DeviceKeys, body: bytes) -> bytes:
    return hmac.digest(keys.manifest, body, "sha256")


def _check_device(keys: DeviceKeys, generation: Generation) -> None:
    if generation.device_id != keys.identity.device_id:
        raise IntegrityError("the generation is another device's", code="generation-device")
    if generation.model != keys.identity.model:
        raise IntegrityError(
            f"the generation is of model {generation.model!r}, this device is {keys.identity.model!r}",
            code="generation-device",
        )
