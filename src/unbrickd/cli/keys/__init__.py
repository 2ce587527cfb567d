# SPDX-License-Identifier: Apache-2.0
"""`unbrickd keys`: the keys of makers and devices, and signatures on firmware (spec/flash-format.md §2, §3.3, §6)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import cast

from unbrickd.cli.keys import device, maker, show, sign, verify
from unbrickd.cli.main import Subparsers


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "keys",
        help="make keys of makers and devices, sign firmware",
        description="Makes the keys of makers and devices, signs firmware, and shows what is in such files.",
        epilog="A maker runs `keys maker` once, `keys sign` for every release and `keys device` for every device. "
        "An owner without a maker needs `keys device --policy owner` only.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for action in (maker, device, sign, verify, show):
        action.add_parser(actions).set_defaults(action=action.run)
    return parser


def run(args: argparse.Namespace) -> int:
    action = cast(Callable[[argparse.Namespace], int], args.action)
    return action(args)
