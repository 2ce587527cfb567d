# SPDX-License-Identifier: Apache-2.0
"""`unbrickd pin`: never delete a backup. `unbrickd unpin` is the same the other way round."""

from __future__ import annotations

import argparse

from unbrickd.cli.main import Subparsers
from unbrickd.cli.store_options import add_device, add_store_options, find_device, label_of, open_store, print_json

_EPILOG = """\
example:
  unbrickd {name} kitchen 3

No server may run.
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    return add_pin_parser(
        subparsers,
        "pin",
        help_="never delete a backup",
        description="Keep one backup for ever, whatever the retention says.",
    )


def run(args: argparse.Namespace) -> int:
    return set_pinned(args, pinned=True)


def add_pin_parser(subparsers: Subparsers, name: str, *, help_: str, description: str) -> argparse.ArgumentParser:
    """The parser of `pin` and of `unpin`: a device and a generation of it."""
    parser = subparsers.add_parser(
        name,
        help=help_,
        description=description,
        epilog=_EPILOG.format(name=name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(parser, number=True)
    add_store_options(parser)
    return parser


def set_pinned(args: argparse.Namespace, *, pinned: bool) -> int:
    """Pin or unpin the generation that `args` names, and say so. Raises ConfigError, StorageError."""
    with open_store(args, exclusive=True) as vault:
        device = find_device(vault, args.device)
        (vault.pin if pinned else vault.unpin)(device.device_id, args.number)
    if args.json:
        print_json({"device_id": device.device_id.hex(), "number": args.number, "pinned": pinned})
    else:
        now = "is kept for ever" if pinned else "may be deleted by retention again"
        print(f"generation {args.number} of {label_of(device)} {now}")
    return 0
