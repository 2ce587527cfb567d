# SPDX-License-Identifier: Apache-2.0
"""The simulated chip: what it refuses, how it fails, what it counts; that it is deterministic."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from unbrickd.errors import ConfigError, FlashError
from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.sim.nor import W25Q128JV, ChipState, NorChip, Phase, PowerCut

GEOMETRY = Geometry((EraseRun(count=4, size_bytes=4096), EraseRun(count=2, size_bytes=65536)))
TOTAL = GEOMETRY.total_bytes


@pytest.mark.parametrize("octets", [b"\x00", b"\x0f", b"\x01", b"\xff"])
def test_nor_chip_program_on_what_is_not_erased_refuses(octets: bytes) -> None:
    chip = NorChip(GEOMETRY)
    chip.program(100, b"\x0f")
    with pytest.raises(FlashError) as caught:
        chip.program(99, b"\xff" + octets)
    assert caught.value.code == "not-erased"
    assert chip.read(99, 3) == b"\xff\x0f\xff"


def test_nor_chip_program_and_erase_in_protected_sector_refuse_until_the_pin_is_moved() -> None:
    chip = NorChip(GEOMETRY, protected=[(4096, 4096)])
    for offset_bytes in (4095, 4096, 8191):
        with pytest.raises(FlashError) as caught:
            chip.program(offset_bytes, b"\x00\x00")
        assert caught.value.code == "protected"
    with pytest.raises(FlashError) as caught:
        chip.erase(4096)
    assert caught.value.code == "protected"
    assert chip.operations == 0
    chip.program(4094, b"\x00\x00")
    chip.program(8192, b"\x00")
    chip.write_protect = False
    chip.program(4096, b"\x00")
    chip.erase(4096)


def test_nor_chip_program_is_one_operation_per_page() -> None:
    chip = NorChip(GEOMETRY)
    chip.program(200, bytes(400))  # 200…255, 256…511, 512…599
    assert (chip.operations, chip.programs, chip.bytes_programmed) == (3, 3, 400)


@pytest.mark.parametrize(("phase", "pages"), [(Phase.BEFORE, 1), (Phase.AFTER, 2)])
def test_nor_chip_cut_between_pages_leaves_whole_pages(phase: Phase, pages: int) -> None:
    chip = NorChip(GEOMETRY)
    chip.cut_power(at=1, phase=phase)
    with pytest.raises(PowerCut):
        chip.program(0, bytes(1024))
    chip.power_on()
    assert chip.read(0, 1024) == bytes(256 * pages).ljust(1024, b"\xff")


def test_nor_chip_without_power_answers_nothing() -> None:
    chip = NorChip(GEOMETRY)
    chip.cut_power(at=0, phase=Phase.BEFORE)
    with pytest.raises(PowerCut):
        chip.erase(0)
    for act in (lambda: chip.read(0, 1), lambda: chip.program(0, b"\x00"), lambda: chip.erase(0)):
        with pytest.raises(PowerCut):
            act()
    chip.power_on()
    chip.program(0, b"\x00")
    assert chip.read(0, 1) == b"\x00"


def test_nor_chip_power_cut_is_swallowed_by_no_handler() -> None:
    assert not issubclass(PowerCut, Exception)


def test_nor_chip_torn_program_clears_only_bits_that_were_to_be_cleared() -> None:
    results = set()
    for seed in range(50):
        chip = NorChip(GEOMETRY, seed=seed)
        chip.cut_power(at=0, phase=Phase.TORN)
        with pytest.raises(PowerCut):
            chip.program(0, b"\x5a" * 64)
        chip.power_on()
        octets = chip.read(0, 65)
        assert all(byte & 0x5A == 0x5A for byte in octets[:64]), seed
        assert octets[64] == 0xFF
        results.add(octets)
    assert len(results) > 40, "seeds give different results"


def test_nor_chip_torn_erase_stays_in_its_erase_block_and_differs_by_seed() -> None:
    results = set()
    for seed in range(50):
        chip = NorChip(GEOMETRY, buffer=bytearray(b"\x5a") * TOTAL, seed=seed)
        chip.cut_power(at=0, phase=Phase.TORN)
        with pytest.raises(PowerCut):
            chip.erase(4096)
        chip.power_on()
        assert chip.read(0, 4096) == b"\x5a" * 4096
        assert chip.read(8192, 4096) == b"\x5a" * 4096
        results.add(chip.read(4096, 4096))
    assert len(results) > 40


def test_nor_chip_same_seed_same_calls_same_bytes() -> None:
    def run(seed: int) -> bytes:
        chip = NorChip(GEOMETRY, seed=seed, endurance_cycles=1)
        chip.program(0, bytes(4096))
        for _ in range(2):
            try:
                chip.erase(0)
            except FlashError as error:
                assert error.code == "worn-out"
        chip.flip_bits(9)
        chip.cut_power(at=chip.operations, phase=Phase.TORN)
        with pytest.raises(PowerCut):
            chip.program(8192, bytes(256)) if chip.read(8192, 256) == b"\xff" * 256 else chip.erase(8192)
        chip.power_on()
        return chip.read(0, TOTAL)

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_nor_chip_stuck_erase_block_does_not_erase() -> None:
    chip = NorChip(GEOMETRY, stuck=[1])
    chip.program(4096, b"old")
    with pytest.raises(FlashError) as caught:
        chip.erase(4096)
    assert (caught.value.code, chip.read(4096, 3)) == ("erase-failed", b"old")
    chip.erase(0)


def test_nor_chip_worn_out_erase_block_fails_or_keeps_bits_and_only_that_one() -> None:
    failed = kept = 0
    for seed in range(20):
        chip = NorChip(GEOMETRY, endurance_cycles=3, seed=seed)
        for _ in range(3):
            chip.erase(0)
            assert chip.read(0, 4096) == b"\xff" * 4096
        try:
            chip.erase(0)
        except FlashError as error:
            assert error.code == "worn-out"
            failed += 1
        else:
            assert chip.read(0, 4096) != b"\xff" * 4096, seed
            kept += 1
        assert chip.erase_cycles(0) == 4
        chip.erase(4096)
        assert chip.read(4096, 4096) == b"\xff" * 4096
    assert failed and kept


def test_nor_chip_flip_bits_flips_that_many_in_the_range() -> None:
    chip = NorChip(GEOMETRY)
    offsets = chip.flip_bits(5, offset_bytes=4096, length_bytes=100)
    octets = chip.read(0, TOTAL)
    assert sum(8 - byte.bit_count() for byte in octets) == len(offsets) == 5
    assert {i for i, byte in enumerate(octets) if byte != 0xFF} == set(offsets) <= set(range(4096, 4196))
    assert chip.flip_bits(5, offset_bytes=4096, length_bytes=100) != offsets


def test_nor_chip_busy_time_follows_the_datasheet() -> None:
    chip = NorChip(GEOMETRY)
    chip.erase(0)
    assert chip.busy_s == pytest.approx(45e-3)
    chip.erase(4 * 4096)
    assert chip.busy_s == pytest.approx(45e-3 + 150e-3)
    chip.program(0, bytes(1000))  # four pages
    assert chip.busy_s == pytest.approx(195e-3 + 4 * 0.7e-3)
    chip.read(0, 65536)
    assert chip.busy_s == pytest.approx(195e-3 + 2.8e-3 + 65536 * 8 / 50e6)
    assert (chip.reads, chip.erases, chip.bytes_read, chip.bytes_erased) == (1, 2, 65536, 4096 + 65536)


@pytest.mark.parametrize(
    ("size_bytes", "seconds"),
    [(256, 45e-3), (4096, 45e-3), (8192, 90e-3), (32768, 120e-3), (131072, 300e-3), (102400, 150e-3 + 120e-3 + 45e-3)],
)
def test_chip_times_erase_of_any_size_is_made_of_the_chips_erases(size_bytes: int, seconds: float) -> None:
    assert W25Q128JV.erasing_s(size_bytes) == pytest.approx(seconds)


def test_nor_chip_state_in_json_carries_wear_and_locks_to_the_next_process() -> None:
    chip = NorChip(GEOMETRY, protected=[(0, 4096)], stuck=[3], endurance_cycles=2)
    chip.erase(4096)
    chip.erase(4096)
    state = ChipState.from_json(chip.state.to_json())
    assert state == chip.state
    again = NorChip(GEOMETRY, endurance_cycles=2, state=state)
    assert (again.erase_cycles(1), again.stuck, again.operations) == (2, {3}, chip.operations)
    with pytest.raises(FlashError) as caught:
        again.program(0, b"\x00")
    assert caught.value.code == "protected"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stuck": 1}', ChipState().to_json().replace("[]", "[[1]]", 1)])
def test_chip_state_from_other_json_raises(text: str) -> None:
    with pytest.raises(ConfigError):
        ChipState.from_json(text)


def test_nor_chip_over_a_mapped_file_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "chip.bin"
    path.write_bytes(b"\xff" * TOTAL)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as buffer:
        chip = NorChip(GEOMETRY, buffer=buffer)
        chip.program(10, b"hello")
        chip.erase(4096)
        chip.flip_bits(1, offset_bytes=0, length_bytes=1)
    octets = path.read_bytes()
    assert octets[10:15] == b"hello"
    assert octets[0] != 0xFF


def test_nor_chip_over_a_buffer_of_another_size_raises() -> None:
    with pytest.raises(ConfigError):
        NorChip(GEOMETRY, buffer=bytearray(TOTAL - 1))
