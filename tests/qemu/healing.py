# SPDX-License-Identifier: Apache-2.0
"""What the tests of U-Boot with our recovery share: its settings, its words on the console, and what healed means."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from tests.qemu.bench import BOOT_PATIENCE_S, VARIABLES, BackedUp, Bench, Stopwatch, record_of
from tools.lab.console import Console
from tools.lab.environment import encode_environment
from tools.lab.gateway import ENVIRONMENT, ERASE_BLOCK_BYTES, RECORD, REGIONS, FlashFile

RESTORE_PATIENCE_S = 180.0
BOOTING = r"unbrickd: booting generation (\d+)"
REASONS = ("the flash is sound", "the flash is damaged", "the boot record is lost")
RESTORED = r"unbrickd: (\w+): erase block (\d+), \d+ of \d+"


def recovery_variables(server_address: str) -> dict[str, str]:
    """U-Boot's environment where the recovery looks for a server at that port.

    Its network is slirp's, which takes a broadcast to its own network for the host.
    """
    link = {"ipaddr": "10.0.2.15", "netmask": "255.255.255.0", "unbrickd_port": server_address.rpartition(":")[2]}
    return VARIABLES | link | {"bootcmd": "unbrickd boot", "bootdelay": "0"}


def healing_bench(backed_up: BackedUp, server_address: str, stopwatch: Stopwatch, folder: Path) -> Bench:
    """A copy of the gateway, whose bootloader starts the recovery."""
    flash = backed_up.flash.copy(folder / "flash.bin")
    flash.write(ENVIRONMENT, encode_environment(recovery_variables(server_address), ENVIRONMENT.size_bytes))
    return Bench(backed_up.laboratory, flash, stopwatch, folder)


def restored_in(said: str) -> list[tuple[str, int]]:
    """Component and index of each erase block that was restored, as the console tells."""
    return [(name, int(index)) for name, index in re.findall(RESTORED, said)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """What the console said until the system was up."""

    restored: list[tuple[str, int]]
    reason: str
    took_s: float


def watch(console: Console) -> Healed:
    """From the banner until the system of the gateway is up."""
    began_s = time.monotonic()
    said = console.expect(rf"(?s)^(.*?){BOOTING}", timeout_s=RESTORE_PATIENCE_S)[1].decode()
    took_s = time.monotonic() - began_s
    console.expect(r"gateway \S* is up", timeout_s=BOOT_PATIENCE_S)
    reason = re.search(rf"unbrickd: (?:generation \d+: )?({'|'.join(REASONS)})\r?\n", said)
    assert reason is not None
    return Healed(restored=restored_in(said), reason=reason[1], took_s=took_s)


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
