# SPDX-License-Identifier: Apache-2.0
"""What `unbrickd keys` prints: names and values, for people or as JSON; and the reading that its actions share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from unbrickd.adapters.files import read_file, read_text
from unbrickd.errors import ConfigError

MAX_KEY_FILE_BYTES = 64 << 10
"""An RSA-4096 private key in PEM has under 4 KiB."""
MAX_PASSPHRASE_FILE_BYTES = 4096

Values = dict[str, str | int | list[list[int]]]


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def report(values: Values, *, as_json: bool) -> None:
    """To stdout: the object, or one `name: value` a line."""
    if as_json:
        print(json.dumps(values, indent=2))
        return
    names = {name: name.replace("_", " ") for name in values}
    width = max(map(len, names.values())) + 1
    for name, value in values.items():
        shown = ", ".join(f"{count} × {size}" for count, size in value) if isinstance(value, list) else value
        print(f"{names[name] + ':':<{width}} {shown}")


def read_key(path: Path) -> bytes:
    return read_file(path, limit_bytes=MAX_KEY_FILE_BYTES)


def add_passphrase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="its first line is the passphrase of the private key"
    )


def read_passphrase(path: Path | None) -> bytes | None:
    """The first line of the file, None without one. Raises ConfigError if there is a file and no passphrase in it."""
    if path is None:
        return None
    lines = read_text(path, limit_bytes=MAX_PASSPHRASE_FILE_BYTES).splitlines()
    if not lines or not lines[0]:
        raise ConfigError(f"the first line of {path} is empty", code="passphrase", hint="write the passphrase there")
    return lines[0].encode()
