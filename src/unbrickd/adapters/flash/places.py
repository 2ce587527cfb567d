# SPDX-License-Identifier: Apache-2.0
"""From a place in a layout file to the Flash that is there. Knows every kind of flash and nothing of what it holds."""

from __future__ import annotations

from pathlib import Path

from unbrickd.adapters.flash.command import CommandFlash
from unbrickd.adapters.flash.image import ImageFlash
from unbrickd.adapters.flash.mtd import MtdFlash
from unbrickd.errors import ConfigError
from unbrickd.flash.interface import Flash
from unbrickd.model.layout import Place, PlaceKind


def open_place(place: Place, *, base: Path, writable: bool) -> Flash:
    """The flash of a real device at this place. base: the folder from which relative paths count.

    writable: whether an MTD device is opened for writing too; files and commands say for themselves.
    Raises ConfigError, FlashError. A MtdFlash is its caller's to close, a CommandFlash to load.
    """
    match place.kind:
        case PlaceKind.MTD:
            return MtdFlash(base / place.target, writable=writable)
        case PlaceKind.FILE:
            assert place.geometry is not None, "parse_layout gives files one"
            return ImageFlash(base / place.target, place.geometry)
        case PlaceKind.COMMAND:
            assert place.geometry is not None, "parse_layout gives commands one"
            return CommandFlash(place.geometry, place.command, place.restore)
        case PlaceKind.PARTITION:
            raise ConfigError(
                f"the partition {place.target!r} lies on a simulated chip, and this is a real device",
                code="layout",
                hint="name an mtd device, a file or a command for it, or run `unbrickd gateway`",
            )
