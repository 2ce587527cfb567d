# SPDX-License-Identifier: Apache-2.0
"""`unbrickd devices`: which routers are backed up here; and what their owner calls them."""

from __future__ import annotations

import argparse
import sys

from unbrickd.cli.main import Subparsers
from unbrickd.cli.store_options import (
    add_store_options,
    find_device,
    label_of,
    open_store,
    print_json,
    print_table,
    time_json,
    time_text,
)
from unbrickd.cli.text import JsonValue
from unbrickd.store.interface import GenerationRow

EPILOG = """\
examples:
  unbrickd devices
  unbrickd devices --name rx1-3fa2 kitchen
      call a device "kitchen" from now on
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "devices",
        help="list the devices that are backed up here",
        description="List the devices that are backed up here, and when each was last heard of.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", nargs=2, metavar=("DEVICE", "NAME"), help="give a device a name")
    add_store_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    with open_store(args, exclusive=bool(args.name)) as vault:
        if args.name:
            device, name = args.name
            vault.name_device(find_device(vault, device).device_id, name)
        rows = [(row, vault.generations(row.device_id)) for row in vault.devices()]
    if args.json:
        print_json(
            [
                {
                    "device_id": row.device_id.hex(),
                    "name": label_of(row),
                    "model": row.model,
                    "last_seen": time_json(row.last_seen_s),
                    "generations": len(generations),
                    "newest": generations[0].key.number if generations else None,
                    "newest_good": _newest_good(generations),
                }
                for row, generations in rows
            ]
        )
        return 0
    if not rows:
        print("no device is backed up here yet; `unbrickd doctor` says what may keep them away", file=sys.stderr)
        return 0
    print_table(
        ("name", "id", "model", "generations", "newest good", "last seen"),
        [
            (
                label_of(row),
                row.device_id.hex(),
                row.model,
                str(len(generations)),
                str(_newest_good(generations) or "none"),
                time_text(row.last_seen_s),
            )
            for row, generations in rows
        ],
    )
    return 0


def _newest_good(generations: tuple[GenerationRow, ...]) -> JsonValue:
    return next((g.key.number for g in generations if g.good and not g.damaged), None)
