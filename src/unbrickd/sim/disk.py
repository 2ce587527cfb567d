# SPDX-License-Identifier: Apache-2.0
"""A disk that loses power, or fills up, at any operation one likes; under it a real directory.

Two worlds follow a cut, and a program must survive both: `survive` keeps all that was written (the process was
killed), `lose` keeps only what was synced (the power went): file contents since their fsync, names since the fsync of
their folder. Only what goes through the operations is modelled; SQLite's own files are left to SQLite.
"""

from __future__ import annotations

import errno
import shutil
from io import FileIO
from pathlib import Path

from unbrickd.adapters.store.fileops import FileOps, read_at


class PowerCut(BaseException):
    """Everything stops here. No handler of the program may do anything more on this disk."""


class SimDisk(FileOps):
    """File operations that stop at number `cut_at` (from 0), a write in its middle if `torn`.

    capacity_bytes: so much can be written before the disk is full; None: no limit.
    """

    def __init__(
        self, root: Path, *, cut_at: int | None = None, torn: bool = False, capacity_bytes: int | None = None
    ) -> None:
        self.operations = 0
        self.capacity_bytes = capacity_bytes
        self._root = root
        self._cut_at = cut_at
        self._torn = torn
        self._dead = False
        self._files: dict[FileIO, int] = {}
        self._contents: dict[int, bytes] = {}
        """What is on the medium of each file, by a number that a rename does not change."""
        self._now: dict[Path, int] = {}
        self._synced: dict[Path, int] = {}
        """Names of files as the program sees them, and as they are on the medium."""
        self._synced_folders: set[Path] = set()
        for path in sorted(root.glob("*/**/*")):
            if path.is_file():
                self._now[path] = self._synced[path] = len(self._contents)
                self._contents[len(self._contents)] = path.read_bytes()
        self._synced_folders = {p for p in root.rglob("*") if p.is_dir()} | {root}

    def _step(self) -> bool:
        """Count one operation; whether it is the one to stop at."""
        if self._dead:
            raise PowerCut
        self.operations += 1
        self._dead = self.operations - 1 == self._cut_at
        return self._dead

    def step(self) -> None:
        """One operation that is not of this disk, say a commit of the catalogue. Raises PowerCut."""
        if self._step():
            raise PowerCut

    def make_folder(self, folder: Path) -> None:
        self.step()
        super().make_folder(folder)

    def open(self, path: Path, *, truncate: bool) -> FileIO:
        self.step()
        file = super().open(path, truncate=truncate)
        if path not in self._now:
            self._now[path] = len(self._contents)
            self._contents[len(self._contents)] = b""
        self._files[file] = self._now[path]
        return file

    def write(self, file: FileIO, offset_bytes: int, octets: bytes) -> None:
        if self._step():
            if self._torn:
                super().write(file, offset_bytes, octets[: len(octets) // 2])
            raise PowerCut
        if self.capacity_bytes is not None:
            if len(octets) > self.capacity_bytes:
                super().write(file, offset_bytes, octets[: self.capacity_bytes])
                self.capacity_bytes = 0
                raise OSError(errno.ENOSPC, "No space left on device")
            self.capacity_bytes -= len(octets)
        super().write(file, offset_bytes, octets)

    def fsync(self, file: FileIO) -> None:
        self.step()
        self._contents[self._files[file]] = read_at(file, 0, 1 << 30)

    def fsync_folder(self, folder: Path) -> None:
        self.step()
        self._synced = {p: n for p, n in self._synced.items() if p.parent != folder}
        self._synced |= {p: n for p, n in self._now.items() if p.parent == folder}
        self._synced_folders |= {p for p in folder.iterdir() if p.is_dir()}

    def replace(self, source: Path, target: Path) -> None:
        self.step()
        super().replace(source, target)
        self._now[target] = self._now.pop(source)

    def unlink(self, path: Path) -> None:
        self.step()
        super().unlink(path)
        self._now.pop(path, None)

    def survive(self) -> None:
        """The process was killed: what it had open is closed, all that it wrote is there."""
        self._dead = True
        for file in self._files:
            file.close()

    def lose(self) -> None:
        """The power was cut: put the directory into the state that is on the medium."""
        self.survive()
        for folder in [p for p in self._root.iterdir() if p.is_dir()]:
            shutil.rmtree(folder)
        for folder in sorted(self._synced_folders):
            if all(p in self._synced_folders for p in folder.parents if p.is_relative_to(self._root)):
                folder.mkdir(exist_ok=True)
        for path, number in self._synced.items():
            if path.parent.is_dir():
                path.write_bytes(self._contents[number])
