# SPDX-License-Identifier: Apache-2.0
"""What the commands that look into a store share: their flags, finding a device, and tables.

Knows no command. Tables are drawn on a terminal and tab-separated elsewhere; `--json` is for programs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from unbrickd.adapters.store.open import has_store, open_vault
from unbrickd.cli.settings import load_settings
from unbrickd.cli.text import JsonValue
from unbrickd.errors import ConfigError
from unbrickd.store.interface import DeviceRow
from unbrickd.store.vault import StoredGeneration, Vault


def add_store_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="DIR", help="where the backups are kept (default: as for serve)")
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")


def add_device(parser: argparse.ArgumentParser, *, number: bool | None = None) -> None:
    """number: True, a generation must be named; False, it may be; None, there is none to name."""
    parser.add_argument("device", metavar="DEVICE", help="the device's name, or the first characters of its id")
    if number is not None:
        parser.add_argument(
            "number",
            metavar="N",
            type=int,
            nargs=None if number else "?",
            help="the generation" if number else "the generation (default: the newest good one, else the newest)",
        )


def store_directory(args: argparse.Namespace) -> Path:
    return load_settings({"store": args.store}, os.environ).store


def open_store(args: argparse.Namespace, *, exclusive: bool = False) -> AbstractContextManager[Vault]:
    """The store that flags and settings name; `exclusive` to change it, which a running server does not allow."""
    directory = store_directory(args)
    # A misspelt --store is an error, not a new and empty store.
    return open_vault(directory, exclusive=exclusive and has_store(directory))


def label_of(row: DeviceRow) -> str:
    """What the owner calls the device: its name, or its model and the start of its id."""
    return row.name or f"{row.model or 'device'}-{row.device_id.hex()[:4]}"


def device_label(vault: Vault, device_id: bytes) -> str:
    row = next((r for r in vault.devices() if r.device_id == device_id), None)
    return label_of(row) if row else f"device-{device_id.hex()[:4]}"


def find_device(vault: Vault, text: str) -> DeviceRow:
    """The one device of this name, or whose id or label begins so. Raises ConfigError "no-such-device", "ambiguous"."""
    rows = vault.devices() if text else ()
    exact = [r for r in rows if text in (r.name, label_of(r), r.device_id.hex())]
    found = exact or [r for r in rows if r.device_id.hex().startswith(text.lower()) or label_of(r).startswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(
            f"no device {text!r} is backed up here", code="no-such-device", hint="`unbrickd devices` lists them"
        )
    ids = ", ".join(r.device_id.hex()[:12] for r in found)
    raise ConfigError(f"{text!r} may be any of {ids}", code="ambiguous", hint="write more characters of the id")


def find_generation(vault: Vault, row: DeviceRow, number: int | None) -> StoredGeneration:
    """The one named, or the newest good one, or the newest. Raises ConfigError "no-such-generation", StorageError."""
    if number is not None:
        stored = vault.find(row.device_id, number)
    else:
        stored = vault.newest_good(row.device_id) or vault.newest(row.device_id)
    if stored is None:
        which = "no generation" if number is None else f"no generation {number}"
        raise ConfigError(
            f"there is {which} of {label_of(row)}",
            code="no-such-generation",
            hint=f"`unbrickd generations {label_of(row)}` lists them",
        )
    return stored


def time_text(unix_s: float | None) -> str:
    """Local time to the minute; "" if it never was."""
    return "" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def time_json(unix_s: float | None) -> str | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def print_json(value: JsonValue) -> None:
    print(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Drawn on a terminal; else one line a row, tab-separated, so that cut and awk can read it."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
