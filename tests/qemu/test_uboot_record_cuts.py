# SPDX-License-Identifier: Apache-2.0
"""The power is cut while U-Boot writes the boot record: after its writes, one after the other.

Random instants hardly ever meet these few milliseconds (test_uboot_power_cuts.py), so QEMU slows the writes down, and
the host watches the flash file.
"""

from __future__ import annotations

import mmap
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from tests.qemu.bench import BOOT_LIMIT, Laboratory, Stopwatch, record_of, serving, software_of
from tests.qemu.small import SEED, Small, bootloader
from tools.lab.console import Console
from tools.lab.gateway import RECORD, FlashFile
from tools.lab.tiny import UP

from unbrickd.flash.journal import JournalEntry

pytestmark = pytest.mark.qemu

PATIENCE_S = 60.0
HALF_BYTES = RECORD.size_bytes // 2
HEAD_BYTES = 4096
"""Of each copy, from its beginning: more than the record and its journal's first entries take here."""
SLOWLY = ("-set", "drive.flash.throttling.iops-write=40")
GLANCE_S = 0.002
"""A write takes 25 ms so."""


@contextmanager
def heads_of_the_copies(flash: FlashFile) -> Iterator[Callable[[], tuple[bytes, bytes]]]:
    with flash.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as chip:
        first, second = RECORD.offset_bytes, RECORD.offset_bytes + HALF_BYTES
        yield lambda: (chip[first : first + HEAD_BYTES], chip[second : second + HEAD_BYTES])


def cut_after(changes: int, console: Console, flash: FlashFile) -> bool:
    """Cut the power once the record has changed so often; False if the firmware came up before."""
    with heads_of_the_copies(flash) as heads:
        last = heads()
        while not console.seen(UP, within_s=GLANCE_S):
            if (now := heads()) != last:
                last, changes = now, changes - 1
                if not changes:
                    console.cut_power()
                    return True
    return False


def lost(flash: FlashFile, upgraded: Small) -> None:
    """Both copies, so that it has none until the first of the new ones is whole."""
    flash.damage(RECORD, [0, 1], random.Random(SEED))


def another_generations(flash: FlashFile, upgraded: Small) -> None:
    """Generation 2 did not come up, and a restore of 1 was cut off: one of the two must always count."""
    flash.write(RECORD, upgraded.flash.read(RECORD))
    for _ in range(BOOT_LIMIT):
        software_of(flash, upgraded.keys).device.record.mark(JournalEntry.ATTEMPT)


@pytest.mark.parametrize(
    ("spoil", "before", "torn"),
    [
        (lost, None, {None, (True, False)}),
        (another_generations, 2, {(False, True), (True, False)}),
    ],
)
def test_power_cut_after_each_change_to_the_boot_record_leaves_the_old_one_or_the_new_one(
    *,
    spoil: Callable[[FlashFile, Small], None],
    before: int | None,
    torn: set[tuple[bool, bool] | None],
    laboratory: Laboratory,
    small: Small,
    small_upgraded: Small,
    server_address: str,
    stopwatch: Stopwatch,
    tmp_path: Path,
) -> None:
    print(f"seed {SEED} of the damage")
    began_s = time.monotonic()
    seen: Counter[tuple[bool, bool] | None] = Counter()
    with serving(small_upgraded.store_copy(tmp_path), server_address):
        for changes in count(1):
            flash = small.flash_copy(tmp_path, unbrickd_port=server_address.rpartition(":")[2])
            spoil(flash, small_upgraded)
            with bootloader(laboratory, flash, options=SLOWLY) as console:
                if not cut_after(changes, console, flash):
                    break
            loaded = record_of(flash, small.keys)
            assert loaded.record.sealed.generation.number in (before, 1) if loaded else before is None
            seen[loaded.copies if loaded else None] += 1
            with bootloader(laboratory, flash) as console:
                console.expect("booting generation 1, firmware 1.0", timeout_s=PATIENCE_S)
                console.expect(UP, timeout_s=PATIENCE_S)
            assert small.differs(flash) == []
            loaded = record_of(flash, small.keys)
            assert loaded is not None and loaded.copies == (True, True)
            assert loaded.record.sealed.generation.number == 1
    halves = seen.total() - seen[True, True]
    stopwatch.note(f"{seen.total()} power cuts in writes of the boot record, {halves} torn", time.monotonic() - began_s)
    assert torn <= seen.keys()
