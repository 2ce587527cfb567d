# SPDX-License-Identifier: Apache-2.0
"""The indicator light: what it says and how it blinks (R19; docs/terminology.md shows it to users)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One period of blinking, as pairs (on, off) in milliseconds; ((0, 0),) is off and an off time of 0 is steady."""

    flashes_ms: tuple[tuple[int, int], ...]
    meaning: str


class Light(Enum):
    """The states that a user can tell apart with one light of one colour."""

    OFF = Pattern(flashes_ms=((0, 0),), meaning="off, or checking the flash")
    START_SERVER = Pattern(flashes_ms=((1000, 1000),), meaning="please start unbrickd on your PC")
    RESTORING = Pattern(flashes_ms=((100, 100),), meaning="restoring; leave the power on")
    FAILED = Pattern(
        flashes_ms=((150, 150), (150, 150), (150, 1500)), meaning="what was offered was refused, or the flash is worn"
    )
    BOOTED = Pattern(flashes_ms=((1, 0),), meaning="running")
