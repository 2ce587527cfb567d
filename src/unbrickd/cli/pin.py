# SPDX-License-Identifier: Apache-2.0
"""`unbrickd pin`: never delete a backup."""

from __future__ import annotations

import argparse

from unbrickd.cli.main import Subparsers
from unbrickd.cli.store_options import add_device, add_store_options, find_device, label_of, open_store, print_json

EPILOG = """\
example:
  unbrickd pin kitchen 3

No server may run.
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "pin",
        help="never delete a backup",
        description="Keep one backup for ever, whatever the retention says.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(parser, number=True)
    add_store_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    with open_store(args, exclusive=True) as vault:
        device = find_device(vault, args.device)
        vault.pin(device.device_id, args.number)
    if args.json:
        print_json({"device_id": device.device_id.hex(), "number": args.number, "pinned": True})
    else:
        print(f"generation {args.number} of {label_of(device)} is kept for ever")
    return 0
