# SPDX-License-Identifier: Apache-2.0
"""The store loses its process or its power before, in the middle of and after every operation of a backup.

Whatever was acknowledged before is intact, and the new generation is whole or invisible.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from unbrickd.adapters.store.files import FileBlobStore, FileDocumentStore
from unbrickd.adapters.store.open import open_vault
from unbrickd.adapters.store.sqlite import FILE_NAME, SqliteCatalogue
from unbrickd.sim.backups import back_up, device_id, generation, good_seal, image
from unbrickd.sim.disk import PowerCut, SimDisk
from unbrickd.store.interface import GenerationKey, GenerationRow
from unbrickd.store.retention import RetentionPolicy
from unbrickd.store.vault import StoredGeneration, Vault
from unbrickd.store.verification import HARMLESS

A, B, C = device_id(1), device_id(2), device_id(3)
POLICY = RetentionPolicy(keep_good=2, keep_trial=1)
FIRMWARE, CONFIG = image(1, 9000), image(2, 300)
HISTORY = {
    (A, 1): {1: image(7, 9000), 2: CONFIG},
    (A, 2): {1: FIRMWARE, 2: CONFIG},
    (B, 1): {1: FIRMWARE, 2: image(3, 300)},
}
NEW = {1: image(8, 5000) + FIRMWARE[5000:], 2: image(4, 300)}
LAST = {1: image(5, 9000), 2: CONFIG}


class CutCatalogue(SqliteCatalogue):
    """Counts each commit as two operations of the disk: one may stop before it, and one right after it."""

    def __init__(self, path: Path, disk: SimDisk) -> None:
        super().__init__(path)
        self._disk = disk

    def _cut(self, commit: Callable[[], None]) -> None:
        self._disk.step()
        commit()
        self._disk.step()

    def add(self, row: GenerationRow) -> None:
        self._cut(lambda: super(CutCatalogue, self).add(row))

    def mark_good(self, key: GenerationKey, at_s: float) -> None:
        self._cut(lambda: super(CutCatalogue, self).mark_good(key, at_s))

    def remove(self, key: GenerationKey) -> None:
        self._cut(lambda: super(CutCatalogue, self).remove(key))

    def set_pinned(self, key: GenerationKey, pinned: bool) -> None:
        self._cut(lambda: super(CutCatalogue, self).set_pinned(key, pinned))


def _scenario(vault: Vault, acknowledged: list[str]) -> None:
    """A backup; the device vouches for it; the user pins it; a backup that is good at once, upon which retention takes
    the oldest; and the first backup of another device."""
    stored = back_up(vault, A, 3, NEW)
    acknowledged.append("new")
    vault.mark_good(A, 3, stored.key.digest, good_seal(3))
    acknowledged.append("good")
    vault.pin(A, 3)
    acknowledged.append("pin")
    back_up(vault, A, 4, LAST, good=True)
    acknowledged.append("last")
    vault.unpin(A, 3)
    acknowledged.append("unpin")
    back_up(vault, C, 1, HISTORY[B, 1])
    acknowledged.append("first")


def _run(directory: Path, disk: SimDisk, acknowledged: list[str]) -> bool:
    """Whether the scenario came to its end."""
    with (
        closing(CutCatalogue(directory / FILE_NAME, disk)) as catalogue,
        closing(FileBlobStore(directory, ops=disk, reserve_bytes=0)) as blobs,
    ):
        vault = Vault(blobs, FileDocumentStore(directory, ops=disk), catalogue, time.time, policy=POLICY)
        try:
            _scenario(vault, acknowledged)
        except PowerCut:
            return False
        return True


def _assert_whole(vault: Vault, stored: StoredGeneration | None, images: dict[int, bytes]) -> None:
    assert stored is not None
    assert not stored.damaged
    for component in stored.generation.components:
        octets = [vault.read_erase_block(stored, component.component_id, i) for i in range(component.geometry.count)]
        assert b"".join(octets) == images[component.component_id]


def _check(directory: Path, acknowledged: list[str]) -> None:
    with open_vault(directory, exclusive=True, policy=POLICY) as vault:
        assert [f for f in vault.verify() if f.kind not in HARMLESS] == []
        assert not any(row.damaged for row in vault.generations())
        # Generation 2 is the newest good one until 3 is good, B is not touched at all.
        _assert_whole(vault, vault.find(B, 1), HISTORY[B, 1])
        numbers = [row.key.number for row in vault.generations(A)]
        assert numbers in ([2, 1], [3, 2, 1], [3, 2], [4, 3, 2, 1], [4, 3, 2], [4, 3])
        contents = {1: HISTORY[A, 1], 2: HISTORY[A, 2], 3: NEW, 4: LAST}
        for number in numbers:
            _assert_whole(vault, vault.find(A, number), contents[number])
        for number, step in ((3, "new"), (4, "last")):
            assert step not in acknowledged or number in numbers
        new = vault.find(A, 3)
        if "good" in acknowledged:
            assert new is not None and new.row.good and new.good_seal == good_seal(3)
        if "pin" in acknowledged:
            assert new is not None and (new.pinned or "last" in acknowledged)
        if "unpin" in acknowledged:
            assert new is not None and not new.pinned
        if "first" in acknowledged or vault.known(C):
            _assert_whole(vault, vault.find(C, 1), HISTORY[B, 1])
        good = vault.newest_good(A)
        assert good is not None and good.number >= (4 if "last" in acknowledged else 3 if "good" in acknowledged else 2)
        # And the device, which had no answer, does it all again.
        _scenario(vault, [])
        newest = vault.newest(A)
        assert newest is not None and newest.sealed == generation(A, 4, LAST)
        assert [f for f in vault.verify() if f.kind not in HARMLESS] == []


@pytest.mark.parametrize("world", ["process-killed", "power-lost"])
@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_store_cut_at_every_operation_keeps_what_was_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, world: str, torn: bool
) -> None:
    before = tmp_path / "before"
    with open_vault(before, exclusive=True, policy=POLICY, reserve_bytes=0) as vault:
        for (device, number), images in HISTORY.items():
            back_up(vault, device, number, images, good=True)
    points = 0
    while True:
        directory = tmp_path / "store"
        shutil.copytree(before, directory)
        disk = SimDisk(directory, cut_at=points, torn=torn)
        acknowledged: list[str] = []
        ended = _run(directory, disk, acknowledged)
        if world == "power-lost":
            disk.lose()
        else:
            disk.survive()
        try:
            _check(directory, acknowledged)
            assert caplog.messages == []  # nothing to warn of at the start
        except BaseException:
            print(f"cut at operation {points}, {world}, torn={torn}, acknowledged {acknowledged}")
            raise
        shutil.rmtree(directory)
        if ended:
            break
        points += 1
    print(f"{points} crash points, {world}, torn={torn}: every one recovered")
    assert points > 60
