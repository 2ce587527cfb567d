# SPDX-License-Identifier: Apache-2.0
"""A folder as a compressed initramfs: cpio in "newc" form (the kernel's initramfs-buffer-format.rst).

The kernel unpacks several of them, one behind the other, as one: what changes lies on what does not.
"""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_LEVEL = 6


def initramfs(folder: Path) -> bytes:
    """All of the folder, owned by root, with times of zero: the same files give the same bytes."""
    archive = bytearray()
    for number, (name, path) in enumerate(_sorted(folder), start=1):
        archive += _entry(name, path, number)
    archive += _header("TRAILER!!!", mode=0, number=0, size_bytes=0)
    return gzip.compress(bytes(archive), _LEVEL, mtime=0)


def _sorted(folder: Path) -> Iterator[tuple[str, Path]]:
    """Folders before what is in them."""
    for path in sorted(folder.rglob("*")):
        yield path.relative_to(folder).as_posix(), path


def _entry(name: str, path: Path, number: int) -> bytes:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        octets = os.readlink(path).encode()  # noqa: PTH115 -- Path.readlink would make "./x" into "x"
    elif stat.S_ISREG(mode):
        octets = path.read_bytes()
    else:
        octets = b""
    return _header(name, mode=mode, number=number, size_bytes=len(octets)) + _padded(octets)


def _header(name: str, *, mode: int, number: int, size_bytes: int) -> bytes:
    octets = name.encode() + b"\0"
    #        inode mode uid gid links mtime size device(2) its device(2) length of the name, checksum
    fields = (number, mode, 0, 0, 1, 0, size_bytes, 0, 0, 0, 0, len(octets), 0)
    return _padded(b"070701" + b"".join(b"%08x" % field for field in fields) + octets)


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)
