# SPDX-License-Identifier: Apache-2.0
"""A real device from its layout file: identity, boot record and components opened, and what is installed in them.

Everything is opened read-only but the boot record, and the components for a recovery. The virtual gateway has its own
(`sim.gateway`). Spec: docs/layout.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unbrickd.adapters.files import first_line, read_text
from unbrickd.adapters.flash.command import CommandFlash
from unbrickd.adapters.flash.mtd import MtdFlash
from unbrickd.adapters.flash.places import open_place
from unbrickd.agent.software import Installed
from unbrickd.errors import ConfigError
from unbrickd.flash.device import ComponentSlot, DeviceFlash
from unbrickd.flash.interface import ERASED, Flash
from unbrickd.flash.record import RecordStore
from unbrickd.model.layout import ComponentLayout, Layout, Place, parse_layout
from unbrickd.model.manifest import ComponentKind
from unbrickd.seal.identity import MAX_IDENTITY_BYTES, decode_identity
from unbrickd.seal.keys import DeviceKeys
from unbrickd.seal.maker import MAX_SIGNATURE_FILE_CHARACTERS, SignatureFile, decode_signature_file

MAX_LAYOUT_BYTES = 64 << 10
"""The longest that makes sense, eight components and all partitions, has under 8 KiB."""
MAX_INFO_FILE_BYTES = 4096
"""Of version_file and length_file, of which the first line counts."""


def read_layout(path: Path) -> Layout:
    """The layout file there. Raises ConfigError."""
    return parse_layout(read_text(path, limit_bytes=MAX_LAYOUT_BYTES), source=str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class RealDevice:
    """An open device. base: the folder of its layout file, from which relative paths count."""

    layout: Layout
    base: Path
    flash: DeviceFlash

    def commands(self) -> Iterator[tuple[ComponentSlot, CommandFlash]]:
        """The components that commands print and take back."""
        for slot in self.flash.slots:
            if isinstance(slot.flash, CommandFlash):
                yield slot, slot.flash

    def installed(self, slot: ComponentSlot) -> Installed:
        """What is in this component now: its length, and what the files that its layout names say of it.

        The length is, the first of these that there is: the signature file's; the length file's; what the command
        printed; all up to the last byte that is not erased. Raises ConfigError, FlashError.
        """
        component = self.layout.component(slot.name)
        assert component is not None, "slots are made of the layout's components"
        if component.signature_file:
            signed = self._signed(component, slot)
            return Installed(
                length_bytes=signed.length_bytes,
                version=signed.version,
                rollback_index=signed.rollback_index,
                signature=signed.signature,
            )
        version = self._first_line(component.version_file) if component.version_file else ""
        return Installed(length_bytes=self._length(component, slot), version=version)

    def _signed(self, component: ComponentLayout, slot: ComponentSlot) -> SignatureFile:
        path = self.base / component.signature_file
        signed = decode_signature_file(read_text(path, limit_bytes=MAX_SIGNATURE_FILE_CHARACTERS))
        if slot.flash.geometry.cut(offset_bytes=0, length_bytes=signed.length_bytes) != signed.geometry:
            raise ConfigError(
                f"{path} is on an image with other erase blocks than {component.name!r} lies in",
                code="signature-file",
                hint="sign with the --erase-block of this device's flash",
            )
        return signed

    def _length(self, component: ComponentLayout, slot: ComponentSlot) -> int:
        if component.length_file:
            text = self._first_line(component.length_file)
            if not text.isdecimal():
                raise ConfigError(
                    f"{component.length_file} does not begin with a number of bytes: {text!r}",
                    code="length-file",
                    hint="write the image's length in bytes there, like 3997696",
                )
            return int(text)
        if isinstance(slot.flash, CommandFlash):
            return slot.flash.length_bytes
        length = _programmed_bytes(slot.flash)
        if not length and slot.kind is ComponentKind.FIRMWARE:
            raise ConfigError(
                f"the flash of {slot.name!r} is erased: there is no firmware in it",
                code="no-firmware",
                hint="check where the layout says it lies",
            )
        return max(length, 1)

    def _first_line(self, name: str) -> str:
        return first_line(self.base / name, limit_bytes=MAX_INFO_FILE_BYTES)


@contextmanager
def open_device(layout: Layout, *, base: Path, write_components: bool) -> Iterator[RealDevice]:
    """The device, until the context ends. Components that commands print are erased until they are loaded.

    Raises ConfigError, FlashError; IntegrityError if there is no identity, or none of a device that there could be.
    """
    with contextlib.ExitStack() as stack:

        def opened(place: Place, *, writable: bool) -> Flash:
            flash = open_place(place, base=base, writable=writable)
            if isinstance(flash, MtdFlash):
                stack.enter_context(flash)
            return flash

        protected = opened(layout.identity, writable=False)
        if isinstance(protected, CommandFlash):
            protected.load()
        octets = protected.read(0, min(MAX_IDENTITY_BYTES, protected.geometry.total_bytes))
        keys = DeviceKeys.of(decode_identity(octets))
        if keys.identity.model != layout.model:
            raise ConfigError(
                f"the layout is of model {layout.model!r}, this device is {keys.identity.model!r}",
                code="model",
                hint="use the layout file of this device",
            )
        record = opened(layout.record, writable=True)
        if isinstance(record, CommandFlash):
            raise ConfigError(
                "the boot record cannot lie behind a command", code="layout", hint="name an mtd device or a file for it"
            )
        slots = tuple(
            ComponentSlot(
                component_id=component.component_id,
                name=component.name,
                kind=component.kind,
                sealed=component.sealed,
                flash=opened(component.place, writable=write_components),
            )
            for component in layout.components
        )
        yield RealDevice(
            layout=layout, base=base, flash=DeviceFlash(keys=keys, record=RecordStore(record, keys), slots=slots)
        )


def _programmed_bytes(flash: Flash) -> int:
    """How many bytes there are up to the last one that is not erased; 0 if all are."""
    for block in reversed(list(flash.geometry)):
        octets = flash.read(block.offset_bytes, block.size_bytes).rstrip(bytes([ERASED]))
        if octets:
            return block.offset_bytes + len(octets)
    return 0
