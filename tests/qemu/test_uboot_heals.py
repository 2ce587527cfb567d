# SPDX-License-Identifier: Apache-2.0
"""U-Boot with our recovery in C on real NOR flash: the host damages it, U-Boot heals it from a real server and boots.

What is on the first chip was built by docs/integrate-u-boot.md, step by step, from pristine sources.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from tests.qemu.bench import GUIDE, BackedUp, Bench, Laboratory, record_of, serving, software_of
from tests.qemu.healing import RESTORE_PATIENCE_S, assert_healed, erase_blocks, restored_in, watch
from tests.qemu.small import ERASE_BLOCKS, Small, bootloader
from tools.lab.console import Shell
from tools.lab.fit import boot_command
from tools.lab.gateway import CONFIG, ENVIRONMENT, ERASE_BLOCK_BYTES, FIRMWARE, IDENTITY, RECORD, Region
from tools.lab.recovery import blocks
from tools.lab.tiny import UP

from unbrickd.cli.demo_process import ServerProcess

pytestmark = pytest.mark.qemu

SEED = 20100520


@pytest.fixture(params=["backed_up", "backed_up_arm64"], ids=["arm", "arm64"])
def backed_up(request: pytest.FixtureRequest) -> BackedUp:
    """Every test here is for both boards."""
    gateway: BackedUp = request.getfixturevalue(request.param)
    return gateway


def test_guide_layout_is_the_laboratorys() -> None:
    (config,) = blocks(GUIDE, "config")
    places = {
        name: (device, int(offset, 16), int(size, 16))
        for name, device, offset, size in re.findall(r"(\w+)=(nor1):(0x\w+)\+(0x\w+)", config)
    }
    regions = (IDENTITY, RECORD, FIRMWARE, CONFIG)
    assert places == {region.name: ("nor1", region.offset_bytes, region.size_bytes) for region in regions}
    assert f'BOOT_COMMAND="{boot_command(FIRMWARE.address)}"' in config
    assert f"ERASE_BLOCK={ERASE_BLOCK_BYTES:#x}\n" in config


def test_power_on_sound_flash_boots_without_a_server(healer: Bench, backed_up: BackedUp) -> None:
    environment = healer.flash.read(ENVIRONMENT)
    with healer.bootloader() as console:
        healed = watch(console)
        assert Shell(console).check("hostname") == "router7\n"
    healer.stopwatch.note("U-Boot's banner to boot, all sound", healed.took_s)
    assert (healed.restored, healed.reason) == ([], "the flash is sound")
    assert_healed(healer.flash, backed_up, environment)


@pytest.mark.parametrize("count", [1, 10, None], ids=["one-erase-block", "ten-erase-blocks", "whole-firmware"])
def test_power_on_damaged_firmware_is_restored_and_boots(
    count: int | None, healer: Bench, backed_up: BackedUp, server: ServerProcess
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} {count}")
    total = erase_blocks(backed_up.image)
    indexes = sorted(rng.sample(range(total), total if count is None else count))
    healer.flash.damage(FIRMWARE, indexes, rng)
    environment = healer.flash.read(ENVIRONMENT)
    with healer.bootloader() as console:
        healed = watch(console)
        assert Shell(console).check("hostname") == "router7\n"
    healer.stopwatch.note(f"U-Boot's banner to boot, {len(indexes)} erase blocks restored", healed.took_s)
    assert healed.reason == "the flash is damaged"
    assert sorted(healed.restored) == [("firmware", index) for index in indexes], "only what is damaged is fetched"
    assert_healed(healer.flash, backed_up, environment)


def test_power_on_damaged_configuration_is_restored_and_boots(
    healer: Bench, backed_up: BackedUp, server: ServerProcess
) -> None:
    healer.flash.damage(CONFIG, [0], random.Random(SEED))
    environment = healer.flash.read(ENVIRONMENT)
    with healer.bootloader() as console:
        healed = watch(console)
        assert Shell(console).check("hostname") == "router7\n"
    assert healed.restored == [("config", 0)]
    assert_healed(healer.flash, backed_up, environment)


def test_power_on_boot_record_lost_is_written_anew_and_boots(
    healer: Bench, backed_up: BackedUp, server: ServerProcess
) -> None:
    healer.flash.damage(RECORD, [0, 1], random.Random(SEED))
    environment = healer.flash.read(ENVIRONMENT)
    with healer.bootloader() as console:
        healed = watch(console)
    assert (healed.restored, healed.reason) == ([], "the boot record is lost")
    assert_healed(healer.flash, backed_up, environment)


def test_power_on_damaged_five_times_over_heals_each_time(
    laboratory: Laboratory, small: Small, server_address: str, tmp_path: Path
) -> None:
    """One flash and one server throughout; after each boot its agent would say that it is up."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    flash = small.flash_copy(tmp_path, unbrickd_port=server_address.rpartition(":")[2])
    rounds: tuple[dict[Region, list[int]], ...] = (
        {FIRMWARE: [rng.randrange(ERASE_BLOCKS)]},
        {CONFIG: [0], RECORD: [1]},
        {RECORD: [0, 1]},
        {FIRMWARE: sorted(rng.sample(range(ERASE_BLOCKS), 5)), RECORD: [0]},
        {FIRMWARE: list(range(ERASE_BLOCKS)), CONFIG: [0], RECORD: [0, 1]},
    )
    with serving(small.store_copy(tmp_path), server_address):
        for damage in rounds:
            for region, indexes in damage.items():
                flash.damage(region, indexes, rng)
            with bootloader(laboratory, flash) as console:
                said = console.expect(f"(?s)^(.*){UP}", timeout_s=RESTORE_PATIENCE_S)[1].decode()
            wanted = [(r.name, index) for r, indexes in damage.items() if r is not RECORD for index in indexes]
            assert sorted(restored_in(said)) == sorted(wanted), "only what is damaged is fetched"
            assert small.differs(flash) == []
            software_of(flash, small.keys).up()
            loaded = record_of(flash, small.keys)
            assert loaded is not None and loaded.copies == (True, True) and loaded.failed_boots == 0
