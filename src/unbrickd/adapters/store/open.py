# SPDX-License-Identifier: Apache-2.0
"""Opening a store directory: one server at a time, anybody to read, and whole again after a crash."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from unbrickd.adapters.store.fileops import FileOps, ReadOnlyOps, translated
from unbrickd.adapters.store.files import RESERVE_BYTES, FileBlobStore, FileDocumentStore
from unbrickd.adapters.store.sqlite import FILE_NAME, SqliteCatalogue
from unbrickd.errors import StorageError
from unbrickd.store.interface import DeviceRow
from unbrickd.store.retention import RetentionPolicy
from unbrickd.store.vault import Vault

_LOCK = "server.lock"
_PID = "server.pid"
"""A file of its own, because Windows lets nobody read a locked one."""

_log = logging.getLogger(__name__)


@contextmanager
def open_vault(
    directory: Path,
    *,
    exclusive: bool,
    clock: Callable[[], float] = time.time,
    policy: RetentionPolicy | None = None,
    reserve_bytes: int = RESERVE_BYTES,
) -> Iterator[Vault]:
    """The store in that directory, until the context ends.

    exclusive: for a server; the directory is made if need be, and whatever a crash left half done is put right first.
    Otherwise for reading only, also while a server runs. Raises StorageError "in-use", "not-writable", "not-readable",
    "missing" or "corrupt-catalogue".
    """
    if exclusive:
        with _locked(directory), _writable(directory, clock, policy, reserve_bytes) as vault:
            yield vault
        return
    if not has_store(directory):
        raise StorageError(
            f"there is no store in {directory}", code="missing", hint="start the server once, or name another --store"
        )
    ops = ReadOnlyOps()
    blobs = FileBlobStore(directory, ops=ops, keeps_open=False)
    catalogue = SqliteCatalogue(directory / FILE_NAME, read_only=True)
    try:
        yield Vault(
            blobs,
            FileDocumentStore(directory, ops=ops),
            catalogue,
            clock,
            policy=policy,
            read_only=True,
        )
    finally:
        blobs.close()
        catalogue.close()


def has_store(directory: Path) -> bool:
    """Raises StorageError "not-readable"."""
    try:
        return (directory / FILE_NAME).is_file()
    except PermissionError as error:
        raise StorageError(
            f"you may not look into {directory}",
            code="not-readable",
            hint="run this as the user whose server keeps its backups there, or name another --store",
        ) from error


def rebuild_catalogue(directory: Path, *, clock: Callable[[], float] = time.time) -> int:
    """Make the catalogue again from images and documents; the old one is kept as `….corrupt`. How many generations.

    What only the catalogue holds, names and when a device was last seen, is carried over as far as it can be read.
    A power cut in the middle does no harm: whatever the catalogue lacks, the next start adopts.
    """
    path = directory / FILE_NAME
    with _locked(directory):
        devices = _readable_devices(path)
        with translated("cannot set the old catalogue aside"):
            if path.exists():
                path.replace(path.with_name(FILE_NAME + ".corrupt"))
            # The journal last: SQLite drops one that has no database, but must not play it into the new one.
            path.with_name(FILE_NAME + "-journal").unlink(missing_ok=True)
            FileOps().fsync_folder(directory)
        with _writable(directory, clock, None, RESERVE_BYTES, devices) as vault:
            return len(vault.generations())


def _readable_devices(path: Path) -> tuple[DeviceRow, ...]:
    try:
        catalogue = SqliteCatalogue(path, read_only=True)
    except StorageError:
        return ()
    try:
        return catalogue.devices()
    except StorageError:
        return ()
    finally:
        catalogue.close()


@contextmanager
def _writable(
    directory: Path,
    clock: Callable[[], float],
    policy: RetentionPolicy | None,
    reserve_bytes: int,
    devices: tuple[DeviceRow, ...] = (),
) -> Iterator[Vault]:
    blobs = FileBlobStore(directory, reserve_bytes=reserve_bytes)
    documents = FileDocumentStore(directory)
    blobs.prepare()
    documents.prepare()
    catalogue = SqliteCatalogue(directory / FILE_NAME)
    try:
        vault = Vault(blobs, documents, catalogue, clock, policy=policy)
        findings = vault.reconcile()
        for finding in findings:
            _log.warning("store: %s", finding.text)
        for device in devices:
            if device.name:
                catalogue.name_device(device.device_id, device.name)
            if device.last_seen_s is not None:
                catalogue.saw((device.device_id,), device.last_seen_s)
        if not findings:  # while something is amiss, nothing is taken for garbage
            vault.collect()
        yield vault
    finally:
        blobs.close()
        catalogue.close()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Be the only server on the store. Raises StorageError "in-use" or "not-writable"."""
    with translated(f"cannot use {directory}"):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError as error:
            raise StorageError(
                f"{directory} is no folder", code="not-writable", hint="name a folder with --store"
            ) from error
        lock = FileLock(directory / _LOCK, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageError(
                f"another unbrickd server{_holder(directory)} uses this store",
                code="in-use",
                hint="stop it first, or give this one another --store",
            ) from error
    try:
        with translated(f"cannot use {directory}"):
            (directory / _PID).write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        with suppress(OSError):
            (directory / _PID).unlink(missing_ok=True)
        lock.release()


def _holder(directory: Path) -> str:
    try:
        return f" (pid {int((directory / _PID).read_text(encoding='ascii'))})"
    except (OSError, ValueError):
        return ""
