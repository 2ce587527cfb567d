# SPDX-License-Identifier: Apache-2.0
"""Firmware that is whole and does not come up: the generation before comes back, whoever counts the boots.

U-Boot counts in its environment (`bootcount`), our boot record counts in its journal; docs/integrate-u-boot.md, 8.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.qemu.bench import Laboratory, record_of, serving
from tests.qemu.small import Small, bootloader
from tools.lab.console import Console
from tools.lab.environment import decode_environment
from tools.lab.gateway import ENVIRONMENT
from tools.lab.tiny import UP

pytestmark = pytest.mark.qemu

PATIENCE_S = 60.0
COUNTING = {"altbootcmd": "unbrickd back", "bootlimit": "2", "upgrade_available": "1"}


def comes_not_up(console: Console) -> None:
    console.expect("the flash is sound", timeout_s=PATIENCE_S)
    console.expect("booting generation 2, firmware 2.0", timeout_s=PATIENCE_S)
    console.wait_until_it_ends(PATIENCE_S)  # the firmware restarts, and -no-reboot ends the board with it


def comes_up(console: Console) -> None:
    console.expect("booting generation 1, firmware 1.0", timeout_s=PATIENCE_S)
    console.expect(UP, timeout_s=PATIENCE_S)
    console.wait_until_it_ends(PATIENCE_S)


@pytest.mark.parametrize(
    ("variables", "boots"), [(COUNTING, 2), ({}, 3)], ids=["counted-by-u-boot", "counted-by-the-boot-record"]
)
def test_boot_sound_firmware_that_does_not_come_up_goes_back_a_generation(
    *,
    variables: dict[str, str],
    boots: int,
    laboratory: Laboratory,
    small: Small,
    small_upgraded: Small,
    server_address: str,
    tmp_path: Path,
) -> None:
    port = server_address.rpartition(":")[2]
    flash = small_upgraded.flash_copy(tmp_path, unbrickd_port=port, **variables)
    for _ in range(boots):
        with bootloader(laboratory, flash) as console:
            comes_not_up(console)
    assert small_upgraded.differs(flash) == []
    with serving(small_upgraded.store_copy(tmp_path), server_address), bootloader(laboratory, flash) as console:
        if variables:
            console.expect("Bootlimit .2. exceeded. Using altbootcmd", timeout_s=PATIENCE_S)
        console.expect("it failed to boot too often", timeout_s=PATIENCE_S)
        console.expect("restored generation 1", timeout_s=PATIENCE_S)
        comes_up(console)
    with bootloader(laboratory, flash) as console:  # and it stays, without a server
        console.expect("the flash is sound", timeout_s=PATIENCE_S)
        comes_up(console)
    assert small.differs(flash) == []
    loaded = record_of(flash, small.keys)
    assert loaded is not None and loaded.copies == (True, True)
    assert loaded.record.sealed.generation.number == 1
    assert (loaded.record.rejected_from, loaded.record.rejected_to) == (2, 2)
    environment = decode_environment(flash.read(ENVIRONMENT))
    assert environment is not None
    assert environment.get("bootcount") == ("1" if variables else None), "counted from 0 again, for generation 1"


def test_boot_power_cut_before_the_count_was_reset_keeps_the_generation(
    laboratory: Laboratory, small: Small, tmp_path: Path
) -> None:
    """U-Boot's count is still that of the generation before; this one was never tried."""
    flash = small.flash_copy(tmp_path, **COUNTING, bootcount="3")
    with bootloader(laboratory, flash) as console:
        console.expect("Bootlimit .2. exceeded. Using altbootcmd", timeout_s=PATIENCE_S)
        console.expect("the flash is sound", timeout_s=PATIENCE_S)
        comes_up(console)
    assert small.differs(flash) == []
