# SPDX-License-Identifier: Apache-2.0
"""A store on a real directory that is full, not writable, corrupt, rotten, or in use."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from unbrickd.adapters.store.fileops import FileOps
from unbrickd.adapters.store.files import FileBlobStore, FileDocumentStore
from unbrickd.adapters.store.open import open_vault, rebuild_catalogue
from unbrickd.adapters.store.sqlite import FILE_NAME, SqliteCatalogue
from unbrickd.errors import StorageError
from unbrickd.sim.backups import back_up, device_id, generation, good_seal, image, manifest, put_missing
from unbrickd.sim.disk import SimDisk
from unbrickd.store.vault import StoredGeneration, Vault
from unbrickd.store.verification import FindingKind

A, B = device_id(1), device_id(2)
LARGE_BYTES = 300_000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MNT_DETACH = 1, 32, 4096, 2  # linux/mount.h


@contextmanager
def _mounted(source: str, target: Path, kind: str, options: str, *, read_only: bool = False) -> Iterator[Path]:
    """A real mount, by mount(2). Where that is not allowed the test is skipped, and says so."""
    if sys.platform != "linux":
        pytest.skip("mounts are made on Linux only")
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _MS_BIND if kind == "bind" else 0
    target.mkdir(exist_ok=True)
    if libc.mount(source.encode(), bytes(target), kind.encode(), flags, options.encode()) != 0:
        pytest.skip(f"this user may not mount: {os.strerror(ctypes.get_errno())}")
    try:
        if read_only:
            again = libc.mount(source.encode(), bytes(target), kind.encode(), flags | _MS_REMOUNT | _MS_RDONLY, None)
            assert again == 0, os.strerror(ctypes.get_errno())
        yield target
    finally:
        assert libc.umount2(bytes(target), _MNT_DETACH) == 0


def _read_all(vault: Vault, stored: StoredGeneration | None) -> bytes:
    assert stored is not None
    count = stored.generation.components[0].geometry.count
    return b"".join(vault.read_erase_block(stored, 1, index) for index in range(count))


def _spoil(path: Path, offset: int) -> None:
    octets = bytearray(path.read_bytes())
    octets[offset] ^= 0x10
    path.write_bytes(octets)


# A disk that fills up


def test_store_disk_fills_up_during_an_upload_keeps_it_and_resumes(tmp_path: Path) -> None:
    with open_vault(tmp_path, exclusive=True, reserve_bytes=0) as vault:
        back_up(vault, A, 1, {1: image(1)}, good=True)
        disk = SimDisk(tmp_path, capacity_bytes=10_000)
        catalogue = SqliteCatalogue(tmp_path / FILE_NAME)
        blobs = FileBlobStore(tmp_path, ops=disk, reserve_bytes=0)
        full = Vault(blobs, FileDocumentStore(tmp_path, ops=disk), catalogue, time.time)
        component, octets = manifest(image(2)), image(2)
        staging = full.stage(A, component)
        with pytest.raises(StorageError) as raised:
            put_missing(staging, octets)
        assert staging.missing == [2, 3, 4], "half of one is written"
        staging.suspend()
        assert (raised.value.code, raised.value.retry) == ("disk-full", True)
        assert "free some space" in raised.value.hint
        catalogue.close()
        assert not vault.has_image(component)
        assert _read_all(vault, vault.newest_good(A)) == image(1)
        resumed = vault.stage(A, component)
        assert resumed.missing == [2, 3, 4]
        resumed.suspend()
        back_up(vault, A, 2, {1: image(2)})
        assert _read_all(vault, vault.newest(A)) == image(2)


@pytest.mark.parametrize("room_bytes", [0, 20, 100])
def test_store_disk_full_at_the_document_leaves_no_generation(tmp_path: Path, room_bytes: int) -> None:
    with open_vault(tmp_path, exclusive=True, reserve_bytes=0) as vault:
        stored = back_up(vault, A, 1, {1: image(1)}, good=True)
        disk = SimDisk(tmp_path, capacity_bytes=room_bytes)
        with closing(FileBlobStore(tmp_path, ops=disk)) as blobs, pytest.raises(StorageError) as raised:
            full = Vault(blobs, FileDocumentStore(tmp_path, ops=disk), vault._catalogue, time.time)
            full.commit_generation(generation(A, 2, {1: image(1)}), good_seal(2))
        assert raised.value.code == "disk-full"
        assert vault.generations() == (stored.row,)
    with open_vault(tmp_path, exclusive=True) as vault:
        assert vault.generations() == (stored.row,)
        assert vault.verify() == []


def test_store_reserve_refuses_an_upload_ahead(tmp_path: Path) -> None:
    with open_vault(tmp_path, exclusive=True, reserve_bytes=1 << 62) as vault:
        with pytest.raises(StorageError) as raised:
            vault.stage(A, manifest(image(1)))
        assert raised.value.code == "disk-full"
        assert f"beside the {1 << 42} MiB that stay free" in str(raised.value)


def test_store_on_a_real_full_file_system_says_so_and_recovers(tmp_path: Path) -> None:
    with _mounted("tmpfs", tmp_path / "small", "tmpfs", "size=1m") as small:
        with open_vault(small, exclusive=True, reserve_bytes=0) as vault:
            back_up(vault, A, 1, {1: image(1, LARGE_BYTES)}, good=True)
            filler = small / "filler"
            component, octets = manifest(image(2, LARGE_BYTES)), image(2, LARGE_BYTES)
            staging = vault.stage(A, component)
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))
            with pytest.raises(StorageError) as raised:
                put_missing(staging, octets)
            staging.suspend()
            assert raised.value.code == "disk-full"
            with pytest.raises(StorageError) as raised:
                vault.commit_generation(generation(B, 1, {1: image(1, LARGE_BYTES)}))
            assert raised.value.code == "disk-full"
            with pytest.raises(StorageError) as raised:
                vault.stage(A, component)
            assert raised.value.code == "disk-full"
            assert _read_all(vault, vault.newest_good(A)) == image(1, LARGE_BYTES)
            filler.unlink()
            back_up(vault, A, 2, {1: octets})
        with open_vault(small, exclusive=True, reserve_bytes=0) as vault:
            assert vault.verify() == []
            assert not vault.known(B)
            assert _read_all(vault, vault.newest(A)) == octets


# A directory that cannot be written


def test_store_that_is_or_lies_below_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "store", tmp_path / "file"):
        with pytest.raises(StorageError) as raised, open_vault(path, exclusive=True):
            pass
        assert raised.value.code == "not-writable"
        assert "folder" in raised.value.hint or "directory" in raised.value.hint


def test_store_on_a_read_only_file_system_is_not_writable_but_can_be_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with open_vault(source, exclusive=True) as vault:
        back_up(vault, A, 1, {1: image(1)}, good=True)
    with _mounted(str(source), tmp_path / "mount", "bind", "", read_only=True) as mount:
        with pytest.raises(StorageError) as raised, open_vault(mount, exclusive=True):
            pass
        assert raised.value.code == "not-writable"
        with open_vault(mount, exclusive=False) as vault:
            assert _read_all(vault, vault.newest(A)) == image(1)


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EACCES, "not-writable"), (errno.EROFS, "not-writable"), (errno.EIO, "io"), (errno.EDQUOT, "disk-full")],
)
def test_store_refused_by_the_system_is_translated(tmp_path: Path, number: int, code: str) -> None:
    class Refusing(FileOps):
        def fsync_folder(self, folder: Path) -> None:
            raise OSError(number, os.strerror(number))

    with pytest.raises(StorageError) as raised:
        FileBlobStore(tmp_path, ops=Refusing()).prepare()
    assert raised.value.code == code


# A corrupt catalogue


def _header(path: Path) -> None:
    path.write_bytes(b"not a database at all, and long enough to be read as one" * 40)


def _middle(path: Path) -> None:
    octets = bytearray(path.read_bytes())
    octets[4096:] = bytes(b ^ 0xA5 for b in octets[4096:])
    path.write_bytes(octets)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [_header, _middle, _cut_short])
def test_store_corrupt_catalogue_is_told_and_rebuild_loses_nothing(tmp_path: Path, damage: object) -> None:
    with open_vault(tmp_path, exclusive=True) as vault:
        back_up(vault, A, 1, {1: image(1)}, good=True)
        back_up(vault, A, 2, {1: image(2)})
        back_up(vault, B, 1, {1: image(1)})
        vault.pin(A, 2)
        before = [(r.key, r.images, r.good, r.pinned, r.damaged, r.model) for r in vault.generations()]
    assert callable(damage)
    damage(tmp_path / FILE_NAME)
    with pytest.raises(StorageError) as raised, open_vault(tmp_path, exclusive=True):
        pass
    assert raised.value.code == "corrupt-catalogue"
    assert "unbrickd verify --rebuild" in raised.value.hint
    assert rebuild_catalogue(tmp_path) == 3
    with open_vault(tmp_path, exclusive=True) as vault:
        assert [(r.key, r.images, r.good, r.pinned, r.damaged, r.model) for r in vault.generations()] == before
        assert vault.verify() == []
    assert (tmp_path / (FILE_NAME + ".corrupt")).exists()


def test_store_without_its_catalogue_rebuilds_it_by_itself(tmp_path: Path) -> None:
    with open_vault(tmp_path, exclusive=True) as vault:
        back_up(vault, A, 1, {1: image(1)}, good=True)
    (tmp_path / FILE_NAME).unlink()
    with open_vault(tmp_path, exclusive=True) as vault:
        good = vault.newest_good(A)
        assert _read_all(vault, good) == image(1)
        assert good is not None and good.good_seal == good_seal(1)


def test_rebuild_of_a_readable_catalogue_keeps_names_and_times(tmp_path: Path) -> None:
    with open_vault(tmp_path, exclusive=True, clock=lambda: 77.0) as vault:
        back_up(vault, A, 1, {1: image(1)})
        vault.name_device(A, "attic")
        vault.saw({B})
        before = vault.devices()
    assert rebuild_catalogue(tmp_path) == 1
    with open_vault(tmp_path, exclusive=False) as vault:
        assert vault.devices() == before


def test_store_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    catalogue = SqliteCatalogue(tmp_path / FILE_NAME)
    catalogue._db.execute("PRAGMA user_version = 99")
    catalogue.close()
    with pytest.raises(StorageError) as raised:
        SqliteCatalogue(tmp_path / FILE_NAME)
    assert raised.value.code == "newer-catalogue"


# A corrupt blob


def test_store_rot_on_disk_is_found_quarantined_and_healed(tmp_path: Path) -> None:
    with open_vault(tmp_path, exclusive=True) as vault:
        for device in (A, B):
            back_up(vault, device, 1, {1: image(1)}, good=True)
        (path,) = (tmp_path / "images").glob("*/*.img")
        _spoil(path, 5000)
        assert [f.kind for f in vault.verify()] == [FindingKind.ROTTEN_IMAGE]
        assert [row.damaged for row in vault.generations()] == [True, True]
        assert path.with_suffix(".rotten").exists() and not path.exists()
    with open_vault(tmp_path, exclusive=True) as vault:
        assert [row.damaged for row in vault.generations()] == [True, True]
        staging = vault.stage(B, manifest(image(1)))
        assert staging.missing == [1]
        staging.suspend()
        back_up(vault, B, 1, {1: image(1)})
        assert vault.verify() == []
        assert not any(row.damaged for row in vault.generations())


def test_store_healed_by_a_server_is_whole_for_who_reads_beside_it(tmp_path: Path) -> None:
    with open_vault(tmp_path, exclusive=True) as server:
        stored = back_up(server, A, 1, {1: image(1)}, good=True)
        (path,) = (tmp_path / "images").glob("*/*.img")
        _spoil(path, 5000)
        with open_vault(tmp_path, exclusive=False) as reader:
            with pytest.raises(StorageError, match="rotten"):
                _read_all(reader, reader.newest(A))
            server.distrust(A, 1, stored.generation.components[0].name)
            assert [row.damaged for row in reader.generations()] == [True]
            back_up(server, A, 1, {1: image(1)})
            assert _read_all(reader, reader.newest(A)) == image(1)


def test_store_image_cut_short_on_disk_is_rot(tmp_path: Path) -> None:
    with open_vault(tmp_path, exclusive=True) as vault:
        stored = back_up(vault, A, 1, {1: image(1)})
        (path,) = (tmp_path / "images").glob("*/*.img")
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(StorageError) as raised:
            vault.commit_generation(generation(B, 1, {1: image(1)}))
        assert raised.value.code == "missing"
        assert not vault.has_image(stored.generation.components[0])


def test_store_thousand_equal_devices_keep_one_file(tmp_path: Path) -> None:
    with open_vault(tmp_path, exclusive=True) as vault:
        back_up(vault, device_id(0), 1, {1: image(1)})
        catalogue, vault_blobs = vault._catalogue, vault._blobs
        # 999 more documents need no fsync for what is shown here.
        quick = Vault(vault_blobs, FileDocumentStore(tmp_path, ops=_NoSync()), catalogue, time.time)
        assert isinstance(catalogue, SqliteCatalogue)
        catalogue._db.execute("PRAGMA synchronous = OFF")
        for n in range(1, 1000):
            back_up(quick, device_id(n), 1, {1: image(1)})
        assert len(vault.generations()) == 1000
    files = [p for p in (tmp_path / "images").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in files] == [image(1)]
    assert list((tmp_path / "uploads").iterdir()) == []


class _NoSync(FileOps):
    def fsync_folder(self, folder: Path) -> None:
        pass


# Two at once


def test_store_second_server_is_told_the_first_ones_pid(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from unbrickd.adapters.store.open import open_vault\n"
        "with open_vault(pathlib.Path(sys.argv[1]), exclusive=True):\n"
        "    print('open', flush=True); sys.stdin.read()\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout is not None and first.stdout.readline() == "open\n"
        with pytest.raises(StorageError) as raised, open_vault(tmp_path, exclusive=True):
            pass
        assert raised.value.code == "in-use"
        assert str(raised.value) == f"another unbrickd server (pid {first.pid}) uses this store"
        with pytest.raises(StorageError):
            rebuild_catalogue(tmp_path)
        first.kill()
    with open_vault(tmp_path, exclusive=True):
        pass


def test_store_is_read_while_a_server_writes_it(tmp_path: Path) -> None:
    with open_vault(tmp_path, exclusive=True) as server:
        back_up(server, A, 1, {1: image(1)})
        with open_vault(tmp_path, exclusive=False) as reader:
            assert _read_all(reader, reader.newest(A)) == image(1)
            back_up(server, A, 2, {1: image(2)})
            assert _read_all(reader, reader.newest(A)) == image(2)
            for change in (
                lambda: reader.pin(A, 1),
                lambda: reader.delete(A, 1, force=True),
                lambda: reader.stage(A, manifest(image(3))),
                lambda: reader.name_device(A, "x"),
            ):
                with pytest.raises(StorageError) as raised:
                    change()
                assert raised.value.code == "read-only"
            (path,) = (tmp_path / "images").glob(f"*/{manifest(image(1)).image_digest.hex()}.img")
            _spoil(path, 0)
            assert [f.kind for f in reader.verify()] == [FindingKind.ROTTEN_IMAGE]
            assert path.exists()
        assert [row.key.number for row in server.generations()] == [2, 1]


def test_store_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as raised, open_vault(tmp_path / "nowhere", exclusive=False):
        pass
    assert raised.value.code == "missing"
    assert not (tmp_path / "nowhere").exists()
