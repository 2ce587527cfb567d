# SPDX-License-Identifier: Apache-2.0
"""What the device runs, as generations: recording a change, proving it good, reading it for its backup."""

from __future__ import annotations

import hashlib

import pytest

from unbrickd.agent.software import Installed
from unbrickd.errors import IntegrityError
from unbrickd.flash.write import write_image
from unbrickd.seal.content import open_erase_block
from unbrickd.seal.generation import check_good_seal
from unbrickd.sim.device import CONFIG, FIRMWARE, SimDevice, image
from unbrickd.sim.household import Household


@pytest.fixture
def router() -> SimDevice:
    return Household().router


def test_software_from_the_factory_is_generation_one_and_good(router: SimDevice) -> None:
    loaded = router.software.loaded()
    generation = loaded.record.sealed.generation
    assert (generation.number, loaded.is_good, loaded.record.counter) == (1, True, 1)
    assert [(c.name, c.version, c.sealed) for c in generation.components] == [
        ("firmware", "1.0", False),
        ("config", "generation 1", True),
    ]
    assert router.software.changed() == ()


def test_software_change_is_the_next_generation_not_yet_good_and_keeps_the_rest(router: SimDevice) -> None:
    before = router.software.loaded().record.sealed.generation
    write_image(router.partition("config"), b"ssid=new")
    assert router.software.changed() == ("config",)
    sealed = router.software.record_change({CONFIG: Installed(length_bytes=8)})
    assert sealed.generation.number == 2 and router.software.changed() == ()
    assert sealed.generation.component(FIRMWARE) == before.component(FIRMWARE)
    assert not router.software.loaded().is_good and router.software.good_seal() is None


def test_software_firmware_that_may_not_run_here_is_not_recorded(router: SimDevice) -> None:
    router.software.record_change({FIRMWARE: Installed(length_bytes=100, rollback_index=4)})
    assert router.software.prove_good()
    before = router.software.loaded()
    with pytest.raises(IntegrityError, match="rollback"):
        router.software.record_change({FIRMWARE: Installed(length_bytes=100, rollback_index=3)})
    assert router.software.loaded() == before


def test_software_proved_good_is_news_once_and_raises_the_floor(router: SimDevice) -> None:
    router.software.record_change({FIRMWARE: Installed(length_bytes=100, rollback_index=4)})
    assert router.software.loaded().record.rollback_floor == 0, "not before it has run"
    assert router.software.prove_good() is True
    loaded = router.software.loaded()
    assert (loaded.is_good, loaded.record.rollback_floor) == (True, 4)
    assert router.software.prove_good() is False
    seal = router.software.good_seal()
    sealed = loaded.record.sealed
    assert seal is not None and check_good_seal(router.flash.keys, number=2, digest=sealed.digest, seal=seal)


def test_software_other_than_recorded_proves_nothing(router: SimDevice) -> None:
    write_image(router.partition("config"), b"ssid=new")
    router.software.record_change({CONFIG: Installed(length_bytes=8)})
    router.damage("firmware", 0)
    with pytest.raises(IntegrityError, match="firmware: not what the boot record names"):
        router.software.prove_good()
    assert not router.software.loaded().is_good


def test_software_read_for_transfer_gives_firmware_open_and_config_sealed(router: SimDevice) -> None:
    firmware, config = router.software.loaded().record.sealed.generation.components
    assert router.software.read_for_transfer(firmware, 7) == router.contents("firmware")[7 * 4096 : -100]
    moved = router.software.read_for_transfer(config, 1)
    plain = router.contents("config")[4096:5000]
    assert len(moved) == len(plain) and moved != plain
    assert hashlib.sha256(moved).digest() == config.transfer_digests[1]
    opened = open_erase_block(
        router.flash.keys.content, component_id=CONFIG, index=1, digest=config.digests[1], ciphertext=moved
    )
    assert opened == plain


@pytest.mark.parametrize("part", ["firmware", "config"])
def test_software_read_for_transfer_of_what_changed_since_gives_nothing_away(router: SimDevice, part: str) -> None:
    manifest = {c.name: c for c in router.software.loaded().record.sealed.generation.components}[part]
    write_image(router.partition(part), image(5, 8192))
    with pytest.raises(IntegrityError, match="is not what the boot record names"):
        router.software.read_for_transfer(manifest, 0)


def test_software_without_a_boot_record_says_so(router: SimDevice) -> None:
    router.damage("record", 0, 1)
    with pytest.raises(IntegrityError) as none:
        router.software.loaded()
    assert none.value.code == "no-record"
