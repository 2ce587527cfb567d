# SPDX-License-Identifier: Apache-2.0
"""A server that lies, and a chip that knows what may be in it: for tests of what a hostile server cannot do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from unbrickd.model.manifest import SealedGeneration
from unbrickd.model.peer import Datagram, Peer
from unbrickd.recovery import events as recovery
from unbrickd.recovery.fetch import worst_ram_bytes
from unbrickd.recovery.light import Light
from unbrickd.sim.backups import put_missing
from unbrickd.sim.device import Power
from unbrickd.sim.household import Household, backed_up
from unbrickd.sim.nor import NorChip
from unbrickd.sim.world import SimServer
from unbrickd.store.vault import StoredGeneration, Vault
from unbrickd.wire import messages as m
from unbrickd.wire.packet import Message, Packet, decode, encode

Lie = Callable[[Packet], Iterable[bytes]]


def again(packet: Packet, message: Message, *, transfer: int | None = None, session: int | None = None) -> bytes:
    """The message in place of the packet's, with its session and transfer unless they are given."""
    return encode(
        message,
        session=packet.session if session is None else session,
        transfer=packet.transfer if transfer is None else transfer,
    )


def honest(packet: Packet) -> list[bytes]:
    return [again(packet, packet.message)]


class Liar:
    """A server that says whatever `lie` makes of what an honest one would say. ears: what it makes of what it hears."""

    def __init__(self, server: SimServer, lie: Lie, *, ears: Callable[[Packet], bytes] | None = None) -> None:
        self.name = server.name
        self.server = server
        self.lie = lie
        self.ears = ears
        self.unasked: list[Datagram] = []

    def receive(self, peer: Peer, octets: bytes, now_s: float) -> None:
        self.server.receive(peer, self.ears(decode(octets)) if self.ears else octets, now_s)

    def outgoing(self, now_s: float) -> list[Datagram]:
        unasked, self.unasked = self.unasked, []
        said = [(peer, lie) for peer, octets in self.server.outgoing(now_s) for lie in self.lie(decode(octets))]
        return unasked + said

    def timer(self) -> float | None:
        return self.server.timer()


class GuardedChip(NorChip):
    """A chip that knows every byte this device may ever have in it."""

    allowed: tuple[tuple[int, bytes], ...] = ()
    """(offset in the chip, partition's contents), of every image that the device sealed."""
    is_on_guard = False

    def program(self, offset_bytes: int, octets: bytes) -> None:
        images = (
            [(at, contents) for at, contents in self.allowed if at <= offset_bytes < at + len(contents)]
            if self.is_on_guard
            else []
        )
        assert not images or any(
            contents[offset_bytes - at : offset_bytes - at + len(octets)] == octets for at, contents in images
        ), f"{len(octets)} bytes at {offset_bytes:#x} that this device never sealed"
        super().program(offset_bytes, octets)


@dataclass(slots=True)
class Scene:
    """A damaged household with a liar in it, and the PC off."""

    home: Household
    liar: Liar

    def watch(self, seconds: float) -> None:
        """Run with the liar alone, and check what must always hold."""
        before = len(self.home.world.sent)
        self.home.world.run_for(seconds)
        sent = [decode(octets).message for name, octets in self.home.world.sent[before:] if name == "router"]
        probes = sum(isinstance(message, m.Probe) for message in sent)
        assert probes <= (4 * seconds + 4) * 9, "Probes at most every 0.25 s, to everybody and eight that announced"
        self.check()

    def check(self) -> None:
        router = self.home.router
        if router.bootloader is not None:
            worst = worst_ram_bytes(erase_block_bytes=4096, max_message_bytes=router.max_message_bytes)
            assert router.bootloader.peak_ram_bytes <= worst
        for _, event in router.log:
            if isinstance(event, recovery.Booting) and router.power is Power.RUNNING:
                assert router.contents("firmware")[: len(self.home.firmware)] == self.home.made[event.generation][0]

    @property
    def refusals(self) -> list[str]:
        return [event.why for event in self.home.router.events(recovery.ServerGivenUp) if event.refused]

    @property
    def light(self) -> Light:
        assert self.home.router.bootloader is not None
        return self.home.router.bootloader.light

    def rescue(self, limit_s: float = 200.0) -> None:
        """The PC is started, with the liar still about: the device is healed."""
        self.home.pc.start()
        self.home.world.run_until(lambda: self.home.router.power is Power.RUNNING, limit_s=limit_s)
        self.check()
        self.home.assert_whole()


def _guarded(home: Household) -> tuple[Household, GuardedChip]:
    """The same household with a chip that is on its guard."""
    old = home.router
    chip = GuardedChip(
        old.layout.geometry, buffer=bytearray(old.chip.read(0, old.layout.geometry.total_bytes)), state=old.chip.state
    )
    guarded = Household(home.seed, options=home.options, chip=chip, stores=home.pc.stores)
    guarded.firmware, guarded.config, guarded.made = home.firmware, home.config, home.made
    allowed = []
    for part, index in (("firmware", 0), ("config", 1)):
        at, size = old.layout.range_of(part)
        allowed += [(at, made[index].ljust(size, b"\xff")) for made in home.made.values()]
    chip.allowed = tuple(allowed)
    return guarded, chip


def scene(
    lie: Lie,
    *,
    home: Household | None = None,
    liar: SimServer | None = None,
    damage: Callable[[Household], None] = lambda home: home.router.damage("firmware", 1, 4, 6),
    ears: Callable[[Packet], bytes] | None = None,
) -> Scene:
    """Damage a household (a new one that was backed up), switch the PC off and the device on.

    The liar has the PC's store unless it brings its own.
    """
    home, chip = _guarded(home or backed_up())
    liar_server = liar or SimServer("liar", stores=home.pc.stores)
    there = Liar(liar_server, lie, ears=ears)
    home.world.endpoints = {"router": home.router, liar_server.name: there, "pc": home.pc}
    home.pc.kill()
    damage(home)
    chip.is_on_guard = True
    home.switch_on()
    return Scene(home, there)


def on(kind: type[Message], lie: Callable[[Packet], Iterable[bytes]]) -> Lie:
    """Lie about messages of one kind, be honest else."""
    return lambda packet: lie(packet) if isinstance(packet.message, kind) else honest(packet)


# Lies by name


def garbage(packet: Packet) -> list[bytes]:
    """Zeros in the place of all that it was asked for."""
    message = packet.message
    if isinstance(message, m.DataBlock):
        message = replace(message, payload=bytes(len(message.payload)))
    return [again(packet, message)]


def false_seal(packet: Packet) -> list[bytes]:
    """It vouches itself for what it offers."""
    message = packet.message
    if isinstance(message, m.RestoreAck) and message.good_seal is not None:
        message = replace(message, good_seal=message.good_seal[::-1])
    return [again(packet, message)]


def deaf_to_rejections(packet: Packet) -> bytes:
    """Ears that do not hear which generations failed on the device."""
    message = packet.message
    if isinstance(message, m.Restore):
        message = replace(message, rejected_from=0, rejected_to=0)
    return again(packet, message)


def offer_to_everybody(server: SimServer, stored: StoredGeneration | None) -> None:
    """Whatever device asks, this is what is held. The cookie binds the device id, so it is the store that lies."""
    server.vault.known = lambda device_id: True  # type: ignore[method-assign]
    server.vault.newest_good = lambda device_id, *, excluding=(0, 0): stored  # type: ignore[method-assign]


def hold(vault: Vault, sealed: SealedGeneration, images: dict[int, bytes], seal: bytes) -> None:
    """Put a generation into a store as if it had been backed up. images: as transferred, by component id."""
    for c in sealed.generation.components:
        staging = vault.stage(sealed.generation.device_id, c)
        put_missing(staging, images[c.component_id])
        vault.commit_image(staging)
    vault.commit_generation(sealed, seal)
