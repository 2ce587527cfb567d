# SPDX-License-Identifier: Apache-2.0
"""The gateway from power-on: U-Boot, on its write-protected chip, starts the firmware in flash or refuses it."""

from __future__ import annotations

import random

import pytest
from tests.qemu.bench import PROMPT, VARIABLES, BackedUp, Bench, named, until_up
from tools.lab.console import Shell
from tools.lab.environment import decode_environment
from tools.lab.gateway import ENVIRONMENT, ERASE_BLOCK_BYTES, FIRMWARE, REGIONS, SPARE

from unbrickd.cli.demo_process import ServerProcess

pytestmark = pytest.mark.qemu

SEED = 20100520


def test_power_on_sound_flash_runs_the_firmware_in_it_with_the_settings_in_it(
    bench: Bench, server: ServerProcess
) -> None:
    with bench.bootloader() as console:
        bench.stopwatch.note("boot through U-Boot, power-on to system", until_up(console))
        shell = Shell(console)
        assert shell.check("hostname") == "router7\n"
        (ended,) = named(bench.unbrickd(shell, "agent --once --json"), "BackupEnded")
        assert isinstance(ended["outcome"], dict) and ended["outcome"]["payload_bytes"] == 0, "what runs is backed up"


def test_power_on_damaged_firmware_is_refused_until_it_is_restored(
    bench: Bench, backed_up: BackedUp, server: ServerProcess
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    bench.flash.damage(FIRMWARE, [rng.randrange(len(backed_up.image) // ERASE_BLOCK_BYTES)], rng)
    with bench.bootloader() as console:
        console.expect(r"Bad Data Hash", timeout_s=60)
        console.expect(PROMPT, timeout_s=10)
    with bench.rescue_system() as shell:
        bench.unbrickd(shell, "recover --wait 120 --json")
    with bench.bootloader() as console:
        until_up(console)
        assert Shell(console).check("hostname") == "router7\n"
    assert bench.flash.read(FIRMWARE) == backed_up.flash.read(FIRMWARE)


def test_uboot_writes_flash_and_reads_back_what_it_wrote(bench: Bench) -> None:
    before = {region.name: bench.flash.read(region) for region in REGIONS}
    with bench.bootloader_prompt() as shell:
        assert "CFI conformant flash" in shell.check("flinfo 2")
        shell.check(f"cp.b {FIRMWARE.address:x} 44000000 {ERASE_BLOCK_BYTES:x}")
        shell.check(f"erase {SPARE.address:x} +{ERASE_BLOCK_BYTES:x}")
        shell.check(f"cp.b 44000000 {SPARE.address:x} {ERASE_BLOCK_BYTES:x}")
        shell.check(f"cmp.b 44000000 {SPARE.address:x} {ERASE_BLOCK_BYTES:x}")
        shell.check("setenv generation 7; saveenv")
    after = {region.name: bench.flash.read(region) for region in REGIONS}
    saved = decode_environment(after.pop(ENVIRONMENT.name))
    assert saved is not None and saved.items() >= VARIABLES.items() and saved["generation"] == "7"
    assert after.pop(SPARE.name)[:ERASE_BLOCK_BYTES] == before[FIRMWARE.name][:ERASE_BLOCK_BYTES]
    assert after == {name: before[name] for name in after}


def test_uboot_told_to_erase_its_own_chip_is_stopped_by_the_chip(bench: Bench) -> None:
    """R25: the commands lift U-Boot's own protection first, and speak to the chip past its driver as well."""
    before = bench.bootloader_chip.read_bytes()
    with bench.bootloader_prompt() as shell:
        checksum = shell.check("crc32 0 100000")
        shell.run(f"protect off bank 1; erase 0 +{4 * ERASE_BLOCK_BYTES:x}; mw.b 44000000 0 100; cp.b 44000000 0 100")
        shell.run("mw.l 0 00200020; mw.l 0 00d000d0; mw.l 0 00ff00ff")
        assert shell.check("crc32 0 100000") == checksum
    assert bench.bootloader_chip.read_bytes() == before
    with bench.bootloader() as console:
        until_up(console)
