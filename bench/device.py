# SPDX-License-Identifier: Apache-2.0
"""The device of the benchmark as a process of its own: one backup, or one restore, measured from inside.

Prints one `Sample` as JSON. The flash is the simulated chip without the delays of a real one; what the simulation
itself costs is measured apart (`flash_s`). With --plain it is a copy of the chip in memory, which costs next to
nothing, and the clock runs from the first message sent to the end of the exchange: network and protocol alone.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.memory_flash import MemoryFlash
from bench.sample import Sample, print_sample
from unbrickd.adapters.net.device import DeviceLink, open_link
from unbrickd.agent.agent import Agent, AgentOptions, BackupEnded, Memory
from unbrickd.agent.session import Ending, Outcome
from unbrickd.agent.software import DeviceSoftware
from unbrickd.cli.drive import run_agent, run_bootloader
from unbrickd.flash.device import ComponentSlot, DeviceFlash
from unbrickd.flash.interface import Flash
from unbrickd.flash.partition import Partition
from unbrickd.flash.record import RecordStore
from unbrickd.model.geometry import Geometry
from unbrickd.model.peer import Datagram, Peer
from unbrickd.recovery.bootloader import Bootloader
from unbrickd.recovery.events import Event, Restored
from unbrickd.recovery.fetch import AMPLE_AHEAD_BYTES
from unbrickd.seal.keys import DeviceKeys
from unbrickd.sim.gateway import VirtualGateway
from unbrickd.wire import messages as m
from unbrickd.wire.framing import TYPE_AT, Octets
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES, decode

PATIENCE_S = 300.0


class PlainFlash(MemoryFlash):
    """What a chip holds, in plain memory; its time is not worth a stopwatch."""

    seconds = cpu_s = 0.0

    def __init__(self, chip: Flash) -> None:
        super().__init__(chip.geometry, chip.read(0, chip.geometry.total_bytes))


class WatchedLink:
    """A link, when its first message was sent, and what the blocks on it came to."""

    def __init__(self, link: DeviceLink) -> None:
        self._link = link
        self.targets, self.max_message_bytes = link.targets, link.max_message_bytes
        self.sent_bytes = self.received_bytes = 0
        self.started_s: float | None = None
        self._blocks_up_bytes = self._blocks_down_bytes = self._blocks_down = 0
        self._server_sent: dict[int, int] = {}
        """By transfer: blocks (spec/protocol.md §4.12)."""

    def send(self, messages: Sequence[Datagram]) -> None:
        if self.started_s is None and messages:
            self.started_s = time.perf_counter()
        for _, octets in messages:
            if octets[TYPE_AT] == m.Type.DATA_BLOCK:
                self._blocks_up_bytes += len(octets) - BLOCK_OVERHEAD_BYTES
        self._link.send(messages)
        self.sent_bytes = self._link.sent_bytes

    def receive(self, timeout_s: float) -> list[tuple[Peer, Octets]]:
        received = self._link.receive(timeout_s)
        self.received_bytes = self._link.received_bytes
        for _, octets in received:
            if octets[TYPE_AT] == m.Type.DATA_BLOCK:
                self._blocks_down += 1
                self._blocks_down_bytes += len(octets) - BLOCK_OVERHEAD_BYTES
            elif octets[TYPE_AT] == m.Type.DATA_END:
                packet = decode(octets)
                if isinstance(packet.message, m.DataEnd):
                    self._server_sent[packet.transfer] = packet.message.blocks_sent
        return received

    @property
    def block_bytes_sent(self) -> float:
        """Payload of all blocks: those the device sent, or those the server says it sent, each of the mean length."""
        if self._blocks_up_bytes:
            return self._blocks_up_bytes
        return sum(self._server_sent.values()) * self._blocks_down_bytes / max(1, self._blocks_down)

    def close(self) -> None:
        self._link.close()


class TimedFlash:
    """A flash, and the time that is spent in it, by the clock and by the processor."""

    def __init__(self, chip: Flash) -> None:
        self._chip = chip
        self.seconds = self.cpu_s = 0.0

    @property
    def geometry(self) -> Geometry:
        return self._chip.geometry

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        octets = self._chip.read(offset_bytes, length_bytes)
        self._add(started_s, started_cpu_s)
        return octets

    def program(self, offset_bytes: int, octets: bytes) -> None:
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        self._chip.program(offset_bytes, octets)
        self._add(started_s, started_cpu_s)

    def erase(self, offset_bytes: int) -> None:
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        self._chip.erase(offset_bytes)
        self._add(started_s, started_cpu_s)

    def _add(self, started_s: float, started_cpu_s: float) -> None:
        self.seconds += time.perf_counter() - started_s
        self.cpu_s += time.process_time() - started_cpu_s


@dataclass(slots=True)
class Bench:
    """A gateway's flash behind a stopwatch, and its link."""

    gateway: VirtualGateway
    link: WatchedLink
    ring_frames: int = 0
    plain: bool = False
    flash: TimedFlash | PlainFlash = field(init=False)

    def __post_init__(self) -> None:
        self.flash = PlainFlash(self.gateway.chip) if self.plain else TimedFlash(self.gateway.chip)

    def firmware(self) -> Partition:
        return self._partition("firmware")

    def damage(self, erase_blocks: list[int]) -> None:
        """Without a trace in the chip's files if the flash is plain."""
        if not self.plain:
            self.gateway.damage("firmware", erase_blocks, rng=random.Random("damage"))  # not the firmware's own seed
            return
        flash = self.firmware()
        for index in erase_blocks:
            flash.erase(flash.geometry.erase_block(index).offset_bytes)

    def device(self) -> DeviceFlash:
        layout, keys = self.gateway.layout, DeviceKeys.of(self.gateway.identity)
        return DeviceFlash(
            keys=keys,
            record=RecordStore(self._partition(layout.record.target), keys),
            slots=tuple(
                ComponentSlot(
                    component_id=c.component_id,
                    name=c.name,
                    kind=c.kind,
                    sealed=c.sealed,
                    flash=self._partition(c.place.target),
                )
                for c in layout.components
            ),
        )

    def back_up(self) -> Sample:
        outcomes: list[Outcome] = []
        watch = Stopwatch()
        agent = Agent(
            DeviceSoftware(self.device()),
            AgentOptions(policy=self.gateway.layout.backup, good_after_s=PATIENCE_S),
            memory=Memory(),
            targets=self.link.targets,
            entropy=random.randbytes,
            max_message_bytes=self.link.max_message_bytes,
            now_s=time.monotonic(),
            wall_s=time.time(),
        )
        agent.back_up_now(time.monotonic())
        run_agent(
            agent,
            self.link,
            on_event=lambda event: outcomes.append(event.outcome) if isinstance(event, BackupEnded) else None,
            stop=lambda: bool(outcomes),
        )
        if outcomes[0].ending is not Ending.COMMITTED:
            sys.exit(f"the backup failed: {outcomes[0].why or outcomes[0].ending.value}")
        return watch.sample(self, payload_bytes=outcomes[0].payload_bytes, ended_s=time.perf_counter())

    def restore(self) -> Sample:
        """From power-on to the boot: check, fetch, program, read back, check again."""
        ends: list[Restored] = []
        ended_s = 0.0

        def note(event: Event) -> None:
            nonlocal ended_s
            if isinstance(event, Restored):
                ends.append(event)
                ended_s = time.perf_counter()

        watch = Stopwatch()
        deadline_s = time.monotonic() + PATIENCE_S
        bootloader = Bootloader(
            self.device(),
            button=False,
            policy=self.gateway.layout.boot,
            targets=self.link.targets,
            entropy=random.randbytes,
            now_s=time.monotonic(),
            max_message_bytes=self.link.max_message_bytes,
            ring_frames=self.ring_frames,
            polled=False,
            ahead_bytes=AMPLE_AHEAD_BYTES,
        )
        booting = run_bootloader(bootloader, self.link, on_event=note, stop=lambda: time.monotonic() > deadline_s)
        if booting is None or not ends:
            sys.exit("the restore failed")
        return watch.sample(self, payload_bytes=ends[0].payload_bytes, ended_s=ended_s)

    def _partition(self, name: str) -> Partition:
        found = self.gateway.layout.partition(name)
        assert found is not None, "the layout has been parsed"
        return Partition(self.flash, offset_bytes=found.offset_bytes, length_bytes=found.size_bytes)


class Stopwatch:
    """Started when it is made; a plain flash's device, when it sends the first message."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._cpu_s = time.process_time()

    def sample(self, bench: Bench, *, payload_bytes: int, ended_s: float) -> Sample:
        """ended_s: when the exchange ended, by time.perf_counter()."""
        started_s = bench.link.started_s or 0.0
        return Sample(
            seconds=ended_s - started_s if bench.plain else time.perf_counter() - self._started_s,
            started_s=started_s,
            block_bytes_sent=bench.link.block_bytes_sent,
            cpu_s=time.process_time() - self._cpu_s,
            flash_s=bench.flash.seconds,
            flash_cpu_s=bench.flash.cpu_s,
            sent_bytes=bench.link.sent_bytes,
            received_bytes=bench.link.received_bytes,
            payload_bytes=payload_bytes,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.device", description=__doc__)
    parser.add_argument("what", choices=("backup", "restore"))
    parser.add_argument("directory", type=Path, help="of a virtual gateway")
    parser.add_argument("--damage", type=int, default=0, metavar="N", help="first, damage so many erase blocks")
    parser.add_argument(
        "--plain", action="store_true", help="a flash of plain memory; the chip's files stay as they are"
    )
    parser.add_argument("--server", metavar="HOST:PORT", help="instead of the layout's")
    parser.add_argument(
        "--ring-frames", type=int, default=0, metavar="N", help="what the device says of its network card"
    )
    parser.add_argument("--expect", type=Path, metavar="FILE", help="fail unless the firmware is this after a restore")
    args = parser.parse_args()
    with VirtualGateway(args.directory) as gateway:
        layout = gateway.layout.link
        if args.server:
            layout = replace(layout, servers=(args.server,))
        with closing(WatchedLink(open_link(layout))) as link:
            bench = Bench(gateway, link, ring_frames=args.ring_frames, plain=args.plain)
            if args.damage:
                image = gateway.software.loaded().record.sealed.generation.components[0]
                held = range(image.geometry.count)  # the partition may have more, which no restore fetches
                bench.damage(sorted(random.Random(20100520).sample(held, args.damage)))
            sample = bench.back_up() if args.what == "backup" else bench.restore()
            if args.expect:
                expected = args.expect.read_bytes()
                if bench.firmware().read(0, len(expected)) != expected:
                    sys.exit("the restore is wrong")
            print_sample(sample)


if __name__ == "__main__":
    main()
