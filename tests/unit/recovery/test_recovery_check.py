# SPDX-License-Identifier: Apache-2.0
"""What the bootloader finds and decides, as a table; the range of rejected generations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbrickd.errors import FlashError
from unbrickd.flash.device import DeviceFlash
from unbrickd.flash.journal import JournalEntry
from unbrickd.model.manifest import ComponentKind
from unbrickd.recovery.check import ComponentFinding, Decision, Findings, Reason, check_flash, decide, reject
from unbrickd.sim.household import Household

R = Reason


@pytest.fixture
def home() -> Household:
    """A router as it leaves the factory: generation 1, good."""
    return Household()


def findings(home: Household, *, firmware: int = 0, config: int = 0, failed: int = 0, refused: str = "") -> Findings:
    """So many damaged erase blocks of each, so many failed boots."""

    def found(name: str, kind: ComponentKind, damaged: int) -> ComponentFinding:
        return ComponentFinding(
            component_id=kind, name=name, kind=kind, version="1", erase_blocks=8, damaged=tuple(range(damaged))
        )

    return Findings(
        loaded=replace(home.router.software.loaded(), failed_boots=failed),
        components=(
            found("firmware", ComponentKind.FIRMWARE, firmware),
            found("config", ComponentKind.CONFIG, config),
        ),
        refused=refused,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Damaged erase blocks, failed boots of at most three, and so on; and what must come of it."""

    firmware: int = 0
    config: int = 0
    failed: int = 0
    refused: str = ""
    button: bool = False
    decision: Decision
    bootable: bool


@pytest.mark.parametrize(
    "row",
    [
        Row(decision=Decision(reason=R.SOUND), bootable=True),
        Row(failed=2, decision=Decision(reason=R.SOUND), bootable=True),
        Row(firmware=1, decision=Decision(reason=R.DAMAGED, named=1), bootable=False),
        Row(config=1, decision=Decision(reason=R.DAMAGED, named=1), bootable=True),
        Row(firmware=8, config=8, failed=2, decision=Decision(reason=R.DAMAGED, named=1), bootable=False),
        Row(failed=3, decision=Decision(reason=R.BOOT_FAILED, rejected=(1, 1)), bootable=True),
        Row(firmware=1, failed=9, decision=Decision(reason=R.BOOT_FAILED, rejected=(1, 1)), bootable=False),
        Row(refused="no", decision=Decision(reason=R.REFUSED, rejected=(1, 1)), bootable=False),
        Row(firmware=1, failed=3, refused="no", decision=Decision(reason=R.REFUSED, rejected=(1, 1)), bootable=False),
        Row(button=True, decision=Decision(reason=R.BUTTON), bootable=True),
        Row(button=True, firmware=1, failed=3, refused="no", decision=Decision(reason=R.BUTTON), bootable=False),
    ],
)
def test_decide_of_findings_is_as_tabled(home: Household, row: Row) -> None:
    found = findings(home, firmware=row.firmware, config=row.config, failed=row.failed, refused=row.refused)
    assert decide(found, button=row.button, boot_limit=3) == row.decision
    assert found.bootable is row.bootable
    assert row.decision.restore or found.bootable, "what is not restored may boot"


@pytest.mark.parametrize("button", [False, True])
def test_decide_without_a_record_asks_for_the_newest_good(button: bool) -> None:
    lost = Findings(loaded=None)
    assert decide(lost, button=button, boot_limit=3) == Decision(reason=R.RECORD_LOST)
    assert not lost.bootable and not lost.damaged


@pytest.mark.parametrize(
    ("rejected", "number", "expected"),
    [
        ((0, 0), 1, (1, 1)),
        ((0, 0), 7, (7, 7)),
        ((7, 7), 6, (6, 7)),
        ((7, 7), 3, (3, 7)),
        ((3, 7), 5, (3, 7)),
        ((3, 7), 8, (3, 8)),
        ((3, 7), 9, (9, 9)),
    ],
)
def test_reject_one_more_keeps_one_range(rejected: tuple[int, int], number: int, expected: tuple[int, int]) -> None:
    assert reject(rejected, number) == expected


@given(st.lists(st.integers(1, 30), max_size=60))
def test_reject_going_back_from_any_failures_ends(good: list[int]) -> None:
    """Of any good generations, each of which fails in its turn, none is chosen twice, and the search ends."""
    held, rejected, tried = set(good), (0, 0), list[int]()
    while choice := max((g for g in held if not rejected[0] <= g <= rejected[1]), default=0):
        assert choice not in tried
        tried.append(choice)
        rejected = reject(rejected, choice)
    assert tried == sorted(held, reverse=True)


@given(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted).filter(lambda r: r[0] or not r[1]), st.data())
def test_reject_any_number_is_rejected_after_it(rejected: list[int], data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 60))
    lowest, highest = reject((rejected[0], rejected[1]), number)
    assert 0 < lowest <= number <= highest


def test_check_flash_sound_finds_nothing(home: Household) -> None:
    found = check_flash(home.router.flash)
    assert not found.damaged and not found.refused and found.bootable and not found.config_damaged
    assert [(c.name, c.erase_blocks) for c in found.components] == [("firmware", 8), ("config", 2)]


def test_check_flash_one_bit_is_located_and_padding_does_not_count(home: Household) -> None:
    chip, (start, size) = home.router.chip, home.router.layout.range_of("firmware")
    chip.flip_bits(1, offset_bytes=start + 5 * 4096 + 17, length_bytes=1)
    chip.flip_bits(8, offset_bytes=start + size - 100, length_bytes=100)
    assert [c.damaged for c in check_flash(home.router.flash).components] == [(5,), ()]


def test_check_flash_erase_block_that_cannot_be_read_is_damaged_alone(home: Household) -> None:
    slot = home.router.flash.slots[0]

    class Unreadable:
        geometry = slot.flash.geometry
        program = slot.flash.program
        erase = slot.flash.erase

        def read(self, offset_bytes: int, length_bytes: int) -> bytes:
            if offset_bytes <= 8192 < offset_bytes + length_bytes:
                raise FlashError("an uncorrectable error", code="read")
            return slot.flash.read(offset_bytes, length_bytes)

    device = DeviceFlash(
        keys=home.router.flash.keys,
        record=home.router.flash.record,
        slots=(replace(slot, flash=Unreadable()), home.router.flash.slots[1]),
    )
    assert [c.damaged for c in check_flash(device).components] == [(2,), ()]


def test_check_flash_firmware_below_the_floor_is_refused(home: Household) -> None:
    record = home.router.flash.record
    loaded = record.load()
    assert loaded is not None
    record.commit(replace(loaded.record, rollback_floor=1))
    found = check_flash(home.router.flash)
    assert "rollback" in found.refused and not found.bootable


def test_check_flash_layout_that_became_another_is_refused(home: Household) -> None:
    device = home.router.flash
    without = DeviceFlash(keys=device.keys, record=device.record, slots=device.slots[:1])
    assert "flash layout" in check_flash(without).refused
    no_firmware = DeviceFlash(keys=device.keys, record=device.record, slots=device.slots[1:])
    found = check_flash(no_firmware)
    assert not found.bootable and decide(found, button=False, boot_limit=3).reason is R.REFUSED


def test_check_flash_counts_failed_boots_of_a_good_generation_from_its_last_time_up(home: Household) -> None:
    record = home.router.flash.record
    for entry in (JournalEntry.ATTEMPT, JournalEntry.UP, JournalEntry.ATTEMPT, JournalEntry.ATTEMPT):
        record.mark(entry)
    loaded = check_flash(home.router.flash).loaded
    assert loaded is not None and loaded.failed_boots == 2
