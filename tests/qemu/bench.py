# SPDX-License-Identifier: Apache-2.0
"""The bench of the tests in QEMU: our program in the laboratory's gateway, a real server beside it, and what is seen.

Imported by `python -m pytest` from the root of the repository, as `make e2e` does it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.lab import build, gateway
from tools.lab.build import ARM, Board
from tools.lab.console import Console, Shell
from tools.lab.cpio import initramfs
from tools.lab.fit import boot_command
from tools.lab.gateway import (
    CHIP_BYTES,
    CONFIG,
    ERASE_BLOCK_BYTES,
    FIRMWARE,
    IDENTITY,
    RECORD,
    Bootloader,
    Direct,
    FlashFile,
    Region,
    power_on,
)
from tools.lab.recovery import recovery_sources, uboot_by_guide
from tools.lab.root import DEVICE_PACKAGES, compile_python, root, small_root
from tools.lab.steps import FILES

from unbrickd.adapters.flash.image import ImageFlash
from unbrickd.agent.software import DeviceSoftware
from unbrickd.cli.demo_process import ServerProcess
from unbrickd.cli.text import JsonValue
from unbrickd.flash.device import ComponentSlot, DeviceFlash
from unbrickd.flash.partition import Partition
from unbrickd.flash.record import LoadedRecord, RecordStore
from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import ComponentKind
from unbrickd.seal.keys import DeviceKeys

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs/integrate-u-boot.md"
MODEL = "virt-1"
BOOT_LIMIT = 3
"""UNBRICKD_BOOT_LIMIT of U-Boot's configuration."""
SETTINGS = b"hostname=router7\nsecret=correct-horse\n"
VARIABLES = {
    "bootargs": gateway.kernel_arguments(),
    "bootcmd": boot_command(FIRMWARE.address),
    "bootdelay": "1",
    "fdt_addr": "0x40000000",
    # The device tree away from where the kernel unpacks itself to; the root file system where the image says.
    "fdt_high": "0x4f000000",
    "initrd_high": "0xffffffff",
}
"""U-Boot's environment, as the factory writes it."""
PROMPT = "=> "
BOOT_PATIENCE_S = 120.0
COMMAND_PATIENCE_S = 300.0

LAYOUT = f"""\
model = "{MODEL}"
good_after_s = 0.5
identity = {{ mtd = "{gateway.mtd(IDENTITY)}" }}
record = {{ mtd = "{gateway.mtd(RECORD)}" }}

[[component]]
name = "firmware"
mtd = "{gateway.mtd(FIRMWARE)}"
version_file = "/etc/version"

[[component]]
name = "config"
mtd = "{gateway.mtd(CONFIG)}"

[link]
servers = ["{gateway.HOST}:%s"]

[recovery]
boot_limit = 20
"""

HOST_LAYOUT = """\
model = "{model}"

[identity]
{identity}

[record]
{record}

[[component]]
name = "firmware"
{firmware}
version_file = "version"
signature_file = "{signature}"

[[component]]
name = "config"
{config}

[link]
servers = ["{server}"]
"""

Events = list[dict[str, JsonValue]]


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Keeps how long steps took for the summary."""

    times: list[tuple[str, float]]

    def note(self, step: str, took_s: float) -> None:
        self.times.append((step, took_s))

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started_s = time.monotonic()
        yield
        self.note(step, time.monotonic() - started_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Laboratory:
    """What was built; `rescue` starts the kernel past the flash, `bootloader` is U-Boot with the recovery."""

    board: Board
    qemu: Path
    rescue: Direct
    bootloader: Bootloader


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """The gateway after its first backup. Tests take copies."""

    laboratory: Laboratory
    flash: FlashFile
    store: Path
    keys: DeviceKeys
    image: bytes
    """The firmware, without the erased flash behind it."""


def build_laboratory(folder: Path, server_address: str, uboot_tree: Path | None, *, board: Board = ARM) -> Laboratory:
    """Everything built, or taken from the cache; tools/lab/recovery.py on uboot_tree.

    Our program is in the system of ARM alone. On the other board busybox is all, which is enough to see that it is up.
    """
    if board is ARM:
        base = root(REPOSITORY / "requirements" / "dev.txt", DEVICE_PACKAGES)
        top = _program(folder / "top", server_address)
    else:
        base, top = small_root(board.debian), folder / "top"
        top.mkdir()
    shutil.copy(FILES / "init", top / "init")
    whole = folder / "root.cpio.gz"
    whole.write_bytes(base.read_bytes() + initramfs(top))
    uboot = uboot_by_guide(GUIDE, REPOSITORY, recovery_sources(REPOSITORY), tree=uboot_tree, board=board)
    return Laboratory(
        board=board,
        qemu=build.qemu(board),
        rescue=Direct(kernel=build.kernel(board), initramfs=whole),
        bootloader=Bootloader.create(folder / "bootloader.bin", uboot),
    )


def _program(folder: Path, server_address: str) -> Path:
    """What lies on top of the root file system: unbrickd and its layout."""
    for name in ("bin", "etc/unbrickd", "opt"):
        (folder / name).mkdir(parents=True)
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "src" / "unbrickd", folder / "opt/unbrickd", ignore=no_caches)
    for ours in Path(__file__).parent.glob("guest_*.py"):
        shutil.copy(ours, folder / "opt")
    compile_python(folder / "opt")
    (folder / "etc/version").write_text("1.0\n")
    (folder / "etc/unbrickd/layout.toml").write_text(LAYOUT % server_address.rpartition(":")[2])
    command = folder / "bin/unbrickd"
    command.write_text('#!/bin/sh\nexec python3.11 -m unbrickd "$@"\n')
    command.chmod(0o755)
    return folder


@contextmanager
def on_the_host(flash: FlashFile, folder: Path, server: str, *, signature: str = "") -> Iterator[Path]:
    """The layout file of the same device with files of the host for its regions, in `folder`; firmware is version 1.0.

    In the end the boot record that was written there is put into the flash.
    """
    regions = (IDENTITY, RECORD, FIRMWARE, CONFIG)
    for region in regions:
        (folder / f"{region.name}.bin").write_bytes(flash.read(region))
    places = {
        region.name: f'file = "{region.name}.bin"\nsize = {region.size_bytes}\nerase_block = {ERASE_BLOCK_BYTES}'
        for region in regions
    }
    (folder / "version").write_text("1.0\n")
    layout = folder / "layout.toml"
    layout.write_text(HOST_LAYOUT.format(model=MODEL, server=server, signature=signature, **places))
    yield layout
    flash.write(RECORD, (folder / "record.bin").read_bytes())


@contextmanager
def serving(store: Path, address: str) -> Iterator[ServerProcess]:
    """`unbrickd serve` on that store and address."""
    server = ServerProcess(store, "udp")
    server.address = address
    with server:
        yield server


class Bench:
    """One gateway, its flash and its consoles; `folder` takes their logs."""

    def __init__(self, laboratory: Laboratory, flash: FlashFile, stopwatch: Stopwatch, folder: Path) -> None:
        self.flash = flash
        self.stopwatch = stopwatch
        self._laboratory = laboratory
        self._folder = folder
        self._power_ons = 0

    @property
    def bootloader_chip(self) -> Path:
        return self._laboratory.bootloader.chip

    @contextmanager
    def rescue_system(self) -> Iterator[Shell]:
        """Linux and our program, started past the flash; its power is cut in the end."""
        with self._power_on(self._laboratory.rescue) as console:
            self.stopwatch.note("boot of the rescue system", until_up(console))
            yield Shell(console)

    @contextmanager
    def bootloader(self) -> Iterator[Console]:
        """U-Boot from its own chip, at its banner."""
        with self._power_on(self._laboratory.bootloader) as console:
            console.expect(r"U-Boot 20\d\d\.\d\d", timeout_s=BOOT_PATIENCE_S)
            yield console

    @contextmanager
    def bootloader_prompt(self) -> Iterator[Shell]:
        """U-Boot's command line, before it starts anything."""
        with self.bootloader() as console:
            console.expect("Hit any key", timeout_s=BOOT_PATIENCE_S)
            console.type(" ")
            console.expect(PROMPT, timeout_s=BOOT_PATIENCE_S)
            yield Shell(console)

    def unbrickd(self, shell: Shell, words: str, *, code: int = 0) -> Events:
        """Run our program in the guest and return its events."""
        ran = shell.run(f"unbrickd {words}", timeout_s=COMMAND_PATIENCE_S)
        assert ran.code == code, f"unbrickd {words} ended with {ran.code}:\n{ran.output}"
        self.stopwatch.note(f"unbrickd {words}", ran.took_s)
        return [json.loads(line) for line in ran.output.splitlines() if line.startswith("{")]

    def _power_on(self, start: Direct | Bootloader) -> Console:
        self._power_ons += 1
        log = self._folder / f"console-{self._power_ons}.log"
        return power_on(self._laboratory.qemu, start, self.flash, log=log, board=self._laboratory.board)


def until_up(console: Console) -> float:
    """Wait until the gateway's system is up; how long ago its power came on, in seconds."""
    console.expect(r"gateway \S* is up", timeout_s=BOOT_PATIENCE_S)
    return console.up_s


def software_of(flash: FlashFile, keys: DeviceKeys) -> DeviceSoftware:
    """What the gateway runs, as its agent sees it, read and recorded by the host."""
    chip = ImageFlash(flash.path, Geometry.uniform(total_bytes=CHIP_BYTES, erase_block_bytes=ERASE_BLOCK_BYTES))

    def place(region: Region) -> Partition:
        return Partition(chip, offset_bytes=region.offset_bytes, length_bytes=region.size_bytes)

    def slot(component_id: int, region: Region, kind: ComponentKind) -> ComponentSlot:
        sealed = kind is ComponentKind.CONFIG
        return ComponentSlot(component_id=component_id, name=region.name, kind=kind, sealed=sealed, flash=place(region))

    slots = slot(1, FIRMWARE, ComponentKind.FIRMWARE), slot(2, CONFIG, ComponentKind.CONFIG)
    return DeviceSoftware(DeviceFlash(keys=keys, record=RecordStore(place(RECORD), keys), slots=slots))


def record_of(flash: FlashFile, keys: DeviceKeys) -> LoadedRecord | None:
    """What the boot record says, read by the host."""
    return software_of(flash, keys).device.record.load()


def named(events: Events, name: str) -> Events:
    return [event for event in events if event["event"] == name]
