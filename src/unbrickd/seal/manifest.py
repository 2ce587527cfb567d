# SPDX-License-Identifier: Apache-2.0
"""From an image to its manifest, and from a manifest back to whether an erase block is right (spec/flash-format.md §3).

Knows how digests are made; knows neither flash nor store, but takes the image as a function that reads.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import ComponentKind, Manifest
from unbrickd.seal.content import Octets, keyed_digest, seal_erase_block
from unbrickd.seal.keys import ContentKeys


def build_manifest(
    *,
    component_id: int,
    kind: ComponentKind,
    name: str,
    version: str,
    geometry: Geometry,
    image: Callable[[int, int], bytes],
    length_bytes: int,
    content_keys: ContentKeys | None,
    rollback_index: int = 0,
    signature: bytes = b"",
) -> Manifest:
    """What this image must be, one erase block in memory at a time.

    geometry: the partition's, cut here to the erase blocks that the image covers. image: reads (offset, length) bytes.
    content_keys: given for a sealed component, None for an open one.
    Raises ConfigError if the image does not fit the partition, IntegrityError if it ends before `length_bytes`.
    """
    covered = geometry.cut(offset_bytes=0, length_bytes=length_bytes)
    digests: list[bytes] = []
    transfer_digests: list[bytes] = []
    for block in covered:
        wanted = min(block.end_bytes, length_bytes) - block.offset_bytes
        plaintext = image(block.offset_bytes, wanted)
        if len(plaintext) != wanted:
            raise IntegrityError(
                f"the image of {name!r} ends at byte {block.offset_bytes + len(plaintext)} of {length_bytes}",
                code="image",
            )
        if content_keys is None:
            digests.append(hashlib.sha256(plaintext).digest())
        else:
            digest, ciphertext = seal_erase_block(
                content_keys, component_id=component_id, index=block.index, plaintext=plaintext
            )
            digests.append(digest)
            transfer_digests.append(hashlib.sha256(ciphertext).digest())
    return Manifest(
        component_id=component_id,
        kind=kind,
        name=name,
        version=version,
        length_bytes=length_bytes,
        geometry=covered,
        sealed=content_keys is not None,
        digests=tuple(digests),
        transfer_digests=tuple(digests if content_keys is None else transfer_digests),
        rollback_index=rollback_index,
        signature=signature,
    )


def verify_erase_block(manifest: Manifest, index: int, octets: Octets, content_keys: ContentKeys | None) -> bool:
    """Whether this is what flash must hold there: the image's bytes in the erase block, `content_bytes(index)` of them.

    The padding behind the image is no part of it: with it, or cut short, the bytes do not match.
    Raises ConfigError for a sealed component without its keys, IndexError.
    """
    if not manifest.sealed:
        found = hashlib.sha256(octets).digest()
    elif content_keys is None:
        raise ConfigError(
            f"{manifest.name!r} is sealed", code="sealed", hint="the device's recovery code opens its sealed components"
        )
    else:
        found = keyed_digest(content_keys, component_id=manifest.component_id, index=index, plaintext=octets)
    return hmac.compare_digest(found, manifest.digests[index])
