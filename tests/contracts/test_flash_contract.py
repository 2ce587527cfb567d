# SPDX-License-Identifier: Apache-2.0
"""One suite for every kind of flash: what `flash.interface` promises to callers that do as NOR needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from unbrickd.adapters.flash.image import ImageFlash
from unbrickd.errors import FlashError
from unbrickd.flash.interface import Flash
from unbrickd.flash.partition import Partition
from unbrickd.flash.write import write_erase_block, write_image
from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.sim.nor import NorChip

MIXED = Geometry((EraseRun(count=4, size_bytes=1024), EraseRun(count=2, size_bytes=4096)))
"""Small erase blocks, then large ones, as a boot-sector chip has them."""


@pytest.fixture(params=["nor-chip", "partition", "image-file"])
def flash(request: pytest.FixtureRequest, tmp_path: Path) -> Flash:
    if request.param == "nor-chip":
        return NorChip(MIXED)
    if request.param == "partition":
        around = Geometry((EraseRun(count=3, size_bytes=2048), *MIXED.runs, EraseRun(count=1, size_bytes=4096)))
        return Partition(NorChip(around), offset_bytes=3 * 2048, length_bytes=MIXED.total_bytes)
    return ImageFlash.create(tmp_path / "flash.img", MIXED)


def test_flash_geometry_is_its_own(flash: Flash) -> None:
    assert flash.geometry == MIXED


def test_flash_new_reads_erased(flash: Flash) -> None:
    assert flash.read(0, MIXED.total_bytes) == b"\xff" * MIXED.total_bytes


def test_flash_program_reads_back_and_leaves_the_rest(flash: Flash) -> None:
    flash.program(1000, bytes(range(100)))  # across an erase block's end
    assert flash.read(1000, 100) == bytes(range(100))
    assert flash.read(0, 1000) + flash.read(1100, 3000) == b"\xff" * 4000


def test_flash_program_of_neighbours_keeps_both(flash: Flash) -> None:
    flash.program(32, b"a" * 32)
    flash.program(64, b"b" * 32)
    assert flash.read(0, 128) == b"\xff" * 32 + b"a" * 32 + b"b" * 32 + b"\xff" * 32


def test_flash_program_nothing_changes_nothing(flash: Flash) -> None:
    flash.program(MIXED.total_bytes, b"")
    assert flash.read(0, MIXED.total_bytes) == b"\xff" * MIXED.total_bytes


def test_flash_erase_takes_one_erase_block_only(flash: Flash) -> None:
    flash.program(0, b"\x00" * MIXED.total_bytes)
    flash.erase(4096)
    assert flash.read(0, 4096) == b"\x00" * 4096
    assert flash.read(4096, 4096) == b"\xff" * 4096
    assert flash.read(8192, 4096) == b"\x00" * 4096


def test_flash_erase_then_program_again_reads_back(flash: Flash) -> None:
    flash.program(0, b"old")
    flash.erase(0)
    flash.program(0, b"new")
    assert flash.read(0, 3) == b"new"


def test_flash_read_nothing_is_empty(flash: Flash) -> None:
    assert flash.read(MIXED.total_bytes, 0) == b""


@pytest.mark.parametrize(
    ("offset_bytes", "length_bytes"), [(-1, 1), (0, -1), (MIXED.total_bytes, 1), (MIXED.total_bytes - 1, 2)]
)
def test_flash_read_out_of_range_raises(flash: Flash, offset_bytes: int, length_bytes: int) -> None:
    with pytest.raises(FlashError) as caught:
        flash.read(offset_bytes, length_bytes)
    assert caught.value.code == "out-of-range"


@pytest.mark.parametrize("offset_bytes", [-1, MIXED.total_bytes - 1, MIXED.total_bytes])
def test_flash_program_out_of_range_raises_and_changes_nothing(flash: Flash, offset_bytes: int) -> None:
    with pytest.raises(FlashError) as caught:
        flash.program(offset_bytes, b"\x00\x00")
    assert caught.value.code == "out-of-range"
    assert flash.read(0, MIXED.total_bytes) == b"\xff" * MIXED.total_bytes


@pytest.mark.parametrize(
    ("offset_bytes", "code"),
    [(-1024, "out-of-range"), (MIXED.total_bytes, "out-of-range"), (1, "misaligned"), (4096 + 1024, "misaligned")],
)
def test_flash_erase_of_no_erase_block_raises(flash: Flash, offset_bytes: int, code: str) -> None:
    with pytest.raises(FlashError) as caught:
        flash.erase(offset_bytes)
    assert caught.value.code == code


def test_flash_write_erase_block_over_other_bytes_reads_back(flash: Flash) -> None:
    block = flash.geometry.erase_block(4)
    write_erase_block(flash, block, b"\x5a" * 4096)
    write_erase_block(flash, block, b"\xa5" * 1000)
    assert flash.read(block.offset_bytes, 4096) == b"\xa5" * 1000 + b"\xff" * 3096


def test_flash_write_image_reads_back_and_leaves_erase_blocks_behind_it(flash: Flash) -> None:
    write_image(flash, b"\x11" * MIXED.total_bytes)
    write_image(flash, b"\x22" * 1500)
    assert flash.read(0, 1500) == b"\x22" * 1500
    assert flash.read(1500, 548) == b"\xff" * 548
    assert flash.read(2048, MIXED.total_bytes - 2048) == b"\x11" * (MIXED.total_bytes - 2048)
