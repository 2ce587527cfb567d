# SPDX-License-Identifier: Apache-2.0
"""`unbrickd keys device`: the identity of a new device, for its protected sector (spec/flash-format.md §2)."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from unbrickd.adapters.files import write_new
from unbrickd.cli.keys.report import add_json, read_key, report
from unbrickd.cli.main import Subparsers
from unbrickd.errors import ConfigError
from unbrickd.seal.identity import FirmwarePolicy, Identity, encode_identity, encode_recovery_code
from unbrickd.seal.maker import encode_public_key, load_public_key

_POLICIES = {policy.name.lower(): policy for policy in FirmwarePolicy}
_WRITE_DOWN = """
Write the recovery code down now and keep it away from the device. Whoever has it can read the settings
in this device's backups; without it nobody can, once the device is gone.
The identity file holds all of the device's secrets: delete it once it is in the device."""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "device",
        help="make the identity of a device",
        description="Makes a device's identity, to be written to its protected sector, and prints its recovery code.",
        epilog="example: unbrickd keys device --model acme-rx1 --policy owner --out identity.bin",
    )
    parser.add_argument("--model", required=True, help="name of the model, at most 32 bytes")
    parser.add_argument(
        "--policy",
        required=True,
        choices=_POLICIES,
        help="whose firmware it runs: what its owner installed, or only what its maker signed",
    )
    parser.add_argument(
        "--maker-key", type=Path, metavar="PUB", help="the maker's public key; needed under the policy maker"
    )
    parser.add_argument(
        "--rollback-floor", type=int, default=0, metavar="N", help="lowest rollback index it accepts (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write; it must not be there")
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    policy = _POLICIES[args.policy]
    if policy is FirmwarePolicy.MAKER and args.maker_key is None:
        raise ConfigError(
            "under the policy maker a device needs its maker's public key",
            code="maker-key",
            hint="name it with --maker-key; `unbrickd keys maker` makes one",
        )
    identity = Identity.generate(
        model=args.model,
        policy=policy,
        maker_key_der=encode_public_key(load_public_key(read_key(args.maker_key))) if args.maker_key else b"",
        rollback_floor=args.rollback_floor,
        entropy=secrets.token_bytes,
    )
    write_new(args.out, encode_identity(identity), secret=True)
    report(
        {
            "identity": str(args.out),
            "device_id": identity.device_id.hex(),
            "model": identity.model,
            "policy": args.policy,
            "recovery_code": encode_recovery_code(identity.recovery_secret),
        },
        as_json=args.json,
    )
    if not args.json:
        print(_WRITE_DOWN)
    return 0
