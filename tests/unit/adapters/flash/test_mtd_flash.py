# SPDX-License-Identifier: Apache-2.0
"""Linux MTD: structures and ioctl numbers against the kernel's header, and the device against a fake kernel."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from unbrickd.adapters.flash import mtd
from unbrickd.adapters.flash.mtd import MtdFlash, Request, ioctl_number
from unbrickd.errors import ConfigError, FlashError
from unbrickd.flash.write import write_erase_block
from unbrickd.model.geometry import EraseRun, Geometry

MTD_HEADER = Path("/usr/include/mtd/mtd-user.h")

NUMBERS = [
    ("MEMGETINFO", mtd.MEMGETINFO, 0x80204D01, 0x40204D01),
    ("MEMERASE", mtd.MEMERASE, 0x40084D02, 0x80084D02),
    ("MEMLOCK", mtd.MEMLOCK, 0x40084D05, 0x80084D05),
    ("MEMUNLOCK", mtd.MEMUNLOCK, 0x40084D06, 0x80084D06),
    ("MEMGETREGIONCOUNT", mtd.MEMGETREGIONCOUNT, 0x80044D07, 0x40044D07),
    ("MEMGETREGIONINFO", mtd.MEMGETREGIONINFO, 0xC0104D08, 0xC0104D08),
]
"""name, request, the number on x86, arm and riscv, the number on mips and powerpc."""


@pytest.mark.parametrize(("name", "request_", "generic", "mips"), NUMBERS, ids=[n[0] for n in NUMBERS])
def test_ioctl_number_is_the_kernels_on_every_family(name: str, request_: Request, generic: int, mips: int) -> None:
    for machine in ("x86_64", "i686", "aarch64", "armv7l", "riscv64"):
        assert ioctl_number(request_, machine) == generic, (name, machine)
    for machine in ("mips", "mips64", "ppc", "ppc64le"):
        assert ioctl_number(request_, machine) == mips, (name, machine)


def test_structures_are_packed_as_mtd_abi_h_lays_them_out() -> None:
    info = mtd.MTD_INFO.pack(3, 0x400, 0x1000000, 0x10000, 1, 0, 0)
    little = "03000000 00040000 00000001 00000100 01000000 00000000 0000000000000000"
    assert mtd.MTD_INFO.size == 32
    assert struct.unpack("=BxxxIIIIIQ", info) == (3, 0x400, 0x1000000, 0x10000, 1, 0, 0)
    assert struct.Struct(mtd.MTD_INFO.format.replace("=", "<")).pack(3, 0x400, 0x1000000, 0x10000, 1, 0, 0) == (
        bytes.fromhex(little)
    )
    assert struct.Struct(mtd.ERASE_INFO.format.replace("=", "<")).pack(0x20000, 0x10000).hex() == "0000020000000100"
    region = struct.Struct(mtd.REGION_INFO.format.replace("=", ">")).pack(0x20000, 0x10000, 7, 1)
    assert region.hex() == "00020000000100000000000700000001"


C_PROGRAM = r"""
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <mtd/mtd-user.h>
static void show(const char *name, const void *at, size_t size) {
    printf("%s ", name);
    for (size_t i = 0; i < size; i++) printf("%02x", ((const unsigned char *)at)[i]);
    printf("\n");
}
int main(void) {
    struct mtd_info_user info;
    struct erase_info_user erase = {0x20000, 0x10000};
    struct region_info_user region = {0x20000, 0x10000, 7, 1};
    memset(&info, 0, sizeof info);
    info.type = MTD_NORFLASH; info.flags = 0x400; info.size = 0x1000000; info.erasesize = 0x10000;
    info.writesize = 1; info.oobsize = 2;
    show("info", &info, sizeof info);
    show("erase", &erase, sizeof erase);
    show("region", &region, sizeof region);
    printf("MEMGETINFO %08lx\n", (unsigned long)MEMGETINFO);
    printf("MEMERASE %08lx\n", (unsigned long)MEMERASE);
    printf("MEMLOCK %08lx\n", (unsigned long)MEMLOCK);
    printf("MEMUNLOCK %08lx\n", (unsigned long)MEMUNLOCK);
    printf("MEMGETREGIONCOUNT %08lx\n", (unsigned long)MEMGETREGIONCOUNT);
    printf("MEMGETREGIONINFO %08lx\n", (unsigned long)MEMGETREGIONINFO);
    return 0;
}
"""


@pytest.mark.skipif(
    not MTD_HEADER.exists() or shutil.which("gcc") is None,
    reason="no gcc or no <mtd/mtd-user.h>: compared with constants only, in the tests above",
)
def test_structures_and_numbers_are_those_of_this_systems_header(tmp_path: Path) -> None:
    (tmp_path / "mtd.c").write_text(C_PROGRAM, encoding="utf-8")
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", tmp_path / "mtd", tmp_path / "mtd.c"], check=True)
    printed = subprocess.run([tmp_path / "mtd"], check=True, capture_output=True, text=True).stdout
    ours = {
        "info": mtd.MTD_INFO.pack(3, 0x400, 0x1000000, 0x10000, 1, 2, 0).hex(),
        "erase": mtd.ERASE_INFO.pack(0x20000, 0x10000).hex(),
        "region": mtd.REGION_INFO.pack(0x20000, 0x10000, 7, 1).hex(),
    }
    ours |= {name: f"{ioctl_number(request, platform.machine()):08x}" for name, request, *_ in NUMBERS}
    assert dict(line.split() for line in printed.splitlines()) == ours


@dataclass
class FakeKernel:
    """The ioctls of one MTD device whose bytes are a plain file; regions: (offset, erase size, count)."""

    path: Path
    size: int
    erase_size: int = 4096
    kind: int = 3
    regions: list[tuple[int, int, int]] = field(default_factory=list)
    fail: int = 0
    locked: list[tuple[str, int, int]] = field(default_factory=list)

    def __call__(self, fd: int, request: int, structure: bytearray) -> object:
        if self.fail:
            raise OSError(self.fail, os.strerror(self.fail))
        match request:
            case 0x80204D01:
                structure[:] = struct.pack("=BxxxIIIIIQ", self.kind, 0x400, self.size, self.erase_size, 1, 0, 0)
            case 0x80044D07:
                structure[:] = struct.pack("=i", len(self.regions))
            case 0xC0104D08:
                (index,) = struct.unpack_from("=I", structure, 12)
                structure[:12] = struct.pack("=III", *self.regions[index])
            case 0x40084D02:
                start, length = struct.unpack("=II", structure)
                os.lseek(fd, start, os.SEEK_SET)
                os.write(fd, b"\xff" * length)
            case 0x40084D05 | 0x40084D06:
                self.locked.append(("lock" if request == 0x40084D05 else "unlock", *struct.unpack("=II", structure)))
            case _:
                raise OSError(errno.ENOTTY, "unknown request")
        return 0

    def open(self, *, writable: bool = True) -> MtdFlash:
        return MtdFlash(self.path, writable=writable, ioctl=self, machine="x86_64")


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    path = tmp_path / "mtd0"
    path.write_bytes(b"\xff" * 32768)
    return FakeKernel(path=path, size=32768)


def test_mtd_flash_uniform_has_the_kernels_geometry(kernel: FakeKernel) -> None:
    with kernel.open() as flash:
        assert flash.geometry == Geometry.uniform(total_bytes=32768, erase_block_bytes=4096)


def test_mtd_flash_of_regions_has_mixed_geometry_in_order_of_offset(kernel: FakeKernel) -> None:
    kernel.regions = [(16384, 8192, 2), (0, 2048, 8)]
    with kernel.open() as flash:
        assert flash.geometry == Geometry((EraseRun(count=8, size_bytes=2048), EraseRun(count=2, size_bytes=8192)))


def test_mtd_flash_regions_that_do_not_add_up_raise(kernel: FakeKernel) -> None:
    kernel.regions = [(0, 2048, 8)]
    with pytest.raises(ConfigError) as caught:
        kernel.open()
    assert caught.value.code == "geometry"


@pytest.mark.parametrize(("kind", "name"), [(4, "NAND"), (8, "MLC NAND"), (6, "DataFlash"), (1, "RAM"), (99, "99")])
def test_mtd_flash_other_than_nor_is_refused_by_name(kernel: FakeKernel, kind: int, name: str) -> None:
    kernel.kind = kind
    with pytest.raises(ConfigError, match=name) as caught:
        kernel.open()
    assert caught.value.code == "not-nor"


def test_mtd_flash_writes_erases_and_reads_the_device(kernel: FakeKernel) -> None:
    with kernel.open() as flash:
        block = flash.geometry.erase_block(2)
        write_erase_block(flash, block, b"old" * 1000)
        write_erase_block(flash, block, b"new" * 500)
    assert kernel.path.read_bytes() == (b"\xff" * 8192 + b"new" * 500).ljust(32768, b"\xff")


def test_mtd_flash_lock_and_unlock_name_the_range(kernel: FakeKernel) -> None:
    with kernel.open() as flash:
        flash.lock(4096, 8192)
        flash.unlock(4096, 4096)
        with pytest.raises(FlashError):
            flash.lock(32768, 1)
    assert kernel.locked == [("lock", 4096, 8192), ("unlock", 4096, 4096)]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EROFS, "protected"),
        (errno.EACCES, "protected"),
        (errno.EIO, "io"),
        (errno.EBADMSG, "uncorrectable"),
        (errno.EOPNOTSUPP, "unsupported"),
    ],
)
def test_mtd_flash_operating_system_errors_are_translated(kernel: FakeKernel, number: int, code: str) -> None:
    with kernel.open() as flash:
        kernel.fail = number
        with pytest.raises(FlashError, match="erase") as caught:
            flash.erase(0)
    assert caught.value.code == code
    assert isinstance(caught.value.__cause__, OSError)


def test_mtd_flash_not_writable_reads_but_does_not_program(kernel: FakeKernel) -> None:
    with kernel.open(writable=False) as flash:
        assert flash.read(0, 4) == b"\xff" * 4
        with pytest.raises(FlashError):
            flash.program(0, b"\x00")
    assert kernel.path.read_bytes() == b"\xff" * 32768


def test_mtd_flash_that_ends_early_raises(kernel: FakeKernel) -> None:
    with kernel.open() as flash:
        os.truncate(kernel.path, 100)
        with pytest.raises(FlashError) as caught:
            flash.read(0, 4096)
    assert caught.value.code == "io"


def test_mtd_flash_missing_device_raises(tmp_path: Path) -> None:
    with pytest.raises(FlashError) as caught:
        MtdFlash(tmp_path / "mtd9")
    assert caught.value.code == "io"


@pytest.mark.skipif(platform.system() != "Linux", reason="the kernel's own answer, on Linux")
def test_mtd_flash_on_a_plain_file_is_refused_by_the_real_kernel(kernel: FakeKernel) -> None:
    with pytest.raises(FlashError) as caught:
        MtdFlash(kernel.path)
    assert caught.value.code == "unsupported"
