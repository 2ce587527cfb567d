# SPDX-License-Identifier: Apache-2.0
"""U-Boot with our recovery, and a server that lies to it: refused, not a byte of flash touched, nothing booted.

The lies are those of the simulator (`sim.liar`; tests/sim/test_hostile_server.py has many more), on a real socket.
When an honest server is there at the next power-on, it heals the gateway.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.qemu.bench import BOOT_LIMIT, SETTINGS, BackedUp, Bench, serving, software_of
from tests.qemu.healing import BOOTING, RESTORE_PATIENCE_S
from tests.qemu.on_socket import on_socket
from tools.lab.gateway import CONFIG, FIRMWARE, RECORD

from unbrickd.adapters.store.open import open_vault
from unbrickd.agent.software import DeviceSoftware, Installed
from unbrickd.flash.journal import JournalEntry
from unbrickd.model.manifest import SealedGeneration
from unbrickd.seal.generation import good_seal, seal_generation
from unbrickd.seal.identity import FirmwarePolicy, Identity
from unbrickd.seal.keys import DeviceKeys
from unbrickd.sim.liar import Liar, deaf_to_rejections, false_seal, garbage, hold, honest, offer_to_everybody
from unbrickd.sim.world import SimServer

pytestmark = pytest.mark.qemu

SEED = 20100520
FIRMWARE_ID, CONFIG_ID = 1, 2
WATCHED_S = 1.0
"""How long nothing boots after the refusal. Nothing that is damaged ever would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One that a device sealed, as a server holds it."""

    sealed: SealedGeneration
    seal: bytes
    images: dict[int, bytes]

    def put(self, server: SimServer) -> None:
        hold(server.vault, self.sealed, self.images, self.seal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A gateway that is to be damaged, and the store of an honest server."""

    bench: Bench
    backed_up: BackedUp
    address: str
    store: Path
    first: Generation
    """The one that was backed up."""

    @property
    def software(self) -> DeviceSoftware:
        return software_of(self.bench.flash, self.backed_up.keys)

    def second(self) -> Generation:
        """What the gateway runs now: it proves good, and the honest server has it."""
        software = self.software
        software.prove_good()
        sealed, seal = software.loaded().record.sealed, software.good_seal()
        assert seal is not None
        images = {
            c.component_id: b"".join(software.read_for_transfer(c, index) for index in range(c.geometry.count))
            for c in sealed.generation.components
        }
        with open_vault(self.store, exclusive=True) as vault:
            hold(vault, sealed, images, seal)
        return Generation(sealed=sealed, seal=seal, images=images)

    def damage(self, *, record: bool) -> None:
        rng = random.Random(SEED)
        self.bench.flash.damage(FIRMWARE, [1, 30], rng)
        if record:
            self.bench.flash.damage(RECORD, [0, 1], rng)

    def assert_refused(self, liar: Liar, words: str) -> None:
        """With the liar alone."""
        before = self.bench.flash.path.read_bytes()
        with on_socket(liar, self.address), self.bench.bootloader() as console:
            console.expect(f"gave up the server: {words}", timeout_s=RESTORE_PATIENCE_S)
            console.expect("light: failed, still looking for help", timeout_s=RESTORE_PATIENCE_S)
            assert console.seen(r"light: sound|booting|erase block \d", within_s=WATCHED_S) is None
        assert self.bench.flash.path.read_bytes() == before

    def assert_healed(self, generation: int, *, config: bytes) -> None:
        """By the honest server, at the next power-on."""
        with serving(self.store, self.address), self.bench.bootloader() as console:
            assert int(console.expect(BOOTING, timeout_s=RESTORE_PATIENCE_S)[1]) == generation
        flash = self.bench.flash
        assert flash.read(FIRMWARE) == self.backed_up.flash.read(FIRMWARE)
        assert flash.read(CONFIG) == config
        loaded = self.software.loaded()
        assert loaded.record.sealed.generation.number == generation and loaded.copies == (True, True)


@pytest.fixture
def there(healer: Bench, backed_up: BackedUp, server_address: str, tmp_path: Path) -> Scene:
    store = tmp_path / "store"
    shutil.copytree(backed_up.store, store)
    with open_vault(store, exclusive=False) as vault:
        stored = vault.newest_good(backed_up.keys.identity.device_id)
        assert stored is not None and stored.good_seal is not None
        images = {}
        for component in stored.generation.components:
            with vault.open_image(component) as image:
                images[component.component_id] = image.read(0, image.length_bytes)
    first = Generation(sealed=stored.sealed, seal=stored.good_seal, images=images)
    return Scene(bench=healer, backed_up=backed_up, address=server_address, store=store, first=first)


def holding(*generations: Generation) -> SimServer:
    server = SimServer("liar")
    for generation in generations:
        generation.put(server)
    return server


def test_lying_server_garbage_for_the_generation_document_is_refused(there: Scene) -> None:
    there.damage(record=True)
    words = "its generation document is not the one it offered"
    there.assert_refused(Liar(holding(there.first), garbage), words)
    there.assert_healed(1, config=there.backed_up.flash.read(CONFIG))


def test_lying_server_garbage_for_erase_blocks_is_refused(there: Scene) -> None:
    there.damage(record=False)
    there.assert_refused(Liar(holding(there.first), garbage), "an erase block is not what was backed up")
    there.assert_healed(1, config=there.backed_up.flash.read(CONFIG))


def test_lying_server_false_good_seal_is_refused(there: Scene) -> None:
    there.damage(record=True)
    words = "it offers a generation without this device's good seal"
    there.assert_refused(Liar(holding(there.first), false_seal), words)
    there.assert_healed(1, config=there.backed_up.flash.read(CONFIG))


def test_lying_server_generation_of_another_device_is_refused(there: Scene) -> None:
    identity = there.backed_up.keys.identity
    other = Identity.generate(
        model=identity.model, policy=FirmwarePolicy.OWNER, entropy=random.Random(SEED + 1).randbytes
    )
    keys = DeviceKeys.of(other)
    generation = dataclasses.replace(there.first.sealed.generation, device_id=other.device_id)
    sealed = seal_generation(keys, generation)
    server = holding(Generation(sealed=sealed, seal=good_seal(keys, sealed), images=there.first.images))
    offer_to_everybody(server, server.vault.newest_good(other.device_id))
    there.damage(record=True)
    words = "it offers a generation without this device's good seal"
    there.assert_refused(Liar(server, honest), words)
    there.assert_healed(1, config=there.backed_up.flash.read(CONFIG))


def test_lying_server_generation_below_the_rollback_floor_is_refused(there: Scene) -> None:
    installed = Installed(length_bytes=len(there.backed_up.image), version="2.0", rollback_index=5)
    there.software.record_change({FIRMWARE_ID: installed})
    there.second()
    there.damage(record=False)
    words = "the firmware has a rollback index below what this device accepts"
    there.assert_refused(Liar(holding(there.first), honest), words)
    there.assert_healed(2, config=there.backed_up.flash.read(CONFIG))


def test_lying_server_generation_that_failed_here_is_refused(there: Scene) -> None:
    settings = SETTINGS.replace(b"router7", b"router8")
    there.bench.flash.write(CONFIG, settings)
    there.software.record_change({CONFIG_ID: Installed(length_bytes=len(settings))})
    second = there.second()
    for _ in range(BOOT_LIMIT):
        there.software.device.record.mark(JournalEntry.ATTEMPT)
    there.damage(record=False)
    liar = Liar(holding(there.first, second), honest, ears=deaf_to_rejections)
    there.assert_refused(liar, "it offers a generation which failed here before")
    there.assert_healed(1, config=there.backed_up.flash.read(CONFIG))
