# SPDX-License-Identifier: Apache-2.0
"""`unbrickd generations`: the backups of one device, newest first."""

from __future__ import annotations

import argparse

from unbrickd.cli.main import Subparsers
from unbrickd.cli.store_options import (
    add_device,
    add_store_options,
    find_device,
    open_store,
    print_json,
    print_table,
    time_json,
    time_text,
)
from unbrickd.cli.text import size_text
from unbrickd.store.interface import GenerationRow

EPILOG = """\
example:
  unbrickd generations kitchen

states: good (the device ran it and it worked; restores use the newest of these), trial (not yet known to work),
damaged (rotten on this disk), pinned (never deleted)
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "generations",
        help="list the backups of a device",
        description="List the backups of a device, newest first.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(parser)
    add_store_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    with open_store(args) as vault:
        rows = vault.generations(find_device(vault, args.device).device_id)
    if args.json:
        print_json(
            [
                {
                    "number": row.key.number,
                    "digest": row.key.digest.hex(),
                    "created": time_json(row.created_at_s),
                    "good": row.good,
                    "good_since": time_json(row.good_at_s),
                    "pinned": row.pinned,
                    "damaged": row.damaged,
                    "size_bytes": row.size_bytes,
                }
                for row in rows
            ]
        )
        return 0
    print_table(
        ("number", "created", "size", "state"),
        [(str(r.key.number), time_text(r.created_at_s), size_text(r.size_bytes), state_text(r)) for r in rows],
    )
    return 0


def state_text(row: GenerationRow) -> str:
    states = ["good" if row.good else "trial"]
    states += ["damaged"] if row.damaged else []
    states += ["pinned"] if row.pinned else []
    return ", ".join(states)
