# SPDX-License-Identifier: Apache-2.0
"""`unbrickd keys verify`: whether a signature file is the maker's, on just this image (spec/flash-format.md §3.3)."""

from __future__ import annotations

import argparse
from pathlib import Path

from unbrickd.adapters.files import read_text
from unbrickd.cli.keys.firmware import firmware_manifest, read_image
from unbrickd.cli.keys.report import add_json, read_key, report
from unbrickd.cli.main import Subparsers
from unbrickd.errors import IntegrityError
from unbrickd.seal.maker import (
    MAX_SIGNATURE_FILE_CHARACTERS,
    decode_signature_file,
    encode_public_key,
    load_public_key,
    verify_firmware,
)


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "verify",
        help="verify the signature on a firmware image",
        description="Exits with 0 if the signature is the maker's on just this image, else with 5.",
        epilog="example: unbrickd keys verify --key keys/maker-public.pem firmware.bin firmware.bin.sig",
    )
    parser.add_argument("--key", type=Path, required=True, metavar="PUB", help="the maker's public key")
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("signature", type=Path, metavar="SIGFILE")
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    public_der = encode_public_key(load_public_key(read_key(args.key)))
    file = decode_signature_file(read_text(args.signature, limit_bytes=MAX_SIGNATURE_FILE_CHARACTERS))
    image = read_image(args.image)
    if len(image) != file.length_bytes:
        raise IntegrityError(
            f"{args.image} has {len(image)} bytes; the signature is on an image of {file.length_bytes}",
            code="maker-signature",
        )
    manifest = firmware_manifest(
        image,
        file.geometry,
        version=file.version,
        rollback_index=file.rollback_index,
        signature=file.signature,
    )
    if manifest.image_digest != file.image_digest:
        raise IntegrityError(f"{args.image} is not the image that was signed", code="maker-signature")
    verify_firmware(public_der, manifest, file.model)
    report(
        {
            "verified": str(args.image),
            "model": file.model,
            "version": file.version,
            "rollback_index": file.rollback_index,
        },
        as_json=args.json,
    )
    return 0
