# SPDX-License-Identifier: Apache-2.0
"""Writing erase blocks, what is erased, and images: what is written, what is spared, every power cut within."""

from __future__ import annotations

import random

import pytest

from unbrickd.errors import FlashError
from unbrickd.flash.partition import Partition
from unbrickd.flash.write import MAX_TRIES, program_erased, write_erase_block, write_image
from unbrickd.model.geometry import Geometry
from unbrickd.sim.nor import NorChip, Phase, PowerCut

GEOMETRY = Geometry.uniform(total_bytes=4096, erase_block_bytes=1024)
BLOCK = GEOMETRY.erase_block(1)
OLD = random.Random(1).randbytes(1024)
NEW = random.Random(2).randbytes(700)
TORN_SEEDS = range(8)


def test_write_erase_block_equal_touches_nothing() -> None:
    chip = NorChip(GEOMETRY)
    write_erase_block(chip, BLOCK, NEW)
    before = chip.operations
    write_erase_block(chip, BLOCK, NEW)
    assert chip.operations == before


def test_write_erase_block_on_erased_does_not_erase() -> None:
    chip = NorChip(GEOMETRY)
    write_erase_block(chip, BLOCK, NEW)
    assert (chip.erases, chip.programs) == (0, 3)  # 700 bytes lie in three pages of 256


def test_write_erase_block_skips_pages_of_ff() -> None:
    chip = NorChip(GEOMETRY)
    write_erase_block(chip, BLOCK, b"\x00" + b"\xff" * 700 + b"\x00")
    assert chip.programs == 2


def test_write_erase_block_over_old_erases_once() -> None:
    chip = NorChip(GEOMETRY)
    write_erase_block(chip, BLOCK, OLD)
    write_erase_block(chip, BLOCK, NEW)
    assert (chip.erases, chip.programs) == (1, 4 + 3)
    assert chip.read(0, 4096) == (b"\xff" * 1024 + NEW).ljust(4096, b"\xff")


def test_write_erase_block_programs_the_first_page_last() -> None:
    chip = NorChip(GEOMETRY)
    chip.cut_power(at=2, phase=Phase.BEFORE)
    with pytest.raises(PowerCut):
        write_erase_block(chip, BLOCK, NEW)
    chip.power_on()
    assert chip.read(BLOCK.offset_bytes, 1024) == b"\xff" * 256 + NEW[256:].ljust(768, b"\xff")


def test_write_erase_block_too_big_raises_and_touches_nothing() -> None:
    chip = NorChip(GEOMETRY)
    with pytest.raises(FlashError) as caught:
        write_erase_block(chip, BLOCK, bytes(1025))
    assert (caught.value.code, chip.operations) == ("too-big", 0)


class ForgetfulFlash:
    """Programs reach the chip with one bit wrong, the first `faults` times."""

    def __init__(self, chip: NorChip, faults: int) -> None:
        self.chip = chip
        self.faults = faults
        self.geometry = chip.geometry
        self.read = chip.read
        self.erase = chip.erase

    def program(self, offset_bytes: int, octets: bytes) -> None:
        if self.faults:
            self.faults -= 1
            octets = bytes([octets[0] ^ 1]) + octets[1:]
        self.chip.program(offset_bytes, octets)


def test_write_erase_block_wrong_once_tries_again() -> None:
    flash = ForgetfulFlash(NorChip(GEOMETRY), faults=1)
    write_erase_block(flash, BLOCK, NEW)
    assert flash.read(BLOCK.offset_bytes, 700) == NEW
    assert flash.chip.erases == 1


def test_write_erase_block_wrong_always_raises_verify() -> None:
    flash = ForgetfulFlash(NorChip(GEOMETRY), faults=1000)
    with pytest.raises(FlashError) as caught:
        write_erase_block(flash, BLOCK, NEW)
    assert caught.value.code == "verify"
    assert flash.chip.erases == MAX_TRIES - 1


def test_write_erase_block_worn_out_raises() -> None:
    codes = set()
    for seed in range(20):
        chip = NorChip(GEOMETRY, endurance_cycles=0, seed=seed)
        write_erase_block(chip, BLOCK, OLD)
        with pytest.raises(FlashError) as caught:
            write_erase_block(chip, BLOCK, NEW)
        codes.add(caught.value.code)
    assert codes == {"worn-out", "verify"}  # the chip says so, or only the read-back does


def test_program_erased_programs_ascending_and_skips_pages_of_ff() -> None:
    chip = NorChip(GEOMETRY)
    assert program_erased(chip, 0, b"\x01" * 256 + b"\xff" * 256 + b"\x02" * 16)
    assert (chip.operations, chip.read(0, 528)) == (2, b"\x01" * 256 + b"\xff" * 256 + b"\x02" * 16)
    chip = NorChip(GEOMETRY)
    chip.cut_power(at=1, phase=Phase.BEFORE)
    with pytest.raises(PowerCut):
        program_erased(chip, 0, b"\x01" * 1024)
    chip.power_on()
    assert chip.read(0, 1024) == b"\x01" * 256 + b"\xff" * 768, "the first page first"


class WatchedFlash(NorChip):
    """Notes what was to be programmed at once."""

    calls: list[tuple[int, int]]

    def program(self, offset_bytes: int, octets: bytes) -> None:
        self.calls.append((offset_bytes, len(octets)))
        super().program(offset_bytes, octets)


def test_program_erased_hands_over_at_once_what_lies_between_pages_of_ff() -> None:
    flash = WatchedFlash(GEOMETRY)
    flash.calls = []
    octets = b"\xff" * 256 + b"\x01" * 512 + b"\xff" * 512 + b"\x02" * 300
    assert program_erased(flash, 1024, octets)
    assert flash.calls == [(1024 + 256, 512), (1024 + 1280, 300)]
    assert flash.read(1024, len(octets)) == octets


def test_program_erased_that_reads_back_wrong_says_so() -> None:
    flash = ForgetfulFlash(NorChip(GEOMETRY), faults=1)
    assert not program_erased(flash, 0, NEW)


def test_write_image_too_big_raises_and_touches_nothing() -> None:
    chip = NorChip(GEOMETRY)
    with pytest.raises(FlashError) as caught:
        write_image(Partition(chip, offset_bytes=1024, length_bytes=2048), bytes(2049))
    assert (caught.value.code, chip.operations) == ("too-big", 0)


def test_write_image_power_cut_anywhere_is_finished_by_a_second_call() -> None:
    """Before, torn and after every operation: erase blocks are new, one undefined, then old; a second call ends it."""
    old, new = random.Random(3).randbytes(4096), random.Random(4).randbytes(3000)
    wanted = new.ljust(3072, b"\xff") + old[3072:]
    cuts = 0
    for phase in Phase:
        for seed in TORN_SEEDS if phase is Phase.TORN else (0,):
            at = 0
            while True:
                chip = NorChip(GEOMETRY, buffer=bytearray(old), seed=seed)
                chip.cut_power(at=at, phase=phase)
                try:
                    write_image(chip, new)
                except PowerCut:
                    cuts += 1
                else:
                    break
                chip.power_on()
                after = chip.read(0, 4096)
                states = [
                    "new" if after[b.offset_bytes : b.end_bytes] == wanted[b.offset_bytes : b.end_bytes] else
                    "old" if after[b.offset_bytes : b.end_bytes] == old[b.offset_bytes : b.end_bytes] else "undefined"
                    for b in GEOMETRY
                ]  # fmt: skip
                first = next((i for i, state in enumerate(states[:3]) if state != "new"), 3)
                assert all(state == "old" for state in states[first + 1 : 3]), (phase, seed, at, states)
                assert after[3072:] == old[3072:], (phase, seed, at)
                write_image(chip, new)
                assert chip.read(0, 4096) == wanted, (phase, seed, at)
                at += 1
            assert at == 3 + 12, "three erases and twelve pages"
    print(f"{cuts} power cuts in write_image")
    assert cuts == (2 + len(TORN_SEEDS)) * 15


class UnreadableUntilErased:
    """An erase block with an uncorrectable error: reading it fails until it has been erased."""

    def __init__(self, chip: NorChip) -> None:
        self.chip = chip
        self.geometry = chip.geometry
        self.program = chip.program
        self.bad = True

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        if self.bad:
            raise FlashError("uncorrectable error", code="read")
        return self.chip.read(offset_bytes, length_bytes)

    def erase(self, offset_bytes: int) -> None:
        self.bad = False
        self.chip.erase(offset_bytes)


def test_write_erase_block_that_cannot_be_read_is_erased_and_written() -> None:
    chip = NorChip(GEOMETRY)
    write_erase_block(UnreadableUntilErased(chip), BLOCK, NEW)
    assert chip.read(BLOCK.offset_bytes, len(NEW)) == NEW
