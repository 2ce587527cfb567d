# SPDX-License-Identifier: Apache-2.0
"""A plain file as flash, for recovery and agent on files. Knows nothing of what it holds; see `flash.interface`.

Not strict: it programs over what is not erased, for which `sim.nor` is. The file is opened anew by each call, so that
there is nothing to close and nothing to leak.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unbrickd.errors import ConfigError, FlashError
from unbrickd.flash.bounds import check_range, erase_block_from
from unbrickd.flash.interface import ERASED
from unbrickd.model.geometry import Geometry


class ImageFlash:
    """The file at `path`, which must be as long as the geometry. Raises ConfigError otherwise, FlashError.

    A program or an erase is on disk (fsync) when it returns; a power cut within leaves its range undefined.
    """

    def __init__(self, path: Path, geometry: Geometry) -> None:
        self._path = path
        self._geometry = geometry
        with _translated(path):
            size = path.stat().st_size
        if size != geometry.total_bytes:
            raise ConfigError(
                f"{path} has {size} bytes, its geometry {geometry.total_bytes}",
                code="geometry",
                hint="give the geometry of the flash that this file is an image of",
            )

    @classmethod
    def create(cls, path: Path, geometry: Geometry) -> ImageFlash:
        """A new, erased flash. Raises FlashError (`io`) if there is a file already or none can be made."""
        with _translated(path), path.open("xb") as file:
            for block in geometry:
                file.write(bytes([ERASED]) * block.size_bytes)
            file.flush()
            os.fsync(file.fileno())
        return cls(path, geometry)

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        check_range(self._geometry, offset_bytes, length_bytes)
        with _translated(self._path), self._path.open("rb") as file:
            file.seek(offset_bytes)
            octets = file.read(length_bytes)
        if len(octets) != length_bytes:
            raise FlashError(f"{self._path} has become shorter than its flash", code="io")
        return octets

    def program(self, offset_bytes: int, octets: bytes) -> None:
        check_range(self._geometry, offset_bytes, len(octets))
        self._write(offset_bytes, octets)

    def erase(self, offset_bytes: int) -> None:
        block = erase_block_from(self._geometry, offset_bytes)
        self._write(offset_bytes, bytes([ERASED]) * block.size_bytes)

    def _write(self, offset_bytes: int, octets: bytes) -> None:
        with _translated(self._path), self._path.open("r+b") as file:
            file.seek(offset_bytes)
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise FlashError(f"{path} may not be written or read: {error.strerror}", code="protected") from error
    except OSError as error:
        raise FlashError(f"{path}: {error.strerror or error}", code="io") from error
