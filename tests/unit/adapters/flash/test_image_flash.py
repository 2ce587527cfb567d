# SPDX-License-Identifier: Apache-2.0
"""What is the file's own; what every flash does is in tests/contracts/test_flash_contract.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unbrickd.adapters.flash.image import ImageFlash
from unbrickd.errors import ConfigError, FlashError
from unbrickd.model.geometry import Geometry

GEOMETRY = Geometry.uniform(total_bytes=4096, erase_block_bytes=1024)


def test_image_flash_of_another_size_raises(tmp_path: Path) -> None:
    path = tmp_path / "flash.img"
    path.write_bytes(bytes(4095))
    with pytest.raises(ConfigError, match="4095"):
        ImageFlash(path, GEOMETRY)


def test_image_flash_missing_raises_flash_error(tmp_path: Path) -> None:
    with pytest.raises(FlashError) as caught:
        ImageFlash(tmp_path / "none", GEOMETRY)
    assert caught.value.code == "io"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_image_flash_create_over_a_file_raises_and_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "flash.img"
    path.write_bytes(b"mine")
    with pytest.raises(FlashError):
        ImageFlash.create(path, GEOMETRY)
    assert path.read_bytes() == b"mine"


def test_image_flash_opened_again_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "flash.img"
    ImageFlash.create(path, GEOMETRY).program(1020, b"12345678")
    assert ImageFlash(path, GEOMETRY).read(1020, 8) == b"12345678"
    assert path.stat().st_size == 4096


def test_image_flash_is_not_strict(tmp_path: Path) -> None:
    flash = ImageFlash.create(tmp_path / "flash.img", GEOMETRY)
    flash.program(0, b"\x00")
    flash.program(0, b"\xaa")
    assert flash.read(0, 1) == b"\xaa"


def test_image_flash_writes_reach_the_disk_before_they_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flash = ImageFlash.create(tmp_path / "flash.img", GEOMETRY)
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.append(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    flash.program(0, b"\x00")
    assert len(synced) == 1
    flash.erase(0)
    assert len(synced) == 2


def test_image_flash_shortened_raises_flash_error(tmp_path: Path) -> None:
    path = tmp_path / "flash.img"
    flash = ImageFlash.create(path, GEOMETRY)
    os.truncate(path, 100)
    with pytest.raises(FlashError) as caught:
        flash.read(0, 200)
    assert caught.value.code == "io"


@pytest.mark.parametrize(("error", "code"), [(PermissionError(13, "denied"), "protected"), (OSError(28, "full"), "io")])
def test_image_flash_operating_system_errors_are_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, code: str
) -> None:
    flash = ImageFlash.create(tmp_path / "flash.img", GEOMETRY)

    def fail(fd: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FlashError) as caught:
        flash.program(0, b"\x00")
    assert caught.value.code == code
    assert caught.value.__cause__ is error
