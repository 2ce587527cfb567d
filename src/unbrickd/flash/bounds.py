# SPDX-License-Identifier: Apache-2.0
"""The two checks that every Flash makes before it touches anything (see `flash.interface`)."""

from __future__ import annotations

from unbrickd.errors import FlashError
from unbrickd.model.geometry import EraseBlock, Geometry


def check_range(geometry: Geometry, offset_bytes: int, length_bytes: int) -> None:
    """Raises FlashError (out-of-range) unless all of it lies within the flash."""
    if offset_bytes < 0 or length_bytes < 0 or offset_bytes + length_bytes > geometry.total_bytes:
        raise FlashError(
            f"{length_bytes} bytes at {offset_bytes:#x} do not lie within {geometry.total_bytes} bytes of flash",
            code="out-of-range",
        )


def erase_block_from(geometry: Geometry, offset_bytes: int) -> EraseBlock:
    """The erase block that starts there. Raises FlashError (out-of-range, misaligned)."""
    check_range(geometry, offset_bytes, 1)
    block = geometry.at(offset_bytes)
    if block.offset_bytes != offset_bytes:
        raise FlashError(f"no erase block starts at {offset_bytes:#x}", code="misaligned")
    return block
