# SPDX-License-Identifier: Apache-2.0
"""`unbrickd keys show`: what is in an identity, a maker's public key or a signature file."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from unbrickd.cli.keys.report import Values, add_json, read_key, report
from unbrickd.cli.main import Subparsers
from unbrickd.errors import ConfigError
from unbrickd.seal import identity as ids
from unbrickd.seal.maker import decode_signature_file, encode_public_key, load_public_key


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "show",
        help="show what is in an identity, a public key or a signature file",
        description="Shows what is in an identity, a maker's public key or a signature file; no secrets.",
        epilog="example: unbrickd keys show identity.bin",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--secrets", action="store_true", help="show an identity's recovery code and device key, too")
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    octets = read_key(args.file)
    if octets.startswith(ids.MAGIC):
        values = _identity(ids.decode_identity(octets), secrets=args.secrets)
    elif octets.lstrip().startswith(b"{"):
        values = _signature(octets)
    elif b"PRIVATE KEY-----" in octets:
        raise ConfigError(
            f"{args.file} is a private key", code="private-key", hint="show the public key that was made with it"
        )
    else:
        values = _public_key(octets)
    report(values, as_json=args.json)
    return 0


def _identity(identity: ids.Identity, *, secrets: bool) -> Values:
    values: Values = {
        "kind": "device identity",
        "device_id": identity.device_id.hex(),
        "model": identity.model,
        "policy": identity.policy.name.lower(),
        "rollback_floor": identity.rollback_floor,
    }
    if identity.maker_key_der:
        values["maker_key_sha256"] = hashlib.sha256(identity.maker_key_der).hexdigest()
    if secrets:
        values["recovery_code"] = ids.encode_recovery_code(identity.recovery_secret)
        values["device_key"] = identity.device_key.hex()
    return values


def _signature(octets: bytes) -> Values:
    file = decode_signature_file(octets.decode("utf-8", errors="replace"))
    return {
        "kind": "signature file",
        "model": file.model,
        "version": file.version,
        "rollback_index": file.rollback_index,
        "length": file.length_bytes,
        "runs": [[run.count, run.size_bytes] for run in file.geometry.runs],
        "image_digest": file.image_digest.hex(),
    }


def _public_key(octets: bytes) -> Values:
    try:
        key = load_public_key(octets)
    except ConfigError as error:
        raise ConfigError(
            "this is no identity, signature file or maker's public key", code="unknown-file", hint=error.hint
        ) from error
    return {
        "kind": "maker's public key",
        "bits": key.key_size,
        "sha256": hashlib.sha256(encode_public_key(key)).hexdigest(),
    }
