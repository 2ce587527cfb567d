# SPDX-License-Identifier: Apache-2.0
"""One story told to two bootloaders, the Python one and the C one: the same flash, servers, faults and randomness.

Every message meets the fate that its bytes have drawn, so as long as both say the same they meet the same. What they
tell, send and write is kept for comparison. Replay: `python c/ports/sim/twins.py SEED…`.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from unbrickd_c import CBootloader

import unbrickd.sim.device as sim_device
from unbrickd.errors import RemoteProtocolError
from unbrickd.model.peer import Datagram, Peer
from unbrickd.recovery import events
from unbrickd.recovery.bootloader import Bootloader
from unbrickd.sim.device import Power, image
from unbrickd.sim.household import FIRMWARE_BYTES, Household, backed_up
from unbrickd.sim.network import Network
from unbrickd.sim.nor import Phase
from unbrickd.sim.world import SimServer
from unbrickd.wire import messages as m
from unbrickd.wire.framing import ETHERNET_MESSAGE_BYTES, HEADER_BYTES, MIN_MAX_MESSAGE_BYTES, encode_frame
from unbrickd.wire.packet import decode

LIMIT_S = 1000.0
MAX_POWER_ONS = 12
BLOCK_REQUEST = int(m.Type.BLOCK_REQUEST)
"""The spec leaves to the receiver what it asks for when; all else that a bootloader sends is the same to the byte."""

Loader = type[Bootloader] | type[CBootloader]


class FatefulNetwork(Network):
    """A message's fate comes from its bytes and how often they were sent, not from what else was sent before."""

    seed = 0
    times: Counter[tuple[str, str, bytes]]

    def send(self, source: str, destination: str, octets: bytes, now_s: float) -> None:
        what = source, destination, octets
        self.times[what] += 1
        self._random = random.Random(f"{self.seed} {what} {self.times[what]}")
        super().send(source, destination, octets, now_s)


class Mischief:
    """A server some of whose messages are spoilt, each by the lot of its bytes; all with a right CRC."""

    def __init__(self, server: SimServer, seed: int, share: float) -> None:
        self.name = server.name
        self.server = server
        self.seed = seed
        self.share = share
        self.times: Counter[bytes] = Counter()

    def receive(self, peer: Peer, octets: bytes, now_s: float) -> None:
        self.server.receive(peer, octets, now_s)

    def outgoing(self, now_s: float) -> list[Datagram]:
        return [(peer, spoilt) for peer, octets in self.server.outgoing(now_s) for spoilt in self._spoil(octets)]

    def timer(self) -> float | None:
        return self.server.timer()

    def _spoil(self, octets: bytes) -> list[bytes]:
        self.times[octets] += 1
        rng = random.Random(f"{self.seed} {octets!r} {self.times[octets]}")
        if rng.random() >= self.share:
            return [octets]
        kind, session, transfer = octets[3], int.from_bytes(octets[8:12], "big"), int.from_bytes(octets[6:8], "big")
        body = bytearray(octets[HEADER_BYTES:])
        match rng.randrange(7):
            case 0:
                return []
            case 1:
                return [octets, octets]
            case 2:
                for _ in range(rng.randrange(1, 4)):
                    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
            case 3:
                del body[rng.randrange(len(body) + 1) :]
            case 4:
                body += rng.randbytes(rng.randrange(1, 40))
            case 5:
                error = m.Error(code=rng.randrange(19), retry_after_s=rng.choice((0, 1, 500)), text="mischief")
                return [encode_frame(m.Type.ERROR, error.encode_body(), session=session, transfer=transfer), octets]
            case _:
                kind, transfer = rng.randrange(17), rng.choice((0, transfer, 7))
        return [encode_frame(kind, bytes(body), session=session, transfer=transfer)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """before: the household's past; damage: (part, erase block); flips: bits; cuts: (operation, phase) by power-on.

    server: times at which it is started and killed, by turns; it is running at the end.
    """

    seed: int
    before: str
    damage: tuple[tuple[str, int], ...]
    flips: int
    button: bool
    ring_frames: int
    max_message_bytes: int
    loss: float
    mischief: float
    server: tuple[float, ...]
    cuts: tuple[tuple[int, Phase], ...]

    @property
    def is_calm(self) -> bool:
        """Whether nothing depends on when a message is sent."""
        return not self.loss and not self.mischief and self.server == (0.0,)


def make_story(seed: int) -> Story:
    rng = random.Random(f"story {seed}")
    parts = [("firmware", i) for i in range(8)] + [("config", i) for i in range(2)] + [("record", i) for i in range(2)]
    calm = rng.random() < 0.4
    starts = [0.0] if calm or rng.random() < 0.6 else sorted(rng.uniform(0, 4) for _ in range(rng.choice((1, 3, 3, 5))))
    return Story(
        seed=seed,
        before=rng.choice(tuple(PASTS)),
        damage=tuple(rng.sample(parts, rng.choice((0, 1, 1, 2, 3, 6, 12)))),
        flips=rng.choice((0, 0, 0, 1, 5)),
        button=rng.random() < 0.1,
        ring_frames=rng.choice((0, 0, 1, 2, 4, 8, 16, 64, 300)),
        max_message_bytes=rng.choice((MIN_MAX_MESSAGE_BYTES, 1400, ETHERNET_MESSAGE_BYTES)),
        loss=0.0 if calm else rng.choice((0.0, 0.01, 0.05, 0.2, 0.4)),
        mischief=0.0 if calm else rng.choice((0.0, 0.0, 0.03, 0.2)),
        server=tuple(starts),
        cuts=tuple((rng.randrange(80), rng.choice(list(Phase))) for _ in range(rng.choice((0, 0, 0, 1, 2)))),
    )


# What went before


def _two_generations() -> Household:
    home = backed_up(1)
    home.boot()
    home.set_config(image(50, 6000))
    home.upgrade(image(51, FIRMWARE_BYTES - 3000), "2.0")
    home.boot()
    home.back_up()
    home.router.switch_off()
    return home


def _second_not_backed_up() -> Household:
    home = backed_up(2)
    home.upgrade(image(52, FIRMWARE_BYTES), "2.0")
    return home


def _does_not_come_up() -> Household:
    """Generation 2 failed to boot as often as it may."""
    home = backed_up(3)
    home.boot()
    home.set_config(image(53, 6000))
    home.upgrade(image(54, FIRMWARE_BYTES), "2.0")
    home.router.hangs.add("2.0")
    home.switch_on()
    home.world.run_until(lambda: home.router.power is Power.BOOTLOADER)
    home.router.switch_off()
    return home


PASTS: dict[str, Callable[[], Household]] = {
    "one generation": lambda: backed_up(0),
    "two generations": _two_generations,
    "an upgrade that was not backed up": _second_not_backed_up,
    "an upgrade that does not come up": _does_not_come_up,
    "nothing backed up": lambda: Household(4),
}


@functools.cache
def past(name: str) -> Household:
    return PASTS[name]()


# Telling it


@dataclass(slots=True, kw_only=True)
class Told:
    """events: with nothing in them that depends on words; sent: all but BlockRequests; powers: how each ended."""

    events: list[events.Event]
    sent: list[bytes]
    flash: bytes
    operations: int
    power: list[Power]
    messages: int
    took_s: float


@contextmanager
def played_by(loader: Loader) -> Iterator[None]:
    kept = sim_device.__dict__["Bootloader"]
    setattr(sim_device, "Bootloader", loader)  # noqa: B010 - another class in its place
    try:
        yield
    finally:
        setattr(sim_device, "Bootloader", kept)  # noqa: B010


def _setting(story: Story) -> Household:
    home = past(story.before).copy(chip_seed=story.seed)
    home.router.ring_frames, home.router.max_message_bytes = story.ring_frames, story.max_message_bytes
    home.router._entropy = random.Random(f"entropy {story.seed}").randbytes
    for part, index in story.damage:
        home.router.damage(part, index)
    if story.flips:
        at = 2 * home.router.layout.erase_block_bytes
        home.router.chip.flip_bits(
            story.flips, offset_bytes=at, length_bytes=home.router.layout.geometry.total_bytes - at
        )
    network = FatefulNetwork(
        seed=story.seed,
        loss=story.loss,
        duplicate=story.loss / 3,
        reorder=story.loss / 2,
        corrupt=story.loss / 10,
        delay_s=0.002,
        jitter_s=0.001,
    )
    network.seed, network.times = story.seed, Counter()
    home.network = home.world.network = network
    if story.mischief:
        home.world.endpoints["pc"] = Mischief(home.pc, story.seed, story.mischief)
    return home


def _power_on(home: Household, story: Story, *, button: bool) -> None:
    """Until the system runs, hangs, loses power, or the limit."""
    router, start_s = home.router, home.now_s
    home.switch_on(button=button)
    ended = {Power.RUNNING, Power.HANGING, Power.OFF}
    home.pc.kill()
    for i, at_s in enumerate(story.server):
        home.world._run(lambda: router.power in ended, start_s + at_s)
        if router.power in ended:
            return
        home.world.now_s = max(home.now_s, start_s + at_s)
        if i % 2:
            home.pc.kill()
        else:
            home.pc.start()
    home.world._run(lambda: router.power in ended, start_s + LIMIT_S)


def tell(story: Story, loader: Loader) -> Told:
    home = _setting(story)
    router = home.router
    power: list[Power] = []
    with played_by(loader):
        for turn in range(MAX_POWER_ONS):
            router.chip.power_on()
            if turn < len(story.cuts):
                at, phase = story.cuts[turn]
                router.chip.cut_power(at=router.chip.operations + at, phase=phase)
            _power_on(home, story, button=story.button and turn == 0)
            power.append(router.power)
            if router.power is not Power.OFF:
                break
    router.switch_off()
    router.chip.power_on()
    sent = [octets for name, octets in home.world.sent if name == "router"]
    return Told(
        events=[_wordless(event) for _, event in router.log if isinstance(event, events.Event)],
        sent=[octets for octets in sent if octets[3] != BLOCK_REQUEST],
        flash=router.chip.read(0, router.layout.geometry.total_bytes),
        operations=router.chip.operations,
        power=power,
        messages=len(home.world.sent),
        took_s=home.now_s,
    )


def _wordless(event: events.Event) -> events.Event:
    match event:
        case events.Checked():
            return replace(event, findings=replace(event.findings, refused="x" if event.findings.refused else ""))
        case events.ServerGivenUp():
            return replace(event, why="")
        case events.Restored():
            return replace(event, bytes_received=0, bytes_sent=0)
    return event


def difference(story: Story, a: Told, b: Told) -> str:
    """Where the two first part; "" if they do not."""
    for i, (x, y) in enumerate(zip(a.events, b.events, strict=False)):
        if x != y:
            return f"event {i}: {x!s:.300}\\n   but: {y!s:.300}"
    if len(a.events) != len(b.events):
        longer = max(a.events, b.events, key=len)
        return f"{len(a.events)} events, but {len(b.events)}: {longer[min(len(a.events), len(b.events))]!s:.300}"
    for i, (p, q) in enumerate(zip(a.sent, b.sent, strict=False)):
        if p != q:
            return f"message {i}: {_shown(p)}\\n     but: {_shown(q)}"
    if len(a.sent) != len(b.sent):
        return f"{len(a.sent)} messages, but {len(b.sent)}"
    if a.flash != b.flash or a.operations != b.operations:
        return f"flash, after {a.operations} and {b.operations} operations"
    return "" if a.power == b.power else f"{a.power} but {b.power}"


def _shown(octets: bytes) -> str:
    try:
        return str(decode(octets))
    except RemoteProtocolError as error:
        return f"{error}: {octets.hex()}"


def outcome(told: Told) -> tuple[object, ...]:
    """What must be equal even where chance parted them: how it ended, and what flash is then."""
    booting = [e for e in told.events if isinstance(e, events.Booting)][-1:]
    return told.power[-1:], booting


if __name__ == "__main__":
    for number in map(int, sys.argv[1:]):
        told_story = make_story(number)
        print(told_story)
        twins = tell(told_story, Bootloader), tell(told_story, CBootloader)
        print(difference(told_story, *twins) or "the same", [t.took_s for t in twins], [t.messages for t in twins])
