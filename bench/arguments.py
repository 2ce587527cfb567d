# SPDX-License-Identifier: Apache-2.0
"""Types of arguments (argparse) that the benchmarks share."""

from __future__ import annotations

import argparse

from unbrickd.errors import ConfigError
from unbrickd.model.toml_table import parse_size

ERASE_BLOCK_BYTES = 64 << 10


def count(text: str) -> int:
    """At least one."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more")
    return int(text)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not more than 0")
    return value


def image_size(text: str) -> int:
    """Whole erase blocks."""
    try:
        size_bytes = parse_size(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{error}; {error.hint}") from None
    if not size_bytes or size_bytes % ERASE_BLOCK_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 64 KiB")
    return size_bytes
