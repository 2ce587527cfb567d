# SPDX-License-Identifier: Apache-2.0
"""The server's process is killed (SIGKILL) again and again while real devices back up to it and restore from it.

Households live side by side, each with a real `unbrickd serve`, its store, and a device over real sockets. At chosen
points of backup and restore the server is killed, and started again a moment later as an owner would. The device must
finish alone; what was acknowledged must still be there, byte for byte, and nothing that is half.

Where the points lie is random but for the seed, which is printed; how the machine's scheduler hits them is not ours.
Replay: UNBRICKD_KILL_SEED=<seed> python -m pytest -s tests/e2e/test_server_killed.py
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from unbrickd.adapters.net.device import DeviceLink, open_link
from unbrickd.adapters.store.open import open_vault
from unbrickd.adapters.store.sqlite import FILE_NAME
from unbrickd.agent.agent import Agent, AgentOptions, BackupEnded, BackupStarted, Event, Memory
from unbrickd.agent.session import Ending
from unbrickd.cli.demo_process import ServerProcess
from unbrickd.cli.drive import run_agent, run_bootloader
from unbrickd.model.peer import Datagram, Peer
from unbrickd.recovery.bootloader import Bootloader
from unbrickd.seal.identity import FirmwarePolicy
from unbrickd.sim.default_layout import default_layout
from unbrickd.sim.gateway import NewFirmware, VirtualGateway, create, new_identity
from unbrickd.store.verification import HARMLESS
from unbrickd.wire.framing import Octets

ERASE_BLOCK_BYTES = 16 << 10
FLASH_BYTES = 2 << 20
FIRMWARE_BYTES = 1 << 20
GOOD_AFTER_S = 0.3
LONGEST_OUTAGE_S = 1.5
"""The owner starts the server again within this time, so at times the device meets nobody."""
POLL_S = 0.001
PATIENCE_S = 60.0
"""For one backup or restore with all its kills: a device that hangs fails the test."""
MESSAGES = {"udp": FIRMWARE_BYTES // 1400, "tcp": FIRMWARE_BYTES // (16 << 10)}
"""About how many messages a transfer of the firmware takes."""

Due = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """When to kill. `arm` is called when the server has come up, and returns what says that the moment has come."""

    name: str
    arm: Callable[[Household], Due]


def after_messages(count: int) -> Point:
    def arm(home: Household) -> Due:
        before = home.link.messages
        return lambda: home.link.messages >= before + count

    return Point(name="messages", arm=arm)


def after_seconds(seconds: float) -> Point:
    def arm(home: Household) -> Due:
        at_s = time.monotonic() + seconds
        return lambda: time.monotonic() >= at_s

    return Point(name="time", arm=arm)


def when_appears(name: str, pattern: str) -> Point:
    """When there is a file in the store that was not there before."""

    def arm(home: Household) -> Due:
        before = set(home.store.glob(pattern))
        return lambda: any(path not in before for path in home.store.glob(pattern))

    return Point(name=name, arm=arm)


def when_upload_has(part: float) -> Point:
    def arm(home: Household) -> Due:
        return lambda: any(size(path) > part * FIRMWARE_BYTES for path in home.store.glob("uploads/*.part"))

    return Point(name="part is written", arm=arm)


def when_catalogue_has_it() -> Point:
    """When the catalogue changes after the generation's document is there."""

    def arm(home: Household) -> Due:
        before = set(home.store.glob("generations/*/*.gen"))
        first: list[int] = []

        def due() -> bool:
            if not first and set(home.store.glob("generations/*/*.gen")) == before:
                return False
            first.append(changed_ns(home.store / FILE_NAME))
            return first[-1] != first[0]

        return due

    return Point(name="catalogue changes", arm=arm)


ON_DISK = (
    when_appears("upload appears", "uploads/*.part"),
    when_appears("image is renamed", "images/*/*.img"),
    when_appears("document is half written", "generations/*/*.tmp"),
    when_appears("document is renamed", "generations/*/*.gen"),
    when_appears("good seal is renamed", "generations/*/*.good"),
    when_appears("catalogue commits", FILE_NAME + "-journal"),
    when_catalogue_has_it(),
    when_upload_has(0.4),
    when_upload_has(0.99),
)


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns


class FatalLink:
    """The device's link, which also looks after the server: dead when a point is reached, alive again after a while."""

    def __init__(self, link: DeviceLink, home: Household) -> None:
        self._link = link
        self._home = home
        self.targets = link.targets
        self.max_message_bytes = link.max_message_bytes
        self.sent_bytes = self.received_bytes = self.messages = 0

    def send(self, messages: Sequence[Datagram]) -> None:
        for message in messages:
            self.messages += 1
            self._link.send([message])
            self._home.look()

    def receive(self, timeout_s: float) -> list[tuple[Peer, Octets]]:
        until_s = time.monotonic() + timeout_s
        while True:
            received = self._link.receive(min(POLL_S, max(0.0, until_s - time.monotonic())))
            self.messages += len(received)
            self._home.look()
            if received or time.monotonic() >= until_s:
                return received

    def close(self) -> None:
        self._link.close()


class Household:
    """One server, one store, one device, and what the device was promised."""

    link: FatalLink

    def __init__(self, folder: Path, transport: str, seed: str) -> None:
        self.rng = random.Random(seed)
        self.store = folder / "store"
        self.kills: Counter[str] = Counter()
        self._transport = transport
        self._folder = folder / "gateway"
        self._acknowledged: dict[int, bytes] = {}
        self._acknowledged_good: set[int] = set()
        self._firmware: dict[int, bytes] = {}
        self._points: list[Point] = []
        self._due: Due | None = None
        self._start_at_s: float | None = None
        self._server = ServerProcess(self.store, transport)

    def live(self, plan: list[list[Point]]) -> Counter[str]:
        """A life with kills at the points of the plan: two backups, a restore. Returns what was done when killed."""
        first = self.rng.randbytes(FIRMWARE_BYTES)
        second = self.rng.randbytes(FIRMWARE_BYTES // 2) + first[FIRMWARE_BYTES // 2 :]
        with self._server:
            self._make_gateway(first)
            with VirtualGateway(self._folder) as gateway, closing(open_link(gateway.layout.link)) as link:
                self.link = FatalLink(link, self)
                self._firmware[1] = first
                self._with_kills(plan[0], lambda: self._back_up(gateway))
                gateway.upgrade(NewFirmware(octets=second, version="2"))
                self._firmware[2] = second
                self._with_kills(plan[1], lambda: self._back_up(gateway))
                self._damage(gateway)
                self._with_kills(plan[2], lambda: self._restore(gateway))
                assert gateway.component_bytes("firmware") == second
                assert gateway.component_bytes("config") == SETTINGS
        assert set(self._acknowledged) == self._acknowledged_good == {1, 2}
        return self.kills

    def _make_gateway(self, firmware: bytes) -> None:
        layout = default_layout(
            model="killed-1",
            size_bytes=FLASH_BYTES,
            erase_block_bytes=ERASE_BLOCK_BYTES,
            servers=(self._server.address,),
            transport=self._transport,
            config_bytes=ERASE_BLOCK_BYTES,
        )
        create(
            self._folder,
            layout,
            identity=new_identity("killed-1", FirmwarePolicy.OWNER),
            firmware=NewFirmware(octets=firmware, version="1"),
            config=SETTINGS,
        )

    # The device

    def _back_up(self, gateway: VirtualGateway) -> None:
        """The system is up until it has proved good and the server has acknowledged that, too."""
        agent = Agent(
            gateway.software,
            AgentOptions(policy=gateway.layout.backup, good_after_s=GOOD_AFTER_S),
            memory=Memory(pending=True),
            targets=self.link.targets,
            entropy=self.rng.randbytes,
            max_message_bytes=self.link.max_message_bytes,
            now_s=time.monotonic(),
            wall_s=time.time(),
        )
        agent.back_up_now(time.monotonic())
        number = gateway.software.loaded().record.sealed.generation.number
        said_good = False

        def note(event: Event) -> None:
            nonlocal said_good
            if isinstance(event, BackupStarted):
                said_good = gateway.software.loaded().is_good
            if isinstance(event, BackupEnded):
                assert event.outcome.ending is Ending.COMMITTED, event.outcome
                self._acknowledged[number] = gateway.software.loaded().record.sealed.digest
                if said_good:
                    self._acknowledged_good.add(number)

        stop = self._patience(lambda: number in self._acknowledged_good)
        run_agent(agent, self.link, on_event=note, stop=stop)

    def _damage(self, gateway: VirtualGateway) -> None:
        gateway.damage("firmware", list(range(FIRMWARE_BYTES // ERASE_BLOCK_BYTES)), rng=self.rng)
        gateway.damage("config", [0], rng=self.rng)

    def _restore(self, gateway: VirtualGateway) -> None:
        bootloader = Bootloader(
            gateway.device,
            button=False,
            policy=gateway.layout.boot,
            targets=self.link.targets,
            entropy=self.rng.randbytes,
            now_s=time.monotonic(),
            max_message_bytes=self.link.max_message_bytes,
        )
        booting = run_bootloader(bootloader, self.link, on_event=lambda _: None, stop=self._patience(lambda: False))
        assert booting is not None and booting.generation == 2 and not booting.config_default

    @staticmethod
    def _patience(done: Due) -> Due:
        deadline_s = time.monotonic() + PATIENCE_S

        def stop() -> bool:
            assert time.monotonic() < deadline_s, "the device does not finish"
            return done()

        return stop

    # The killing

    def _with_kills(self, points: list[Point], life: Callable[[], None]) -> None:
        """A point that is not reached, because the device was faster, becomes a kill right after the end."""
        self._points = list(points)
        self._arm()
        life()
        if self._start_at_s is None and self._due is not None:
            self._kill("it was done")
        if self._start_at_s is not None:
            self._points = []
            self._start()

    def _arm(self) -> None:
        self._due = self._points[0].arm(self) if self._points else None

    def look(self) -> None:
        """Is it time? Called whenever the device has sent or received, and while it waits."""
        if self._start_at_s is not None:
            if time.monotonic() >= self._start_at_s:
                self._start()
        elif self._due is not None and self._due():
            self._kill(self._points.pop(0).name)

    def _kill(self, when: str) -> None:
        process = self._server.process
        assert process is not None and process.poll() is None, "the server died by itself"
        process.kill()
        process.communicate()
        self.kills[when] += 1
        self._start_at_s = time.monotonic() + self.rng.uniform(0, LONGEST_OUTAGE_S)
        self._check_store()

    def _start(self) -> None:
        self._server.start()
        self._start_at_s = None
        self._check_store()
        self._arm()

    def _check_store(self) -> None:
        """All that shows is whole, and all that was acknowledged shows."""
        if not (self.store / FILE_NAME).exists():
            assert not self._acknowledged
            return
        with open_vault(self.store, exclusive=False) as vault:
            shown = {row.key.number: row for row in vault.generations()}
            assert [f for f in vault.verify() if f.kind not in HARMLESS] == []
            for number, row in shown.items():
                assert not row.damaged
                stored = vault.find(row.key.device_id, number, row.key.digest)
                assert stored is not None
                firmware = next(c for c in stored.generation.components if c.name == "firmware")
                with vault.open_image(firmware) as image:
                    assert image.read(0, image.length_bytes) == self._firmware[number]
            for number, digest in self._acknowledged.items():
                assert shown[number].key.digest == digest
            assert all(shown[number].good for number in self._acknowledged_good)


SETTINGS = b"option hostname 'home'\n" * 200


def plan(rng: random.Random, transport: str, on_disk: Iterator[Point]) -> list[list[Point]]:
    """Two kills in each backup, one of them when the disk is in a certain state; three in the restore."""
    messages = MESSAGES[transport]
    backups = [[next(on_disk), after_messages(rng.randrange(1, messages // 2))] for _ in range(2)]
    rng.shuffle(backups[0])
    restore = [
        after_messages(rng.randrange(1, messages // 2)),
        after_seconds(rng.uniform(0, 0.3)),
        after_messages(rng.randrange(1, messages // 4)),
    ]
    rng.shuffle(restore)
    return [*backups, restore]


def cycle_on_disk() -> Iterator[Point]:
    while True:
        yield from ON_DISK


@pytest.mark.slow
def test_server_killed_at_many_points_loses_no_acknowledged_backup(tmp_path: Path) -> None:
    seed = int(os.environ.get("UNBRICKD_KILL_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"\nreplay: UNBRICKD_KILL_SEED={seed} python -m pytest -s {Path(__file__).name}")
    rng = random.Random(seed)
    on_disk = cycle_on_disk()
    transports = ["udp"] * 8 + ["tcp"] * 3
    plans = [plan(rng, transport, on_disk) for transport in transports]
    homes = [Household(tmp_path / f"home-{i}", transport, f"{seed}:{i}") for i, transport in enumerate(transports)]
    with ThreadPoolExecutor(max_workers=len(homes)) as street:
        lives = [street.submit(home.live, its) for home, its in zip(homes, plans, strict=True)]
        kills = [life.result() for life in lives]
    by_transport = {
        transport: sum((k for k, t in zip(kills, transports, strict=True) if t == transport), Counter())
        for transport in ("udp", "tcp")
    }
    for transport, counter in by_transport.items():
        print(f"{transport}: killed {counter.total()} times: {dict(counter)}")
    assert by_transport["udp"].total() >= 40
    assert by_transport["tcp"].total() >= 10
