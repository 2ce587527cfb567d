# SPDX-License-Identifier: Apache-2.0
"""`unbrickd agent`: backs this device up while it is healthy; `notify` and `status` for the device's other programs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import cast

from unbrickd.adapters.notices import What
from unbrickd.cli.agent import notify, serve, status
from unbrickd.cli.main import Subparsers
from unbrickd.cli.real_device import add_places

_EPILOG = """\
examples:
  unbrickd agent --layout /etc/unbrickd/layout.toml   runs until it is stopped
  unbrickd agent --once                               backs up now and ends: 0 done, 3 no server answered, 1 failed
  unbrickd agent notify config-changed                for a hook that runs after the settings were changed
  unbrickd agent status                               when the last backup was, and whether the server is missing
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "agent",
        help="on the device: back it up while it is healthy",
        description="Runs on the device. Backs its software and settings up to the owner's PC, as its layout says.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_places(parser)
    parser.add_argument("--once", action="store_true", help="back up now, then end")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for every event")
    parser.set_defaults(action=serve.run)
    actions = parser.add_subparsers(metavar="ACTION")
    told = actions.add_parser(
        "notify",
        help="tell the agent what happened on the device",
        description="Leaves a notice for the agent, which sees it at once or, if it does not run, when it starts. "
        "A change that the agent did not record before the next power-on is undone by the recovery.",
    )
    told.add_argument("what", choices=[what.value for what in What], help="back-up: make a backup now")
    told.add_argument("--wait", type=float, metavar="S", help="wait so long until the agent has seen to it")
    add_places(told, inherit=True)
    told.set_defaults(action=notify.run)
    shown = actions.add_parser("status", help="show the last backup and what is owed")
    add_places(shown, inherit=True)
    shown.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")
    shown.set_defaults(action=status.run)
    return parser


def run(args: argparse.Namespace) -> int:
    action = cast(Callable[[argparse.Namespace], int], args.action)
    return action(args)
