# SPDX-License-Identifier: Apache-2.0
"""The Flash interface: what every kind of NOR flash offers (spec/flash-format.md §1).

Implemented by `sim.nor` (a chip that refuses what hardware refuses), `adapters.flash.image` (a plain file) and
`adapters.flash.mtd` (Linux MTD). Nothing is believed until it is read back: that is the caller's, see `flash.write`.
"""

from __future__ import annotations

from typing import Protocol

from unbrickd.model.geometry import Geometry

ERASED = 0xFF
"""What an erased byte of NOR flash reads."""


class Flash(Protocol):
    """A flash chip or a partition of one; offsets are in bytes from its start."""

    @property
    def geometry(self) -> Geometry: ...

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes there. Raises FlashError where they cannot be read (an uncorrectable error, out of range)."""
        ...

    def program(self, offset_bytes: int, octets: bytes) -> None:
        """Turn erased bytes into these. Raises FlashError if protected, not erased, out of range or worn out.

        A power cut leaves some of the bits programmed.
        """
        ...

    def erase(self, offset_bytes: int) -> None:
        """Erase the erase block that starts there. Raises FlashError if protected, misaligned or worn out.

        A power cut leaves the erase block undefined.
        """
        ...
