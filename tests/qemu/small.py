# SPDX-License-Identifier: Apache-2.0
"""A small gateway, for what U-Boot does before a system runs: its firmware is a few instructions and random bytes.

It is backed up by the agent on the host, over files with what lies in its flash, so that nothing boots for it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.qemu.bench import BOOT_PATIENCE_S, MODEL, SETTINGS, VARIABLES, Laboratory
from tools.lab.console import Console
from tools.lab.environment import encode_environment
from tools.lab.fit import firmware
from tools.lab.gateway import (
    CONFIG,
    ENVIRONMENT,
    ERASE_BLOCK_BYTES,
    FIRMWARE,
    IDENTITY,
    RECORD,
    FlashFile,
    Region,
    power_on,
)
from tools.lab.lan import Lan
from tools.lab.tiny import tiny_kernel

from unbrickd.cli.demo_process import ServerProcess, run_command
from unbrickd.seal.identity import FirmwarePolicy, Identity, encode_identity
from unbrickd.seal.keys import DeviceKeys

SEED = 20100520
ERASE_BLOCKS = 12
"""Of the firmware."""
BACKED_UP = (IDENTITY, RECORD, FIRMWARE, CONFIG)
RESTORED = (IDENTITY, FIRMWARE, CONFIG)
"""What is byte for byte as it was after a restore; the boot record has a journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """One that was backed up; `flash` as it was then. Tests take copies of flash and store."""

    flash: FlashFile
    store: Path
    keys: DeviceKeys

    def store_copy(self, folder: Path) -> Path:
        shutil.copytree(self.store, folder / "store")
        return folder / "store"

    def flash_copy(self, folder: Path, **variables: str) -> FlashFile:
        """With these variables of U-Boot's environment besides the factory's."""
        flash = self.flash.copy(folder / "flash.bin")
        recovery = {"bootcmd": "unbrickd boot", "bootdelay": "0"}
        flash.write(ENVIRONMENT, encode_environment(VARIABLES | recovery | variables, ENVIRONMENT.size_bytes))
        return flash

    def differs(self, flash: FlashFile, regions: Sequence[Region] = RESTORED) -> list[str]:
        """The names of the regions that are not what they were."""
        return [region.name for region in regions if flash.read(region) != self.flash.read(region)]


class Maker:
    """Makes it and its generations, one after the other; `folder` is the agent's device."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._flash = FlashFile.create(folder / "flash.bin")
        identity = Identity.generate(
            model=MODEL,
            policy=FirmwarePolicy.OWNER,
            maker_key_der=b"",
            rollback_floor=0,
            entropy=random.Random(SEED).randbytes,
        )
        self._keys = DeviceKeys.of(identity)
        self._flash.write(IDENTITY, encode_identity(identity))
        self._flash.write(CONFIG, SETTINGS)

    def back_up(self, version: str, *, comes_up: bool) -> Small:
        """Install that firmware and back it up, as good if it comes up. What flash and store hold from then on."""
        image = small_firmware(self._folder, version, comes_up=comes_up)
        self._flash.write(FIRMWARE, image.ljust(FIRMWARE.size_bytes, b"\xff"))
        for region in BACKED_UP:
            (self._folder / f"{region.name}.bin").write_bytes(self._flash.read(region))
        (self._folder / "version").write_text(version + "\n")
        place = ("--layout", str(self._folder / "layout.toml"), "--state", str(self._folder / "state"))
        with ServerProcess(self._folder / "store", "udp") as server:
            text = _layout(self._folder, server.address, good_after_s=0 if comes_up else 3600)
            (self._folder / "layout.toml").write_text(text)
            run_command("agent", "notify", "upgraded", *place)
            run_command("agent", "--once", *place)
        self._flash.write(RECORD, (self._folder / "record.bin").read_bytes())
        kept = Path(self._folder / f"backed-up-{version}")
        kept.mkdir()
        shutil.copytree(self._folder / "store", kept / "store")
        return Small(flash=self._flash.copy(kept / "flash.bin"), store=kept / "store", keys=self._keys)


def small_firmware(folder: Path, version: str, *, comes_up: bool) -> bytes:
    """A FIT image of ERASE_BLOCKS, every erase block of which differs with the version."""
    rest = folder / "rest"
    rest.write_bytes(random.Random(f"{SEED} {version}").randbytes(ERASE_BLOCKS * ERASE_BLOCK_BYTES - (16 << 10)))
    return firmware(tiny_kernel(comes_up=comes_up), rest)


def _layout(folder: Path, server: str, *, good_after_s: float) -> str:
    """The layout file of a device whose flash is files of the host."""

    def place(region: Region) -> str:
        return f'"{folder}/{region.name}.bin"\nsize = {region.size_bytes}\nerase_block = {ERASE_BLOCK_BYTES}'

    def inline(region: Region) -> str:
        return "{ file = " + place(region).replace("\n", ", ") + " }"

    return f"""\
model = "{MODEL}"
good_after_s = {good_after_s}
identity = {inline(IDENTITY)}
record = {inline(RECORD)}

[[component]]
name = "firmware"
file = {place(FIRMWARE)}
version_file = "{folder}/version"

[[component]]
name = "config"
file = {place(CONFIG)}

[link]
servers = ["{server}"]
"""


@contextmanager
def bootloader(
    laboratory: Laboratory, flash: FlashFile, *, lan: Lan | None = None, options: Sequence[str | Path] = ()
) -> Iterator[Console]:
    """U-Boot at its banner; its log lies beside the flash."""
    number = len([*flash.path.parent.glob("console-*.log")]) + 1
    log = flash.path.with_name(f"console-{number}.log")
    with power_on(laboratory.qemu, laboratory.bootloader, flash, log=log, lan=lan, options=options) as console:
        console.expect(r"U-Boot 20\d\d\.\d\d", timeout_s=BOOT_PATIENCE_S)
        yield console


@contextmanager
def serving_in(lan: Lan, store: Path) -> Iterator[None]:
    """`unbrickd serve` on the PC of that LAN, with nothing said of addresses."""
    words = (sys.executable, "-m", "unbrickd", "serve", "--store", store, "--log-level", "error")
    nobodys = {**os.environ, "UNBRICKD_CONFIG": os.devnull, "HOME": str(store.parent)}
    with subprocess.Popen(lan.command(*words), stdout=subprocess.PIPE, text=True, env=nobodys) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().startswith("ready udp")
            yield
        finally:
            process.terminate()
