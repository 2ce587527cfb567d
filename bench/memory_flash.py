# SPDX-License-Identifier: Apache-2.0
"""A flash of plain memory, for devices that are to cost as little as can be."""

from __future__ import annotations

from unbrickd.flash.interface import ERASED
from unbrickd.model.geometry import Geometry


class MemoryFlash:
    """Without delays, wear or faults. octets: what is in it at first; None: it is erased."""

    def __init__(self, geometry: Geometry, octets: bytes | None = None) -> None:
        self.geometry = geometry
        self.octets = bytearray([ERASED]) * geometry.total_bytes if octets is None else bytearray(octets)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        return bytes(memoryview(self.octets)[offset_bytes : offset_bytes + length_bytes])

    def program(self, offset_bytes: int, octets: bytes) -> None:
        self.octets[offset_bytes : offset_bytes + len(octets)] = octets

    def erase(self, offset_bytes: int) -> None:
        self.program(offset_bytes, bytes([ERASED]) * self.geometry.at(offset_bytes).size_bytes)
