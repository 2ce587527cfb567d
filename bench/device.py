# SPDX-License-Identifier: Apache-2.0
"""The device of the benchmark as a process of its own: one backup, or one restore, measured from inside.

Run by `bench.__main__`; prints one `Sample` as JSON. The flash is the simulated chip without the delays of a real one;
what the simulation itself costs is measured apart (`flash_s`).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from bench.sample import Sample, print_sample
from unbrickd.adapters.net.device import DeviceLink, open_link
from unbrickd.agent.agent import Agent, AgentOptions, BackupEnded, Memory
from unbrickd.agent.session import Ending, Outcome
from unbrickd.agent.software import DeviceSoftware
from unbrickd.cli.drive import run_agent, run_bootloader
from unbrickd.flash.device import ComponentSlot, DeviceFlash
from unbrickd.flash.partition import Partition
from unbrickd.flash.record import RecordStore
from unbrickd.model.geometry import Geometry
from unbrickd.recovery.bootloader import Bootloader
from unbrickd.recovery.events import Event, Restored
from unbrickd.seal.keys import DeviceKeys
from unbrickd.sim.gateway import VirtualGateway
from unbrickd.sim.nor import NorChip

PATIENCE_S = 300.0


class TimedFlash:
    """The chip, and the time that is spent in it, by the clock and by the processor."""

    def __init__(self, chip: NorChip) -> None:
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
    link: DeviceLink
    flash: TimedFlash = field(init=False)

    def __post_init__(self) -> None:
        self.flash = TimedFlash(self.gateway.chip)

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
        return watch.sample(self, payload_bytes=outcomes[0].payload_bytes)

    def restore(self) -> Sample:
        """From power-on to the boot: check, fetch, program, read back, check again."""
        ends: list[Restored] = []

        def note(event: Event) -> None:
            if isinstance(event, Restored):
                ends.append(event)

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
        )
        booting = run_bootloader(bootloader, self.link, on_event=note, stop=lambda: time.monotonic() > deadline_s)
        if booting is None or not ends:
            sys.exit("the restore failed")
        return watch.sample(self, payload_bytes=ends[0].payload_bytes)

    def _partition(self, name: str) -> Partition:
        found = self.gateway.layout.partition(name)
        assert found is not None, "the layout has been parsed"
        return Partition(self.flash, offset_bytes=found.offset_bytes, length_bytes=found.size_bytes)


class Stopwatch:
    """Started when it is made."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._cpu_s = time.process_time()

    def sample(self, bench: Bench, *, payload_bytes: int) -> Sample:
        return Sample(
            seconds=time.perf_counter() - self._started_s,
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
    args = parser.parse_args()
    with VirtualGateway(args.directory) as gateway, closing(open_link(gateway.layout.link)) as link:
        bench = Bench(gateway, link)
        if args.damage:
            rng = random.Random(20100520)
            firmware = gateway.software.loaded().record.sealed.generation.components[0]
            blocks = sorted(rng.sample(range(firmware.geometry.count), args.damage))
            gateway.damage("firmware", blocks, rng=rng)
        print_sample(bench.back_up() if args.what == "backup" else bench.restore())


if __name__ == "__main__":
    main()
