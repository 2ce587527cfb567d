# SPDX-License-Identifier: Apache-2.0
"""What the benchmark in U-Boot makes of the times it saw. Running it takes QEMU: `python -m bench uboot`."""

from __future__ import annotations

from bench.processes import Figures
from bench.uboot import FLASH, OURS, TFTP, TFTP_16, WGET, Row, report


def row(loss: float, **seconds: float) -> Row:
    names = {"tftp": TFTP, "tftp_16": TFTP_16, "wget": WGET, "ours": OURS}
    return Row(loss=loss, seen={names[name]: [took(s), took(2 * s)] for name, s in seconds.items()})


def took(seconds: float) -> Figures:
    return {"total": seconds, "verified": seconds + 1}


def test_report_of_all_contenders_judges_their_ratios() -> None:
    lines = list(report([row(0, tftp=4, tftp_16=1.5, ours=1)]))
    assert "| 0% | unbrickd ≥ 4 × lock-step TFTP | 4 | met |" in lines
    assert "| 0% | unbrickd ≥ 1 × TFTP window 16 | 1.5 | met |" in lines
    assert "| 0% | unbrickd ≥ 1 × TFTP window 16 and `hash sha256` | 1.3 | met |" in lines
    assert "| 0% | unbrickd | 1.50 | 5.59 |  | 2.50 |" in lines


def test_report_of_slow_restore_says_missed() -> None:
    lines = list(report([row(0.05, wget=1, ours=2)]))
    assert "| 5% | unbrickd ≥ 1 × wget | 0.5 | **missed** |" in lines


def test_report_of_contender_that_gave_up_has_no_figures() -> None:
    seen: dict[str, list[Figures | None]] = {OURS: [took(1.0)], WGET: [None]}
    lines = list(report([Row(loss=0.01, seen=seen)]))
    assert "| 1% | wget | not done in 20 s | | | |" in lines
    assert "| 1% | unbrickd ≥ 1 × wget |  | not measured |" in lines


def test_report_into_flash_compares_with_the_slower_half() -> None:
    seen: dict[str, list[Figures | None]] = {
        OURS: [took(2.0)],
        OURS + FLASH: [took(3.3)],
        TFTP_16 + FLASH: [took(4.0) | {"flash": 3.0}],
    }
    lines = list(report([Row(loss=0, seen=seen)]))
    assert "| 0% | into flash ≤ 1.1 × the slower of network and flash | 1.1 | met |" in lines
