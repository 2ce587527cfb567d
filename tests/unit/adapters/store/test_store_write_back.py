# SPDX-License-Identifier: Apache-2.0
"""An upload goes to the disk while it comes, so that its commit has little left to wait for."""

from __future__ import annotations

from contextlib import closing
from io import FileIO
from pathlib import Path

import pytest

from unbrickd.adapters.store.fileops import FileOps
from unbrickd.adapters.store.files import WRITE_BACK_BYTES, FileBlobStore


class NotingOps(FileOps):
    """Notes what is to be written back."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []

    def begin_write_back(self, file: FileIO, offset_bytes: int, length_bytes: int) -> None:
        super().begin_write_back(file, offset_bytes, length_bytes)
        self.begun.append((offset_bytes, length_bytes))


@pytest.mark.parametrize("piece_bytes", [WRITE_BACK_BYTES // 16, 150_000, WRITE_BACK_BYTES])
def test_upload_is_written_back_once_by_pieces_as_it_comes(tmp_path: Path, piece_bytes: int) -> None:
    ops = NotingOps()
    store = FileBlobStore(tmp_path, ops=ops, reserve_bytes=0)
    store.prepare()
    octets = bytes(range(256)) * (5 * WRITE_BACK_BYTES // 512)
    upload = store.upload(bytes(32), len(octets), owner=bytes(16))
    for at in range(0, len(octets), piece_bytes):
        upload.write(at, octets[at : at + piece_bytes])
        assert len(ops.begun) == min(at + piece_bytes, len(octets)) // WRITE_BACK_BYTES
    assert ops.begun == [(0, WRITE_BACK_BYTES), (WRITE_BACK_BYTES, WRITE_BACK_BYTES)]
    upload.commit()
    with closing(store), store.open(bytes(32)) as image:
        assert image.read(0, len(octets)) == octets
