# SPDX-License-Identifier: Apache-2.0
"""The laboratory's gateway: QEMU's `virt` board with two NOR chips, one for the bootloader and one for all the rest.

The bootloader's chip is write-protected by a pin (`readonly`), as R25 asks. The other one is a file that tests read
and damage, byte by byte. Network: QEMU's own (slirp), which needs no rights; the host is HOST as seen from inside. Or
a TAP in a namespace (`lan.py`), where the network is as hostile as a test wants it.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.lab.build import ARM, Board
from tools.lab.console import Console
from tools.lab.lan import TAP, Lan
from tools.lab.pins import device_tree
from tools.lab.steps import Words

ERASE_BLOCK_BYTES = 256 << 10
"""Of two 16-bit chips side by side, 128 KiB each. U-Boot counts the halves and must be given whole ones."""
CHIP_BYTES = 64 << 20
"""Each of the two; QEMU takes no other size. U-Boot sees the first half, where all regions lie."""
CHIP_ADDRESS = 0x0400_0000
"""Where the second chip begins in the memory map of `virt`, and in the kernel's MTD device of both."""
MEMORY_MIB = 256
HOST = "10.0.2.2"
_MTD_ID = "0.flash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A partition of the second chip. Offset in bytes from its start."""

    name: str
    offset_bytes: int
    size_bytes: int
    read_only: bool = False

    @property
    def erase_blocks(self) -> int:
        return self.size_bytes // ERASE_BLOCK_BYTES

    @property
    def address(self) -> int:
        """In the memory of the board."""
        return CHIP_ADDRESS + self.offset_bytes


ENVIRONMENT = Region(name="environment", offset_bytes=0, size_bytes=1 * ERASE_BLOCK_BYTES)
IDENTITY = Region(name="identity", offset_bytes=1 * ERASE_BLOCK_BYTES, size_bytes=ERASE_BLOCK_BYTES, read_only=True)
RECORD = Region(name="record", offset_bytes=2 * ERASE_BLOCK_BYTES, size_bytes=2 * ERASE_BLOCK_BYTES)
CONFIG = Region(name="config", offset_bytes=4 * ERASE_BLOCK_BYTES, size_bytes=4 * ERASE_BLOCK_BYTES)
FIRMWARE = Region(name="firmware", offset_bytes=8 * ERASE_BLOCK_BYTES, size_bytes=96 * ERASE_BLOCK_BYTES)
SPARE = Region(name="spare", offset_bytes=104 * ERASE_BLOCK_BYTES, size_bytes=4 * ERASE_BLOCK_BYTES)
REGIONS = (ENVIRONMENT, IDENTITY, RECORD, CONFIG, FIRMWARE, SPARE)


def kernel_arguments() -> str:
    """The console, and how the two chips are divided: partition 0 is the bootloader's chip, then come REGIONS."""
    parts = [f"{CHIP_BYTES:#x}(bootloader)ro"]
    parts += [f"{region.size_bytes:#x}({region.name}){'ro' if region.read_only else ''}" for region in REGIONS]
    return f"console=ttyAMA0 loglevel=4 mtdparts={_MTD_ID}:{','.join(parts)}"


def mtd(region: Region) -> str:
    """The device of a region in the guest."""
    return f"/dev/mtd{REGIONS.index(region) + 1}"


class FlashFile:
    """The second chip, as the host sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> FlashFile:
        """A new, erased chip."""
        path.write_bytes(b"\xff" * CHIP_BYTES)
        return cls(path)

    def copy(self, path: Path) -> FlashFile:
        shutil.copyfile(self.path, path)
        return FlashFile(path)

    def read(self, region: Region) -> bytes:
        with self.path.open("rb") as file:
            file.seek(region.offset_bytes)
            return file.read(region.size_bytes)

    def write(self, region: Region, octets: bytes, *, at_bytes: int = 0) -> None:
        assert at_bytes + len(octets) <= region.size_bytes, f"{region.name} is too small"
        with self.path.open("r+b") as file:
            file.seek(region.offset_bytes + at_bytes)
            file.write(octets)

    def damage(self, region: Region, indexes: Sequence[int], rng: random.Random) -> None:
        """Fill erase blocks of a region with random bytes."""
        for index in indexes:
            self.write(region, rng.randbytes(ERASE_BLOCK_BYTES), at_bytes=index * ERASE_BLOCK_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """Start a kernel from files of the host, past the flash: a rescue system."""

    kernel: Path
    initramfs: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootloader:
    """Start the bootloader: an image of the first chip."""

    chip: Path

    @classmethod
    def create(cls, chip: Path, program: Path) -> Bootloader:
        chip.write_bytes(program.read_bytes().ljust(CHIP_BYTES, b"\xff"))
        return cls(chip=chip)


def power_on(
    qemu: Path,
    start: Direct | Bootloader,
    flash: FlashFile,
    *,
    log: Path,
    board: Board = ARM,
    lan: Lan | None = None,
    options: Sequence[str | Path] = (),
) -> Console:
    """The gateway's serial console. It ends when the guest switches off, restarts, or the `with` is left.

    lan: what its network card is in; else QEMU's own network. options: more of QEMU's.
    """
    # With ACPI, the 64-bit board has no PL061 for light and button.
    machine: Words = [qemu, "-machine", "virt,acpi=off", "-cpu", board.processor, "-m", str(MEMORY_MIB)]
    network = "user,id=lan" if lan is None else f"tap,id=lan,ifname={TAP},script=no,downscript=no"
    words: list[str | Path] = [
        *(lan.command() if lan is not None else ()),
        *machine,
        *("-nodefaults", "-display", "none"),
        *("-monitor", "none", "-serial", "stdio", "-no-reboot"),
        *("-drive", f"if=pflash,unit=1,id=flash,format=raw,file={flash.path}"),
        *("-netdev", network, "-device", "virtio-net-device,netdev=lan"),
        *options,
    ]
    match start:
        case Direct(kernel=kernel, initramfs=initramfs):
            words += ["-kernel", kernel, "-initrd", initramfs, "-append", kernel_arguments()]
        case Bootloader(chip=chip):
            words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={chip}", "-dtb", device_tree(machine)]
    return Console(words, log=log)
