# SPDX-License-Identifier: Apache-2.0
"""Servers that lie, against a bootloader in virtual time: the worst that they can do is not to help.

Throughout: no byte is programmed that is not of an image this device sealed, nothing boots that was not verified, the
memory stays within what is declared, Probes stay civil, and an honest PC on the same network still heals the device.
Replay one run of random lies: `python tests/sim/test_hostile_server.py SEED…`
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import pytest

from unbrickd.agent.agent import BackupEnded
from unbrickd.agent.session import Ending
from unbrickd.agent.software import Installed
from unbrickd.flash.write import write_image
from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import ComponentKind, Generation
from unbrickd.recovery import events as r
from unbrickd.recovery.light import Light
from unbrickd.seal.content import seal_erase_block
from unbrickd.seal.generation import good_seal, seal_generation
from unbrickd.seal.manifest import build_manifest
from unbrickd.sim.device import CONFIG, FIRMWARE, Power, SimDevice, image
from unbrickd.sim.household import FIRMWARE_BYTES, Household, backed_up
from unbrickd.sim.liar import (
    Liar,
    Scene,
    again,
    deaf_to_rejections,
    false_seal,
    garbage,
    hold,
    honest,
    offer_to_everybody,
    on,
    scene,
)
from unbrickd.sim.world import SimServer
from unbrickd.wire import messages as m
from unbrickd.wire.framing import encode_frame
from unbrickd.wire.packet import Packet, encode

RANDOM_LIES = 60


WORDS = {
    "rollback": "rollback index 0; this device accepts 5",
    "rejected": "offers generation 2, which failed here before",
}
"""What is said of two refusals; tests/c puts the C core's words here, which name no numbers."""


def lose_record(home: Household) -> None:
    home.router.damage("record", 0, 1)


def lose_all(home: Household) -> None:
    lose_record(home)
    home.router.damage("firmware", *range(8))


# Offers


@pytest.mark.parametrize("length", [0, 1, 4 << 20, 0xFFFFFFFF])
def test_hostile_server_document_length_is_not_believed(length: int) -> None:
    def lie(packet: Packet) -> list[bytes]:
        assert isinstance(packet.message, m.RestoreAck)
        return [again(packet, replace(packet.message, document_length_bytes=length))]

    there = scene(on(m.RestoreAck, lie), damage=lose_record)
    there.watch(20.0)
    assert there.refusals and there.light is Light.FAILED
    there.rescue()


def held_by(seed: int = 0) -> tuple[Household, SimServer]:
    """A household of which somebody keeps an old copy of the PC's store."""
    home = backed_up(seed)
    return home, SimServer("liar", stores=home.pc.stores)


def test_hostile_server_generation_below_the_rollback_floor_is_refused() -> None:
    home, liar = held_by()
    octets = image(7, FIRMWARE_BYTES)
    write_image(home.router.partition("firmware"), octets)
    home.router.software.record_change({FIRMWARE: Installed(length_bytes=len(octets), version="2.0", rollback_index=5)})
    home.firmware, home.made[2] = octets, (octets, home.config)
    home.boot()
    home.back_up()
    home.router.switch_off()
    there = scene(honest, home=home, liar=liar)
    there.watch(20.0)
    assert WORDS["rollback"] in there.refusals[0]
    assert there.light is Light.FAILED
    there.rescue()
    assert home.recorded == 2


def test_hostile_server_generation_that_failed_here_is_refused() -> None:
    home = backed_up()
    home.boot()
    home.set_config(image(5, 5000))
    home.back_up()
    liar = SimServer("liar", stores=home.pc.stores)
    home.router.switch_off()
    home.router.hangs.add("1.0")
    home.switch_on()
    home.world.run_until(lambda: home.router.power is Power.BOOTLOADER)
    home.router.switch_off()
    there = scene(honest, home=home, liar=liar, damage=lambda home: None, ears=deaf_to_rejections)
    there.watch(20.0)
    assert WORDS["rejected"] in there.refusals[0]
    there.rescue()
    assert there.home.recorded == 1


def test_hostile_server_generation_of_another_device_is_refused() -> None:
    home = backed_up()
    other = Household(3)
    other.router = SimDevice("neighbour", seed=3)
    other.router.provision(other.firmware, other.config)
    other.world.endpoints = {"neighbour": other.router, "pc": other.pc}
    other.boot()
    other.back_up()
    liar = SimServer("liar", stores=other.pc.stores)
    offer_to_everybody(liar, other.pc.vault.newest_good(other.router.device_id))
    for damage in (lose_record, lambda home: home.router.damage("firmware", 3)):
        there = scene(honest, home=home, liar=liar, damage=damage)
        there.watch(20.0)
        assert "without this device's good seal" in there.refusals[0]
        assert there.light is Light.FAILED
        there.rescue()


def test_hostile_server_generation_without_good_seal_is_refused() -> None:
    home = backed_up()
    home.boot()
    home.set_config(image(5, 5000))
    home.world.run_until(lambda: home.held == [2, 1])
    home.router.switch_off()
    newest = home.pc.vault.find(home.router.device_id, 2)
    assert newest is not None and newest.good_seal is None
    liar = SimServer("liar", stores=home.pc.stores)
    offer_to_everybody(liar, newest)
    there = scene(honest, home=home, liar=liar, damage=lose_record)
    there.watch(20.0)
    assert "without this device's good seal" in there.refusals[0]
    assert there.light is Light.FAILED
    there.rescue()
    assert there.home.recorded == 1


@pytest.mark.parametrize("wrong", ["erase blocks", "component", "no firmware", "sealed"])
def test_hostile_server_generation_that_does_not_fit_the_flash_is_refused(wrong: str) -> None:
    """Sealed by this very device, once, when its flash was laid out otherwise."""
    home = backed_up()
    keys, octets = home.router.flash.keys, image(6, 8192)
    other = build_manifest(
        component_id=7 if wrong == "component" else CONFIG if wrong == "no firmware" else FIRMWARE,
        kind=ComponentKind.CONFIG if wrong == "no firmware" else ComponentKind.FIRMWARE,
        name="other",
        version="9",
        geometry=Geometry.uniform(total_bytes=8192, erase_block_bytes=8192 if wrong == "erase blocks" else 4096),
        image=lambda offset, length: octets[offset : offset + length],
        length_bytes=8192,
        content_keys=keys.content if wrong in ("sealed", "no firmware") else None,
    )
    if other.sealed:
        pieces = [octets[:4096], octets[4096:]]
        octets = b"".join(
            seal_erase_block(keys.content, component_id=other.component_id, index=i, plaintext=p)[1]
            for i, p in enumerate(pieces)
        )
    identity = keys.identity
    sealed = seal_generation(
        keys, Generation(device_id=identity.device_id, model=identity.model, number=9, components=(other,))
    )
    liar = SimServer("liar")
    hold(liar.vault, sealed, {other.component_id: octets}, good_seal(keys, sealed))
    there = scene(honest, home=home, liar=liar, damage=lose_record)
    there.watch(20.0)
    assert "flash layout" in there.refusals[0] or "names no firmware" in there.refusals[0]
    assert there.light is Light.FAILED
    there.rescue()


# Transfers


def test_hostile_server_garbage_erase_blocks_are_given_up_after_three() -> None:
    sent = 0

    def lie(packet: Packet) -> list[bytes]:
        nonlocal sent
        sent += 1
        return garbage(packet)

    there = scene(on(m.DataBlock, lie))
    there.watch(20.0)
    assert "is not what was backed up" in there.refusals[0] and len(there.refusals) == 1
    assert sent < 100, "then it is left alone"
    assert there.light is Light.FAILED
    assert there.home.router.events(r.EraseBlockRestored) == []
    there.rescue()


def test_hostile_server_false_good_seal_is_refused() -> None:
    there = scene(false_seal, damage=lose_record)
    there.watch(20.0)
    assert "without this device's good seal" in there.refusals[0]
    assert there.light is Light.FAILED
    there.rescue()


def test_hostile_server_garbage_document_is_refused() -> None:
    there = scene(garbage, damage=lose_record)
    there.watch(20.0)
    assert "not the one it offered" in there.refusals[0]
    assert there.light is Light.FAILED
    there.rescue()


def test_hostile_server_wrong_transfer_ids_are_ignored() -> None:
    def lie(packet: Packet) -> list[bytes]:
        return [again(packet, packet.message, transfer=t) for t in (0, packet.transfer + 1, 0xFFFF)]

    there = scene(on(m.DataBlock, lie))
    there.watch(60.0)
    assert there.light is not Light.BOOTED
    assert there.home.router.events(r.EraseBlockRestored) == []
    there.rescue()


def test_hostile_server_wrong_sessions_are_ignored() -> None:
    there = scene(on(m.RestoreAck, lambda packet: [again(packet, packet.message, session=packet.session ^ 1)]))
    there.watch(60.0)
    assert there.home.router.events(r.OfferTaken) == []
    there.rescue()


def test_hostile_server_flood_of_blocks_nobody_asked_for_changes_nothing() -> None:
    rng = random.Random(1)

    def lie(packet: Packet) -> list[bytes]:
        block = packet.message
        assert isinstance(block, m.DataBlock)
        flood = [
            replace(
                block,
                request=rng.choice([0, 1, block.request, 0xFFFFFFFF]) or 1,
                offset_bytes=rng.choice([rng.randrange(1 << 32), rng.randrange(FIRMWARE_BYTES), 0]),
                payload=rng.randbytes(rng.randrange(1, 1400)),
            )
            for _ in range(50)
        ]
        return [again(packet, message) for message in (*flood, block, *flood)]

    there = scene(on(m.DataBlock, lie))
    there.home.world.run_until(lambda: there.home.router.power is Power.RUNNING, limit_s=60.0)
    there.check()
    there.home.assert_whole()


@pytest.mark.parametrize("length", [1, 100, 511])
def test_hostile_server_tiny_blocks_are_refused(length: int) -> None:
    def lie(packet: Packet) -> list[bytes]:
        assert isinstance(packet.message, m.DataStart)
        return [again(packet, replace(packet.message, max_block_bytes=length))]

    there = scene(on(m.DataStart, lie))
    there.watch(10.0)
    assert "too short" in there.refusals[0]
    there.rescue()


def test_hostile_server_another_image_than_asked_for_is_refused() -> None:
    def lie(packet: Packet) -> list[bytes]:
        assert isinstance(packet.message, m.DataStart)
        return [again(packet, replace(packet.message, length_bytes=1 << 31))]

    there = scene(on(m.DataStart, lie))
    there.watch(10.0)
    assert "another image" in there.refusals[0] and there.light is Light.FAILED
    there.rescue()


# Time


@pytest.mark.parametrize("code", [m.ErrorCode.COOKIE, m.ErrorCode.NO_SESSION, m.ErrorCode.ROTTEN, m.ErrorCode.BUSY])
def test_hostile_server_errors_for_ever_do_not_make_the_device_a_storm(code: m.ErrorCode) -> None:
    error = m.Error(code=code, retry_after_s=0xFFFF)
    there = scene(on(m.RestoreAck, lambda packet: [again(packet, error)]))
    before = len(there.home.world.sent)
    there.watch(300.0)
    assert len(there.home.world.sent) - before < 300 * 4
    there.rescue()


def test_hostile_server_busy_for_ever_is_asked_again_after_two_minutes() -> None:
    busy = True

    def lie(packet: Packet) -> list[bytes]:
        assert isinstance(packet.message, m.ProbeAck)
        return [again(packet, replace(packet.message, busy=busy, retry_after_s=0xFFFF if busy else 0))]

    there = scene(on(m.ProbeAck, lie))
    there.watch(60.0)
    busy = False
    there.home.world.run_until(lambda: there.home.router.power is Power.RUNNING, limit_s=130.0)


def test_hostile_server_probe_ack_for_another_nonce_is_ignored() -> None:
    def lie(packet: Packet) -> list[bytes]:
        assert isinstance(packet.message, m.ProbeAck)
        return [again(packet, replace(packet.message, nonce=bytes(8)))]

    there = scene(on(m.ProbeAck, lie))
    there.watch(60.0)
    assert there.home.router.events(r.ServerFound) == []
    there.rescue()


def test_hostile_server_flood_of_announcements_is_answered_at_a_civil_rate() -> None:
    there = scene(lambda packet: [])
    home = there.home
    before = len(home.world.sent)
    for turn in range(1000):
        for number in range(20):
            octets = encode(m.Announce(server_id=bytes(14) + number.to_bytes(2, "big")))
            home.network.send(f"spoofed-{turn}-{number}", "router", octets, home.now_s)
        home.world.run_for(0.02)
    probes = [name for name, _ in home.world.sent[before:] if name == "router"]
    assert len(probes) <= (20 * 4 + 4) * 9
    there.rescue()


def test_hostile_server_that_offers_and_never_delivers_does_not_keep_the_device_from_booting_with_defaults() -> None:
    there = scene(
        lambda packet: [] if isinstance(packet.message, m.DataStart | m.DataBlock) else honest(packet),
        damage=lambda home: home.router.damage("config", 0),
    )
    there.home.world.run_until(lambda: there.home.router.power is Power.RUNNING, limit_s=125.0)
    assert there.home.router.booted is not None and there.home.router.booted.config_default


def test_hostile_server_that_drips_blocks_is_left_for_others() -> None:
    dripped_s = [0.0]

    def lie(packet: Packet) -> list[bytes]:
        if isinstance(packet.message, m.DataStart):
            return [again(packet, replace(packet.message, max_block_bytes=512))]
        if isinstance(packet.message, m.DataBlock):
            if there.home.now_s < dripped_s[-1] + 7.5:
                return []
            dripped_s.append(there.home.now_s)
        return honest(packet)

    there = scene(lie)
    there.watch(100.0)
    assert "it is too slow" in [e.why for e in there.home.router.events(r.ServerGivenUp)]
    there.rescue()


# At random


def random_lies(seed: int) -> Scene:
    """Each message is lost, repeated, kept for later, or one of its fields is another, under a right CRC."""
    rng = random.Random(seed)
    kept: list[bytes] = []

    def lie(packet: Packet) -> list[bytes]:
        octets = again(packet, packet.message)
        what = rng.choice(["honest"] * 6 + ["lost", "twice", "later", "bits", "error", "field"])
        if what == "honest":
            return [octets]
        if what == "lost":
            return []
        if what == "twice":
            return [octets] * rng.randrange(2, 20)
        if what == "later":
            kept.append(octets)
            return rng.sample(kept, min(len(kept), 3))
        if what == "error":
            error = m.Error(code=rng.randrange(20), retry_after_s=rng.choice([0, 1, 0xFFFF]), text="no")
            return [again(packet, error, transfer=rng.choice([0, packet.transfer]))]
        body = bytearray(packet.message.encode_body())
        if what == "bits":
            for _ in range(rng.randrange(1, 9)):
                body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        else:
            at = rng.randrange(len(body))
            body[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", rng.randbytes(4)])
        return [encode_frame(packet.message.TYPE, bytes(body), session=packet.session, transfer=packet.transfer)]

    damage = rng.choice(
        [
            lose_record,
            lambda home: home.router.damage("firmware", *range(8)),
            lambda home: home.router.damage("config", 0, 1),
            lose_all,
        ]
    )
    there = scene(lie, home=backed_up(seed), damage=damage)
    there.watch(rng.choice([1.0, 30.0, 200.0]))
    if (
        there.home.router.power is Power.RUNNING
        and there.home.router.booted
        and there.home.router.booted.config_default
    ):
        return there
    there.rescue(limit_s=1200.0)
    return there


@pytest.mark.parametrize("seed", range(RANDOM_LIES))
def test_hostile_server_random_lies_never_boot_anything_unverified(seed: int) -> None:
    print(f"replay: python tests/sim/test_hostile_server.py {seed}")
    random_lies(seed)


# Backup


def test_hostile_server_that_asks_for_everything_for_ever_ends_with_the_hour() -> None:
    """A backup takes an hour at most, and then the policy has its say again."""
    home = Household()
    request = 0

    def lie(packet: Packet) -> list[bytes]:
        nonlocal request
        if isinstance(packet.message, m.BlockRequest):
            request += 1
            return [again(packet, m.BlockRequest(request=request, last=False, ranges=((0, 1),)))]
        return [] if isinstance(packet.message, m.DataEndAck) else honest(packet)

    liar = Liar(SimServer("liar"), lie)
    home.world.endpoints = {"router": home.router, "liar": liar}
    home.boot()
    home.world.run_for(7200.0)
    ends = [event.outcome.ending for event in home.router.events(BackupEnded)]
    assert ends and all(ending is Ending.FAILED for ending in ends)
    home.world.endpoints["pc"] = home.pc
    del home.world.endpoints["liar"]
    home.world.run_until(lambda: home.held_good == [1], limit_s=3 * 3600.0)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        replayed = random_lies(int(argument))
        for at_s, event in replayed.home.router.log:
            print(f"{at_s:10.3f} {type(event).__name__:20} {event!s:.200}")
