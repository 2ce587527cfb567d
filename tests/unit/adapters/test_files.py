# SPDX-License-Identifier: Apache-2.0
"""Small files: bounds in reading, whole and never twice in writing, secrets from the first byte on."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from unbrickd.adapters.files import first_line, read_file, write_new
from unbrickd.errors import ConfigError


def test_read_file_longer_than_its_limit_raises(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_file(path, limit_bytes=5) == b"12345"
    with pytest.raises(ConfigError) as caught:
        read_file(path, limit_bytes=4)
    assert caught.value.code == "too-big"


def test_read_file_missing_raises_with_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_file(tmp_path / "none", limit_bytes=5)
    assert caught.value.hint


def test_first_line_of_a_file_is_stripped(tmp_path: Path) -> None:
    path = tmp_path / "version"
    for octets, line in ((b" 2.1 \r\nbuilt today\n", "2.1"), (b"2.1", "2.1"), (b"", ""), (b"\nx", "")):
        path.write_bytes(octets)
        assert first_line(path, limit_bytes=100) == line
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        first_line(path, limit_bytes=100)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
@pytest.mark.parametrize("secret", [True, False])
def test_write_new_secret_only_its_owner_may_read(tmp_path: Path, secret: bool) -> None:
    before = os.umask(0o022)
    try:
        write_new(tmp_path / "f", b"octets", secret=secret)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == (0o600 if secret else 0o644)


def test_write_new_file_exists_raises_and_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_new(path, b"first")
    with pytest.raises(ConfigError) as caught:
        write_new(path, b"second")
    assert caught.value.code == "exists"
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["f"], "nothing temporary is left"


def test_write_new_no_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_new(tmp_path / "none" / "f", b"octets")
    assert caught.value.code == "not-writable"


@pytest.mark.skipif(os.name == "nt", reason="there the rename itself refuses")
def test_write_new_file_system_without_links_still_never_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_new(tmp_path / "f", b"first")
    with pytest.raises(ConfigError) as caught:
        write_new(tmp_path / "f", b"second")
    assert caught.value.code == "exists"
    assert (tmp_path / "f").read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
