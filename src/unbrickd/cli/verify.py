# SPDX-License-Identifier: Apache-2.0
"""`unbrickd verify`: reads every backup again and says what is rotten; `--rebuild` makes the catalogue anew."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import Progress

from unbrickd.adapters.store.open import has_store, rebuild_catalogue
from unbrickd.cli.main import Subparsers
from unbrickd.cli.store_options import add_store_options, open_store, print_json, store_directory
from unbrickd.errors import IntegrityError, StorageError
from unbrickd.store.vault import Vault
from unbrickd.store.verification import HARMLESS, Finding, VerifyProgress

EPILOG = """\
examples:
  unbrickd verify
  unbrickd verify --rebuild
      when the catalogue is damaged: make it again from the backups themselves

While a server runs, damage is reported but not marked. Exit code 5 if anything is damaged.
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "verify",
        help="check every backup for damage",
        description="Read every backup again and report what is damaged. Damaged images are set aside, so that the "
        "next backup of any device that runs them heals them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rebuild", action="store_true", help="make the catalogue again first; no server may run")
    add_store_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.rebuild:
        directory = store_directory(args)
        if not has_store(directory) and not directory.is_dir():
            raise StorageError(f"there is no store in {directory}", code="missing", hint="name another --store")
        count = rebuild_catalogue(directory)
        print(f"the catalogue was made again: {count} generations", file=sys.stderr)
    try:
        with open_store(args, exclusive=True) as vault:
            findings = _verify(vault)
    except StorageError as error:
        if error.code != "in-use":
            raise
        with open_store(args) as vault:
            findings = _verify(vault)
    damaged = any(f.kind not in HARMLESS for f in findings)
    if args.json:
        print_json({"damaged": damaged, "findings": [{"kind": f.kind.value, "text": f.text} for f in findings]})
    else:
        for finding in findings:
            print(finding.text)
        if not damaged:
            print("every backup is whole")
    return IntegrityError.exit_code if damaged else 0


def _verify(vault: Vault) -> list[Finding]:
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading", total=None)

        def show(progress: VerifyProgress) -> None:
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes)

        return vault.verify(show)
