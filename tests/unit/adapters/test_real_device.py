# SPDX-License-Identifier: Apache-2.0
"""A real device from its layout file, on files and commands: what is opened, and what is installed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from unbrickd.adapters.device import open_device, read_layout
from unbrickd.adapters.flash.command import CommandFlash
from unbrickd.adapters.flash.places import open_place
from unbrickd.agent.software import DeviceSoftware, Installed
from unbrickd.errors import ConfigError, FlashError, IntegrityError
from unbrickd.model.geometry import Geometry
from unbrickd.model.layout import Place, PlaceKind
from unbrickd.recovery.check import check_flash
from unbrickd.seal.maker import SignatureFile, encode_signature_file
from unbrickd.sim.file_device import FileDevice, make_file_device

FIRMWARE = b"kernel and root file system " * 1000
SETTINGS = b"option hostname 'home'\n" * 100
SIZE = 256 << 10


def entropy(count: int) -> bytes:
    return hashlib.shake_128(b"device").digest(count)


def make(folder: Path, *, firmware: bytes = FIRMWARE, more: str = "") -> FileDevice:
    return make_file_device(
        folder / "device", firmware=firmware, settings=SETTINGS, server="127.0.0.1", entropy=entropy, more=more
    )


def installed(files: FileDevice) -> dict[str, Installed]:
    with open_device(read_layout(files.layout), base=files.folder, write_components=False) as device:
        for _, flash in device.commands():
            flash.load()
        return {slot.name: device.installed(slot) for slot in device.flash.slots}


def test_installed_file_and_command_lengths_are_those_of_the_images(tmp_path: Path) -> None:
    assert installed(make(tmp_path)) == {
        "firmware": Installed(length_bytes=len(FIRMWARE), version="1.0"),
        "config": Installed(length_bytes=len(SETTINGS)),
    }


def test_installed_file_filled_to_its_last_byte_is_all_image(tmp_path: Path) -> None:
    files = make(tmp_path, firmware=b"f" * SIZE)
    assert installed(files)["firmware"].length_bytes == SIZE


def test_installed_firmware_erased_raises(tmp_path: Path) -> None:
    files = make(tmp_path)
    files.firmware.write_bytes(b"\xff" * SIZE)
    with pytest.raises(ConfigError) as caught:
        installed(files)
    assert caught.value.code == "no-firmware"


def test_installed_length_file_says_more_than_the_flash_shows(tmp_path: Path) -> None:
    files = make(tmp_path, more='length_file = "length"')
    (files.folder / "length").write_text("8192\n", encoding="ascii")
    assert installed(files)["firmware"].length_bytes == 8192
    (files.folder / "length").write_text("about 8 KiB\n", encoding="ascii")
    with pytest.raises(ConfigError) as caught:
        installed(files)
    assert caught.value.code == "length-file"


def signature_file(erase_block_bytes: int) -> str:
    return encode_signature_file(
        SignatureFile(
            model="files-1",
            version="2.0",
            rollback_index=7,
            length_bytes=20000,
            geometry=Geometry.uniform(total_bytes=20000, erase_block_bytes=erase_block_bytes),
            image_digest=bytes(32),
            signature=b"signature",
        )
    )


def test_installed_signature_file_says_everything(tmp_path: Path) -> None:
    files = make(tmp_path, more='signature_file = "firmware.sig"')
    (files.folder / "firmware.sig").write_text(signature_file(4096), encoding="utf-8")
    wanted = Installed(length_bytes=20000, version="2.0", rollback_index=7, signature=b"signature")
    assert installed(files)["firmware"] == wanted


def test_installed_signature_for_other_erase_blocks_raises(tmp_path: Path) -> None:
    files = make(tmp_path, more='signature_file = "firmware.sig"')
    (files.folder / "firmware.sig").write_text(signature_file(65536), encoding="utf-8")
    with pytest.raises(ConfigError, match="other erase blocks"):
        installed(files)


def test_installed_named_file_missing_raises(tmp_path: Path) -> None:
    files = make(tmp_path)
    files.version.unlink()
    with pytest.raises(ConfigError, match="version"):
        installed(files)


def test_open_device_recorded_change_is_found_again_and_damage_is_located(tmp_path: Path) -> None:
    files = make(tmp_path)
    layout = read_layout(files.layout)
    with open_device(layout, base=files.folder, write_components=False) as device:
        for _, flash in device.commands():
            flash.load()
        DeviceSoftware(device.flash).record_change({s.component_id: device.installed(s) for s in device.flash.slots})
    octets = bytearray(files.firmware.read_bytes())
    octets[5000] ^= 1
    files.firmware.write_bytes(octets)
    with open_device(layout, base=files.folder, write_components=True) as device:
        findings = check_flash(device.flash)
    damaged = {c.name: c.damaged for c in findings.components}
    assert damaged == {"firmware": (1,), "config": (0,)}, "what a command prints is damaged until it is loaded"


def test_open_device_layout_of_another_model_raises(tmp_path: Path) -> None:
    files = make(tmp_path)
    files.layout.write_text(files.layout.read_text(encoding="utf-8").replace("files-1", "files-2"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        installed(files)
    assert caught.value.code == "model"


def test_open_device_no_identity_raises(tmp_path: Path) -> None:
    files = make(tmp_path)
    (files.folder / "identity.bin").write_bytes(b"\xff" * 4096)
    with pytest.raises(IntegrityError) as caught:
        installed(files)
    assert caught.value.code == "identity"


def test_read_layout_missing_or_wrong_raises(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_layout(tmp_path / "layout.toml")
    (tmp_path / "layout.toml").write_text("model = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"layout\.toml:1"):
        read_layout(tmp_path / "layout.toml")


def test_open_place_partition_raises_on_a_real_device(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="simulated chip"):
        open_place(Place(kind=PlaceKind.PARTITION, target="firmware"), base=tmp_path, writable=True)


def test_open_place_file_is_found_from_the_base_folder(tmp_path: Path) -> None:
    geometry = Geometry.uniform(total_bytes=4096, erase_block_bytes=4096)
    (tmp_path / "part").write_bytes(b"p" * 4096)
    flash = open_place(Place(kind=PlaceKind.FILE, target="part", geometry=geometry), base=tmp_path, writable=True)
    assert flash.read(0, 2) == b"pp"
    flash.erase(0)
    assert (tmp_path / "part").read_bytes() == b"\xff" * 4096
    with pytest.raises(FlashError):
        open_place(Place(kind=PlaceKind.FILE, target="none", geometry=geometry), base=tmp_path, writable=True)


def test_open_place_command_runs_nothing_yet(tmp_path: Path) -> None:
    geometry = Geometry.uniform(total_bytes=4096, erase_block_bytes=4096)
    place = Place(kind=PlaceKind.COMMAND, command=("no-such-program",), geometry=geometry)
    flash = open_place(place, base=tmp_path, writable=True)
    assert isinstance(flash, CommandFlash)
    with pytest.raises(FlashError):
        flash.load()


def test_open_place_mtd_that_is_none_raises(tmp_path: Path) -> None:
    with pytest.raises(FlashError):
        open_place(Place(kind=PlaceKind.MTD, target="mtd99"), base=tmp_path, writable=False)
