# SPDX-License-Identifier: Apache-2.0
"""Our agent and recovery in a gateway with 256 MiB of RAM, a real kernel and real NOR flash behind the kernel's MTD.

The host damages the flash, the gateway heals itself from the real server, and the host looks at every byte. A whole
firmware goes through the agent in test_whole_story.py and through U-Boot in test_uboot_heals.py.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tests.qemu.bench import SETTINGS, BackedUp, Bench, named, record_of
from tools.lab.gateway import CONFIG, ERASE_BLOCK_BYTES, FIRMWARE, IDENTITY, RECORD, REGIONS, SPARE, Region, mtd

from unbrickd.cli.demo_process import ServerProcess

pytestmark = pytest.mark.qemu

SEED = 20100520
"""Of the damage."""


def erase_blocks(octets: bytes) -> int:
    return -(-len(octets) // ERASE_BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Damage:
    """Which erase blocks of which region the host fills with random bytes; a function of how many the image has."""

    region: Region
    indexes: Callable[[int, random.Random], list[int]]


DAMAGES = {
    "one-erase-block-and-a-copy-of-the-record": (
        Damage(FIRMWARE, lambda count, rng: [rng.randrange(count)]),
        Damage(RECORD, lambda count, rng: [rng.randrange(2)]),
    ),
    "ten-erase-blocks-and-the-configuration": (
        Damage(FIRMWARE, lambda count, rng: sorted(rng.sample(range(count), 10))),
        Damage(CONFIG, lambda count, rng: [0]),
    ),
    "both-copies-of-the-record": (Damage(RECORD, lambda count, rng: [0, 1]),),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_recover_after_damage_flash_is_byte_for_byte_what_was_backed_up(
    case: str, bench: Bench, backed_up: BackedUp, server: ServerProcess
) -> None:
    print(f"seed {SEED}; again: python -m pytest -m qemu tests/qemu -k {case}")
    rng = random.Random(f"{SEED} {case}")
    damaged: dict[str, list[int]] = {FIRMWARE.name: [], CONFIG.name: []}
    for damage in DAMAGES[case]:
        indexes = damage.indexes(erase_blocks(backed_up.image), rng)
        bench.flash.damage(damage.region, indexes, rng)
        if damage.region is not RECORD:
            damaged[damage.region.name] = indexes
    with bench.rescue_system() as shell:
        events = bench.unbrickd(shell, "recover --wait 120 --json")

    for region in REGIONS:
        if region is not RECORD:
            assert bench.flash.read(region) == backed_up.flash.read(region), region.name
    before, after = record_of(backed_up.flash, backed_up.keys), record_of(bench.flash, backed_up.keys)
    assert before is not None and after is not None and after.copies == (True, True)
    assert after.record.sealed.document == before.record.sealed.document
    restored = [event["index"] for event in named(events, "EraseBlockRestored")]
    assert restored == [*damaged[FIRMWARE.name], *damaged[CONFIG.name]], "only what is damaged is fetched"
    if any(damaged.values()):
        components = named(events, "Checked")[0]["components"]
        assert isinstance(components, list)
        assert {c["name"]: c["damaged"] for c in components if isinstance(c, dict)} == damaged


def test_recover_after_new_settings_were_backed_up_brings_those_back(bench: Bench, server: ServerProcess) -> None:
    settings = SETTINGS.replace(b"router7", b"router8")
    bench.flash.write(CONFIG, settings)  # as the gateway's own pages would
    healthy = bench.flash.read(CONFIG)
    with bench.rescue_system() as shell:
        bench.unbrickd(shell, "agent notify config-changed")
        events = bench.unbrickd(shell, "agent --once --json")
    assert named(events, "Recorded")[0]["components"] == ["config"]
    bench.flash.damage(CONFIG, [0], random.Random(SEED))
    with bench.rescue_system() as shell:
        assert shell.check("hostname") != "router8\n"
        bench.unbrickd(shell, "recover --wait 120 --json")
    assert bench.flash.read(CONFIG) == healthy


def test_mtd_flash_on_a_real_kernel_programs_erases_and_is_refused_where_it_must(bench: Bench) -> None:
    before = bench.flash.read(IDENTITY)
    with bench.rescue_system() as shell:
        said = json.loads(shell.check(f"python3.11 /opt/guest_mtd.pyc {mtd(SPARE)} {mtd(IDENTITY)}", timeout_s=120))
    assert said == {
        "erase_blocks": [ERASE_BLOCK_BYTES] * SPARE.erase_blocks,
        "unaligned": (b"\xff" + b"unaligned" + b"\xff").hex(),
        "lock": "done",
        "unlock": "done",
        "still_there": True,
        "open_read_only": "protected",
        "erase_read_only": "protected",
        "program_read_only": "io",
        "unlock_read_only": "protected",
    }
    assert bench.flash.read(IDENTITY) == before
    pattern = bytes(range(256)) * (ERASE_BLOCK_BYTES // 256)
    spare = bench.flash.read(SPARE)
    assert spare[:ERASE_BLOCK_BYTES] == pattern and spare[-ERASE_BLOCK_BYTES:] == pattern[::-1]
