# SPDX-License-Identifier: Apache-2.0
"""Linux MTD character devices (/dev/mtd0 …) as flash, NOR only. Knows nothing of what they hold.

Spec: the kernel's include/uapi/mtd/mtd-abi.h and asm-generic/ioctl.h. The structures hold fixed-width fields only,
and have one layout on 32-bit and 64-bit kernels; the ioctl numbers differ by processor family, see `ioctl_number`.
`fcntl` is imported where it is called: this module loads on every system.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType

from unbrickd.errors import ConfigError, FlashError
from unbrickd.flash.bounds import check_range, erase_block_from
from unbrickd.model.geometry import EraseRun, Geometry

MTD_INFO = struct.Struct("=B3xIIIIIQ")
"""struct mtd_info_user: type, flags, size, erasesize, writesize, oobsize, padding: 32 bytes."""
ERASE_INFO = struct.Struct("=II")
"""struct erase_info_user: start, length: 8 bytes."""
REGION_INFO = struct.Struct("=IIII")
"""struct region_info_user: offset, erasesize, numblocks, regionindex: 16 bytes."""
_INT = struct.Struct("=i")

MTD_NORFLASH = 3
_TYPES = {0: "absent", 1: "RAM", 2: "ROM", 4: "NAND", 6: "DataFlash", 7: "a UBI volume", 8: "MLC NAND"}
_PROTECTED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

Ioctl = Callable[[int, int, bytearray], object]
"""fd, request, the structure, which the kernel may change: fcntl.ioctl with a mutable buffer."""


class Direction(IntEnum):
    """Which way the structure travels, seen from the program."""

    READ = 1
    WRITE = 2
    BOTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One of MTD's ioctls, all of type 'M'."""

    number: int
    direction: Direction
    size_bytes: int


MEMGETINFO = Request(number=1, direction=Direction.READ, size_bytes=MTD_INFO.size)
MEMERASE = Request(number=2, direction=Direction.WRITE, size_bytes=ERASE_INFO.size)
MEMLOCK = Request(number=5, direction=Direction.WRITE, size_bytes=ERASE_INFO.size)
MEMUNLOCK = Request(number=6, direction=Direction.WRITE, size_bytes=ERASE_INFO.size)
MEMGETREGIONCOUNT = Request(number=7, direction=Direction.READ, size_bytes=_INT.size)
MEMGETREGIONINFO = Request(number=8, direction=Direction.BOTH, size_bytes=REGION_INFO.size)


def ioctl_number(request: Request, machine: str) -> int:
    """_IOC(direction, 'M', number, size) as the kernel of that machine (`platform.machine()`) counts it.

    asm-generic/ioctl.h has 2 bits of direction (write 1, read 2) over 14 of size; mips, powerpc, sparc and alpha have
    3 bits (read 2, write 4) over 13.
    """
    reads, writes = bool(request.direction & Direction.READ), bool(request.direction & Direction.WRITE)
    if machine.startswith(("mips", "ppc", "powerpc", "sparc", "alpha")):
        direction = (reads * 2 | writes * 4) << 29
    else:
        direction = (writes * 1 | reads * 2) << 30
    return direction | request.size_bytes << 16 | ord("M") << 8 | request.number


class MtdFlash:
    """The MTD device at `path`; a context manager, or to be closed.

    writable: open for writing too, which the kernel refuses for a read-only partition. Raises FlashError (`io`,
    `protected`), ConfigError (`not-nor`) for anything but NOR flash. Power cuts: see `flash.interface`.
    """

    def __init__(
        self, path: Path, *, writable: bool = True, ioctl: Ioctl | None = None, machine: str | None = None
    ) -> None:
        self._path = path
        self._ioctl = _kernel_ioctl if ioctl is None else ioctl
        self._machine = platform.machine() if machine is None else machine
        flags = (os.O_RDWR | getattr(os, "O_SYNC", 0)) if writable else os.O_RDONLY
        with self._translated("open"):
            self._fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            self._geometry = self._read_geometry()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closing twice is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> MtdFlash:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        check_range(self._geometry, offset_bytes, length_bytes)
        octets = bytearray()
        with self._translated("read"):
            os.lseek(self._fd, offset_bytes, os.SEEK_SET)
            while len(octets) < length_bytes:
                piece = os.read(self._fd, length_bytes - len(octets))
                if not piece:
                    raise FlashError(f"{self._path} ends before its geometry does", code="io")
                octets += piece
        return bytes(octets)

    def program(self, offset_bytes: int, octets: bytes) -> None:
        check_range(self._geometry, offset_bytes, len(octets))
        left = memoryview(octets)
        with self._translated("program"):
            os.lseek(self._fd, offset_bytes, os.SEEK_SET)
            while left:
                written = os.write(self._fd, left)
                if not written:
                    raise FlashError(f"{self._path} takes no more bytes", code="io")
                left = left[written:]

    def erase(self, offset_bytes: int) -> None:
        block = erase_block_from(self._geometry, offset_bytes)
        self._request("erase", MEMERASE, ERASE_INFO.pack(block.offset_bytes, block.size_bytes))

    def lock(self, offset_bytes: int, length_bytes: int) -> None:
        """Set the chip's own write protection. Raises FlashError (`unsupported` where chip or driver has none)."""
        check_range(self._geometry, offset_bytes, length_bytes)
        self._request("lock", MEMLOCK, ERASE_INFO.pack(offset_bytes, length_bytes))

    def unlock(self, offset_bytes: int, length_bytes: int) -> None:
        """Lift it, where no pin forbids that. Raises FlashError as `lock`."""
        check_range(self._geometry, offset_bytes, length_bytes)
        self._request("unlock", MEMUNLOCK, ERASE_INFO.pack(offset_bytes, length_bytes))

    def _read_geometry(self) -> Geometry:
        kind, _, size, erase_size, *_ = MTD_INFO.unpack(
            self._request("query", MEMGETINFO, bytes(MTD_INFO.size)),
        )
        if kind != MTD_NORFLASH:
            raise ConfigError(
                f"{self._path} is {_TYPES.get(kind, f'of type {kind}')}, not NOR flash",
                code="not-nor",
                hint="unbrickd writes NOR flash only; NAND has bad blocks and needs UBI",
            )
        (regions,) = _INT.unpack(self._request("query", MEMGETREGIONCOUNT, bytes(_INT.size)))
        if regions <= 0:
            if not erase_size or size % erase_size:
                raise ConfigError(f"{self._path}: {size} bytes in erase blocks of {erase_size}", code="geometry")
            return Geometry.uniform(total_bytes=size, erase_block_bytes=erase_size)
        infos = [
            REGION_INFO.unpack(self._request("query", MEMGETREGIONINFO, REGION_INFO.pack(0, 0, 0, index)))
            for index in range(regions)
        ]
        geometry = Geometry(tuple(EraseRun(count=count, size_bytes=each) for _, each, count, _ in sorted(infos)))
        if geometry.total_bytes != size:
            raise ConfigError(f"{self._path}: erase regions of {geometry.total_bytes} of {size} bytes", code="geometry")
        return geometry

    def _request(self, what: str, request: Request, structure: bytes) -> bytes:
        buffer = bytearray(structure)
        with self._translated(what):
            self._ioctl(self._fd, ioctl_number(request, self._machine), buffer)
        return bytes(buffer)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            code = "io"
            if error.errno in _PROTECTED:
                code = "protected"
            elif error.errno == errno.EBADMSG:
                code = "uncorrectable"
            elif error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
                code = "unsupported"
            raise FlashError(f"{self._path}: {what}: {error.strerror or error}", code=code) from error


def _kernel_ioctl(fd: int, request: int, structure: bytearray) -> object:
    try:
        import fcntl
    except ImportError as error:
        raise FlashError("MTD devices exist on Linux only", code="unsupported") from error
    return fcntl.ioctl(fd, request, structure, True)
