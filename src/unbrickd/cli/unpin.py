# SPDX-License-Identifier: Apache-2.0
"""`unbrickd unpin`: let a pinned backup go again."""

from __future__ import annotations

import argparse

from unbrickd.cli.main import Subparsers
from unbrickd.cli.pin import add_pin_parser, set_pinned


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    return add_pin_parser(
        subparsers,
        "unpin",
        help_="let a pinned backup go again",
        description="Let retention delete a pinned backup again.",
    )


def run(args: argparse.Namespace) -> int:
    return set_pinned(args, pinned=False)
