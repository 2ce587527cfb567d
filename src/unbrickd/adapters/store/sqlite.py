# SPDX-License-Identifier: Apache-2.0
"""The catalogue in SQLite, from the standard library.

A rollback journal rather than WAL, because the store may lie on a NAS share, where WAL does not work
(sqlite.org/wal.html), and EXTRA synchronous, because with FULL the last commit can be lost to a power cut in this mode
(sqlite.org/pragma.html#pragma_synchronous). Readers in other processes are served while a server writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from unbrickd.adapters.store.fileops import disk_full
from unbrickd.errors import StorageError
from unbrickd.store.interface import DeviceRow, GenerationKey, GenerationRow

FILE_NAME = "catalogue.sqlite3"
SCHEMA_VERSION = 1
APPLICATION_ID = 0x55424341
"""ASCII "UBCA": what file(1) may know the catalogue by."""
_BUSY_TIMEOUT_S = 5.0

_SCHEMA = """
CREATE TABLE device (
    device_id BLOB PRIMARY KEY, model TEXT NOT NULL DEFAULT '', name TEXT NOT NULL DEFAULT '', last_seen_s REAL
) WITHOUT ROWID;
CREATE TABLE generation (
    device_id BLOB NOT NULL REFERENCES device, number INTEGER NOT NULL, digest BLOB NOT NULL,
    model TEXT NOT NULL, size_bytes INTEGER NOT NULL, created_at_s REAL NOT NULL, good_at_s REAL,
    pinned INTEGER NOT NULL, damaged INTEGER NOT NULL,
    PRIMARY KEY (device_id, number, digest)
) WITHOUT ROWID;
CREATE TABLE image (
    device_id BLOB NOT NULL, number INTEGER NOT NULL, digest BLOB NOT NULL, position INTEGER NOT NULL,
    image_digest BLOB NOT NULL,
    PRIMARY KEY (device_id, number, digest, position),
    FOREIGN KEY (device_id, number, digest) REFERENCES generation ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX image_by_digest ON image (image_digest);
"""

_SELECT = """
SELECT g.device_id, g.number, g.digest, g.model, g.size_bytes, g.created_at_s, g.good_at_s, g.pinned, g.damaged,
       i.image_digest
FROM generation g JOIN image i USING (device_id, number, digest)
"""
_ORDER = " ORDER BY g.device_id, g.number DESC, g.created_at_s DESC, g.digest DESC, i.position"
_OF_KEY = " WHERE device_id = ? AND number = ? AND digest = ?"

_Value = bytes | str | int | float | None
_Row = tuple[bytes, int, bytes, str, int, float, float | None, int, int, bytes]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF  # the low byte: without its extension
        if code == sqlite3.SQLITE_FULL:
            raise disk_full("cannot write the catalogue") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StorageError("the catalogue is in use", code="busy", retry=True) from error
        if code == sqlite3.SQLITE_READONLY:
            raise StorageError(
                "the catalogue is open for reading only",
                code="read-only",
                hint="stop the server that uses the store first",
            ) from error
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise StorageError(
                f"the catalogue cannot be opened: {error}",
                code="not-writable",
                hint="choose a store directory that this user may write to",
            ) from error
        if code == sqlite3.SQLITE_IOERR:
            raise StorageError(f"the catalogue: {error}", code="io", retry=True) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):  # ERROR: a table is gone
            raise corrupt(str(error)) from error
        raise


def corrupt(reason: str) -> StorageError:
    return StorageError(
        f"the catalogue is corrupt: {reason}",
        code="corrupt-catalogue",
        hint="run unbrickd verify --rebuild: it is made again from the stored files, and no backup is lost",
    )


class SqliteCatalogue:
    """The catalogue in one file. Raises StorageError only; commits are durable.

    read_only: an existing catalogue, to be read while a server may write it. Else it is made where there is none, and
    checked: StorageError "corrupt-catalogue".
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        uri = f"{path.absolute().as_uri()}?mode={'rw' if read_only else 'rwc'}"
        with _translated():
            self._db = sqlite3.connect(
                uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with _translated():
                self._prepare(read_only=read_only)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, *, read_only: bool) -> None:
        self._db.execute("PRAGMA foreign_keys = ON")
        version, application = self._pragma("user_version"), self._pragma("application_id")
        if version == 0 and application == 0 and not read_only and not self._pragma("schema_version"):
            self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};"
                f"PRAGMA application_id = {APPLICATION_ID}; COMMIT;"
            )
        elif application != APPLICATION_ID:
            raise corrupt("it is not a catalogue of unbrickd")
        elif version != SCHEMA_VERSION:
            raise StorageError(
                f"the catalogue has format {version}; this program knows {SCHEMA_VERSION}",
                code="newer-catalogue",
                hint="use the unbrickd that wrote it, or a newer one",
            )
        if read_only:
            self._db.execute("PRAGMA query_only = ON")
            return
        self._db.execute("PRAGMA synchronous = EXTRA")
        self._db.execute("PRAGMA fullfsync = ON")
        result = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if result != ("ok",):
            raise corrupt(str(result[0]))

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def devices(self) -> tuple[DeviceRow, ...]:
        with _translated():
            rows: Iterable[tuple[bytes, str, str, float | None]] = self._db.execute(
                "SELECT device_id, model, name, last_seen_s FROM device ORDER BY device_id"
            ).fetchall()
        return tuple(DeviceRow(device_id=d, model=model, name=name, last_seen_s=at) for d, model, name, at in rows)

    def generations(self, device_id: bytes | None = None) -> tuple[GenerationRow, ...]:
        return self._rows("") if device_id is None else self._rows(" WHERE g.device_id = ?", device_id)

    def referring(self, image_digest: bytes) -> tuple[GenerationRow, ...]:
        having = (
            " WHERE (g.device_id, g.number, g.digest) IN"
            " (SELECT device_id, number, digest FROM image WHERE image_digest = ?)"
        )
        return self._rows(having, image_digest)

    def _rows(self, where: str, *values: _Value) -> tuple[GenerationRow, ...]:
        with _translated():
            rows: list[_Row] = self._db.execute(_SELECT + where + _ORDER, values).fetchall()
        return tuple(_generation(list(group)) for _, group in groupby(rows, key=lambda r: r[:3]))

    def add(self, row: GenerationRow) -> None:
        key = (row.key.device_id, row.key.number, row.key.digest)
        with self._transaction() as db:
            db.execute(
                "INSERT INTO device (device_id, model) VALUES (?, ?)"
                " ON CONFLICT (device_id) DO UPDATE SET model = excluded.model",
                (row.key.device_id, row.model),
            )
            db.execute("DELETE FROM generation" + _OF_KEY, key)
            db.execute(
                "INSERT INTO generation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*key, row.model, row.size_bytes, row.created_at_s, row.good_at_s, row.pinned, row.damaged),
            )
            images = [(*key, position, image) for position, image in enumerate(row.images)]
            db.executemany("INSERT INTO image VALUES (?, ?, ?, ?, ?)", images)

    def mark_good(self, key: GenerationKey, at_s: float) -> None:
        self._set("good_at_s", key, at_s)

    def set_pinned(self, key: GenerationKey, pinned: bool) -> None:
        self._set("pinned", key, pinned)

    def set_damaged(self, key: GenerationKey, damaged: bool) -> None:
        self._set("damaged", key, damaged)

    def _set(self, column: str, key: GenerationKey, value: _Value) -> None:
        with self._transaction() as db:
            db.execute(f"UPDATE generation SET {column} = ?" + _OF_KEY, (value, key.device_id, key.number, key.digest))

    def remove(self, key: GenerationKey) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM generation" + _OF_KEY, (key.device_id, key.number, key.digest))

    def saw(self, device_ids: Collection[bytes], at_s: float) -> None:
        self._set_devices("last_seen_s", device_ids, at_s)

    def name_device(self, device_id: bytes, name: str) -> None:
        self._set_devices("name", (device_id,), name)

    def _set_devices(self, column: str, device_ids: Collection[bytes], value: _Value) -> None:
        with self._transaction() as db:
            db.executemany(
                f"INSERT INTO device (device_id, {column}) VALUES (?, ?)"
                f" ON CONFLICT (device_id) DO UPDATE SET {column} = excluded.{column}",
                [(device_id, value) for device_id in device_ids],
            )


def _generation(rows: list[_Row]) -> GenerationRow:
    """The rows of one generation, one for each of its images."""
    device_id, number, digest, model, size, created, good, pinned, damaged, _ = rows[0]
    return GenerationRow(
        key=GenerationKey(device_id=device_id, number=number, digest=digest),
        model=model,
        images=tuple(row[-1] for row in rows),
        size_bytes=size,
        created_at_s=created,
        good_at_s=good,
        pinned=bool(pinned),
        damaged=bool(damaged),
    )
