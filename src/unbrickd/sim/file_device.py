# SPDX-License-Identifier: Apache-2.0
"""A real device, as `unbrickd agent` and `unbrickd recover` know one, made of plain files: for tests and the lab.

Identity, boot record and firmware are files; the settings are a file behind two commands. No boot record is made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unbrickd.adapters.flash.image import ImageFlash
from unbrickd.flash.write import write_image
from unbrickd.model.layout import parse_layout
from unbrickd.seal.identity import FirmwarePolicy, Identity, encode_identity

_PRINT = "import pathlib, sys; sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())"
_TAKE = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"

_LAYOUT = """\
model = "{model}"
good_after_s = {good_after_s}
identity = {{ file = "identity.bin", size = "4KiB", erase_block = "4KiB" }}
record = {{ file = "record.bin", size = "16KiB", erase_block = "4KiB" }}

[[component]]
name = "firmware"
file = "firmware.bin"
size = "256KiB"
erase_block = "4KiB"
version_file = "version"
{more}

[[component]]
name = "config"
command = {command}
restore = {restore}
size = "16KiB"
erase_block = "4KiB"

[link]
servers = [{server}]
probe_tries = 6

[recovery]
wait_s = {wait_s}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDevice:
    """The files of one device, all in `folder`."""

    folder: Path

    @property
    def layout(self) -> Path:
        return self.folder / "layout.toml"

    @property
    def firmware(self) -> Path:
        return self.folder / "firmware.bin"

    @property
    def version(self) -> Path:
        return self.folder / "version"

    @property
    def settings(self) -> Path:
        return self.folder / "settings"

    @property
    def record(self) -> Path:
        return self.folder / "record.bin"

    def install(self, firmware: bytes, version: str) -> None:
        """What an upgrade does: the new image, and the file that says its version."""
        layout = parse_layout(self.layout.read_text(encoding="utf-8"), source=str(self.layout))
        place = layout.components[0].place
        assert place.geometry is not None
        self.firmware.unlink(missing_ok=True)
        write_image(ImageFlash.create(self.firmware, place.geometry), firmware)
        self.version.write_text(f"{version}\n", encoding="utf-8")


def make_file_device(
    folder: Path,
    *,
    firmware: bytes,
    settings: bytes,
    server: str,
    entropy: Callable[[int], bytes],
    maker_key_der: bytes = b"",
    good_after_s: float = 300.0,
    wait_s: float = 60.0,
    more: str = "",
) -> FileDevice:
    """A new device in this folder, which is made. more: further lines of the firmware's table in the layout."""
    folder.mkdir()
    device = FileDevice(folder=folder)
    identity = Identity.generate(
        model="files-1",
        policy=FirmwarePolicy.MAKER if maker_key_der else FirmwarePolicy.OWNER,
        maker_key_der=maker_key_der,
        entropy=entropy,
    )

    def command(code: str) -> str:
        return json.dumps([sys.executable, "-c", code, str(device.settings)])

    text = _LAYOUT.format(
        model=identity.model,
        good_after_s=good_after_s,
        wait_s=wait_s,
        server=json.dumps(server),
        command=command(_PRINT),
        restore=command(_TAKE),
        more=more,
    )
    layout = parse_layout(text, source=str(device.layout))
    assert layout.identity.geometry is not None and layout.record.geometry is not None
    device.layout.write_text(text, encoding="utf-8")
    write_image(ImageFlash.create(folder / layout.identity.target, layout.identity.geometry), encode_identity(identity))
    ImageFlash.create(device.record, layout.record.geometry)
    device.install(firmware, "1.0")
    device.settings.write_bytes(settings)
    return device
