# SPDX-License-Identifier: Apache-2.0
"""`unbrickd keys maker`: the key pair with which a maker signs firmware (spec/flash-format.md §3.3)."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from unbrickd.adapters.files import write_new
from unbrickd.cli.keys.report import add_json, add_passphrase, read_passphrase, report
from unbrickd.cli.main import Subparsers
from unbrickd.errors import ConfigError
from unbrickd.seal.maker import DEFAULT_KEY_BITS, encode_public_key, generate_maker_key, load_private_key

PRIVATE, PUBLIC_PEM, PUBLIC_DER = "maker-private.pem", "maker-public.pem", "maker-public.der"


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "maker",
        help="make a maker's key pair",
        description=f"Writes {PRIVATE} (keep it secret and safe), {PUBLIC_PEM} and {PUBLIC_DER}. Overwrites nothing.",
        epilog="example: unbrickd keys maker --out keys --passphrase-file passphrase.txt",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files; made if need be")
    parser.add_argument(
        "--bits", type=int, default=DEFAULT_KEY_BITS, help="length of the RSA key, 2048 to 4096 (%(default)s)"
    )
    add_passphrase(parser)
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    folder: Path = args.out
    for name in (PRIVATE, PUBLIC_PEM, PUBLIC_DER):
        if (folder / name).exists():
            raise ConfigError(
                f"{folder / name} is there already",
                code="exists",
                hint="a lost maker's key cannot be replaced in devices: keep it, or choose another --out",
            )
    passphrase = read_passphrase(args.passphrase_file)
    private = generate_maker_key(args.bits, passphrase=passphrase)
    public = load_private_key(private, passphrase).public_key()
    der = encode_public_key(public)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made: {error.strerror}", code="not-writable", hint="choose another --out"
        ) from error
    # The private key first: the public files can be made from it, and never the other way round.
    write_new(folder / PRIVATE, private, secret=True)
    write_new(folder / PUBLIC_PEM, pem)
    write_new(folder / PUBLIC_DER, der)
    report(
        {
            "private_key": str(folder / PRIVATE),
            "public_key": str(folder / PUBLIC_PEM),
            "public_key_der": str(folder / PUBLIC_DER),
            "bits": public.key_size,
            "sha256": hashlib.sha256(der).hexdigest(),
        },
        as_json=args.json,
    )
    return 0
