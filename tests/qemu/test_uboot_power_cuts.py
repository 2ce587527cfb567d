# SPDX-License-Identifier: Apache-2.0
"""The power of the gateway is cut at random instants while U-Boot restores it, again and again: nothing is ever lost.

QEMU is killed, and the host reads the flash as it was left. Erase blocks that were whole stay so, at most one is torn,
and the next power-on fetches exactly what is missing. The simulator cuts before, in and after every single operation
(tests/sim, tests/c); here it is the real driver, and the instants are spread over the time that a restore takes.
"""

from __future__ import annotations

import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from tests.qemu.bench import Laboratory, Stopwatch, record_of
from tests.qemu.healing import BOOTING, RESTORE_PATIENCE_S, recovery_variables, restored_in
from tests.qemu.small import ERASE_BLOCKS, Small, bootloader
from tools.lab.gateway import CONFIG, ENVIRONMENT, ERASE_BLOCK_BYTES, FIRMWARE, RECORD, FlashFile
from tools.lab.tiny import UP

from unbrickd.cli.demo_process import ServerProcess
from unbrickd.flash.record import LoadedRecord

pytestmark = pytest.mark.qemu

SEED = 20100520
CUTS = 50
GATEWAYS = 2
"""Side by side, as most of the time they wait for their own emulator."""
FIRST_GUESS_S = 0.3
"""What an erase block takes, until one was seen."""
SPREAD_ERASE_BLOCKS = 3
"""A cut falls within the time that so many take: then some are restored between two cuts, and many cuts meet one half
written."""

OFFER = re.compile(r"unbrickd: (firmware|config): (\d+) of \d+ erase blocks differ")
Place = tuple[str, int]
"""An erase block of a component."""


@dataclass(slots=True)
class Counts:
    """Where cuts fell, as the flash shows, and what was restored in spite of them."""

    between: int = 0
    """No erase block was half written."""
    in_erase_block: int = 0
    """One was erased and not yet what it must be."""
    in_record: int = 0
    """All erase blocks were whole, and the boot record was not yet."""
    restored: int = 0
    """Restores that came to their end."""
    erase_blocks: int = 0

    @property
    def cuts(self) -> int:
        return self.between + self.in_erase_block + self.in_record

    def add(self, other: Counts) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts ({self.in_erase_block} in an erase block, {self.in_record} in the boot record, "
            f"{self.between} between), {self.restored} restores of {self.erase_blocks} erase blocks, nothing lost"
        )


def contents(flash: FlashFile) -> dict[Place, bytes]:
    return {
        (region.name, index): octets[index * ERASE_BLOCK_BYTES :][:ERASE_BLOCK_BYTES]
        for region in (FIRMWARE, CONFIG)
        for octets in [flash.read(region)]
        for index in range(region.erase_blocks)
    }


def differing(now: dict[Place, bytes], then: dict[Place, bytes]) -> set[Place]:
    return {place for place, octets in now.items() if octets != then[place]}


class Tortured:
    """One gateway, its server beside it."""

    def __init__(self, laboratory: Laboratory, small: Small, flash: FlashFile, rng: random.Random) -> None:
        self.counts = Counts()
        self._laboratory = laboratory
        self._small = small
        self._flash = flash
        self._healthy = contents(small.flash)
        self._environment = flash.read(ENVIRONMENT)
        self._rng = rng
        self._erase_block_s = FIRST_GUESS_S

    def run(self, cuts: int) -> None:
        """Cut the power so often, then let it come up."""
        self._damage()
        while self.counts.cuts < cuts:
            if self._is_restored_before_the_cut():
                self._assert_healed()
                self._damage()
        self.counts.erase_blocks += len(differing(contents(self._flash), self._healthy))
        with bootloader(self._laboratory, self._flash) as console:
            console.expect(UP, timeout_s=RESTORE_PATIENCE_S)
        self._assert_healed()

    def _damage(self) -> None:
        """Erase blocks of the firmware always, the configuration and both copies of the boot record now and then."""
        rng, flash = self._rng, self._flash
        flash.damage(FIRMWARE, rng.sample(range(ERASE_BLOCKS), rng.randrange(4, 11)), rng)
        if rng.random() < 0.3:
            flash.damage(CONFIG, [0], rng)
        if rng.random() < 0.3:
            flash.damage(RECORD, [0, 1], rng)
        else:
            # As if the last boot had come up: it was cut off, and after three of those in a row it would go back.
            flash.write(RECORD, self._small.flash.read(RECORD))

    def _is_restored_before_the_cut(self) -> bool:
        """Switch it on, cut its power some time after it began to restore, and look at what that left."""
        before, recorded = contents(self._flash), self._record()
        damaged = differing(before, self._healthy)
        with bootloader(self._laboratory, self._flash) as console:
            said = console.expect(rf"(?s)restoring generation 1\r?\n.*?config: [^\n]*\n|{BOOTING}", timeout_s=60)[0]
            if b"restoring" not in said:
                assert not damaged and recorded is not None, "it boots what is not whole"
                return True
            wanted = {name: int(count) for name, count in OFFER.findall(said.decode())}
            assert wanted == {name: sum(place[0] == name for place in damaged) for name in ("firmware", "config")}, (
                "it fetches what it has, or not all that it lacks"
            )
            spread_s = self._erase_block_s * max(1, min(len(damaged), SPREAD_ERASE_BLOCKS))
            began_s = time.monotonic()
            booting = console.seen(rf"(?s)^(.*?){BOOTING}", within_s=self._rng.uniform(0, spread_s))
            took_s = time.monotonic() - began_s
            console.cut_power()
            restored = restored_in(booting[1].decode() if booting else console.unread)

        after = contents(self._flash)
        left = differing(after, self._healthy)
        assert left <= damaged, "what was whole is damaged"
        assert set(restored) <= damaged - left and len(set(restored)) == len(restored), "it told what is not so"
        if restored:
            self._erase_block_s = took_s / len(restored)
        self.counts.erase_blocks += len(damaged - left)
        half_written = [place for place in left if after[place] != before[place]]
        assert len(half_written) <= 1
        record = self._record()
        if recorded is not None:
            assert record is not None and record.record == recorded.record, "the boot record is lost"
        if booting:
            return True
        if half_written:
            self.counts.in_erase_block += 1
        elif not left and (record is None or record.copies != (True, True)):
            self.counts.in_record += 1
        else:
            self.counts.between += 1
        return False

    def _record(self) -> LoadedRecord | None:
        return record_of(self._flash, self._small.keys)

    def _assert_healed(self) -> None:
        assert self._small.differs(self._flash) == [] and self._flash.read(ENVIRONMENT) == self._environment
        before, after = record_of(self._small.flash, self._small.keys), self._record()
        assert before is not None and after is not None and after.copies == (True, True)
        assert after.record.sealed.document == before.record.sealed.document
        self.counts.restored += 1


def test_power_cuts_at_random_instants_of_restores_lose_nothing_and_end_healed(
    laboratory: Laboratory, small: Small, stopwatch: Stopwatch, tmp_path: Path
) -> None:
    print(f"seed {SEED}: of damage and of instants, which are parts of what an erase block takes here and now")
    began_s = time.monotonic()

    def torture(number: int) -> Counts:
        folder = tmp_path / str(number)
        folder.mkdir()
        with ServerProcess(small.store_copy(folder), "udp") as server:
            flash = small.flash_copy(folder, **recovery_variables(server.address))
            gateway = Tortured(laboratory, small, flash, random.Random(f"{SEED} {number}"))
            gateway.run(CUTS // GATEWAYS)
        return gateway.counts

    counts = Counts()
    with ThreadPoolExecutor(GATEWAYS) as gateways:
        for each in gateways.map(torture, range(GATEWAYS)):
            counts.add(each)
    stopwatch.note(str(counts), time.monotonic() - began_s)
    assert counts.cuts >= CUTS and counts.in_erase_block and counts.restored > GATEWAYS
