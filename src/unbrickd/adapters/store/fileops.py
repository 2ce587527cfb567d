# SPDX-License-Identifier: Apache-2.0
"""The operations by which the file back-end changes a disk, one method each, and the errors of the disk translated.

Everything that changes goes through here, so that a test can stop, tear or refuse any single operation, and so that a
store can be opened for reading only. Knows nothing of images and generations.
"""

from __future__ import annotations

import errno
import os
import sys
from io import FileIO
from pathlib import Path
from types import TracebackType

from unbrickd.errors import StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


def disk_full(what: str) -> StorageError:
    return StorageError(
        f"the disk is full: {what}",
        code="disk-full",
        retry=True,
        hint="free some space on the disk of the store, or move the store to a larger one; what is stored is safe",
    )


class translated:  # noqa: N801, as contextlib.suppress
    """Turn an OSError into the StorageError that says what to do. what: "cannot write the image …"."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise _translation(self._what, error) from error


def _translation(what: str, error: OSError) -> StorageError:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return disk_full(what)
    if error.errno in _REFUSED:
        return StorageError(
            f"the store is not writable: {what}: {reason}",
            code="not-writable",
            hint="choose a store directory that this user may write to",
        )
    return StorageError(f"{what}: {reason}", code="io", retry=True, hint="check the disk of the store")


class FileOps:
    """The disk itself. All methods raise OSError."""

    def make_folder(self, folder: Path) -> None:
        """Make the folder and its parents; readable by this user only."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def open(self, path: Path, *, truncate: bool) -> FileIO:
        """For reading and writing; made if it is not there."""
        if truncate:
            return FileIO(path, "w+")
        try:
            return FileIO(path, "r+")
        except FileNotFoundError:
            return FileIO(path, "x+")

    def write(self, file: FileIO, offset_bytes: int, octets: bytes) -> None:
        file.seek(offset_bytes)
        rest = memoryview(octets)
        while rest:
            rest = rest[file.write(rest) or 0 :]

    def begin_write_back(self, file: FileIO, offset_bytes: int, length_bytes: int) -> None:
        """Have what was written there go to the medium from now on, where the platform can; fsync then waits for less.

        Nothing is durable by it. Linux begins to write what is dirty of what it is told to forget (mm/fadvise.c).
        """
        if sys.platform == "linux":
            os.posix_fadvise(file.fileno(), offset_bytes, length_bytes, os.POSIX_FADV_DONTNEED)

    def fsync(self, file: FileIO) -> None:
        """To the medium, not only to the drive's cache (macOS: fcntl(2), F_FULLFSYNC)."""
        if sys.platform == "darwin":
            import fcntl

            try:
                fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
            except OSError:  # a file system that knows only fsync
                os.fsync(file.fileno())
        else:
            os.fsync(file.fileno())

    def fsync_folder(self, folder: Path) -> None:
        """Make names in the folder durable; Windows has no such call, and NTFS logs them in order."""
        if os.name == "nt":
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """None there is no error."""
        path.unlink(missing_ok=True)


class ReadOnlyOps(FileOps):
    """Refuses every change with StorageError "read-only"."""

    def _refuse(self) -> StorageError:
        return StorageError(
            "the store is open for reading only", code="read-only", hint="stop the server that uses the store first"
        )

    def make_folder(self, folder: Path) -> None:
        raise self._refuse()

    def open(self, path: Path, *, truncate: bool) -> FileIO:
        raise self._refuse()

    def replace(self, source: Path, target: Path) -> None:
        raise self._refuse()

    def unlink(self, path: Path) -> None:
        raise self._refuse()


def write_whole(ops: FileOps, path: Path, octets: bytes) -> None:
    """Write a small file, whole or not at all: temporary, fsync, rename, fsync of the folder. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    with ops.open(temporary, truncate=True) as file:
        ops.write(file, 0, octets)
        ops.fsync(file)  # before the rename, or a power cut could leave the name without the bytes
    ops.replace(temporary, path)
    ops.fsync_folder(path.parent)


def read_at(file: FileIO, offset_bytes: int, length_bytes: int) -> bytes:
    """So many bytes from there on; fewer only where the file ends. Raises OSError."""
    file.seek(offset_bytes)
    pieces: list[bytes] = []
    while length_bytes > 0 and (piece := file.read(length_bytes)):
        pieces.append(piece)
        length_bytes -= len(piece)
    return b"".join(pieces)
