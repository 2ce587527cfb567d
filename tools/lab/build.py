# SPDX-License-Identifier: Apache-2.0
"""What the gateway of the laboratory consists of: QEMU, a small kernel, and the sources of U-Boot (`recovery.py`)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.lab import debian
from tools.lab.errors import LabError
from tools.lab.steps import FILES, Words, kept, run

MIN_QEMU = (10, 0)
"""QEMU 7.2, Debian 12's own, loses buffered writes to the flash beyond the first 4 KiB of an erase block."""

_KERNEL_CONFIG = FILES / "kernel.config"
_UBOOT_PATCHES = (FILES / "uboot-virtio-net-kick.patch", FILES / "uboot-pl061-gpio.patch")
_UBOOT_VERSION = "2023.01"
_KERNEL_SOURCE = "linux-source-6.1"
_HOST_TOOLS = ("make", "gcc", "bison", "flex", "bc", "libssl-dev", "patch", "xz-utils", "libc6-dev")
_JOBS = f"-j{os.cpu_count() or 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """QEMU's `virt` with one kind of processor. name: U-Boot's; architecture: Linux's, and that of a FIT image."""

    name: str
    architecture: str
    debian: str
    compiler: str
    packages: tuple[str, ...]
    kernel: str
    qemu: str
    processor: str


ARM = Board(
    name="qemu_arm",
    architecture="arm",
    debian="armhf",
    compiler="arm-linux-gnueabihf-",
    packages=("gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross"),
    kernel="zImage",
    qemu="qemu-system-arm",
    processor="cortex-a15",
)
ARM64 = Board(
    name="qemu_arm64",
    architecture="arm64",
    debian="arm64",
    compiler="aarch64-linux-gnu-",
    packages=("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"),
    kernel="Image",
    qemu="qemu-system-aarch64",
    processor="cortex-a57",
)


def qemu(board: Board = ARM) -> Path:
    """The emulator, new enough that its flash keeps what is written; installed from backports if it is not."""
    name = board.qemu
    if _qemu_version(name) < MIN_QEMU:
        debian.need("qemu-system-arm", backports=True)
    if _qemu_version(name) < MIN_QEMU:
        wanted = ".".join(map(str, MIN_QEMU))
        raise LabError(
            f"{name} is older than {wanted}, and loses what is written to flash",
            hint=f"the package sources have none of {debian.RELEASE}-backports; install QEMU {wanted} or newer",
        )
    found = shutil.which(name)
    assert found is not None, "its version was just read"
    return Path(found)


def _qemu_version(name: str) -> tuple[int, ...]:
    """(0,) if there is none."""
    if shutil.which(name) is None:
        return (0,)
    said = re.search(r"version (\d+)\.(\d+)", run([name, "--version"], folder=Path("/")))
    return (int(said[1]), int(said[2])) if said else (0,)


def kernel(board: Board = ARM) -> Path:
    """Debian's Linux 6.1 with our configuration."""
    architecture = f"ARCH={board.architecture}"
    fragments = (FILES / f"kernel-{board.architecture}.config", _KERNEL_CONFIG)

    def make(folder: Path) -> None:
        debian.need(*_HOST_TOOLS, *board.packages)
        debian.unpack([_KERNEL_SOURCE], folder / "package")
        run(["tar", "-xf", folder / f"package/usr/src/{_KERNEL_SOURCE}.tar.xz"], folder=folder)
        tree = folder / _KERNEL_SOURCE
        make_: Words = ["make", architecture, f"CROSS_COMPILE={board.compiler}"]
        run([*make_, "tinyconfig"], folder=tree)
        run(["env", architecture, "scripts/kconfig/merge_config.sh", "-m", ".config", *fragments], folder=tree)
        run([*make_, "olddefconfig"], folder=tree)
        _check_merged(fragments, tree / ".config")
        run([*make_, _JOBS, board.kernel], folder=tree)
        (tree / "arch" / board.architecture / "boot" / board.kernel).rename(folder / board.kernel)
        (tree / ".config").rename(folder / "config")
        shutil.rmtree(tree)
        shutil.rmtree(folder / "package")

    made = kept(f"kernel-{board.architecture}", make, texts=[_KERNEL_SOURCE], files=fragments)
    return made / board.kernel


def uboot_source() -> Path:
    """Debian's U-Boot with our patches; not to be written to, build elsewhere with O=."""

    def make(folder: Path) -> None:
        debian.need("patch")
        tree = debian.source("u-boot", folder)
        if not tree.name.startswith(f"u-boot-{_UBOOT_VERSION}"):
            raise LabError(f"Debian's U-Boot is {tree.name}, not {_UBOOT_VERSION}")
        for patch in _UBOOT_PATCHES:
            run(["patch", "-p1"], folder=tree, stdin=patch.read_bytes())
        tree.rename(folder / "tree")
        for package in folder.glob("u-boot_*"):
            package.unlink()

    return kept("uboot-source", make, texts=[_UBOOT_VERSION], files=_UBOOT_PATCHES) / "tree"


def _check_merged(fragments: Iterable[Path], config: Path) -> None:
    """A line whose conditions do not hold is dropped without a word; here it is an error."""
    made = _options(config)
    lost = [name for path in fragments for name, value in _options(path).items() if made.get(name, "n") != value]
    if lost:
        raise LabError(f"{config}: not taken over: {', '.join(lost)}", hint="is something they depend on off?")


def _options(config: Path) -> dict[str, str]:
    """Name → value; "n" where the file says that it is not set."""
    found = re.findall(r"^(?:(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set)$", config.read_text(), re.MULTILINE)
    return {name or unset: value if name else "n" for name, value, unset in found}
