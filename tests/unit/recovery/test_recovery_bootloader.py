# SPDX-License-Identifier: Apache-2.0
"""From power-on to the boot where flash fails, in virtual time; what a light says. The loop: tests/sim."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unbrickd.flash.interface import Flash
from unbrickd.flash.write import program_erased
from unbrickd.model.peer import Peer
from unbrickd.recovery import events as r
from unbrickd.recovery import install
from unbrickd.recovery.bootloader import FLASH_RETRY_S
from unbrickd.recovery.check import Reason
from unbrickd.recovery.light import Light
from unbrickd.seal.generation import seal_generation
from unbrickd.sim.device import Power
from unbrickd.sim.household import Household, backed_up
from unbrickd.wire.messages import BlockRequest, Type
from unbrickd.wire.packet import decode


def wear_out(home: Household, part: str, index: int) -> int:
    """The erase block does not erase any more; returns its index in the chip."""
    start, _ = home.router.layout.range_of(part)
    block = start // 4096 + index
    home.router.chip.stuck.add(block)
    return block


def test_bootloader_worn_out_firmware_says_failed_and_tries_again_now_and_then() -> None:
    home = backed_up()
    home.router.damage("firmware", 3)
    block = wear_out(home, "firmware", 3)
    cycles = home.router.chip.erase_cycles(block)
    home.switch_on()
    home.world.run_for(3600.0)
    assert home.router.power is Power.BOOTLOADER
    assert "does not erase" in home.router.events(r.ServerGivenUp)[-1].why
    assert 100 <= home.router.chip.erase_cycles(block) - cycles <= 2 * 3600 / FLASH_RETRY_S, "wear is bounded"
    home.world.run_until(lambda: home.router.bootloader is not None and home.router.bootloader.light is Light.FAILED)
    home.router.chip.stuck.clear()
    home.world.run_until(lambda: home.router.power is Power.RUNNING, limit_s=FLASH_RETRY_S + 5.0)
    home.assert_whole()


def test_bootloader_worn_out_config_boots_with_defaults_at_once() -> None:
    home = backed_up()
    home.router.damage("config", 1)
    wear_out(home, "config", 1)
    booting = home.boot(limit_s=10.0)
    assert booting.config_default and booting.generation == 1


def test_bootloader_worn_out_record_copy_boots_on_the_other() -> None:
    home = backed_up()
    home.router.damage("record", 0)
    wear_out(home, "record", 0)
    assert home.boot(limit_s=1.0).generation == 1
    assert home.router.software.loaded().copies == (False, True)


def test_bootloader_light_follows_what_happens() -> None:
    home = backed_up()
    home.pc.kill()
    home.router.damage("firmware", *range(8))
    home.switch_on()
    home.world.run_for(5.0)
    home.pc.start()
    home.world.run_until(lambda: len(home.router.events(r.EraseBlockRestored)) == 1)
    home.pc.kill()
    home.world.run_for(30.0)
    home.pc.start()
    home.world.run_until(lambda: home.router.power is Power.RUNNING)
    lights = [event.light for event in home.router.events(r.LightChanged)][-6:]
    wait, work = Light.START_SERVER, Light.RESTORING
    assert lights == [wait, work, wait, work, Light.OFF, Light.BOOTED]


def test_bootloader_erase_block_that_reads_back_wrong_once_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    home = backed_up()
    home.router.damage("firmware", 0, 1)
    faults = iter([False, False, True])

    def forgets(flash: Flash, offset_bytes: int, octets: bytes) -> bool:
        return not next(faults, False) and program_erased(flash, offset_bytes, octets)

    monkeypatch.setattr(install, "program_erased", forgets)
    assert home.boot(limit_s=5.0).generation == 1
    assert [e.index for e in home.router.events(r.EraseBlockRestored)] == [0, 1]
    assert not home.router.events(r.ServerGivenUp), "it is not the server's fault"


def test_bootloader_works_on_flash_only_between_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    home = backed_up()
    home.router.damage("firmware", *range(8))
    home.switch_on()
    bootloader = home.router.bootloader
    assert bootloader is not None
    receive, operations = bootloader.receive, []

    def watched(peer: Peer, octets: bytes, now_s: float) -> None:
        before = home.router.chip.operations
        receive(peer, octets, now_s)
        operations.append(home.router.chip.operations - before)

    monkeypatch.setattr(bootloader, "receive", watched)
    home.world.run_until(lambda: home.router.power is Power.RUNNING)
    assert len(operations) > 8 and not any(operations)


def test_bootloader_blocks_that_do_not_pass_are_made_to_fit_any_path() -> None:
    """A path that swallows every message longer than 1280 bytes less headers (spec/protocol.md §1)."""
    home = backed_up()
    home.router.damage("firmware", 2)
    carry = home.network.send
    home.network.send = (  # type: ignore[method-assign]
        lambda source, destination, octets, now_s: (
            carry(source, destination, octets, now_s) if len(octets) <= 1232 else None
        )
    )
    home.boot(limit_s=10.0)
    home.assert_whole()
    blocks = [len(o) for name, o in home.world.sent if name == "pc" and decode(o).message.TYPE is Type.DATA_BLOCK]
    assert max(blocks[-4:]) == 1232


def test_bootloader_small_ring_is_never_asked_to_take_more() -> None:
    home = backed_up()
    home.router.ring_frames = 4
    home.router.damage("firmware", *range(8))
    before = len(home.world.sent)
    home.boot()
    home.assert_whole()
    sent = [decode(octets).message for name, octets in home.world.sent[before:] if name == "router"]
    asked = [sum(-(-n // 1428) for _, n in x.ranges) for x in sent if isinstance(x, BlockRequest)]
    assert 0 < max(asked) <= 4


def test_bootloader_refused_firmware_is_replaced_by_what_may_run() -> None:
    home = backed_up()
    router = home.router
    record = router.software.loaded().record
    # A record that names no firmware: the product makes none, but a mistake in it might.
    generation = replace(record.sealed.generation, number=9, components=record.sealed.generation.components[1:])
    router.flash.record.commit(replace(record, counter=9, sealed=seal_generation(router.flash.keys, generation)))
    assert home.boot().generation == 1
    assert Reason.REFUSED in [c.decision.reason for c in home.router.events(r.Checked)]
    home.assert_whole()
    assert home.router.software.loaded().record.counter == 9
