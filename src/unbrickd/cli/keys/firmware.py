# SPDX-License-Identifier: Apache-2.0
"""A firmware image file as a manifest, for signing it and for verifying its signature."""

from __future__ import annotations

from pathlib import Path

from unbrickd.adapters.files import read_file
from unbrickd.errors import ConfigError
from unbrickd.model.geometry import MAX_TOTAL_BYTES, Geometry
from unbrickd.model.manifest import ComponentKind, Manifest
from unbrickd.seal.manifest import build_manifest


def read_image(path: Path) -> bytes:
    """The whole image. Raises ConfigError."""
    image = read_file(path, limit_bytes=MAX_TOTAL_BYTES)
    if not image:
        raise ConfigError(f"{path} is empty", code="image", hint="name the firmware image")
    return image


def firmware_manifest(
    image: bytes, geometry: Geometry, *, version: str, rollback_index: int = 0, signature: bytes = b""
) -> Manifest:
    """What a maker's signature speaks of; component id and name are no part of it (spec/flash-format.md §3.2, §3.3)."""
    return build_manifest(
        component_id=1,
        kind=ComponentKind.FIRMWARE,
        name="firmware",
        version=version,
        geometry=geometry,
        image=lambda offset, length: image[offset : offset + length],
        length_bytes=len(image),
        content_keys=None,
        rollback_index=rollback_index,
        signature=signature,
    )
