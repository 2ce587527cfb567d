# SPDX-License-Identifier: Apache-2.0
"""`unbrickd delete`: deletes one backup of a device, and the images that no other backup has."""

from __future__ import annotations

import argparse

from unbrickd.cli.main import Subparsers
from unbrickd.cli.store_options import add_device, add_store_options, find_device, label_of, open_store, print_json

EPILOG = """\
example:
  unbrickd delete kitchen 3

The last good backup and pinned ones are protected; --force deletes them all the same. No server may run.
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "delete",
        help="delete a backup",
        description="Delete one backup of a device.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(parser, number=True)
    parser.add_argument("--force", action="store_true", help="delete it even if it is protected")
    add_store_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    with open_store(args, exclusive=True) as vault:
        device = find_device(vault, args.device)
        vault.delete(device.device_id, args.number, force=args.force)
    if args.json:
        print_json({"device_id": device.device_id.hex(), "deleted": args.number})
    else:
        print(f"generation {args.number} of {label_of(device)} is deleted")
    return 0
