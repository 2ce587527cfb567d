# SPDX-License-Identifier: Apache-2.0
"""A partition: a bounded view of a flash that is itself a Flash. Knows nothing of what it holds.

Spec: spec/flash-format.md §1. The bounds are checked here, so that no bug above can write past them.
"""

from __future__ import annotations

from unbrickd.flash.bounds import check_range, erase_block_from
from unbrickd.flash.interface import Flash
from unbrickd.model.geometry import Geometry


class Partition:
    """The erase blocks of `flash` from `offset_bytes` on that hold `length_bytes`; offsets count from its start.

    Raises ConfigError if it does not start with an erase block or does not lie within the flash.
    """

    def __init__(self, flash: Flash, *, offset_bytes: int, length_bytes: int) -> None:
        self._flash = flash
        self._start = offset_bytes
        self._geometry = flash.geometry.cut(offset_bytes=offset_bytes, length_bytes=length_bytes)

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        check_range(self._geometry, offset_bytes, length_bytes)
        return self._flash.read(self._start + offset_bytes, length_bytes)

    def program(self, offset_bytes: int, octets: bytes) -> None:
        check_range(self._geometry, offset_bytes, len(octets))
        self._flash.program(self._start + offset_bytes, octets)

    def erase(self, offset_bytes: int) -> None:
        erase_block_from(self._geometry, offset_bytes)
        self._flash.erase(self._start + offset_bytes)
