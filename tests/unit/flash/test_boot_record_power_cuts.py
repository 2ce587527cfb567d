# SPDX-License-Identifier: Apache-2.0
"""Power cut before, within and after every operation of every change of the boot record, and of its repair.

What must hold (spec/flash-format.md §7.2): `load` gives what it gave before the change or what it would have given
after it; `repair` changes nothing of that and leaves two whole copies, each of which says the same alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from unbrickd.flash.journal import JournalEntry
from unbrickd.flash.record import BootRecord, RecordStore
from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import SealedGeneration
from unbrickd.seal.keys import DeviceKeys
from unbrickd.sim.nor import NorChip, Phase, PowerCut

MakeSealed = Callable[..., SealedGeneration]
A, U, G = JournalEntry.ATTEMPT, JournalEntry.UP, JournalEntry.GOOD
ERASE_BLOCKS = 3
"""Of each half: the document ends in the second, the journal in the third."""
GEOMETRY = Geometry.uniform(total_bytes=2 * ERASE_BLOCKS * 512, erase_block_bytes=512)
HALF_BYTES = GEOMETRY.total_bytes // 2
TORN_SEEDS = range(6)
MAX_OPERATIONS = 100

Verdict = tuple[BootRecord, bool, int] | None
"""Record, is good, failed boots."""
Act = Callable[[RecordStore], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A chip as it is before, the change, and what must be so once it is done."""

    before: bytes
    act: Act
    after: Verdict


def verdict(store: RecordStore) -> Verdict:
    loaded = store.load()
    return None if loaded is None else (loaded.record, loaded.is_good, loaded.failed_boots)


def cuts(before: bytes, keys: DeviceKeys, act: Act, seeds: range) -> Iterator[tuple[NorChip, str]]:
    """The chip after each possible cut within `act`, power back on, and a line that says which it is."""
    for phase in Phase:
        for seed in seeds if phase is Phase.TORN else (0,):
            for at in range(MAX_OPERATIONS):
                chip = NorChip(GEOMETRY, buffer=bytearray(before), seed=seed)
                chip.cut_power(at=at, phase=phase)
                try:
                    act(RecordStore(chip, keys))
                except PowerCut:
                    chip.power_on()
                    yield chip, f"cut at={at} phase={phase} seed={seed}"
                else:
                    break
            else:
                pytest.fail("the change never ends")


def contents(chip: NorChip) -> bytes:
    return chip.read(0, GEOMETRY.total_bytes)


def without_half(octets: bytes, half: int) -> bytes:
    blank = b"\xff" * HALF_BYTES
    return blank + octets[HALF_BYTES:] if half == 0 else octets[:HALF_BYTES] + blank


@pytest.fixture
def record(make_sealed: MakeSealed) -> BootRecord:
    return BootRecord(counter=9, rollback_floor=3, sealed=make_sealed(5, erase_blocks=10))


SCENARIOS = [
    "commit-first", "commit", "commit-journal", "commit-split-journal", "commit-over-one", "commit-over-older",
    "mark-attempt", "mark-up", "mark-good", "mark-with-one-copy",
    "renew-attempt", "renew-up", "renew-good", "renew-by-torn-slots",
    "repair-a", "repair-b", "repair-older", "repair-journal", "repair-good",
]  # fmt: skip


def scenario(name: str, keys: DeviceKeys, record: BootRecord, newer: BootRecord) -> Scenario:
    chip = NorChip(GEOMETRY)
    store = RecordStore(chip, keys)
    slots = (HALF_BYTES - -(-(64 + len(record.sealed.document)) // 32) * 32) // 32

    def committed(*entries: JournalEntry, good: bool = False) -> bytes:
        store.commit(replace(record, good=good))
        for entry in entries:
            store.mark(entry)
        return contents(chip)

    def commit(store: RecordStore) -> None:
        store.commit(newer)

    def marks(entry: JournalEntry) -> Act:
        return lambda store: store.mark(entry)

    def halves(a: bytes, b: bytes) -> bytes:
        return a[:HALF_BYTES] + b[HALF_BYTES:]

    before: bytes
    act: Act
    match name:
        case "commit-first":
            before, act = contents(chip), commit
        case "commit":
            before, act = committed(), commit
        case "commit-journal":
            before, act = committed(A, U, G, A, A), commit
        case "commit-split-journal":
            # The last erase block begins with the "up" that vouches for the attempt before it.
            ahead = slots - 512 // 32 - 1
            before, act = committed(*[G] * ahead, A, U, good=True), commit
        case "commit-over-one":
            before, act = without_half(committed(A), 1), commit
        case "commit-over-older":
            older, act = committed(A), commit
            before = halves(committed(G, A), older)
        case "mark-attempt":
            before, act = committed(A), marks(A)
        case "mark-up":
            before, act = committed(A, A, good=True), marks(U)
        case "mark-good":
            before, act = committed(A, U), marks(G)
        case "mark-with-one-copy":
            before, act = without_half(committed(G, A), 0), marks(A)
        case "renew-attempt":
            before, act = committed(G, *[A, U] * (slots // 2 - 2), *[A] * (slots - 1 - 2 * (slots // 2 - 2))), marks(A)
        case "renew-up":
            before, act = committed(*[A] * slots, good=True), marks(U)
        case "renew-good":
            before, act = committed(*[A] * slots), marks(G)
        case "renew-by-torn-slots":
            whole, act = committed(A, A), marks(A)
            before = whole[: HALF_BYTES - 32] + bytes(32) + whole[HALF_BYTES:]
        case "repair-a":
            before, act = without_half(committed(G, A, A), 0), RecordStore.repair
        case "repair-b":
            before, act = without_half(committed(A, U, A), 1), RecordStore.repair
        case "repair-older":
            older, act = committed(A), RecordStore.repair
            before = halves(older, committed(G, A))
        case "repair-journal":
            fewer, act = committed(A), RecordStore.repair
            store.mark(A)
            before = halves(fewer, contents(chip))
        case "repair-good":
            fewer, act = committed(U), RecordStore.repair
            store.mark(G)
            before = halves(contents(chip), fewer)
        case _:
            raise AssertionError(name)
    done = NorChip(GEOMETRY, buffer=bytearray(before))
    act(RecordStore(done, keys))
    return Scenario(before=before, act=act, after=verdict(RecordStore(done, keys)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_record_store_power_cut_anywhere_leaves_old_or_new_whole(
    name: str, keys: DeviceKeys, record: BootRecord, make_sealed: MakeSealed
) -> None:
    newer = replace(record, counter=10, rollback_floor=4, sealed=make_sealed(10, erase_blocks=9), good=True)
    case = scenario(name, keys, record, newer)
    old = verdict(RecordStore(NorChip(GEOMETRY, buffer=bytearray(case.before)), keys))
    assert case.after is not None
    assert (old == case.after) == name.startswith("repair"), "a change changes something, a repair nothing"
    seen, first_cuts, second_cuts = set(), 0, 0
    for chip, which in cuts(case.before, keys, case.act, TORN_SEEDS):
        first_cuts += 1
        store = RecordStore(chip, keys)
        found = verdict(store)
        assert found in (old, case.after), which
        seen.add(found == case.after)
        torn = contents(chip)
        # The repair that follows may be cut as well.
        for again, which_again in cuts(torn, keys, RecordStore.repair, range(2)):
            second_cuts += 1
            assert verdict(RecordStore(again, keys)) == found, (which, which_again)
        store.repair()
        assert verdict(store) == found, which
        loaded = store.load()
        assert loaded is None or loaded.copies == (True, True), which
        assert store.repair() is False, which
        for half in (0, 1):
            alone = NorChip(GEOMETRY, buffer=bytearray(without_half(contents(chip), half)))
            assert verdict(RecordStore(alone, keys)) == found, (which, f"half {half} lost")
    assert first_cuts and True in seen
    print(f"{name}: {first_cuts} power cuts, {second_cuts} more in the repairs after them")
