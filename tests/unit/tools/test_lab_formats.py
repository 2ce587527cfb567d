# SPDX-License-Identifier: Apache-2.0
"""What the laboratory writes for U-Boot and the kernel to read, and what keeps its builds apart."""

from __future__ import annotations

import gzip
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from tools.lab.cpio import initramfs
from tools.lab.environment import decode_environment, encode_environment
from tools.lab.gateway import CHIP_BYTES, ERASE_BLOCK_BYTES, REGIONS
from tools.lab.steps import kept

needs_links = pytest.mark.skipif(os.name == "nt", reason="folders with links and modes as Linux has them")


def test_environment_decoded_is_what_was_encoded() -> None:
    variables = {"bootcmd": "bootm 0x1#a; echo $?", "bootdelay": "1", "empty": ""}
    octets = encode_environment(variables, 4096)
    assert len(octets) == 4096 and decode_environment(octets) == variables
    assert octets[4:].startswith(b"bootcmd=bootm 0x1#a; echo $?\0bootdelay=1\0empty=\0\0")


def test_environment_with_a_flipped_bit_is_none() -> None:
    octets = bytearray(encode_environment({"a": "b"}, 256))
    octets[200] ^= 1
    assert decode_environment(bytes(octets)) is None


@needs_links
def test_initramfs_holds_files_links_and_modes_and_ends_with_a_trailer(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "run").write_bytes(b"#!x\n")
    (tmp_path / "bin" / "run").chmod(0o755)
    (tmp_path / "init").symlink_to("bin/run")
    octets = initramfs(tmp_path)
    assert octets == initramfs(tmp_path), "the same files, the same bytes"
    entries = unpacked(gzip.decompress(octets))
    assert [name for name, _, _ in entries] == ["bin", "bin/run", "init", "TRAILER!!!"]
    assert entries[1][1:] == (0o100755, b"#!x\n")
    assert entries[2][1:] == (0o120777, b"bin/run")


def unpacked(archive: bytes) -> list[tuple[str, int, bytes]]:
    """Name, mode and contents, as the kernel's initramfs-buffer-format.rst has them."""
    entries, at = [], 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        begin = -(-(at + 110 + name_size) // 4) * 4
        entries.append((name, fields[1], archive[begin : begin + size]))
        at = -(-(begin + size) // 4) * 4
    return entries


def test_regions_follow_each_other_in_the_half_that_uboot_sees() -> None:
    end = 0
    for region in REGIONS:
        assert region.offset_bytes == end and region.size_bytes % ERASE_BLOCK_BYTES == 0
        end += region.size_bytes
    assert end <= CHIP_BYTES // 2


def test_kept_same_inputs_is_made_once_and_again_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBRICKD_CACHE", str(tmp_path))
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "thing").write_text(str(len(made)))

    first = kept("thing", make, texts=["a"])
    assert kept("thing", make, texts=["a"]) == first and (first / "thing").read_text() == "1"
    assert kept("thing", make, texts=["b"]) != first and len(made) == 2


def test_kept_make_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBRICKD_CACHE", str(tmp_path))

    def make(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        kept("thing", make)
    assert [path.suffix for path in (tmp_path / "lab").iterdir()] == [".lock"]


def test_kept_wanted_while_it_is_made_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBRICKD_CACHE", str(tmp_path))
    made: list[Path] = []
    second: list[Future[Path]] = []
    with ThreadPoolExecutor(1) as other:

        def make(folder: Path) -> None:
            made.append(folder)
            if len(made) == 1:
                second.append(other.submit(kept, "thing", make))

        first = kept("thing", make)
        assert second[0].result() == first and len(made) == 1
