# SPDX-License-Identifier: Apache-2.0
"""`unbrickd doctor`: names what stands between a router and this computer, and the command that mends it."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from pathlib import Path

from unbrickd.adapters.net.diagnose import Finding, Level, diagnose_network
from unbrickd.adapters.store.files import RESERVE_BYTES
from unbrickd.cli.main import Subparsers
from unbrickd.cli.settings import default_config, default_store, load_settings
from unbrickd.cli.store_options import print_json

EXIT_FAULTS = 1

EPILOG = """\
examples:
  unbrickd doctor
      the router does not find this computer: why not?
  unbrickd doctor --json
      the same, for programs

It needs no privilege and changes nothing. The exit code is 0 if all is well, and 1 if there is a fault.
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "doctor",
        help="what keeps a router from finding this computer, and what mends it",
        description="Name what keeps a router from being backed up or healed by this computer, and what mends it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--udp", action="append", metavar="ADDR:PORT", help="as given to serve (default: all)")
    parser.add_argument("--store", metavar="DIR", help=f"as given to serve (default: {default_store()})")
    parser.add_argument("--config", metavar="FILE", help=f"settings (default: {default_config()}, if it is there)")
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    return parser


def run(args: argparse.Namespace) -> int:
    flags = {"udp": tuple(args.udp) if args.udp else None, "store": args.store, "config": args.config}
    settings = load_settings(flags, os.environ)
    findings = [*diagnose_network(settings.udp_addresses()), *diagnose_store(settings.store)]
    if args.json:
        print_json(
            [{"level": f.level.value, "code": f.code, "text": f.text, "mend": f.mend} for f in findings],
        )
    else:
        for finding in findings:
            print(f"{finding.level.value:6} {finding.text}")
            if finding.mend:
                print(f"       mend: {finding.mend}")
    return EXIT_FAULTS if any(f.level is Level.FAULT for f in findings) else 0


def diagnose_store(store: Path) -> list[Finding]:
    """Whether backups can be kept there."""
    there = next(path for path in (store, *store.absolute().parents) if os.access(path, os.F_OK))
    if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        mend = "name another folder with --store, or be the user whom this one belongs to"
        if there == default_store():  # no other folder: it may be somebody's own, and hold more than backups
            mend = f'sudo chown -R "$USER" {shlex.quote(str(there))}'
        return [
            Finding(
                level=Level.FAULT,
                code="store-not-writable",
                text=f"backups cannot be kept in {store}: you may not write to {there}",
                mend=mend,
            )
        ]
    free = shutil.disk_usage(there).free
    if free < RESERVE_BYTES:
        return [
            Finding(
                level=Level.FAULT,
                code="disk-full",
                text=f"the disk of {store} is full: {free >> 20} MiB are free, {RESERVE_BYTES >> 20} must stay so",
                mend="delete what is not needed, or move the store to a larger disk and name it with --store",
            )
        ]
    return [Finding(level=Level.OK, code="store", text=f"backups are kept in {store}, {free >> 20} MiB are free")]
