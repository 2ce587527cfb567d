# SPDX-License-Identifier: Apache-2.0
"""U-Boot with our recovery in C on real NOR flash: the host damages it, U-Boot heals it from a real server and boots.

What is on the first chip was built by docs/integrate-u-boot.md, step by step, from pristine sources.
"""

from __future__ import annotations

import dataclasses
import random
import re
import time
from pathlib import Path

import pytest
from tests.qemu.bench import BOOT_PATIENCE_S, REPOSITORY, VARIABLES, BackedUp, Bench, Laboratory, Stopwatch, record_of
from tools.lab.console import Console, Shell
from tools.lab.environment import encode_environment
from tools.lab.fit import boot_command
from tools.lab.gateway import (
    CONFIG,
    ENVIRONMENT,
    ERASE_BLOCK_BYTES,
    FIRMWARE,
    IDENTITY,
    RECORD,
    REGIONS,
    Bootloader,
    FlashFile,
)
from tools.lab.recovery import blocks, recovery_sources, uboot_by_guide

from unbrickd.cli.demo_process import ServerProcess

pytestmark = pytest.mark.qemu

SEED = 20100520
GUIDE = REPOSITORY / "docs/integrate-u-boot.md"
RESTORE_PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def recovery(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory, stopwatch: Stopwatch) -> Laboratory:
    """The laboratory with U-Boot that has the recovery."""
    with stopwatch.timed("U-Boot with the recovery, by the guide: built, or taken from the cache"):
        program = uboot_by_guide(GUIDE, REPOSITORY, recovery_sources(REPOSITORY))
    chip = tmp_path_factory.mktemp("recovery") / "bootloader.bin"
    return dataclasses.replace(laboratory, bootloader=Bootloader.create(chip, program))


@pytest.fixture
def healer(
    recovery: Laboratory, backed_up: BackedUp, server_address: str, stopwatch: Stopwatch, tmp_path: Path
) -> Bench:
    """The gateway with that U-Boot. Its network is slirp's, which takes a broadcast to its own network for the host."""
    flash = backed_up.flash.copy(tmp_path / "flash.bin")
    link = {"ipaddr": "10.0.2.15", "netmask": "255.255.255.0", "unbrickd_port": server_address.rpartition(":")[2]}
    variables = VARIABLES | link | {"bootcmd": "unbrickd boot", "bootdelay": "0"}
    flash.write(ENVIRONMENT, encode_environment(variables, ENVIRONMENT.size_bytes))
    return Bench(recovery, flash, stopwatch, tmp_path)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """What the console said until the system was up."""

    restored: list[tuple[str, int]]
    reason: str
    took_s: float


def watch(console: Console) -> Healed:
    """From the banner until the system of the gateway is up."""
    began_s = time.monotonic()
    said = console.expect(r"(?s)^(.*?)unbrickd: booting generation \d+", timeout_s=RESTORE_PATIENCE_S)[1].decode()
    took_s = time.monotonic() - began_s
    console.expect(r"gateway \S* is up", timeout_s=BOOT_PATIENCE_S)
    reason = re.search(r"unbrickd: generation \d+: (.*?)\r?\n", said)
    assert reason is not None
    restored = re.findall(r"unbrickd: (\w+): erase block (\d+), \d+ of \d+", said)
    return Healed(restored=[(name, int(index)) for name, index in restored], reason=reason[1], took_s=took_s)


def assert_healed(flash: FlashFile, backed_up: BackedUp, environment: bytes) -> None:
    """Every byte of every region but the journal of the boot record is what was backed up."""
    for region in REGIONS:
        if region not in (RECORD, ENVIRONMENT):
            assert flash.read(region) == backed_up.flash.read(region), region.name
    assert flash.read(ENVIRONMENT) == environment
    before, after = record_of(backed_up.flash, backed_up.keys), record_of(flash, backed_up.keys)
    assert before is not None and after is not None and after.copies == (True, True)
    assert after.record.sealed.document == before.record.sealed.document


def erase_blocks(image: bytes) -> int:
    return -(-len(image) // ERASE_BLOCK_BYTES)


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
