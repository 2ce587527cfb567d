# SPDX-License-Identifier: Apache-2.0
"""Made-up images, manifests and generations, for tests and simulations of the store. Their MACs are all zeros."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from unbrickd.model.codec import MAC_BYTES, encode_generation
from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import DEVICE_ID_BYTES, ComponentKind, Generation, Manifest, SealedGeneration
from unbrickd.store.staging import Staging
from unbrickd.store.vault import StoredGeneration, Vault

ERASE_BLOCK_BYTES = 4096


def device_id(number: int) -> bytes:
    return hashlib.sha256(b"device %d" % number).digest()[:DEVICE_ID_BYTES]


def image(seed: int, length_bytes: int = 5 * ERASE_BLOCK_BYTES - 1000) -> bytes:
    """The same bytes for the same seed."""
    return random.Random(seed).randbytes(length_bytes)


def manifest(octets: bytes, *, component_id: int = 1, version: str = "1.0") -> Manifest:
    """Of an open component; component 1 is the firmware."""
    geometry = Geometry.uniform(total_bytes=len(octets), erase_block_bytes=ERASE_BLOCK_BYTES)
    digests = tuple(hashlib.sha256(octets[b.offset_bytes : b.end_bytes]).digest() for b in geometry)
    return Manifest(
        component_id=component_id,
        kind=ComponentKind.FIRMWARE if component_id == 1 else ComponentKind.CONFIG,
        name=f"part{component_id}",
        version=version,
        length_bytes=len(octets),
        geometry=geometry,
        sealed=False,
        digests=digests,
        transfer_digests=digests,
    )


def generation(device: bytes, number: int, images: Mapping[int, bytes]) -> SealedGeneration:
    """images: the bytes of each component by its id."""
    components = tuple(
        manifest(octets, component_id=cid, version=str(number)) for cid, octets in sorted(images.items())
    )
    value = Generation(device_id=device, model="sim", number=number, components=components)
    return SealedGeneration(generation=value, document=encode_generation(value) + bytes(MAC_BYTES))


def good_seal(number: int) -> bytes:
    return hashlib.sha256(b"good %d" % number).digest()


def put_missing(staging: Staging, octets: bytes) -> None:
    """Every erase block of the image `octets` that is not there yet."""
    for index in staging.missing:
        offset = staging.manifest.geometry.erase_block(index).offset_bytes
        assert staging.put(index, octets[offset : offset + staging.manifest.content_bytes(index)])


def back_up(
    vault: Vault, device: bytes, number: int, images: Mapping[int, bytes], *, good: bool = False
) -> StoredGeneration:
    """Do what a server does: upload what is missing of each image, then commit the generation."""
    sealed = generation(device, number, images)
    for component in sealed.generation.components:
        if vault.has_image(component):
            continue
        staging = vault.stage(device, component)
        put_missing(staging, images[component.component_id])
        vault.commit_image(staging)
    return vault.commit_generation(sealed, good_seal(number) if good else None)
